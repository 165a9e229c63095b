package exchange

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/resolve"
)

// The caller who goes away, the service that drains and the caller's own deadline end an exchange in whatever phase it
// is, and each is told from the others.
func TestEndFromOutside(t *testing.T) {
	t.Parallel()
	full := nettest.Backlog(t)
	blocked := func(ctx context.Context, name string, _ resolve.Family) (*resolve.HostResult, error) {
		<-ctx.Done()
		return nil, &resolve.Error{Reason: resolve.Timeout, Name: name, Err: ctx.Err()}
	}
	phases := []struct {
		name    string
		phase   Phase
		timeout Reason // of a deadline in this phase
		of      func(t *testing.T) trial
	}{
		{"resolve", PhaseResolve, DNSTimeout, func(*testing.T) trial {
			return trial{config: Config{Resolve: blocked}, request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: 1}}}
		}},
		{"connect", PhaseConnect, ConnectTimeout, func(*testing.T) trial {
			return trial{request: Request{Target: ipTarget("tcp", full)}}
		}},
		{"send", PhaseSend, SendTimeout, func(t *testing.T) trial {
			target, tally := streamTarget(t, "unix", nettest.NeverRead)
			return trial{request: Request{Target: target, Steps: []Step{Send{Data: nettest.Data(16 << 20)}}}, peer: tally}
		}},
		{"receive", PhaseReceive, ReceiveTimeout, func(t *testing.T) trial {
			target, tally := streamTarget(t, "tcp", nettest.Silent)
			return trial{request: Request{Target: target, Steps: []Step{Receive{Idle: long}}}, peer: tally}
		}},
		{"receive a datagram", PhaseReceive, ReceiveTimeout, func(t *testing.T) trial {
			target, tally := datagramTarget(t, "udp", nettest.SilentPacket)
			return trial{request: Request{Target: target, Steps: []Step{Receive{Count: 1}}}, peer: tally}
		}},
	}
	const after = 50 * time.Millisecond
	ends := []struct {
		name   string
		reason Reason // None: that of a timeout in the phase
		by     EndedBy
		// begin is called when the phase has begun, or, with early, before the exchange.
		early bool
		begin func(cancel context.CancelCauseFunc)
	}{
		{"cancelled", Cancelled, EndedByNone, false, func(cancel context.CancelCauseFunc) {
			time.AfterFunc(after, func() { cancel(nil) })
		}},
		{"cancelled at once", Cancelled, EndedByNone, false, func(cancel context.CancelCauseFunc) { cancel(nil) }},
		{"cancelled beforehand", Cancelled, EndedByNone, true, func(cancel context.CancelCauseFunc) { cancel(nil) }},
		{"drained", Drained, EndedByNone, false, func(cancel context.CancelCauseFunc) {
			time.AfterFunc(after, func() { cancel(ErrDrained) })
		}},
		{"drained, and then cancelled", Drained, EndedByNone, false, func(cancel context.CancelCauseFunc) {
			time.AfterFunc(after, func() {
				cancel(fmt.Errorf("going down: %w", ErrDrained))
				cancel(nil)
			})
		}},
		{"the caller's deadline", None, EndedByDeadline, true, func(context.CancelCauseFunc) {}},
	}
	for _, phase := range phases {
		for _, end := range ends {
			t.Run(phase.name+", "+end.name, func(t *testing.T) {
				t.Parallel()
				x := phase.of(t)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				x.ctx = ctx
				if end.reason == None {
					var cancel context.CancelFunc
					x.ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				switch {
				case end.early || phase.phase < PhaseSend:
					end.begin(cancel)
				default:
					x.hook = func(event Event) error {
						if _, ok := event.(Connected); ok {
							end.begin(cancel)
						}
						return nil
					}
				}
				r := x.run(t)
				reason, want := end.reason, phase.phase
				if reason == None {
					reason = phase.timeout
				}
				if end.name == "cancelled beforehand" {
					// An address is not looked up, so the first that notices is the connect.
					want = min(want, PhaseConnect)
				}
				r.wants(t, want, reason, end.by)
			})
		}
	}
}

