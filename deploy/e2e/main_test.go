//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/klient/conf"
	"sigs.k8s.io/e2e-framework/klient/wait"
	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
)

// issuer is whose tokens the component oidc takes.
const issuer = "https://kubernetes.default.svc.cluster.local"

// testenv is the environment of every test here; its context has the [stage].
var testenv env.Environment

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	config, err := envconf.NewFromFlags()
	if err != nil {
		return 1, err
	}
	config.WithKubeconfigFile(cmp.Or(config.KubeconfigFile(), conf.ResolveKubeConfigFile()))
	rest, err := conf.New(config.KubeconfigFile())
	if err != nil {
		return 1, fmt.Errorf("no cluster to test with: KUBECONFIG: %w", err)
	}
	rest.QPS = -1 // to wait for many things at once is a rate of questions
	client, err := klient.New(rest)
	if err != nil {
		return 1, fmt.Errorf("no cluster to test with: %w", err)
	}
	// Interrupted, it ends as always, so that what was made is taken away.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	directory, err := os.MkdirTemp("", "probed-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(directory)
	s, err := newStage(ctx, rest, directory)
	if err != nil {
		return 1, err
	}
	testenv, err = env.NewWithContext(context.WithValue(ctx, stageKey{}, s), config.WithClient(client))
	if err != nil {
		return 1, err
	}
	testenv.Setup(check, s.set)
	testenv.Finish(s.strike)
	return testenv.Run(m), nil
}

// check finds what is not as doc.go says, before half of it stands there.
func check(ctx context.Context, c *envconf.Config) (context.Context, error) {
	s := stageOf(ctx)
	for _, file := range []string{s.probed, s.probectl} {
		if _, err := os.Stat(file); err != nil {
			return ctx, fmt.Errorf("%w; `make build` makes it", err)
		}
	}
	if _, err := exec.LookPath("kubectl"); err != nil {
		return ctx, err
	}
	var nodes corev1.NodeList
	if err := c.Client().Resources().List(ctx, &nodes); err != nil {
		return ctx, fmt.Errorf("the cluster that KUBECONFIG names does not answer: %w", err)
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return ctx, fmt.Errorf("node %s is not ready: %s", node.Name, condition.Message)
			}
		}
		s.nodes[node.Name] = node
	}
	text, err := s.kubectl(ctx, "", "get", "--raw", "/.well-known/openid-configuration")
	if err != nil {
		return ctx, err
	}
	var provider struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal([]byte(text), &provider); err != nil {
		return ctx, err
	}
	if provider.Issuer != issuer {
		return ctx, fmt.Errorf("the cluster issues tokens as %s, and the component oidc trusts %s", provider.Issuer, issuer)
	}
	return ctx, nil
}

// set has everything deployed, all at the same time. Each test waits for what it needs.
func (s *stage) set(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	if err := os.Mkdir(s.plugins(), 0o700); err != nil {
		return ctx, err
	}
	if err := os.Symlink(s.probectl, filepath.Join(s.plugins(), "kubectl-probectl")); err != nil {
		return ctx, err
	}
	if err := s.setKinds(ctx); err != nil {
		return ctx, err
	}
	for _, p := range s.places {
		s.setting.Go(func() {
			defer close(p.set)
			from := time.Now()
			if p.err = p.deploy(ctx); p.err == nil { // who needs it says what went wrong
				fmt.Printf("    %s is in place after %.1f s\n", p.namespace, time.Since(from).Seconds())
			}
		})
	}
	return ctx, nil
}

// strike takes away what was made, and waits for its end: the ports of the nodes are for the next run to take.
func (s *stage) strike(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	ctx = context.WithoutCancel(ctx)
	from := time.Now()
	s.setting.Wait()
	s.forwards.end()
	label := runLabel + "=" + s.run
	_, err := s.kubectl(ctx, "", "delete", "namespaces", "--selector", label, "--wait=false")
	for _, p := range s.places { // which nobody calls any more, so their drains wait for nothing
		_, _ = s.kubectl(ctx, "", "delete", "pods", "--namespace", p.namespace, "--all", "--grace-period=1", "--wait=false")
	}
	_, gone := s.kubectl(ctx, "", "wait", "namespaces", "--selector", label, "--for=delete", "--timeout=2m")
	_, kinds := s.kubectl(ctx, "", "delete", "customresourcedefinitions", "--selector", label)
	err = errors.Join(err, gone, kinds)
	if err != nil { // the framework keeps it to itself
		fmt.Fprintf(os.Stderr, "e2e: not all of it is gone: %v\n", err)
	}
	fmt.Printf("    taken away in %.1f s\n", time.Since(from).Seconds())
	return ctx, err
}

// poll is how everything here is waited for.
func poll(ctx context.Context, most time.Duration, done func(context.Context) (bool, error)) error {
	return wait.For(done, wait.WithContext(ctx), wait.WithTimeout(most), wait.WithInterval(200*time.Millisecond), wait.WithImmediate())
}

type stageKey struct{}

func stageOf(ctx context.Context) *stage { return ctx.Value(stageKey{}).(*stage) }

// binary is a program of `make build`, or the one that the environment names.
func binary(variable, name string) (string, error) {
	return filepath.Abs(cmp.Or(os.Getenv(variable), filepath.Join("..", "..", "bin", name)))
}
