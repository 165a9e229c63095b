package service

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/exchange"
	"probed/service/policy"
)

// A client that goes away, in whatever phase its exchange is, takes the exchange and the target's socket with it.
func TestClientVanishes(t *testing.T) {
	t.Parallel()
	send := func(n int) *probev1.Step {
		return &probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Data{Data: make([]byte, n)}}}}
	}
	receive := &probev1.Step{Step: &probev1.Step_Receive{Receive: &probev1.Receive{}}}
	for _, phase := range []struct {
		name  string
		unix  bool
		steps []*probev1.Step
		peer  func(v *vanishing, c net.Conn) // returns when the connection is closed; nil: there is no peer
		// target is set where there is none
		target func(t *testing.T) string
	}{
		{name: "resolve", target: func(*testing.T) string { return "silent.test:80" }},
		{name: "connect", target: func(t *testing.T) string { return nettest.Backlog(t).String() }},
		// The buffers of a unix socket hold less than a request can carry, those of TCP do not.
		{name: "send", unix: true, steps: []*probev1.Step{send(512 << 10), send(512 << 10), receive}, peer: func(v *vanishing, c net.Conn) {
			_, _ = io.CopyN(io.Discard, c, 1)
			close(v.reached)
			select {
			case <-v.gone:
			case <-v.over:
			}
			_, _ = io.Copy(io.Discard, c)
		}},
		{name: "receive, silent", steps: []*probev1.Step{receive}, peer: func(v *vanishing, c net.Conn) {
			close(v.reached)
			_, _ = io.Copy(io.Discard, c)
		}},
		{name: "receive, dripping", steps: []*probev1.Step{receive}, peer: func(v *vanishing, c net.Conn) {
			for i := 0; ; i++ {
				if _, err := c.Write([]byte("drip\n")); err != nil {
					return
				}
				if i == 3 {
					close(v.reached)
				}
				<-time.After(5 * time.Millisecond)
			}
		}},
		{name: "receive, flooding", steps: []*probev1.Step{receive}, peer: func(v *vanishing, c net.Conn) {
			// Nobody reads the events, so after a while the peer cannot write either.
			block := make([]byte, 64<<10)
			for {
				_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := c.Write(block); err != nil {
					break
				}
			}
			close(v.reached)
			_ = c.SetWriteDeadline(time.Time{})
			for {
				if _, err := c.Write(block); err != nil {
					return
				}
			}
		}},
		{name: "half-closed", steps: []*probev1.Step{{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}, receive}, peer: func(v *vanishing, c net.Conn) {
			_, _ = io.Copy(io.Discard, c)
			close(v.reached)
			for { // the end of file has been read: only writing tells that nobody is there
				if _, err := c.Write([]byte{0}); err != nil {
					return
				}
				<-time.After(5 * time.Millisecond)
			}
		}},
	} {
		for _, how := range []string{"gRPC cancel", "gRPC connection", "REST"} {
			t.Run(phase.name+" "+how, func(t *testing.T) {
				t.Parallel()
				v := &vanishing{resolving: phase.name == "resolve", reached: make(chan struct{}), gone: make(chan struct{}), closed: make(chan struct{}), over: t.Context().Done(), ended: make(chan probev1.Reason, 1)}
				request := &probev1.ExchangeRequest{Steps: phase.steps}
				peer := func(c net.Conn) {
					defer close(v.closed)
					phase.peer(v, c)
				}
				switch {
				case phase.peer == nil:
					v.reachedByQuestion.Store(true)
					request.Target = phase.target(t)
					close(v.closed)
				case phase.unix:
					v.path = nettest.Unix(t, "unix", peer)
					request.Target = "unix://" + v.path
				default:
					request.Target = nettest.TCP(t, peer).String()
				}
				leave := v.begin(t, v.world(t), how, request)
				select {
				case <-v.reached:
				case reason := <-v.ended:
					t.Fatalf("it ended by itself with %v", reason)
				case <-time.After(10 * time.Second):
					t.Fatal("the phase was not reached")
				}
				close(v.gone)
				start := time.Now()
				leave()
				select {
				case reason := <-v.ended:
					if reason != probev1.Reason_REASON_CANCELLED {
						t.Errorf("it ended with %v", reason)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("the exchange goes on")
				}
				select {
				case <-v.closed:
				case <-time.After(10 * time.Second):
					t.Fatal("the target's socket is open")
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
	}
}

// vanishing is one exchange whose client is about to vanish.
type vanishing struct {
	reached, gone, closed chan struct{}
	over                  <-chan struct{} // the test is
	path                  string          // of the target, when it is a unix socket
	ended                 chan probev1.Reason
	reachedByQuestion     atomic.Bool // the policy or the name server being asked is the phase
	resolving             bool        // it is the name server; the policy is asked before
}

// world has hooks that tell where the exchange is, and a name server that never answers.
func (v *vanishing) world(t *testing.T) *world {
	t.Helper()
	asked := func() {
		if v.reachedByQuestion.CompareAndSwap(true, false) {
			close(v.reached)
		}
	}
	silent := nettest.UDP(t, func(net.PacketConn, net.Addr, []byte) { asked() })
	w := newWorld(t, func(s *settings) {
		s.Resolve.DialServer = func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "udp", silent.String())
		}
		rules := &policy.Policy{Loopback: true, Open: true, UnixPaths: []string{v.path}}
		s.Policy = func() *policy.Policy { return rules }
		s.Hooks.Decided = func(decision policy.Decision) {
			if !v.resolving && decision.Allowed {
				asked()
			}
		}
		s.ExchangeHooks = &exchange.Hooks{SessionEnd: func(_ string, outcome *exchange.Outcome) { v.ended <- probev1.Reason(outcome.Reason) }}
	})
	w.write(t, "nsswitch.conf", "hosts: dns\n")
	w.write(t, "resolv.conf", "nameserver 192.0.2.53\n")
	return w
}

// begin starts the exchange, reads no event but the first, and returns what makes the client vanish.
func (v *vanishing) begin(t *testing.T, w *world, how string, request *probev1.ExchangeRequest) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	switch how {
	case "REST":
		go func() {
			defer close(done)
			response, err := w.rest.post(ctx, "/v1/exchange", request)
			if err != nil {
				return
			}
			<-ctx.Done()
			response.Body.Close()
		}()
		return cancel
	case "gRPC connection":
		conn, err := grpc.NewClient(w.conn.Target(), append(w.witness.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := probev1.NewExchangeServiceClient(conn).Exchange(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(done)
			_, _ = stream.Recv()
		}()
		t.Cleanup(func() { conn.Close() })
		return func() { conn.Close() }
	default:
		stream, err := probev1.NewExchangeServiceClient(w.conn).Exchange(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(done)
			_, _ = stream.Recv()
		}()
		return cancel
	}
}

// So does one whose Connect is under way.
func TestClientVanishesFromConnect(t *testing.T) {
	t.Parallel()
	for by := range (&world{}).transports() {
		v := &vanishing{reached: make(chan struct{}), ended: make(chan probev1.Reason, 1)}
		v.reachedByQuestion.Store(true)
		w := v.world(t)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		target := nettest.Backlog(t).String()
		go func() {
			_, err := w.transports()[by].connect(ctx, &probev1.ConnectRequest{Target: target})
			result <- err
		}()
		<-v.reached
		start := time.Now()
		cancel()
		if err := <-result; err == nil {
			t.Errorf("%s: no error", by)
		}
		if reason := <-v.ended; reason != probev1.Reason_REASON_CANCELLED || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", by, reason, time.Since(start))
		}
	}
}

// Hundreds at once leave nothing behind; TestMain looks for goroutines, and this for sockets.
// It runs alone, because descriptors belong to the process.
func TestManyVanish(t *testing.T) {
	nettest.CheckFDs(t)
	ended := make(chan struct{}, 200)
	w := newWorld(t, func(s *settings) {
		s.ExchangeHooks = &exchange.Hooks{SessionEnd: func(string, *exchange.Outcome) { ended <- struct{}{} }}
	})
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(nettest.Drip(nettest.Data(1<<20), 10, 5*time.Millisecond)))
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		c := w.transports()[[]string{"gRPC", "REST"}[i%2]]
		go func() {
			chunks := 0
			_ = c.exchange(ctx, &probev1.ExchangeRequest{Target: peer.String()}, func(event *probev1.ExchangeResponse) {
				if chunks++; chunks == 4+i%5 {
					cancel()
				}
			})
			cancel()
		}()
	}
	for i := range 200 {
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of 200 ended", i)
		}
	}
}