// Not parallel: what is asserted is time.
func TestDeadlinesAreKept(t *testing.T) {
	const timeout = 100 * time.Millisecond
	blocked := func(ctx context.Context, name string, _ resolve.Family) (*resolve.HostResult, error) {
		<-ctx.Done()
		return nil, &resolve.Error{Reason: resolve.Timeout, Name: name}
	}
	silent, _ := streamTarget(t, "tcp", nettest.Silent)
	deaf, _ := streamTarget(t, "tcp", nettest.NeverRead)
	flood, _ := streamTarget(t, "tcp", nettest.Flood(1<<50))
	quiet, _ := datagramTarget(t, "udp", nettest.SilentPacket)
	for _, tt := range []struct {
		x      trial
		reason Reason
	}{
		{trial{config: Config{Resolve: blocked}, request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: 1}}}, DNSTimeout},
		{trial{request: Request{Target: ipTarget("tcp", nettest.Backlog(t))}}, ConnectTimeout},
		{trial{request: Request{Target: deaf, Steps: []Step{Send{Data: make([]byte, 16<<20)}}}}, SendTimeout},
		{trial{request: Request{Target: silent, Steps: []Step{Receive{}}}}, ReceiveTimeout},
		{trial{request: Request{Target: flood, Steps: []Step{Receive{}}}, hook: sip}, ReceiveTimeout},
		{trial{request: Request{Target: quiet, Steps: []Step{Receive{}}}}, ReceiveTimeout},
	} {
		soonAfter(t, timeout, func() time.Duration {
			tt.x.ctx, tt.x.request.Timeout = t.Context(), timeout
			r := tt.x.run(t)
			if r.Reason != tt.reason || r.EndedBy != EndedByDeadline || r.took < timeout {
				t.Errorf("%v, ended by %d after %v; want %v by the deadline", r.Reason, r.EndedBy, r.took, tt.reason)
			}
			return r.took
		})
		soonAfter(t, timeout, func() time.Duration {
			ctx, cancel := context.WithCancel(t.Context())
			x := trial{config: tt.x.config, request: tt.x.request, hook: tt.x.hook, ctx: ctx}
			x.request.Timeout = long
			time.AfterFunc(timeout, cancel)
			r := x.run(t)
			if r.Reason != Cancelled {
				t.Errorf("%v, want CANCELLED", r.Reason)
			}
			return r.took
		})
	}
}

// soonAfter asserts that f takes at most half a second longer than its limit. It may take several tries, for a machine
// that was busy elsewhere; what forgets its deadline is late each time.
func soonAfter(t *testing.T, limit time.Duration, f func() time.Duration) {
	t.Helper()
	var took time.Duration
	for range 3 {
		if took = f(); took <= limit+500*time.Millisecond {
			return
		}
	}
	t.Errorf("took %v of %v", took, limit)
}

// The request's own timeout ends each phase as well; receive and send have tests of their own.
func TestTimeoutOfTheLookup(t *testing.T) {
	t.Parallel()
	const timeout = 100 * time.Millisecond
	r := trial{
		config: Config{Resolve: func(ctx context.Context, name string, _ resolve.Family) (*resolve.HostResult, error) {
			<-ctx.Done()
			return nil, &resolve.Error{Reason: resolve.ServFail, Name: name}
		}},
		request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: 1}, Timeout: timeout},
	}.run(t)
	r.wants(t, PhaseResolve, DNSTimeout, EndedByDeadline)
	within(t, r.took, timeout)
}

// An event that the caller does not take ends the exchange; nothing but the outcome follows, and the peer is let go.
func TestCallerGoesWithEachEvent(t *testing.T) {
	t.Parallel()
	errGone := errors.New("gone")
	p := func() (*paced, trial) {
		p := newPaced(false, "ab", "cd")
		target, tally := streamTarget(t, "tcp", p.handle)
		return p, trial{
			request: Request{Target: target, Steps: []Step{Send{Data: []byte("x")}, Receive{Length: 2}, Send{Data: []byte("y")}, Receive{}}},
			peer:    tally,
		}
	}
	phases := []Phase{
		PhaseConnect, // Resolved
		PhaseConnect, // Attempt
		PhaseConnect, // Connected
		PhaseSend,    // Sent
		PhaseReceive, // Chunk
		PhaseSend,    // Sent
		PhaseReceive, // Chunk
		PhaseReceive, // PeerClosed
		PhaseClose,   // Outcome
	}
	peer, whole := p()
	whole.hook = peer.hook
	if n := len(whole.run(t).events); n != len(phases) {
		t.Fatalf("%d events, want %d", n, len(phases))
	}
	for i, phase := range phases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			peer, x := p()
			n := -1
			x.hook = func(event Event) error {
				_ = peer.hook(event)
				if n++; n == i {
					return errGone
				}
				return nil
			}
			r := x.run(t)
			if phase == PhaseClose {
				r.wants(t, PhaseClose, None, EndedByPeerClosed)
				return
			}
			r.wants(t, phase, Cancelled, EndedByNone)
			if len(r.events) != i+2 {
				t.Errorf("%d events, want %d and the outcome", len(r.events), i+1)
			}
		})
	}
}

// It ends the attempts that are under way, too.
func TestCallerGoesDuringTheAttempts(t *testing.T) {
	t.Parallel()
	r := trial{
		request: Request{Target: ipTarget("tcp", nettest.Backlog(t))},
		hook:    func(Event) error { return errors.New("gone") },
	}.run(t)
	r.wants(t, PhaseConnect, Cancelled, EndedByNone)
	if r.took > time.Second {
		t.Errorf("took %v", r.took)
	}
}

// A failure among the last words of a peer is the caller's going, not the peer's.
func TestCallerGoesWithTheLastWords(t *testing.T) {
	t.Parallel()
	target, tally := streamTarget(t, "unix", nettest.SendThenReset(1, []byte("no")))
	r := trial{
		request: Request{Target: target, Steps: []Step{Send{Data: nettest.Data(16 << 20)}}},
		peer:    tally,
		hook: func(event Event) error {
			if _, ok := event.(Chunk); ok {
				return errors.New("gone")
			}
			return nil
		},
	}.run(t)
	r.wants(t, PhaseSend, Cancelled, EndedByNone)
}
