//go:build e2e

package e2e

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	probev1 "probed/gen/probe/v1"
)

const echoPort = "7007"

// TestNetwork asks from a team's namespace about what is in the cluster.
func TestNetwork(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("the cluster's network").
		Assess("a short name walks the search list", fromNamespace(walksTheSearchList)).
		Assess("a name that does not exist is told with all that was asked", fromNamespace(nameNotFound)).
		Assess("a Service answers", fromNamespace(serviceAnswers)).
		Assess("a headless Service has its pods' addresses, and each answers", fromNamespace(headlessAnswers)).
		Assess("each pod answers", fromNamespace(podsAnswer)).
		Assess("failures are told apart", fromNamespace(failures)).
		Assess("what is not the cluster's is denied", fromNamespace(denied)).
		Feature())
}

// fromNamespace has a test ask one pod of the overlay namespace, both ways.
func fromNamespace(test func(ctx context.Context, t *testing.T, c caller, from, targets *place)) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		from, targets := at(ctx, t, "namespace"), at(ctx, t, "targets")
		asker := from.pods(ctx, t, probedLabels)[0]
		for _, c := range from.ask(ctx, t, &asker) {
			t.Run(c.String(), func(t *testing.T) { test(ctx, t, c, from, targets) })
		}
		return ctx
	}
}

func walksTheSearchList(ctx context.Context, t *testing.T, c caller, from, _ *place) {
	const name = "kubernetes.default"
	var service corev1.Service
	if err := from.resources.Get(ctx, "kubernetes", "default", &service); err != nil {
		t.Fatal(err)
	}
	vantage, err := c.Vantage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	resolver := vantage.GetResolver()
	if search := resolver.GetSearch(); resolver.GetNdots() != 5 || len(search) < 3 || !strings.HasPrefix(search[0], from.namespace+".svc.") {
		t.Fatalf("ndots %d, search %q", resolver.GetNdots(), search)
	}
	found, err := c.LookupHost(ctx, &probev1.LookupHostRequest{Host: name, Trace: true})
	if err != nil {
		t.Fatal(err)
	}
	if !sameAddresses(found.GetAddresses(), service.Spec.ClusterIPs) {
		t.Errorf("found %v, and the Service has %v", found.GetAddresses(), service.Spec.ClusterIPs)
	}
	// The namespace's own domain has no such name; that of all namespaces has it. Each is asked for both families.
	var asked []string
	for _, step := range found.GetTrace() {
		if step.GetSource() != "dns" {
			continue
		}
		if !slices.ContainsFunc(resolver.GetNameservers(), func(server string) bool { return strings.HasPrefix(step.GetServer(), server) }) || step.GetTransport() != "udp" || step.GetDuration().AsDuration() <= 0 {
			t.Errorf("a step of no name server: %v", step)
		}
		asked = append(asked, step.GetName()+" "+step.GetType()+" "+step.GetRcode())
	}
	first, second := name+"."+resolver.GetSearch()[0]+".", name+"."+resolver.GetSearch()[1]+"."
	want := []string{first + " A NXDOMAIN", first + " AAAA NXDOMAIN", second + " A NOERROR", second + " AAAA NOERROR"}
	if !slices.Equal(slices.Sorted(slices.Values(asked)), slices.Sorted(slices.Values(want))) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if !strings.HasPrefix(asked[0], first) || !strings.HasPrefix(asked[len(asked)-1], second) {
		t.Errorf("not in the order of the search list: %q", asked)
	}
	if len(found.GetNotes()) == 0 {
		t.Error("nothing is said of the queries that a trailing dot would spare")
	}
}

func nameNotFound(ctx context.Context, t *testing.T, c caller, _, targets *place) {
	_, err := c.LookupHost(ctx, &probev1.LookupHostRequest{Host: "nosuch." + targets.namespace, Trace: true})
	if status.Code(err) != codes.NotFound {
		t.Fatalf("%v, want NOT_FOUND", err)
	}
	failure := detail[*probev1.ResolutionFailure](err)
	if failure.GetReason() != probev1.ErrorReason_ERROR_REASON_NAME_NOT_FOUND.String() {
		t.Errorf("reason %q", failure.GetReason())
	}
	for _, step := range failure.GetTrace() {
		if step.GetSource() == "dns" && step.GetRcode() != "NXDOMAIN" {
			t.Errorf("a step that is not NXDOMAIN: %v", step)
		}
	}
	if len(failure.GetTrace()) < 8 { // the name itself and behind it three domains, for both families
		t.Errorf("a trace of %d steps", len(failure.GetTrace()))
	}
}

func serviceAnswers(ctx context.Context, t *testing.T, c caller, _, targets *place) {
	var service corev1.Service
	if err := targets.resources.Get(ctx, "echo", targets.namespace, &service); err != nil {
		t.Fatal(err)
	}
	settled(ctx, t, c, &probev1.ConnectRequest{Target: join("echo."+targets.namespace, echoPort)})
	for _, scheme := range []string{"tcp", "udp"} {
		outcome := echoes(ctx, t, c, scheme+"://echo."+targets.namespace+":"+echoPort)
		remote, err := netip.ParseAddrPort(outcome.GetRemote())
		if err != nil || !slices.Contains(service.Spec.ClusterIPs, remote.Addr().String()) {
			t.Errorf("%s: connected to %s, and the Service is %v", scheme, outcome.GetRemote(), service.Spec.ClusterIPs)
		}
	}
}

