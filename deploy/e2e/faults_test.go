//go:build e2e && fault

package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	probev1 "probed/gen/probe/v1"
)

// ill is the node whose network is broken, for as long as a test takes.
const ill = "node2"

// TestFaults breaks the network of one node, and so runs alone: when all is in place, and before the tests that run at the same
// time. The node that is ill is found by asking every pod of the mesh the same.
func TestFaults(t *testing.T) {
	testenv.Test(t, features.New("a node that is ill").
		Assess("none is, and all answers are good", broken(noFault)).
		Assess("cut off", broken(cutOff, "cut")).
		Assess("without DNS", broken(withoutDNS, "dns")).
		Assess("with a small path MTU", broken(smallMTU, "mtu", "1300")).
		Assess("with a small path MTU that nobody tells of", broken(blackhole, "mtu", "1300", "--blackhole")).
		Assess("that loses packets", broken(losesPackets, "loss", "30")).
		Feature())
}

// patient is for each to ask over a wire that is broken.
type patient struct {
	well   string // a node that is not ill
	here   string // an echo server on the node that is well
	there  string // the one on the node that is ill
	byName string // either of them
}

// broken has a test run with a fault, if any, and mends it.
func broken(test func(context.Context, *testing.T, patient), fault ...string) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		s := stageOf(ctx)
		s.setting.Wait()
		if _, there := s.nodes[ill]; !there || len(s.nodes) < 2 {
			t.Fatalf("the cluster has no %s and another node", ill)
		}
		targets := at(ctx, t, "targets")
		p := patient{byName: join("echo."+targets.namespace, echoPort)}
		for _, pod := range targets.pods(ctx, t, "app=echo") {
			if pod.Spec.NodeName == ill {
				p.there = join(pod.Status.PodIP, echoPort)
			} else {
				p.well, p.here = pod.Spec.NodeName, join(pod.Status.PodIP, echoPort)
			}
		}
		if fault != nil {
			t.Cleanup(func() {
				if _, err := tell(context.WithoutCancel(ctx), "", os.Getenv("E2E_FAULT"), ill, "none"); err != nil {
					t.Error(err)
				}
			})
			if _, err := tell(ctx, "", os.Getenv("E2E_FAULT"), append([]string{ill}, fault...)...); err != nil {
				t.Fatal(err)
			}
		}
		test(ctx, t, p)
		return ctx
	}
}

// payload needs several full segments.
var payload = strings.Repeat("x", 8000)

func noFault(ctx context.Context, t *testing.T, p patient) {
	mesh := at(ctx, t, "mesh")
	for _, pod := range mesh.pods(ctx, t, probedLabels) {
		settled(ctx, t, mesh.ask(ctx, t, &pod)[0], &probev1.ConnectRequest{Target: p.byName})
	}
	answers, code := each(ctx, t, "connect", p.here, p.there, p.byName)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, node := range []string{p.well, ill} {
		for _, target := range []string{p.here, p.there, p.byName} {
			isWell(t, node, of(t, answers, node, target))
		}
	}
	answers, _ = each(ctx, t, "exchange", p.here, "--text", payload)
	isWell(t, p.well, of(t, answers, p.well, p.here))
	isWell(t, ill, of(t, answers, ill, p.here))
}

func cutOff(ctx context.Context, t *testing.T, p patient) {
	answers, code := each(ctx, t, "connect", p.here, p.there, "--timeout", "3s", "--connect-timeout", "5s")
	if code != 1 {
		t.Errorf("exit code %d, want that of a tool that failed", code)
	}
	isWell(t, p.well, of(t, answers, p.well, p.here))
	o := of(t, answers, p.well, p.there)
	fails(t, o, probev1.Phase_PHASE_CONNECT, probev1.Reason_REASON_CONNECT_TIMEOUT, "Nobody answered")
	if o.GetLayer() != probev1.Layer_LAYER_TRANSPORT || o.GetTcpInfo() != nil || len(o.GetAttempts()) != 1 || o.GetRoute().GetInterface() == "" {
		t.Errorf("of a connection that never was: %v", o)
	}
	// Whoever asks is cut off as well, and is told which pod, and on which node, does not answer.
	if said := answers[ill]; len(said) != 1 || codes.Code(said[0].failure.GetCode()) != codes.Unavailable || !strings.Contains(said[0].failure.GetMessage(), "port-forward") {
		t.Errorf("%s: %v", ill, said)
	}
}

