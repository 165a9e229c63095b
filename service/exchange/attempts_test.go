package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
	"probed/service/resolve"
)

var errNo = errors.New("not this one")

// deny is a policy that denies these addresses.
func deny(addresses ...string) dial.Policy {
	return func(_ context.Context, to dial.Destination) error {
		if slices.Contains(addresses, to.Address.Addr().String()) {
			return errNo
		}
		return nil
	}
}

// reasonsOf are those of the attempts, by address.
func (r *record) reasonsOf() map[string]Reason {
	all := make(map[string]Reason)
	for _, attempt := range r.Attempts {
		all[netip.MustParseAddrPort(attempt.Address).Addr().String()] = attempt.Reason
	}
	return all
}

// beside starts a peer on a second loopback address, 127.0.0.2, at a port that is known.
func beside(t testing.TB, port uint16, handle func(net.Conn)) {
	t.Helper()
	nettest.Listen(t, "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port).String(), handle)
}

// When one address does not answer, the next is tried beside it, and the first to connect wins.
func TestNextAddressIsTriedBeside(t *testing.T) {
	t.Parallel()
	const delay = 100 * time.Millisecond
	full := nettest.Backlog(t)
	beside(t, full.Port(), nettest.Echo)
	target := Target{Scheme: "tcp", Host: "both", Port: full.Port()}
	r := trial{
		config:  Config{Resolve: hosts(t, "127.0.0.1 both", "127.0.0.2 both"), AttemptDelay: delay},
		request: Request{Target: target, Steps: DefaultSteps(target, []byte("abc"), false)},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	r.got(t, []byte("abc"))
	want := map[string]Reason{"127.0.0.1": Cancelled, "127.0.0.2": None}
	if got := r.reasonsOf(); fmt.Sprint(got) != fmt.Sprint(want) || r.Attempts[0].OK {
		t.Errorf("attempts %v, want %v", got, want)
	}
	if gap := r.Attempts[1].Start - r.Attempts[0].Start; gap < delay {
		t.Errorf("the second attempt began %v after the first, want at least %v", gap, delay)
	}
	within(t, r.Timings.Connect, delay)
}

// When one address fails, the next is tried at once.
func TestNextAddressIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	free := nettest.Refused(t)
	beside(t, free.Port(), nettest.Echo)
	target := Target{Scheme: "tcp", Host: "both", Port: free.Port()}
	r := trial{
		config:  Config{Resolve: hosts(t, "127.0.0.1 both", "127.0.0.2 both"), AttemptDelay: long},
		request: Request{Target: target},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	want := map[string]Reason{"127.0.0.1": ConnectionRefused, "127.0.0.2": None}
	if got := r.reasonsOf(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("attempts %v, want %v", got, want)
	}
	if r.Remote != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), free.Port()).String() {
		t.Errorf("connected to %s", r.Remote)
	}
}

// An address that connects soon enough is the only one tried.
func TestOneAddressIsEnough(t *testing.T) {
	t.Parallel()
	good := nettest.TCP(t, nettest.Echo)
	r := trial{
		config:  Config{Resolve: hosts(t, "127.0.0.1 both", "127.0.0.2 both"), AttemptDelay: long},
		request: Request{Target: Target{Scheme: "tcp", Host: "both", Port: good.Port()}},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	if len(r.Attempts) != 1 {
		t.Errorf("attempts %+v", r.Attempts)
	}
}

// Who asks for the first address alone gets no other, and which is the first the preferred family says.
func TestFirstAddressOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		hosts  []string
		prefer resolve.Family
		want   string
	}{
		{[]string{"127.0.0.1 both", "::1 both"}, resolve.AF_INET, "127.0.0.1"},
		{[]string{"127.0.0.1 both", "::1 both"}, resolve.AF_INET6, "::1"},
		{[]string{"127.0.0.1 both"}, resolve.AF_INET6, "127.0.0.1"},
		{[]string{"127.0.0.1 both", "127.0.0.2 both"}, resolve.AF_UNSPEC, "127.0.0.1"},
	} {
		refused := nettest.Refused(t)
		r := trial{
			config: Config{Resolve: hosts(t, tt.hosts...), AttemptDelay: time.Nanosecond},
			request: Request{
				Target:          Target{Scheme: "tcp", Host: "both", Port: refused.Port()},
				PreferredFamily: tt.prefer, FirstAddressOnly: true,
			},
		}.run(t)
		r.wants(t, PhaseConnect, ConnectionRefused, EndedByNone)
		if want := netip.AddrPortFrom(netip.MustParseAddr(tt.want), refused.Port()).String(); len(r.Attempts) != 1 || r.Attempts[0].Address != want {
			t.Errorf("%v, %v preferred: attempts %+v, want %s", tt.hosts, tt.prefer, r.Attempts, want)
		}
	}
	// Without it, the preferred family is only the first.
	good := nettest.TCP(t, nettest.Echo)
	r := trial{
		config: Config{Resolve: hosts(t, "127.0.0.1 both", "::1 both"), AttemptDelay: long},
		request: Request{
			Target: Target{Scheme: "tcp", Host: "both", Port: good.Port()}, PreferredFamily: resolve.AF_INET6,
		},
	}.run(t)
	if len(r.Attempts) != 2 || !strings.HasPrefix(r.Attempts[0].Address, "[::1]") || !r.OK {
		t.Errorf("attempts %+v", r.Attempts)
	}
}

