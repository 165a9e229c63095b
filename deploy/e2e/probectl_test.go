//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	probev1 "probed/gen/probe/v1"
)

// TestProbectl finds a probed by itself, and a token for it.
func TestProbectl(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("probectl").
		Assess("finds a pod of a Service", vantageBy("namespace", func(p *place) []string {
			return []string{p.stage.probectl, "--kube", p.namespace + "/probed"}
		})).
		Assess("finds a pod by its labels", vantageBy("namespace", func(p *place) []string {
			return []string{p.stage.probectl, "--namespace", p.namespace, "--kube", probedLabels}
		})).
		Assess("shows a token from a file", vantageBy("base", func(p *place) []string {
			return []string{p.stage.probectl, "--kube", p.namespace + "/probed", "--token-file", p.tokenFile()}
		})).
		Assess("is a plugin of kubectl", vantageBy("namespace", func(p *place) []string {
			return []string{"env", "PATH=" + p.stage.plugins() + ":" + os.Getenv("PATH"), "kubectl", "probectl", "-n", p.namespace}
		})).
		Assess("asks every pod", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			answers, code := each(ctx, t, "host", "kubernetes.default")
			if code != 0 {
				t.Errorf("exit code %d", code)
			}
			for node := range stageOf(ctx).nodes {
				if len(answers[node]) != 1 || answers[node][0].host.GetCanonicalName() != "kubernetes.default.svc.cluster.local" {
					t.Errorf("%s: %v", node, answers[node])
				}
			}
			return ctx
		}).
		Feature())
}

// vantageBy asks with a command for the vantage, which has to be one of the place's pods.
func vantageBy(name string, command func(p *place) []string) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		p := at(ctx, t, name)
		args := append(command(p), "vantage", "-o", "json")
		if !strings.Contains(strings.Join(args, " "), "--token-file") {
			args = append(args, "--service-account", "probe-user")
		}
		out, err := tell(ctx, "", args[0], args[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		var said probev1.DescribeVantageResponse
		if err := protojson.Unmarshal([]byte(out), &said); err != nil {
			t.Fatal(err)
		}
		for _, pod := range p.pods(ctx, t, probedLabels) {
			if pod.Name == said.GetPod() && pod.Namespace == said.GetNamespace() && pod.Spec.NodeName == said.GetNode() {
				return ctx
			}
		}
		t.Errorf("%s in %s on %s is none of the pods", said.GetPod(), said.GetNamespace(), said.GetNode())
		return ctx
	}
}

// plugins is a directory in which probectl is a plugin of kubectl.
func (s *stage) plugins() string { return filepath.Join(s.directory, "plugins") }

// authorityFile is where the authority is that signed the place's certificate.
func (p *place) authorityFile() string { return filepath.Join(p.stage.directory, p.name+"-ca.crt") }

// answer is what one pod said of one thing. One of host, outcome and failure is set.
type answer struct {
	target  string
	host    *probev1.LookupHostResponse
	outcome *probev1.Outcome
	failure *spb.Status
}

// each asks all pods of the mesh with probectl, as whoever looks for the node that is ill does. It returns the answers of each
// node, and the exit code.
func each(ctx context.Context, t *testing.T, command string, args ...string) (answers map[string][]answer, code int) {
	t.Helper()
	p := at(ctx, t, "mesh")
	from := time.Now()
	out, err := tell(ctx, "", p.stage.probectl, append([]string{command, "--kube", p.namespace + "/probed", "--each", "--json", "--service-account", "probe-user"}, args...)...)
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exited.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s --each took %.1f s", command, time.Since(from).Seconds())
	answers = make(map[string][]answer)
	for line := range strings.Lines(out) {
		var members struct {
			Node, Target           string
			Answer, Outcome, Error json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &members); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		a := answer{target: members.Target}
		switch {
		case members.Answer != nil:
			a.host = &probev1.LookupHostResponse{}
			err = protojson.Unmarshal(members.Answer, a.host)
		case members.Outcome != nil:
			a.outcome = &probev1.Outcome{}
			err = protojson.Unmarshal(members.Outcome, a.outcome)
		default:
			a.failure = &spb.Status{}
			err = protojson.Unmarshal(members.Error, a.failure)
		}
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		answers[members.Node] = append(answers[members.Node], a)
	}
	return answers, code
}