func withoutDNS(ctx context.Context, t *testing.T, p patient) {
	var asking sync.WaitGroup
	asking.Go(func() {
		answers, _ := each(ctx, t, "host", "kubernetes.default")
		if said := answers[p.well]; len(said) != 1 || len(said[0].host.GetAddresses()) == 0 {
			t.Errorf("%s: %v", p.well, said)
		}
		if said := answers[ill]; len(said) != 1 || said[0].failure == nil {
			t.Errorf("%s: %v", ill, said)
		} else {
			err := status.ErrorProto(said[0].failure)
			if reason := detail[*errdetails.ErrorInfo](err).GetReason(); reason != probev1.ErrorReason_ERROR_REASON_DNS_TIMEOUT.String() {
				t.Errorf("%s: %v: %s", ill, err, reason)
			}
			silent(t, detail[*probev1.ResolutionFailure](err))
		}
	})
	answers, code := each(ctx, t, "connect", p.here, p.byName, "--timeout", "8s")
	if code != 2 {
		t.Errorf("exit code %d, want that of an answer that is no", code)
	}
	isWell(t, p.well, of(t, answers, p.well, p.here))
	isWell(t, p.well, of(t, answers, p.well, p.byName))
	isWell(t, ill, of(t, answers, ill, p.here)) // by its address
	o := of(t, answers, ill, p.byName)
	fails(t, o, probev1.Phase_PHASE_RESOLVE, probev1.Reason_REASON_DNS_TIMEOUT, "No name server answered")
	silent(t, o.GetResolution())
	asking.Wait()
}

// silent is that a lookup asked name servers, and none of them said a word.
func silent(t *testing.T, failure *probev1.ResolutionFailure) {
	t.Helper()
	var asked int
	for _, step := range failure.GetTrace() {
		if step.GetSource() == "dns" {
			asked++
			if step.GetServer() == "" || step.GetRcode() != "" || step.GetError() != "timeout" {
				t.Errorf("a step that is no timeout: %v", step)
			}
		}
	}
	if asked == 0 {
		t.Errorf("no name server was asked: %v", failure)
	}
}

func smallMTU(ctx context.Context, t *testing.T, p patient) {
	answers, code := each(ctx, t, "exchange", p.here, "--text", payload)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	isWell(t, p.well, of(t, answers, p.well, p.here))
	// TCP is told by ICMP, sends again in smaller pieces, and all is well but for that.
	o := of(t, answers, ill, p.here)
	if tcp := o.GetTcpInfo(); !o.GetOk() || tcp.GetPmtu() != 1300 || tcp.GetMss() >= 1300 || tcp.GetRetransmits() == 0 || o.GetBytesAcknowledged() != uint64(len(payload)) {
		t.Errorf("%v", o)
	}
}

func blackhole(ctx context.Context, t *testing.T, p patient) {
	var asking sync.WaitGroup
	asking.Go(func() { // what is small passes, and so the port is open
		answers, _ := each(ctx, t, "connect", p.here)
		isWell(t, ill, of(t, answers, ill, p.here))
	})
	answers, code := each(ctx, t, "exchange", p.here, "--text", payload, "--timeout", "3s")
	if code != 2 {
		t.Errorf("exit code %d, want that of an answer that is no", code)
	}
	isWell(t, p.well, of(t, answers, p.well, p.here))
	o := of(t, answers, ill, p.here)
	fails(t, o, probev1.Phase_PHASE_RECEIVE, probev1.Reason_REASON_RECEIVE_TIMEOUT, "path MTU")
	if tcp := o.GetTcpInfo(); tcp.GetRetransmits() == 0 || tcp.GetUnacknowledged() == 0 || tcp.GetPmtu() != 1500 || tcp.GetMss() <= 1300 {
		t.Errorf("the kernel knew %v", tcp)
	}
	if o.BytesAcknowledged == nil || o.GetBytesSent() != uint64(len(payload)) || o.GetBytesAcknowledged() != 0 || o.GetBytesReceived() != 0 {
		t.Errorf("%d bytes sent, %d acknowledged, %d received", o.GetBytesSent(), o.GetBytesAcknowledged(), o.GetBytesReceived())
	}
	asking.Wait()
}

