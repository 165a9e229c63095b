//go:build e2e

package e2e

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	probev1 "probed/gen/probe/v1"
)

// TestBase has the token of the Secret that the base waits for.
func TestBase(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("base").
		Assess("asks who calls", asksWhoCalls("base", func(ctx context.Context, t *testing.T, p *place) string {
			token, err := os.ReadFile(p.tokenFile())
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(token))
		})).
		Assess("answers from its pod", answersFromItsPod("base")).
		Feature())
}

// TestNamespace is one team's.
func TestNamespace(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("overlay namespace").
		Assess("asks who calls", asksWhoCalls("namespace", minted)).
		Assess("answers from its pod", answersFromItsPod("namespace")).
		Feature())
}

// TestShared is the base with every component. Its pods are replaced at the end.
func TestShared(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("base with tls, oidc, podmonitor and icmp").
		Assess("asks who calls", asksWhoCalls("shared", minted)).
		Assess("answers from its pod", answersFromItsPod("shared")).
		Assess("asks for echoes by ICMP", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p := at(ctx, t, "shared")
			for _, pod := range p.pods(ctx, t, probedLabels) {
				want := corev1.Sysctl{Name: "net.ipv4.ping_group_range", Value: "65532 65532"}
				if !slices.Contains(pod.Spec.SecurityContext.Sysctls, want) {
					t.Errorf("%s has %v", pod.Name, pod.Spec.SecurityContext.Sysctls)
				}
				// Its own address, which no policy of the network is about.
				target := "icmp://" + pod.Status.PodIP
				if strings.Contains(pod.Status.PodIP, ":") {
					target = "icmp://[" + pod.Status.PodIP + "]"
				}
				for _, c := range p.ask(ctx, t, &pod) {
					if outcome, err := c.Connect(ctx, &probev1.ConnectRequest{Target: target}); err != nil || !outcome.GetOk() {
						t.Errorf("%s: %s: %v, %v", c, target, outcome, err)
					}
				}
			}
			return ctx
		}).
		Assess("has its metrics where the PodMonitor says", scrapedAsSaid).
		Assess("speaks TLS with probectl --kube", vantageBy("shared", func(p *place) []string {
			return []string{p.stage.probectl, "--kube", p.namespace + "/probed", "--server-ca", p.authorityFile()}
		})).
		Assess("is reached from its own namespace alone, but for its metrics", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p, from := at(ctx, t, "shared"), at(ctx, t, "namespace")
			pod, asker := p.pods(ctx, t, probedLabels)[0], from.pods(ctx, t, probedLabels)[0]
			c := from.ask(ctx, t, &asker)[0]
			for port, want := range map[string]probev1.Reason{
				grpcPort: probev1.Reason_REASON_CONNECT_TIMEOUT,
				httpPort: probev1.Reason_REASON_CONNECT_TIMEOUT,
				opsPort:  probev1.Reason_REASON_UNSPECIFIED,
			} {
				outcome, err := c.Connect(ctx, &probev1.ConnectRequest{Target: join(pod.Status.PodIP, port), Timeout: durationpb.New(time.Second)})
				if err != nil {
					t.Fatal(err)
				}
				if outcome.GetReason() != want {
					t.Errorf("port %s: %v, want %v", port, outcome.GetReason(), want)
				}
			}
			return ctx
		}).
		Assess("loses no request in a rolling update", losesNothing).
		Feature())
}

// TestMesh has one on every node.
func TestMesh(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("overlay mesh").
		Assess("is on every node", isOnEveryNode("mesh")).
		Assess("asks who calls", asksWhoCalls("mesh", minted)).
		Assess("answers from its pod", answersFromItsPod("mesh")).
		Assess("has an address for each pod", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p := at(ctx, t, "mesh")
			pods := p.pods(ctx, t, probedLabels)
			settled(ctx, t, p.ask(ctx, t, &pods[0])[0], &probev1.ConnectRequest{Target: join("probed."+p.namespace+".svc", opsPort)})
			for _, c := range p.ask(ctx, t, &pods[0]) {
				found, err := c.LookupHost(ctx, &probev1.LookupHostRequest{Host: "probed." + p.namespace + ".svc"})
				if err != nil {
					t.Fatalf("%s: %v", c, err)
				}
				if got, want := found.GetAddresses(), addressesOfAll(pods); !sameAddresses(got, want) {
					t.Errorf("%s: the Service has %v, the pods %v", c, got, want)
				}
			}
			return ctx
		}).
		Feature())
}

// TestHostNetwork is of the node's own network.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("overlay host-network").
		Assess("is on every node", isOnEveryNode("host-network")).
		Assess("asks who calls", asksWhoCalls("host-network", minted)).
		Assess("answers from its pod", answersFromItsPod("host-network")).
		Assess("sees the node's interfaces", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p := at(ctx, t, "host-network")
			for _, pod := range p.pods(ctx, t, probedLabels) {
				node := stageOf(ctx).nodes[pod.Spec.NodeName]
				for _, c := range p.ask(ctx, t, &pod) {
					vantage, err := c.Vantage(ctx)
					if err != nil {
						t.Fatalf("%s: %v", c, err)
					}
					for _, address := range node.Status.Addresses {
						if address.Type == corev1.NodeInternalIP && !slices.Contains(interfaceAddresses(t, vantage), netip.MustParseAddr(address.Address)) {
							t.Errorf("%s: node %s has %s, and the vantage has %v", c, node.Name, address.Address, interfaceAddresses(t, vantage))
						}
					}
				}
			}
			return ctx
		}).
		Assess("is reached through the node's loopback alone", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p, from := at(ctx, t, "host-network"), at(ctx, t, "namespace")
			asker := from.pods(ctx, t, probedLabels)[0]
			for _, pod := range p.pods(ctx, t, probedLabels) {
				for _, c := range from.ask(ctx, t, &asker) {
					for port, want := range map[string]probev1.Reason{
						grpcPort: probev1.Reason_REASON_CONNECTION_REFUSED,
						httpPort: probev1.Reason_REASON_CONNECTION_REFUSED,
						opsPort:  probev1.Reason_REASON_UNSPECIFIED,
					} {
						outcome, err := c.Connect(ctx, &probev1.ConnectRequest{Target: join(pod.Status.HostIP, port)})
						if err != nil {
							t.Fatalf("%s: %v", c, err)
						}
						if outcome.GetReason() != want {
							t.Errorf("%s: port %s of %s: %v, want %v", c, port, pod.Spec.NodeName, outcome.GetReason(), want)
						}
					}
				}
			}
			return ctx
		}).
		Feature())
}

