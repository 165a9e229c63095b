package exchange

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
	"probed/service/dial"
	"probed/service/policy"
	"probed/service/resolve"
)

// A name whose address is another one each time it is asked for: now one that the caller's role grants, now one that it
// does not, now both. Names are resolved and sockets opened as in the service; sinks on both addresses count what arrives.
func TestFlippingAnswers(t *testing.T) {
	t.Parallel()
	const (
		flips   = 10_000
		granted = "127.0.0.2"
		denied  = "127.0.0.3"
	)
	var good, bad nettest.Tally
	port := nettest.Listen(t, "tcp", granted+":0", good.Count(nettest.HalfCloseThenRead(nil))).(*net.TCPAddr).AddrPort().Port()
	badSink := netip.AddrPortFrom(netip.MustParseAddr(denied), port)
	nettest.Listen(t, "tcp", badSink.String(), bad.Count(nettest.HalfCloseThenRead(nil)))

	// Each name has one answer for the even questions and one for the odd ones, so that whoever asks twice, once to check
	// and once to connect, is told two things.
	names := map[string]*flipping{
		"a.example.":      {scheme: "tcp4", record: dns.TypeA, answers: [2][]string{{granted}, {denied}}},
		"b.example.":      {scheme: "tcp", record: dns.TypeA, answers: [2][]string{{denied, granted}, {denied}}},
		"mapped.example.": {scheme: "tcp", record: dns.TypeAAAA, answers: [2][]string{{"::ffff:" + granted}, {"::ffff:" + denied}}},
		"nat64.example.":  {scheme: "tcp", record: dns.TypeAAAA, answers: [2][]string{{"::ffff:" + granted}, {"64:ff9b::" + denied}}},
	}
	server := nettest.DNS(t, func(x *nettest.DNSExchange) {
		x.Send(x.Answer(names[x.Name].flip(x.Name, x.Type)...))
	})
	none := filepath.Join(t.TempDir(), "none")
	resolver := resolve.New(resolve.Config{
		Hosts: none, Nsswitch: none, ResolvConf: none, GaiConf: none, HostConf: none,
		DialServer: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Addr.String())
		},
	})

	const subject = "token:flip"
	rules := &policy.Policy{Loopback: true, Roles: []policy.Role{{Name: "r", Subjects: []string{subject}, Rules: []policy.Rule{{
		Name: "one", Networks: []string{"tcp"}, Verbs: policy.Connect,
		Hosts: []string{"*.example"}, Prefixes: []netip.Prefix{netip.MustParsePrefix(granted + "/32"), netip.MustParsePrefix("64:ff9b::/96")},
		Ports: []policy.PortRange{{First: port, Last: port}},
	}}}}}
	dialer := dial.Dialer{Policy: func(_ context.Context, to dial.Destination) error {
		return rules.Decide(subject, policy.Target(to)).Err()
	}}
	x := New(Config{Resolve: resolver.Addresses, Dial: dialer.Dial})

	var connected, refused atomic.Int64
	var running sync.WaitGroup
	for name, n := range names {
		running.Go(func() {
			for i := range flips / len(names) {
				o := x.Run(t.Context(), Request{Target: Target{Scheme: n.scheme, Host: strings.TrimSuffix(name, "."), Port: port}}, nil)
				want, given := PolicyDenied, strings.Join(*n.given.Load(), " ")
				if strings.Contains(given, granted) {
					want = None
				}
				if o.Reason != want {
					t.Errorf("%s, look-up %d, answered %s: %v, want %v (%s)", name, i, given, o.Reason, want, o.Error)
					return
				}
				if o.OK {
					connected.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	running.Wait()
	// A question that was asked again, because its answer was late, turns the two around.
	if c, r := connected.Load(), refused.Load(); c+r != flips || c < flips/3 || r < flips/3 {
		t.Errorf("%d connected and %d denied, want about half of %d each", c, r, flips)
	}
	// A connection that is let through arrives after any that should not have been.
	last, err := new(net.Dialer).DialContext(t.Context(), "tcp", badSink.String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for deadline := time.Now().Add(10 * time.Second); (bad.Conns.Load() < 1 || good.Conns.Load() < connected.Load()) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) //nolint:forbidigo // asks again until the deadline above
	}
	if n := bad.Conns.Load() - 1; n != 0 {
		t.Errorf("%d connections to the address that is denied", n)
	}
	if n := good.Conns.Load(); n != connected.Load() {
		t.Errorf("%d connections to the address that is granted, want %d", n, connected.Load())
	}
}

// flipping is a name with two answers to the questions for one type of record, and none for others.
type flipping struct {
	scheme  string
	record  uint16
	answers [2][]string // addresses

	asked atomic.Int64
	given atomic.Pointer[[]string] // the latest
}

// flip is the answer to a question, in records.
func (f *flipping) flip(name string, record uint16) []string {
	if record != f.record {
		return nil
	}
	answer := &f.answers[(f.asked.Add(1)-1)%2]
	f.given.Store(answer)
	var records []string
	for _, address := range *answer {
		records = append(records, fmt.Sprintf("%s 0 IN %s %s", name, dns.TypeToString[record], address))
	}
	return records
}