// The families take turns.
func TestInterleave(t *testing.T) {
	t.Parallel()
	of := func(s ...string) (all []netip.Addr) {
		for _, s := range s {
			all = append(all, netip.MustParseAddr(s))
		}
		return all
	}
	for _, tt := range []struct{ in, want []netip.Addr }{
		{nil, of()},
		{of("::1"), of("::1")},
		{of("::1", "::2", "::3", "10.0.0.1"), of("::1", "10.0.0.1", "::2", "::3")},
		{of("10.0.0.1", "10.0.0.2", "::1", "::2", "::3"), of("10.0.0.1", "::1", "10.0.0.2", "::2", "::3")},
	} {
		if got := interleave(tt.in); !slices.Equal(got, tt.want) {
			t.Errorf("%v became %v, want %v", tt.in, got, tt.want)
		}
	}
	// And so they do in an exchange.
	good := nettest.TCP(t, nettest.Echo)
	r := trial{
		config: Config{
			Resolve: func(context.Context, string, resolve.Family) (*resolve.HostResult, error) {
				return &resolve.HostResult{Addresses: of("::1", "100::1", "127.0.0.1"), Source: "files"}, nil
			},
			AttemptDelay: long,
		},
		request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: good.Port()}},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	if got := r.events[0].(Resolved).Addresses; !slices.Equal(got, of("::1", "127.0.0.1", "100::1")) || len(r.Attempts) != 2 {
		t.Errorf("tried %d in the order %v", len(r.Attempts), got)
	}
}

// When all fail, the failure is that of the address whose answer tells the most, and all are reported.
func TestAllAddressesFail(t *testing.T) {
	t.Parallel()
	full := nettest.Backlog(t)
	for _, tt := range []struct {
		name   string
		lines  []string
		policy dial.Policy
		reason Reason
		all    map[string]Reason
		tried  string
	}{
		{"all refused", []string{"127.0.0.2 x", "127.0.0.3 x"}, admitAll, ConnectionRefused,
			map[string]Reason{"127.0.0.2": ConnectionRefused, "127.0.0.3": ConnectionRefused}, " (2 addresses tried)"},
		{"a timeout and a refusal", []string{"127.0.0.1 x", "127.0.0.2 x"}, admitAll, ConnectionRefused,
			map[string]Reason{"127.0.0.1": ConnectTimeout, "127.0.0.2": ConnectionRefused}, " (2 addresses tried)"},
		{"a denial and a timeout", []string{"127.0.0.1 x", "127.0.0.2 x"}, deny("127.0.0.2"), ConnectTimeout,
			map[string]Reason{"127.0.0.1": ConnectTimeout, "127.0.0.2": PolicyDenied}, " (2 addresses tried)"},
		{"a denial and a refusal", []string{"127.0.0.2 x", "127.0.0.3 x"}, deny("127.0.0.2"), ConnectionRefused,
			map[string]Reason{"127.0.0.2": PolicyDenied, "127.0.0.3": ConnectionRefused}, " (2 addresses tried)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := trial{
				config:  Config{Resolve: hosts(t, tt.lines...), Dial: dialer(tt.policy), ConnectTimeout: time.Second, AttemptDelay: 10 * time.Millisecond},
				request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: full.Port()}},
			}.run(t)
			r.wants(t, PhaseConnect, tt.reason, EndedByNone)
			if got := r.reasonsOf(); fmt.Sprint(got) != fmt.Sprint(tt.all) {
				t.Errorf("attempts %v, want %v", got, tt.all)
			}
			for _, attempt := range r.Attempts {
				if attempt.Reason == tt.reason {
					if want := attempt.Address + ": " + attempt.Error + tt.tried; r.Error != want {
						t.Errorf("error %q, want %q", r.Error, want)
					}
					break
				}
			}
		})
	}
}