// minted is a token that the cluster makes for who asks there.
func minted(ctx context.Context, t *testing.T, p *place) string {
	t.Helper()
	token, err := p.token(ctx, "probed")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ask are callers with a token of the cluster for one pod of a place that takes these.
func (p *place) ask(ctx context.Context, t *testing.T, pod *corev1.Pod) []caller {
	t.Helper()
	return p.callers(t, pod, p.good(ctx, t))
}

// good is a token that the place takes.
func (p *place) good(ctx context.Context, t *testing.T) string {
	t.Helper()
	if token, err := os.ReadFile(p.tokenFile()); err == nil {
		return strings.TrimSpace(string(token))
	}
	return minted(ctx, t, p)
}

// asksWhoCalls is that only who shows a token made for probed is answered.
func asksWhoCalls(name string, token func(context.Context, *testing.T, *place) string) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		p := at(ctx, t, name)
		pods := p.pods(ctx, t, probedLabels)
		good := token(ctx, t, p)
		strangers := map[string]string{"no token": "", "a token of nobody": "probed_" + strings.Repeat("x", 43)}
		if slices.Contains(p.components, "oidc") || name == "namespace" {
			other, err := p.token(ctx, "elsewhere")
			if err != nil {
				t.Fatal(err)
			}
			strangers["a token for another audience"] = other
			// The API server's own, with which whoever got it could do more than ask.
			if strangers["a token for the API server"], err = p.token(ctx, issuer); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range p.callers(t, &pods[0], good) {
			if _, err := c.Vantage(ctx); err != nil {
				t.Errorf("%s: with a token: %v", c, err)
			}
			for who, token := range strangers {
				c := c.With(token)
				_, vantage := c.Vantage(ctx)
				_, _, exchange := c.Exchange(ctx, &probev1.ExchangeRequest{Target: "tcp://192.0.2.1:9"})
				for _, err := range []error{vantage, exchange} {
					if status.Code(err) != codes.Unauthenticated {
						t.Errorf("%s: with %s: %v, want UNAUTHENTICATED", c, who, err)
					}
					if info := detail[*errdetails.ErrorInfo](err); info.GetReason() != probev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED.String() {
						t.Errorf("%s: with %s: reason %q", c, who, info.GetReason())
					}
				}
			}
		}
		return ctx
	}
}

// answersFromItsPod is that every pod's answers name it, its namespace and its node as the API server does.
func answersFromItsPod(name string) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		p := at(ctx, t, name)
		for _, pod := range p.pods(ctx, t, probedLabels) {
			for _, c := range p.ask(ctx, t, &pod) {
				vantage, err := c.Vantage(ctx)
				if err != nil {
					t.Fatalf("%s: %v", c, err)
				}
				want := [3]string{pod.Name, pod.Namespace, pod.Spec.NodeName}
				if got := [3]string{vantage.GetPod(), vantage.GetNamespace(), vantage.GetNode()}; got != want {
					t.Errorf("%s: answers from %q, is %q", c, got, want)
				}
				for _, address := range addressesOf(&pod) {
					if !slices.Contains(interfaceAddresses(t, vantage), netip.MustParseAddr(address)) {
						t.Errorf("%s: the pod has %s, and the vantage has %v", c, address, interfaceAddresses(t, vantage))
					}
				}
				_, outcome, err := c.Exchange(ctx, &probev1.ExchangeRequest{Target: join(pod.Status.PodIP, "1")})
				if err != nil {
					t.Fatalf("%s: %v", c, err)
				}
				v := outcome.GetVantage()
				if got := [3]string{v.GetPod(), v.GetNamespace(), v.GetNode()}; got != want {
					t.Errorf("%s: an outcome from %q, is %q", c, got, want)
				}
			}
		}
		return ctx
	}
}

func isOnEveryNode(name string) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		p := at(ctx, t, name)
		on := make(map[string]int)
		for _, pod := range p.pods(ctx, t, probedLabels) {
			on[pod.Spec.NodeName]++
		}
		for node := range stageOf(ctx).nodes {
			if on[node] != 1 {
				t.Errorf("%d pods on node %s", on[node], node)
			}
		}
		var set appsv1.DaemonSet
		if err := p.resources.Get(ctx, "probed", p.namespace, &set); err != nil {
			t.Error(err)
		}
		return ctx
	}
}

func interfaceAddresses(t *testing.T, vantage *probev1.DescribeVantageResponse) (addresses []netip.Addr) {
	t.Helper()
	for _, i := range vantage.GetInterfaces() {
		for _, text := range i.GetAddresses() {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				t.Fatal(err)
			}
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses
}
