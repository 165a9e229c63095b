//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/klient/k8s"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"
)

// probedLabels find the pods of deploy/k8s.
const probedLabels = "app.kubernetes.io/name=probed,app.kubernetes.io/component=probe"

// places are all there are: each of what deploy/k8s offers, and whom to ask about.
func places() []*place {
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	deployment := &appsv1.Deployment{ObjectMeta: named("probed")}
	daemonSet := &appsv1.DaemonSet{ObjectMeta: named("probed")}
	return []*place{
		{name: "base", bases: []string{"base"}, follow: giveTokens, workloads: []k8s.Object{deployment}},
		{name: "namespace", bases: []string{"overlays/namespace"}, workloads: []k8s.Object{deployment}},
		{
			name: "shared", bases: []string{"base"}, components: []string{"tls", "oidc", "podmonitor", "icmp"}, more: []string{"asker"},
			follow: certify, workloads: []k8s.Object{deployment, &corev1.Pod{ObjectMeta: named("asker")}},
		},
		{name: "mesh", bases: []string{"overlays/mesh"}, components: []string{"oidc"}, workloads: []k8s.Object{daemonSet}},
		{name: "host-network", bases: []string{"overlays/host-network"}, components: []string{"oidc"}, privileged: true, workloads: []k8s.Object{daemonSet}},
		{
			name: "targets", more: []string{"targets"},
			workloads: []k8s.Object{&appsv1.DaemonSet{ObjectMeta: named("echo")}, &appsv1.Deployment{ObjectMeta: named("guarded")}},
		},
	}
}

// giveTokens makes the Secret that the base waits for, when it is seen to wait for it.
func giveTokens(ctx context.Context, p *place) error {
	if err := poll(ctx, 30*time.Second, func(ctx context.Context) (bool, error) {
		var events corev1.EventList
		err := p.resources.List(ctx, &events, resources.WithFieldSelector("reason=FailedMount"))
		for _, event := range events.Items {
			if strings.Contains(event.Message, `secret "probed-tokens" not found`) {
				return true, nil
			}
		}
		return false, err
	}); err != nil {
		return fmt.Errorf("no event names the Secret that is missing: %w", err)
	}
	manifest, err := tell(ctx, "", p.stage.probed, "new-token", "operator", "--secret", "probed-tokens", "--token-file", p.tokenFile())
	if err != nil {
		return err
	}
	token, err := os.ReadFile(p.tokenFile())
	if err != nil {
		return err
	}
	if strings.Contains(manifest, strings.TrimSpace(string(token))) {
		return fmt.Errorf("the Secret holds the token itself")
	}
	_, err = p.stage.kubectl(ctx, manifest, "apply", "--namespace", p.namespace, "-f", "-")
	return err
}

// certify waits for the place's certificate, which is the tests' to issue where cert-manager is not, and keeps its authority.
func certify(ctx context.Context, p *place) error {
	if p.stage.kinds {
		if err := issueCertificates(ctx, p); err != nil {
			return err
		}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "probed-tls"}}
	if err := p.await(ctx, secret, func(k8s.Object) bool { return len(secret.Data["ca.crt"]) > 0 }); err != nil {
		return fmt.Errorf("no certificate: %w", err)
	}
	return os.WriteFile(p.authorityFile(), secret.Data["ca.crt"], 0o600)
}

// tokenFile is where the operator's token is.
func (p *place) tokenFile() string { return filepath.Join(p.stage.directory, p.name+".token") }

// token is one that the cluster makes for the service account probe-user.
func (p *place) token(ctx context.Context, audience string) (string, error) {
	token, err := p.stage.kubectl(ctx, "", "create", "token", "probe-user", "--namespace", p.namespace, "--audience", audience)
	return strings.TrimSpace(token), err
}
