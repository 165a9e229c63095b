package endurance

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// A long reply goes through, and nothing of it stays.
func TestLongReply(t *testing.T) {
	const most = 64 << 20
	size := promise.Times[int64](256<<20, 10<<30)
	peer := nettest.TCP(t, nettest.Flood(size))
	p := probetest.Start(t, probetest.Options{})
	for _, way := range []struct {
		name string
		read func(t *testing.T) int64
	}{
		{"gRPC", func(t *testing.T) int64 {
			s := p.GRPC().Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: peer.String(), Timeout: durationpb.New(10 * time.Minute)})
			s.Rest()
			s.Wants(probev1.Reason_REASON_UNSPECIFIED)
			return int64(s.Received)
		}},
		{"REST, raw bytes", func(t *testing.T) int64 {
			s := stallHTTP(t, p, peer.String(), 1, "application/octet-stream", true)[0]
			return s.read(t)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			p.ResetPeak()
			if n := way.read(t); n != size {
				t.Errorf("%d bytes came of %d", n, size)
			}
			memory := p.PeakMemory()
			if memory > most {
				t.Errorf("probed takes %d bytes, want at most %d", memory, most)
			}
			promise.LongRepliesAreFlat.Reached(t, "%s: %.2f GiB, %.0f MiB", way.name, float64(size)/(1<<30), float64(memory)/(1<<20))
		})
	}
}

// flooded keeps n exchanges under way, of a process of its own, that take all a peer can send, until stop is called.
func flooded(t *testing.T, p *probetest.Probed, n int) (stop func()) {
	t.Helper()
	command := asChild("flood", fmt.Sprint(p.GRPCAddress, " ", n))
	command.Stderr = os.Stderr
	until, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	flows, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(flows, make([]byte, n)); err != nil {
		t.Fatalf("the flood: %v", err)
	}
	return sync.OnceFunc(func() {
		until.Close()
		if err := command.Wait(); err != nil {
			t.Errorf("the flood: %v", err)
		}
	})
}

// floodMain is the peers and the callers of floods: where probed is, and how many. It prints a byte when one flows, and
// goes on until its input ends.
func floodMain(how string) error {
	var address string
	var n int
	if _, err := fmt.Sscan(how, &address, &n); err != nil {
		return err
	}
	peer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	for range n {
		go func() { // they end with the process
			if c, err := peer.Accept(); err == nil {
				nettest.Flood(math.MaxInt64)(c)
			}
		}()
		stream, err := probev1.NewExchangeServiceClient(conn).Exchange(context.Background(), &probev1.ExchangeRequest{
			Target: peer.Addr().String(), Timeout: durationpb.New(10 * time.Minute),
		})
		if err != nil {
			return err
		}
		go func() {
			for flows := false; ; {
				event, err := stream.Recv()
				if err != nil {
					return
				}
				if event.GetChunk() != nil && !flows {
					flows = true
					fmt.Print(".")
				}
			}
		}()
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// Deadlines hold while probed and the machine have all they can do.
func TestDeadlinesHold(t *testing.T) {
	// Other tests run beside the short form.
	slack := promise.Times(5*time.Second, 500*time.Millisecond)
	rounds := promise.Times(1, 20)
	silent := nettest.TCP(t, nettest.Silent).String()
	endless := nettest.TCP(t, nettest.Drip(nettest.Data(1<<20), 1, 10*time.Millisecond)).String()
	deaf := nettest.TCP(t, nettest.NeverRead).String()
	_ = nettest.ListenPacket(t, "udp4", "127.0.0.1:53", nettest.SilentPacket)
	p := probetest.Start(t, probetest.Options{})
	defer flooded(t, p, 4)()

	cases := []struct {
		name    string
		request *probev1.ExchangeRequest
		reason  probev1.Reason
	}{
		{"silence", &probev1.ExchangeRequest{Target: silent}, probev1.Reason_REASON_RECEIVE_TIMEOUT},
		{"a drip", &probev1.ExchangeRequest{Target: endless}, probev1.Reason_REASON_RECEIVE_TIMEOUT},
		{"a peer that does not read", &probev1.ExchangeRequest{Target: deaf, Payload: &probev1.ExchangeRequest_Data{Data: make([]byte, 1<<20)}}, probev1.Reason_REASON_RECEIVE_TIMEOUT},
		{"a backlog that is full", &probev1.ExchangeRequest{Target: nettest.Backlog(t).String()}, probev1.Reason_REASON_CONNECT_TIMEOUT},
		{"a name server that is silent", &probev1.ExchangeRequest{Target: "slow.test.:80"}, probev1.Reason_REASON_DNS_TIMEOUT},
	}
	var all, late int
	var worst time.Duration
	var mu sync.Mutex
	for range rounds {
		var under sync.WaitGroup
		for _, caller := range p.Callers() {
			for _, c := range cases {
				for _, timeout := range []time.Duration{200 * time.Millisecond, time.Second, 2 * time.Second} {
					under.Go(func() {
						request := &probev1.ExchangeRequest{Target: c.request.GetTarget(), Payload: c.request.GetPayload(), Timeout: durationpb.New(timeout)}
						begin := time.Now()
						s := caller.Exchange(t.Context(), t, request)
						s.Rest()
						over := time.Since(begin) - timeout
						if reason := s.Outcome.GetReason(); reason != c.reason {
							t.Errorf("%s, %v, %v: %v %v, want %v", caller, c.name, timeout, s.Outcome, s.Err, c.reason)
						}
						mu.Lock()
						defer mu.Unlock()
						all++
						worst = max(worst, over)
						if over > slack {
							late++
							t.Errorf("%s, %s: %v after its timeout of %v", caller, c.name, over, timeout)
						}
					})
				}
			}
		}
		under.Wait()
	}
	promise.DeadlinesHold.Reached(t, "%d of %d late, at worst %v", late, all, worst.Round(time.Millisecond))
}

// Who asks a little is served while others take all they can get. The flood goes through this probed, and then through
// another one: so the two cores have the same to do, and the difference is what callers of one probed do to each other.
func TestGoodClients(t *testing.T) {
	const most = 2
	lookups, rounds := promise.Times(300, 3000), promise.Times(2, 5)
	mine, other := probetest.Start(t, probetest.Options{}), probetest.Start(t, probetest.Options{})
	good := probev1.NewNameServiceClient(mine.GRPC().Conn)
	ask := func(n int) (took []time.Duration) {
		for range n {
			begin := time.Now()
			if _, err := good.LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		return took
	}
	ask(lookups)
	var apart, beside []time.Duration
	for range rounds {
		for _, through := range []struct {
			probed *probetest.Probed
			took   *[]time.Duration
		}{{other, &apart}, {mine, &beside}} {
			stop := flooded(t, through.probed, 4)
			*through.took = append(*through.took, ask(lookups)...)
			stop()
		}
	}
	ratio := float64(p99(beside)) / float64(p99(apart))
	if promise.Long() && ratio > most { // other tests run beside the short form
		t.Errorf("p99 is %v beside a flood and %v apart from it, %.2f×, want at most %d×", p99(beside), p99(apart), ratio, most)
	}
	promise.GoodClientsAreServed.Reached(t, "p99 %v beside 4 floods, %v with the floods through another probed: %.2f×", p99(beside), p99(apart), ratio)
}
