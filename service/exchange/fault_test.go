package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/dial"
)

// fault is one way in which an exchange can go, in the middle of it.
type fault struct {
	name, scheme string
	handle       func(net.Conn)
	steps        []Step
	timeout      time.Duration
	phase        Phase
	reason       Reason
	by           EndedBy
	want         string
}

// faults are those that a test repeats; those that wait for a timeout wait so long.
func faults(soon time.Duration) []fault {
	ask := Send{Data: []byte("ask")}
	stutter := func(c net.Conn) {
		_, _ = c.Write([]byte("d"))
		nettest.Silent(c)
	}
	return []fault{
		{"reset", "tcp", nettest.Reset(3), []Step{ask, Receive{}}, long, PhaseReceive, ConnectionReset, EndedByNone, ""},
		{"end", "tcp", nettest.ReplyAfter(3, []byte("yes")), []Step{ask, Receive{}}, long, PhaseClose, None, EndedByPeerClosed, "yes"},
		{"end too early", "tcp", nettest.ReplyAfter(3, []byte("ye")), []Step{ask, Receive{Length: 3}}, long, PhaseReceive, PeerClosedEarly, EndedByNone, "ye"},
		{"half-close here", "tcp", nettest.Reply([]byte("yes")), []Step{ask, HalfClose{}, Receive{}}, long, PhaseClose, None, EndedByPeerClosed, "yes"},
		{"half-close there", "tcp", nettest.HalfCloseThenRead([]byte("yes")), []Step{Receive{}, ask, HalfClose{}}, long, PhaseClose, None, EndedByLastStep, "yes"},
		{"half-close here, unix", "unix", nettest.Reply([]byte("yes")), []Step{ask, HalfClose{}, Receive{}}, long, PhaseClose, None, EndedByPeerClosed, "yes"},
		{"half-close there, unix", "unix", nettest.HalfCloseThenRead([]byte("yes")), []Step{Receive{}, ask, HalfClose{}}, long, PhaseClose, None, EndedByLastStep, "yes"},
		{"drip", "tcp", nettest.Drip([]byte("drip"), 1, 5*time.Millisecond), []Step{Receive{}}, long, PhaseClose, None, EndedByPeerClosed, "drip"},
		{"too slow a drip", "tcp", stutter, []Step{Receive{}}, soon, PhaseReceive, ReceiveTimeout, EndedByDeadline, "d"},
		{"silence", "unix", nettest.Silent, []Step{ask, Receive{}}, soon, PhaseReceive, ReceiveTimeout, EndedByDeadline, ""},
		{"a deaf peer", "unix", nettest.NeverRead, []Step{Send{Data: make([]byte, 1<<20)}}, soon, PhaseSend, SendTimeout, EndedByDeadline, ""},
		{"reset during a send", "tcp", nettest.Reset(1), []Step{Send{Data: make([]byte, 8<<20)}}, long, PhaseSend, ConnectionReset, EndedByNone, ""},
	}
}

func (f fault) run(t testing.TB) {
	t.Helper()
	target, tally := streamTarget(t, f.scheme, f.handle)
	f.at(t, nil, target, tally)
}

func (f fault) at(t testing.TB, exchanger *Exchanger, target Target, tally *nettest.Tally) {
	t.Helper()
	r := trial{exchanger: exchanger, request: Request{Target: target, Steps: f.steps, Timeout: f.timeout}, peer: tally}.run(t)
	r.wants(t, f.phase, f.reason, f.by)
	r.got(t, []byte(f.want))
	if f.by == EndedByDeadline {
		within(t, r.took, f.timeout)
	}
}

// Each fault is found for what it is, every time.
func TestFaultsRepeat(t *testing.T) {
	t.Parallel()
	const runs = 200
	for _, f := range faults(2 * time.Second) { // enough to connect on a busy machine
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			// Those that wait for a timeout wait side by side.
			lanes := 1
			if f.timeout < long {
				lanes = 100
			}
			var running sync.WaitGroup
			for range lanes {
				running.Go(func() {
					for range runs / lanes {
						f.run(t)
					}
				})
			}
			running.Wait()
		})
	}
}

