package endurance

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// raised are limits that leave room for thousands.
const raised = `
limits:
  sessions: 4000
  sessions_per_caller: 4000
  calls: 4000
  calls_per_caller: 4000
  connections: 4000
  connections_per_address: 4000
`

// streams is how many sessions go over one connection of gRPC: the limit of streams by default.
const streams = 100

// Sessions that wait stay open, none is lost, and each takes little memory. They are held for as long as an exchange may
// last, and then it is the deadline that ends them. In the short form their peer does, and what opening them has left to the
// garbage collector is memory still, so there is more room for it.
func TestSessionsAreHeld(t *testing.T) {
	const sessions, timeout = 2000, 10 * time.Minute
	most := promise.Times[int64](40<<10, 32<<10)
	speak, end := context.WithCancel(t.Context())
	defer end()
	peer := nettest.TCP(t, func(c net.Conn) {
		<-speak.Done()
		_, _ = c.Write([]byte("x"))
	})
	p := probetest.Start(t, probetest.Options{Config: raised})
	warm(t, p)
	before := p.Memory()
	open := openSessions(t, p, peer.String(), sessions, timeout)
	<-time.After(promise.Times(2*time.Second, timeout-30*time.Second))
	each := (p.Memory() - before) / sessions

	by, reason := "their peer", probev1.Reason_REASON_UNSPECIFIED
	if promise.Long() {
		by, reason = "the deadline", probev1.Reason_REASON_RECEIVE_TIMEOUT
	} else {
		end()
	}
	lost := 0
	var held time.Duration
	for _, s := range open {
		if s.Rest(); s.Outcome.GetReason() != reason || s.Outcome == nil {
			lost++
			s.Wants(reason)
		}
		if took := s.Outcome.GetTimings().GetTotal().AsDuration(); held == 0 || took < held {
			held = took
		}
	}
	if promise.Long() && held < timeout {
		t.Errorf("one was held for %v alone", held)
	}
	if each > most {
		t.Errorf("an idle exchange takes %d bytes, want at most %d", each, most)
	}
	promise.SessionsAreHeld.Reached(t, "%d for %v, until %s ended them, %d lost", sessions, held.Round(time.Second), by, lost)
	promise.IdleIsCheap.Reached(t, "%d; %.1f KiB each", sessions, float64(each)/(1<<10))
}

// The one beyond the limit is refused, by either way, and when one has ended there is room for one.
func TestOneTooMany(t *testing.T) {
	const limit = 256
	peer := nettest.TCP(t, nettest.Silent)
	p := probetest.Start(t, probetest.Options{})
	open := openSessions(t, p, peer.String(), limit, time.Minute)
	request := &probev1.ExchangeRequest{Target: peer.String(), HoldOpen: true}
	for _, caller := range p.Callers() {
		s := caller.Exchange(t.Context(), t, request)
		if s.Rest(); status.Code(s.Err) != codes.ResourceExhausted {
			t.Errorf("%s: %v %v, want %v", caller, s.Outcome, s.Err, codes.ResourceExhausted)
		}
	}
	open[0].Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		s := p.GRPC().Exchange(t.Context(), t, request)
		if s.UntilConnected() != nil {
			s.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the place of one that has ended is not given to another: %v", s.Err)
		}
	}
	for _, s := range open[1:] {
		s.Close()
	}
	promise.SessionsAreHeld.Reached(t, "%d at once, the next RESOURCE_EXHAUSTED", limit)
}

// openSessions opens so many that wait for their peer.
func openSessions(t *testing.T, p *probetest.Probed, target string, n int, timeout time.Duration) []*probetest.Session {
	t.Helper()
	request := &probev1.ExchangeRequest{Target: target, HoldOpen: true, Timeout: durationpb.New(timeout)}
	var all []*probetest.Session
	var caller probetest.Caller
	for i := range n {
		if i%streams == 0 {
			caller = p.GRPC()
		}
		all = append(all, caller.Exchange(t.Context(), t, request))
	}
	for _, s := range all {
		if s.UntilConnected() == nil {
			t.Fatalf("not connected: %v", s.Err)
		}
	}
	return all
}

// warm lets what is made at the first use be made.
func warm(t *testing.T, p *probetest.Probed) {
	t.Helper()
	echo := nettest.TCP(t, nettest.Echo)
	for _, caller := range p.Callers() {
		for range 20 {
			s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: echo.String(), Payload: &probev1.ExchangeRequest_Text{Text: "x"}})
			if s.Rest(); s.Received != 1 {
				t.Fatalf("%v: %v %v", caller, s.Outcome, s.Err)
			}
		}
	}
}
