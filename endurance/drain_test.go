package endurance

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// draining is one probed, about to end, and the peers of its sessions.
type draining struct {
	p *probetest.Probed
	// finish, when closed, makes some of the peers close.
	silent, dripping, long, flooding, finishing string
	finish                                      chan struct{}
}

func newDraining(t *testing.T, options probetest.Options) *draining {
	d := &draining{finish: make(chan struct{})}
	d.silent = nettest.TCP(t, nettest.NeverRead).String()
	d.dripping = nettest.TCP(t, nettest.Drip(nettest.Data(1<<20), 512, 20*time.Millisecond)).String()
	d.long = nettest.TCP(t, func(c net.Conn) { // what a caller can make up for when it reads again
		_, _ = c.Write(nettest.Data(promise.Times(512<<10, 1<<20)))
		nettest.NeverRead(c)
	}).String()
	d.flooding = nettest.TCP(t, nettest.Flood(1<<40)).String()
	d.finishing = nettest.TCP(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "a word")
		<-d.finish
	}).String()
	d.p = probetest.Start(t, options)
	return d
}

// under opens n sessions by each caller, of which has come what came first.
func (d *draining) under(t *testing.T, target string, n int) (all []*probetest.Session) {
	t.Helper()
	for _, caller := range d.p.Callers() {
		for range n {
			s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: target})
			if s.UntilConnected() == nil {
				t.Fatalf("%v: not connected: %v", caller, s.Err)
			}
			all = append(all, s)
		}
	}
	return all
}

// talking opens n conversations, and returns what reads each to its end.
func (d *draining) talking(t *testing.T, n int) (ends []func()) {
	t.Helper()
	client := probev1.NewExchangeServiceClient(d.p.GRPC(probetest.NewWitness(t).GRPC()...).Conn)
	for range n {
		stream, err := client.Converse(t.Context())
		if err == nil {
			err = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: d.silent}}})
		}
		for connected := false; err == nil && !connected; {
			var event *probev1.ExchangeResponse
			event, err = stream.Recv()
			connected = event.GetConnected() != nil
		}
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, func() {
			var last *probev1.ExchangeResponse
			for {
				event, err := stream.Recv()
				if err != nil {
					wantDrained(t, "a conversation", last.GetOutcome(), err)
					return
				}
				last = event
			}
		})
	}
	return ends
}

// wantDrained asserts that the last event was the outcome, and that it says DRAINED, or that all went well.
func wantDrained(t *testing.T, what string, o *probev1.Outcome, err error) {
	t.Helper()
	if o == nil || !o.GetOk() && o.GetReason() != probev1.Reason_REASON_DRAINED {
		t.Errorf("%s ended with %v, %v", what, o, err)
	}
}

// watchers are calls that never end by themselves.
func (d *draining) watchers(t *testing.T) {
	t.Helper()
	conn := d.p.GRPC().Conn
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	reflection, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err == nil {
		err = reflection.Send(&grpc_reflection_v1.ServerReflectionRequest{
			MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
		})
	}
	if err == nil {
		_, err = reflection.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// late begins sessions beside the signal: each is refused before its first event, or ends as the others do.
func (d *draining) late(t *testing.T, n int) *sync.WaitGroup {
	var begun sync.WaitGroup
	for _, caller := range d.p.Callers() {
		for range n {
			begun.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s := caller.Exchange(ctx, t, &probev1.ExchangeRequest{Target: d.silent})
				if _, err := s.Next(); err == nil {
					wantDrained(t, caller.String()+", a late session", s.Rest(), s.Err)
				}
			})
		}
	}
	return &begun
}

// Every session under way when probed is told to end gets its last event, and probed ends well, whoever stays and reads
// nothing, or watches.
func TestDrain(t *testing.T) {
	const timeout, within = 300 * time.Millisecond, 30 * time.Second
	runs, share := promise.Times(2, 50), promise.Times(5, 10)
	n, longest := 0, time.Duration(0)
	for run := range runs {
		held := run%2 == 1 // by callers that read nothing, and by watchers
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			d := newDraining(t, probetest.Options{Args: []string{"--drain-timeout=" + timeout.String()}, Race: promise.Long() && run%10 == 9})
			finishing, stalled := d.under(t, d.finishing, 2*share), d.under(t, d.long, share)
			reading := append(d.under(t, d.silent, 4*share), d.under(t, d.dripping, 2*share)...)
			ends := d.talking(t, 2*share)
			n = len(finishing) + len(stalled) + len(reading) + len(ends)
			if held {
				for _, s := range d.under(t, d.flooding, 5) {
					defer s.Close()
				}
				d.watchers(t)
			}
			var ending sync.WaitGroup
			end := func(s *probetest.Session) { ending.Go(func() { wantDrained(t, "a session", s.Rest(), s.Err) }) }
			for _, s := range reading {
				end(s)
			}
			for _, f := range ends {
				ending.Go(f)
			}
			late := d.late(t, 10)
			began := time.Now()
			d.p.Signal(syscall.SIGTERM)
			<-time.After(timeout / 3)
			close(d.finish)
			for _, s := range append(finishing, stalled...) {
				end(s)
			}
			code, log := d.p.Wait(within)
			longest = max(longest, time.Since(began))
			if code != 0 {
				t.Errorf("exit code %d: %s", code, log)
			}
			ending.Wait()
			late.Wait()
			for _, s := range finishing {
				s.Wants(probev1.Reason_REASON_UNSPECIFIED)
			}
		})
	}
	promise.Drain.Reached(t, "SIGTERM under %d sessions × %d, by gRPC and REST, exchanges and conversations; each DRAINED or complete; exit 0 after at most %v, the time for calls under way being %v",
		n, runs, longest.Round(time.Millisecond), timeout)
}