// What the policy denies is not connected to, and the next address is tried at once.
func TestPolicyDeniesSome(t *testing.T) {
	t.Parallel()
	var denied atomic.Int64
	bad := nettest.TCP(t, func(net.Conn) { denied.Add(1) })
	beside(t, bad.Port(), nettest.Echo)
	r := trial{
		config:  Config{Resolve: hosts(t, "127.0.0.1 x", "127.0.0.2 x"), Dial: dialer(deny("127.0.0.1")), AttemptDelay: long},
		request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: bad.Port()}},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	want := map[string]Reason{"127.0.0.1": PolicyDenied, "127.0.0.2": None}
	if got := r.reasonsOf(); fmt.Sprint(got) != fmt.Sprint(want) || denied.Load() != 0 {
		t.Errorf("attempts %v, want %v; %d connections to what was denied", got, want, denied.Load())
	}
}

// When the policy denies all, nothing is told, not even what the name resolves to.
func TestPolicyDeniesAll(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	good := nettest.TCP(t, func(net.Conn) { conns.Add(1) })
	all := func(context.Context, dial.Destination) error { return errNo }
	for _, tt := range []struct {
		host  string
		lines []string
		tried int
	}{
		{"127.0.0.1", nil, 1},
		{"x", []string{"127.0.0.1 x"}, 1},
		{"x", []string{"127.0.0.1 x", "127.0.0.2 x", "::1 x"}, 3},
	} {
		r := trial{
			config:  Config{Resolve: hosts(t, tt.lines...), Dial: dialer(all)},
			request: Request{Target: Target{Scheme: "tcp", Host: tt.host, Port: good.Port()}, Steps: []Step{Receive{}}},
		}.run(t)
		r.wants(t, PhasePolicy, PolicyDenied, EndedByNone)
		if len(r.Attempts) != tt.tried || r.FailedStep != NoStep || r.Error != r.Attempts[0].Address+": denied: not this one" {
			t.Errorf("%q, attempts %+v", r.Error, r.Attempts)
		}
	}
	if conns.Load() != 0 {
		t.Errorf("%d connections", conns.Load())
	}
}

// Until the policy has admitted an address the caller learns none, also when the exchange ends before it was asked.
func TestNothingIsToldBeforeAdmission(t *testing.T) {
	t.Parallel()
	never := func(err error) dialFunc {
		return func(context.Context, dial.Request) (net.Conn, error) { return nil, err }
	}
	late := func(ctx context.Context, _ string, _ resolve.Family) (*resolve.HostResult, error) {
		<-ctx.Done()
		return &resolve.HostResult{Addresses: []netip.Addr{netip.MustParseAddr("10.9.8.7")}, Source: "dns"}, nil
	}
	known := hosts(t, "10.9.8.7 x", "10.9.8.6 x")
	first := true
	mixed := func(ctx context.Context, request dial.Request) (net.Conn, error) {
		if first {
			first = false
			return nil, &dial.DeniedError{Err: errNo}
		}
		return nil, unix.EMFILE
	}
	for _, tt := range []struct {
		name   string
		config Config
		phase  Phase
		reason Reason
		by     EndedBy
	}{
		{"no socket could be had", Config{Resolve: known, Dial: never(unix.EMFILE)}, PhaseConnect, LimitReached, EndedByNone},
		{"no time was left for the dial", Config{Resolve: known, Dial: never(context.DeadlineExceeded), ConnectTimeout: time.Nanosecond}, PhaseConnect, ConnectTimeout, EndedByNone},
		{"no time was left after the lookup", Config{Resolve: late}, PhaseConnect, ConnectTimeout, EndedByDeadline},
		{"denied and never asked", Config{Resolve: known, Dial: mixed}, PhasePolicy, PolicyDenied, EndedByNone},
	} {
		r := trial{
			config:  tt.config,
			request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: 80}, Timeout: time.Second},
		}.run(t)
		r.wants(t, tt.phase, tt.reason, tt.by)
		if tt.reason != PolicyDenied && (len(r.events) != 1 || r.Attempts != nil || r.Error == "" || strings.Contains(r.Error, "10.9.8")) {
			t.Errorf("%s: %q, events %+v", tt.name, r.Error, r.events)
		}
	}
}

// Of two that connect at the same time one wins, and the other is closed.
func TestTwoConnectAtOnce(t *testing.T) {
	t.Parallel()
	handle := func(c net.Conn) { nettest.Echo(c) } // until the client closes
	first := nettest.TCP(t, handle)
	beside(t, first.Port(), handle)
	both := make(chan struct{}, 2)
	gate := func(context.Context, dial.Destination) error {
		both <- struct{}{}
		for len(both) < 2 {
			time.Sleep(time.Microsecond) //nolint:forbidigo // asks again until it is so
		}
		return nil
	}
	r := trial{
		config:  Config{Resolve: hosts(t, "127.0.0.1 x", "127.0.0.2 x"), Dial: dialer(gate), AttemptDelay: time.Nanosecond},
		request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: first.Port()}, Steps: []Step{Send{Data: []byte("a")}, HalfClose{}, Receive{}}},
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	if len(r.Attempts) != 2 {
		t.Errorf("attempts %+v", r.Attempts)
	}
}