func headlessAnswers(ctx context.Context, t *testing.T, c caller, _, targets *place) {
	var ipv4 []string // of one family unless a Service says otherwise
	for _, pod := range targets.pods(ctx, t, "app=echo") {
		ipv4 = append(ipv4, pod.Status.PodIP)
	}
	name := "echo-headless." + targets.namespace
	settled(ctx, t, c, &probev1.ConnectRequest{Target: join(name, echoPort)})
	found, err := c.LookupHost(ctx, &probev1.LookupHostRequest{Host: name})
	if err != nil {
		t.Fatal(err)
	}
	if !sameAddresses(found.GetAddresses(), ipv4) {
		t.Errorf("found %v, and the pods have %v", found.GetAddresses(), ipv4)
	}
	outcome, err := c.Connect(ctx, &probev1.ConnectRequest{Target: join(name, echoPort), AllAddresses: true})
	if err != nil {
		t.Fatal(err)
	}
	var tried []string
	for _, attempt := range outcome.GetAttempts() {
		if !attempt.GetOk() {
			t.Errorf("%s: %v", attempt.GetAddress(), attempt.GetReason())
		}
		tried = append(tried, netip.MustParseAddrPort(attempt.GetAddress()).Addr().String())
	}
	if !outcome.GetOk() || !sameAddresses(tried, ipv4) {
		t.Errorf("ok %v, tried %v of %v", outcome.GetOk(), tried, ipv4)
	}
	echoes(ctx, t, c, join(name, echoPort))
}

func podsAnswer(ctx context.Context, t *testing.T, c caller, _, targets *place) {
	for _, pod := range targets.pods(ctx, t, "app=echo") {
		for _, address := range addressesOf(&pod) {
			if outcome := echoes(ctx, t, c, join(address, echoPort)); netip.MustParseAddrPort(outcome.GetRemote()).Addr() != netip.MustParseAddr(address) {
				t.Errorf("asked for %s, and connected to %s", address, outcome.GetRemote())
			}
		}
	}
}

// echoes sends something there, and wants it back.
func echoes(ctx context.Context, t *testing.T, c caller, target string) *probev1.Outcome {
	t.Helper()
	const text = "is anybody there?\n"
	request := &probev1.ExchangeRequest{Target: target, Timeout: durationpb.New(10 * time.Second), Payload: &probev1.ExchangeRequest_Text{Text: text}}
	data, outcome, err := c.Exchange(ctx, request)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	if !outcome.GetOk() || string(data) != text {
		t.Errorf("%s: %q came back, and %v: %s", target, data, outcome.GetReason(), outcome.GetError())
	}
	return outcome
}

// failures are those that look the same to who sees only that it does not work.
func failures(ctx context.Context, t *testing.T, c caller, _, targets *place) {
	guarded := targets.pods(ctx, t, "app=guarded")[0]
	echo := targets.pods(ctx, t, "app=echo")[0]
	in := "." + targets.namespace
	hints := make(map[string]probev1.Reason)
	for _, test := range []struct {
		name, target string
		phase        probev1.Phase
		layer        probev1.Layer
		reason       probev1.Reason
		hint         string
	}{
		{
			"a Service without endpoints", join("nobody"+in, echoPort),
			probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECTION_REFUSED, "the Service has no ready endpoints",
		},
		{
			"a port where nobody listens", join(echo.Status.PodIP, "9"),
			probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECTION_REFUSED, "nobody listens on this port",
		},
		{
			"a pod behind a NetworkPolicy", join(guarded.Status.PodIP, echoPort),
			probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECT_TIMEOUT, "Dropped by a network policy",
		},
		{
			"a Service of pods behind a NetworkPolicy", join("guarded"+in, echoPort),
			probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECT_TIMEOUT, "Dropped by a network policy",
		},
		{
			"a name that does not exist", join("nosuch"+in, echoPort),
			probev1.Phase_PHASE_RESOLVE, probev1.Layer_LAYER_APPLICATION, probev1.Reason_REASON_NAME_NOT_FOUND, "Check the spelling, and the namespace",
		},
	} {
		_, outcome, err := c.Exchange(ctx, &probev1.ExchangeRequest{Target: test.target, Timeout: durationpb.New(2 * time.Second)})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if outcome.GetOk() || outcome.GetPhase() != test.phase || outcome.GetLayer() != test.layer || outcome.GetReason() != test.reason {
			t.Errorf("%s: ok %v, %v, %v, %v", test.name, outcome.GetOk(), outcome.GetPhase(), outcome.GetLayer(), outcome.GetReason())
		}
		if !strings.Contains(outcome.GetHint(), test.hint) {
			t.Errorf("%s: the hint says nothing of %q: %s", test.name, test.hint, outcome.GetHint())
		}
		if reason, told := hints[outcome.GetHint()]; told && reason != test.reason {
			t.Errorf("%s: the same hint as of %v", test.name, reason)
		}
		hints[outcome.GetHint()] = test.reason
	}
}

// denied are addresses that no pod has and no Service, and the metadata service of clouds.
func denied(ctx context.Context, t *testing.T, c caller, _, _ *place) {
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "169.254.169.254", "127.0.0.1"} {
		if _, err := c.Connect(ctx, &probev1.ConnectRequest{Target: join(host, "80")}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PERMISSION_DENIED", host, err)
		}
	}
}