// However an exchange ends, its descriptors are closed and its goroutines have ended. Not parallel: descriptors belong
// to the process.
func TestNothingIsLeft(t *testing.T) {
	nettest.CheckFDs(t)
	t.Run("ends", func(t *testing.T) {
		for _, f := range faults(200 * time.Millisecond) {
			f.run(t)
		}
		full := nettest.Backlog(t)
		beside(t, full.Port(), nettest.Echo)
		for _, x := range []trial{
			{request: Request{Target: ipTarget("tcp", nettest.Refused(t))}},
			{request: Request{Target: ipTarget("tcp", full), Timeout: 50 * time.Millisecond}},
			{request: Request{Target: ipTarget("tcp", full)}, config: Config{Dial: dialer(deny("127.0.0.1"))}},
			{request: Request{Target: ipTarget("udp", nettest.RefusedUDP(t)), Steps: []Step{Send{}, Receive{}}}},
			{request: Request{Target: Target{Scheme: "unix", Path: "/nowhere/at/all"}}},
			{request: Request{Target: Target{Scheme: "tcp", Host: "nowhere", Port: 1}}},
			{request: Request{Target: ipTarget("tcp", full)}, hook: func(Event) error { return errors.New("gone") }},
			{
				request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: full.Port()}},
				config:  Config{Resolve: hosts(t, "127.0.0.1 x", "127.0.0.2 x"), AttemptDelay: time.Millisecond},
			},
		} {
			x.run(t)
		}
	})
}

// Exchanges side by side share buffers, and never bytes.
func TestExchangesDoNotMix(t *testing.T) {
	t.Parallel()
	exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(t)})
	var running sync.WaitGroup
	for i := range 64 {
		running.Go(func() {
			scheme := []string{"tcp", "unix", "unixpacket"}[i%3]
			size := 100_000 + i
			if scheme == "unixpacket" {
				size = 10_000 + i // the echo cuts off longer records
			}
			data := bytes.Repeat([]byte{byte(i)}, size)
			target, tally := streamTarget(t, scheme, nettest.Echo)
			steps := DefaultSteps(target, data, false)
			if i%2 == 0 && scheme != "unixpacket" {
				end := fmt.Sprintf("%d\n", i)
				data = append(data, end+"tail"...)
				steps = []Step{Send{Data: data}, HalfClose{}, Receive{Delimiter: end}, Receive{Length: 2}, Receive{}}
			}
			r := trial{exchanger: exchanger, request: Request{Target: target, Steps: steps}, peer: tally}.run(t)
			r.wants(t, PhaseClose, None, EndedByPeerClosed)
			r.got(t, data)
		})
	}
	running.Wait()
}

// What one exchange holds, lent or put by, is not overwritten by the next that reads.
func TestExchangesDoNotOverwrite(t *testing.T) {
	t.Parallel()
	exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(t)})
	other, otherTally := streamTarget(t, "unix", nettest.Flood(4096))
	var nested int64
	target, tally := streamTarget(t, "unix", nettest.HalfCloseThenRead([]byte("head\ntail")))
	r := trial{
		exchanger: exchanger,
		request:   Request{Target: target, Steps: []Step{Receive{Delimiter: "\n"}, Send{Data: []byte("x")}, Receive{}}},
		peer:      tally,
		hook: func(event Event) error {
			switch event.(type) {
			case Chunk, Sent: // between the two, the buffer of the first has gone back
				for range 20 {
					nested += int64(trial{exchanger: exchanger, request: Request{Target: other, Steps: []Step{Receive{}}}}.run(t).BytesReceived)
				}
			}
			return nil
		},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	r.got(t, []byte("head\ntail"))
	if nested == 0 || nested != otherTally.Sent.Load() {
		t.Errorf("%d bytes in between, %d sent", nested, otherTally.Sent.Load())
	}
}

// A dial that ends when it is told to, and not before, is waited for.
func TestAttemptsAreWaitedFor(t *testing.T) {
	t.Parallel()
	good := nettest.TCP(t, nettest.Echo)
	ended := make(chan struct{})
	slow := func(ctx context.Context, request dial.Request) (net.Conn, error) {
		if request.Address.Addr().String() == "127.0.0.1" {
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond) //nolint:forbidigo // is slow on purpose
			close(ended)
			return nil, ctx.Err()
		}
		request.Address = good
		return dialer(admitAll)(ctx, request)
	}
	trial{
		config:  Config{Resolve: hosts(t, "127.0.0.1 x", "127.0.0.2 x"), Dial: slow, AttemptDelay: time.Millisecond},
		request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: good.Port()}},
	}.run(t).wants(t, PhaseClose, None, EndedByLastStep)
	select {
	case <-ended:
	default:
		t.Error("an attempt was under way still")
	}
}