func losesPackets(ctx context.Context, t *testing.T, p patient) {
	// Half of all handshakes lose a packet, so it is not to be expected in ten thousand runs that none of so many goes well at
	// the second try.
	const many = 24
	// The question to the node that is ill goes over the wire too, and so does the answer: it may come late, or never.
	targets := append(slices.Repeat([]string{p.there}, many), p.here, p.here, p.here, p.here)
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second)
	defer cancel()
	answers, _ := each(ctx, t, "connect", append(targets, "--timeout", "6s", "--connect-timeout", "20s")...)
	suffers := func(node, from string) {
		var again, lost, unasked int
		for _, a := range answers[node] {
			switch o := a.outcome; {
			case o == nil && node == ill && codes.Code(a.failure.GetCode()) == codes.Unavailable:
				unasked++
			case o == nil:
				t.Errorf("%s: %v", node, a.failure)
			case a.target != from:
				isWell(t, node, o)
			case o.GetOk() && o.GetTcpInfo().GetRetransmits() > 0:
				again++
			case !o.GetOk():
				fails(t, o, probev1.Phase_PHASE_CONNECT, probev1.Reason_REASON_CONNECT_TIMEOUT, "Nobody answered")
				lost++
			}
		}
		t.Logf("from %s to %s, %d connections had packets sent again, and %d were not made; %d answers did not come", node, from, again, lost, unasked)
		if from == p.there && again == 0 {
			t.Errorf("from %s to %s, no connection had to send a packet again", node, from)
		}
	}
	if len(answers[p.well]) != len(targets) {
		t.Fatalf("%s has %d answers", p.well, len(answers[p.well]))
	}
	suffers(p.well, p.there)
	suffers(ill, p.here)
}

// of is what a node said of a target, once.
func of(t *testing.T, answers map[string][]answer, node, target string) *probev1.Outcome {
	t.Helper()
	var found []*probev1.Outcome
	for _, a := range answers[node] {
		if a.target == target {
			found = append(found, a.outcome)
		}
	}
	if len(found) != 1 || found[0] == nil {
		t.Fatalf("%s has %d outcomes for %s: %v", node, len(found), target, answers[node])
	}
	if v := found[0].GetVantage(); v.GetNode() != node {
		t.Errorf("%s has an outcome of %s", node, v.GetNode())
	}
	return found[0]
}

// isWell is that nothing is to be seen of a fault.
func isWell(t *testing.T, node string, o *probev1.Outcome) {
	t.Helper()
	if tcp := o.GetTcpInfo(); !o.GetOk() || tcp.GetRetransmits() != 0 || tcp.GetPmtu() != 1500 {
		t.Errorf("from %s: %v: %s; %v", node, o.GetReason(), o.GetError(), tcp)
	}
}

// fails is how a fault is told.
func fails(t *testing.T, o *probev1.Outcome, phase probev1.Phase, reason probev1.Reason, hint string) {
	t.Helper()
	if o.GetOk() || o.GetPhase() != phase || o.GetReason() != reason || !strings.Contains(o.GetHint(), hint) {
		t.Errorf("ok %v, %v, %v, want %v, %v, and %q in the hint: %s", o.GetOk(), o.GetPhase(), o.GetReason(), phase, reason, hint, o.GetHint())
	}
}
