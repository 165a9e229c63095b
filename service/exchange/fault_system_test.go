//go:build system

package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
	"probed/service/resolve"
)

// inWords is who sent which message.
func inWords(i *ICMPError) string {
	if i == nil {
		return ""
	}
	return fmt.Sprintf("%v %d/%d %s", i.From, i.Type, i.Code, i.Meaning)
}

// pair is two hosts on one wire: near, from where exchanges run, and far, which echoes on port 80, TCP and UDP, and has
// nobody on port 81. dial opens sockets in near.
type pair struct {
	near, far *nettest.Netns
	dial      dialFunc
	tally     *nettest.Tally
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{near: nettest.Namespace(t), far: nettest.Namespace(t), tally: new(nettest.Tally)}
	prefix := netip.MustParsePrefix
	nettest.Link(p.near, []netip.Prefix{prefix("10.9.0.1/24"), prefix("fd09::1/64")},
		p.far, []netip.Prefix{prefix("10.9.0.2/24"), prefix("10.9.0.3/24"), prefix("fd09::2/64")})
	// Kernels ration their ICMP errors, a few a second for each host; an attempt that gets none sees a drop.
	p.far.Run("sh", "-c", "cd /proc/sys/net && echo 0 | tee ipv4/icmp_ratelimit ipv6/icmp/ratelimit && echo 1000000 | tee ipv4/icmp_msgs_per_sec ipv4/icmp_msgs_burst")
	p.near.Run("sh", "-c", "cd /proc/sys/net && echo 0 | tee ipv4/icmp_ratelimit ipv6/icmp/ratelimit")
	p.far.Do(func() {
		nettest.Listen(t, "tcp4", "10.9.0.2:80", p.tally.Count(nettest.Echo))
		nettest.Listen(t, "tcp6", "[fd09::2]:80", p.tally.Count(nettest.Echo))
		nettest.ListenPacket(t, "udp4", "10.9.0.2:80", nettest.EchoPacket)
	})
	p.dial = func(ctx context.Context, request dial.Request) (c net.Conn, err error) {
		err = errors.New("the namespace could not be entered")
		p.near.Do(func() { c, err = dialer(admitAll)(ctx, request) })
		return c, err
	}
	return p
}

func run(n *nettest.Netns, commands ...string) {
	for _, command := range commands {
		args := strings.Fields(command)
		if i := strings.IndexByte(command, '{'); i >= 0 { // what nft takes as one word
			args = append(strings.Fields(command[:i]), command[i:])
		}
		n.Run(args[0], args[1:]...)
	}
}

// nft is a chain at a hook, with one rule for port 80.
func nft(hook, rule string) []string {
	return []string{
		"nft add table inet t",
		"nft add chain inet t c { type filter hook " + hook + " priority 0; }",
		"nft add rule inet t c meta l4proto { tcp, udp } th dport 80 " + rule,
	}
}

// What a network does to a connection attempt, and what the outcome makes of it.
func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	route := func(kind string) []string {
		return []string{"ip route add " + kind + " 10.9.1.0/24", "ip -6 route add " + kind + " fd0a::/64"}
	}
	const v4, v6, routed4, routed6 = "tcp://10.9.0.2:80", "tcp://[fd09::2]:80", "tcp://10.9.1.1:80", "tcp://[fd0a::1]:80"
	for _, tt := range []struct {
		name      string
		near, far []string
		target    string
		reason    Reason
		errno     syscall.Errno
		layer     Layer
		icmp      string // the message, and who sent it
	}{
		{"nothing wrong", nil, nil, v4, None, 0, LayerNone, ""},
		{"nothing wrong, v6", nil, nil, v6, None, 0, LayerNone, ""},
		{"nobody listens", nil, nil, "tcp://10.9.0.2:81", ConnectionRefused, unix.ECONNREFUSED, LayerTransport, ""},
		{"nobody listens, v6", nil, nil, "tcp://[fd09::2]:81", ConnectionRefused, unix.ECONNREFUSED, LayerTransport, ""},
		{"drop", nil, nft("input", "drop"), v4, ConnectTimeout, 0, LayerTransport, ""},
		{"drop, v6", nil, nft("input", "drop"), v6, ConnectTimeout, 0, LayerTransport, ""},
		{"drop the answers", nil, []string{"nft add table inet t", "nft add chain inet t c { type filter hook output priority 0; }",
			"nft add rule inet t c tcp sport 80 drop"}, v4, ConnectTimeout, 0, LayerTransport, ""},
		{"drop here", nft("output", "drop"), nil, v4, ConnectTimeout, 0, LayerTransport, ""},
		{"reject with reset", nil, nft("input", "meta l4proto tcp reject with tcp reset"), v4, ConnectionRefused, unix.ECONNREFUSED, LayerTransport, ""},
		{"reject with reset, v6", nil, nft("input", "meta l4proto tcp reject with tcp reset"), v6, ConnectionRefused, unix.ECONNREFUSED, LayerTransport, ""},
		{"reject: port", nil, nft("input", "reject with icmpx port-unreachable"), v4, ConnectionRefused, unix.ECONNREFUSED, LayerTransport, "10.9.0.2 3/3 port unreachable"},
		{"reject: admin", nil, nft("input", "reject with icmpx admin-prohibited"), v4, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "10.9.0.2 3/13 administratively prohibited"},
		{"reject: admin, v6", nil, nft("input", "reject with icmpx admin-prohibited"), v6, HostUnreachable, unix.EACCES, LayerInternet, "fd09::2 1/1 administratively prohibited"},
		{"reject: host", nil, nft("input", "reject with icmpx host-unreachable"), v4, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "10.9.0.2 3/1 host unreachable"},
		{"reject: host, v6", nil, nft("input", "reject with icmpx host-unreachable"), v6, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "fd09::2 1/3 address unreachable"},
		{"reject: net", nil, nft("input", "reject with icmp net-unreachable"), v4, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, "10.9.0.2 3/0 network unreachable"},
		{"reject: no route, v6", nil, nft("input", "reject with icmpx no-route"), v6, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, "fd09::2 1/0 no route to destination"},
		{"reject: protocol", nil, nft("input", "reject with icmp prot-unreachable"), v4, HostUnreachable, unix.ENOPROTOOPT, LayerInternet, "10.9.0.2 3/2 protocol unreachable"},
		{"reject: port, v6", nil, nft("input", "reject with icmpx port-unreachable"), v6, ConnectionRefused, unix.ECONNREFUSED, LayerTransport, "fd09::2 1/4 port unreachable"},
		{"reject: net prohibited", nil, nft("input", "reject with icmp net-prohibited"), v4, HostUnreachable, unix.ENETUNREACH, LayerInternet, "10.9.0.2 3/9 network administratively prohibited"},
		{"reject: host prohibited", nil, nft("input", "reject with icmp host-prohibited"), v4, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "10.9.0.2 3/10 host administratively prohibited"},
		{"reject: reject route, v6", nil, nft("input", "reject with icmpv6 reject-route"), v6, HostUnreachable, unix.EACCES, LayerInternet, "fd09::2 1/6 reject route to destination"},
		{"reject here: port", nft("output", "reject with icmpx port-unreachable"), nil, v4, ConnectionRefused, unix.ECONNREFUSED, LayerTransport, "10.9.0.1 3/3 port unreachable"},
		{"reject here: port, v6", nft("output", "reject with icmpx port-unreachable"), nil, v6, ConnectionRefused, unix.ECONNREFUSED, LayerTransport, "fd09::1 1/4 port unreachable"},
		{"reject here: admin", nft("output", "reject with icmpx admin-prohibited"), nil, v4, DeniedLocally, unix.EHOSTUNREACH, LayerInternet, "10.9.0.1 3/13 administratively prohibited"},
		{"reject here: admin, v6", nft("output", "reject with icmpx admin-prohibited"), nil, v6, DeniedLocally, unix.EACCES, LayerInternet, "fd09::1 1/1 administratively prohibited"},
		{"blackhole", route("blackhole"), nil, routed4, NetworkUnreachable, unix.EINVAL, LayerInternet, ""},
		{"blackhole, v6", route("blackhole"), nil, routed6, NetworkUnreachable, unix.EINVAL, LayerInternet, ""},
		{"prohibit", route("prohibit"), nil, routed4, DeniedLocally, unix.EACCES, LayerInternet, ""},
		{"prohibit, v6", route("prohibit"), nil, routed6, DeniedLocally, unix.EACCES, LayerInternet, ""},
		{"unreachable", route("unreachable"), nil, routed4, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, ""},
		{"unreachable, v6", route("unreachable"), nil, routed6, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, ""},
		{"no route", nil, nil, routed4, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, ""},
		{"no route, v6", nil, nil, routed6, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, ""},
		{"nobody has the address", nil, nil, "tcp://10.9.0.99:80", HostUnreachable, unix.EHOSTUNREACH, LayerLink, "10.9.0.1 3/1 host unreachable"},
		{"nobody has the address, v6", nil, nil, "tcp://[fd09::99]:80", HostUnreachable, unix.EHOSTUNREACH, LayerLink, "fd09::1 1/3 address unreachable"},
		{"the other end is down", nil, []string{"ip link set veth0 down"}, v4, HostUnreachable, unix.EHOSTUNREACH, LayerLink, "10.9.0.1 3/1 host unreachable"},
		{"the other end is down, v6", nil, []string{"ip link set veth0 down"}, v6, HostUnreachable, unix.EHOSTUNREACH, LayerLink, "fd09::1 1/3 address unreachable"},
		{"the interface is down", []string{"ip link set veth0 down"}, nil, v4, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, ""},
		{"the interface is down, v6", []string{"ip link set veth0 down"}, nil, v6, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, ""},
		{"udp, blackhole", route("blackhole"), nil, "udp://10.9.1.1:80", NetworkUnreachable, unix.EINVAL, LayerInternet, ""},
		{"udp, prohibit", route("prohibit"), nil, "udp://10.9.1.1:80", DeniedLocally, unix.EACCES, LayerInternet, ""},
		{"udp, no route", nil, nil, "udp://10.9.1.1:80", NetworkUnreachable, unix.ENETUNREACH, LayerInternet, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			run(p.near, tt.near...)
			run(p.far, tt.far...)
			target, err := ParseTarget(tt.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			const limit = 300 * time.Millisecond
			config := Config{Dial: p.dial, Resolve: hosts(t)}
			if tt.reason == ConnectTimeout {
				config.ConnectTimeout = limit
			}
			phase, by := PhaseConnect, EndedByNone
			if tt.reason == None {
				phase, by = PhaseClose, EndedByLastStep
			}
			// To the neighbour; to the other nets there is none.
			var route *Route
			for neighbours, source := range map[string]string{"10.9.0.": "10.9.0.1", "fd09:": "fd09::1"} {
				if strings.HasPrefix(target.Host, neighbours) && !strings.HasPrefix(tt.name, "the interface is down") {
					route = &Route{Source: netip.MustParseAddr(source), Interface: "veth0", MTU: 1500}
				}
			}
			once := func() {
				var r *record
				p.near.Do(func() { // where the route is asked for
					r = trial{config: config, request: Request{Target: target}}.run(t)
				})
				r.wants(t, phase, tt.reason, by)
				if r.Errno != int(tt.errno) || r.Layer != tt.layer || len(r.Attempts) != 1 || r.Attempts[0].Errno != r.Errno || r.Attempts[0].Phase != PhaseConnect {
					t.Errorf("%s, layer %d, attempts %+v; want %v, layer %d", ErrnoName(r.Errno), r.Layer, r.Attempts, ErrnoName(int(tt.errno)), tt.layer)
				}
				if inWords(r.ICMP) != tt.icmp || inWords(r.Attempts[0].ICMP) != tt.icmp {
					t.Errorf("by %q, attempt by %q, want %q", inWords(r.ICMP), inWords(r.Attempts[0].ICMP), tt.icmp)
				}
				here := map[Reason]string{ConnectionRefused: hintRefusedHere, DeniedLocally: hintRejectedHere}
				if strings.HasPrefix(tt.name, "reject here") && r.Hint != here[tt.reason] {
					t.Errorf("hint %q, want %q", r.Hint, here[tt.reason])
				}
				if route == nil && r.Route != nil || route != nil && (r.Route == nil || *r.Route != *route) {
					t.Errorf("route %+v, want %+v", r.Route, route)
				}
				if tt.reason == ConnectTimeout && (r.took < limit || r.took > limit+500*time.Millisecond) {
					t.Errorf("took %v of %v", r.took, limit)
				}
			}
			once()
			if tt.layer == LayerLink {
				return // ARP and neighbour discovery give up after three seconds, each time
			}
			// And so it is every time.
			var running sync.WaitGroup
			for range 20 {
				running.Go(func() {
					for range 10 {
						once()
					}
				})
			}
			running.Wait()
		})
	}
}

// A network that is cut in the middle of a conversation shows as silence, and what was handed to the kernel is not what
// the peer has acknowledged.
func TestCutInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"10.9.0.2", "fd09::2"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			const limit = 500 * time.Millisecond
			r := trial{
				config: Config{Dial: p.dial},
				request: Request{
					Target:  Target{Scheme: "tcp", Host: host, Port: 80},
					Steps:   []Step{Send{Data: []byte("hello")}, Receive{Length: 5}, Send{Data: []byte("are you there")}, Receive{}},
					Timeout: limit,
				},
				peer: p.tally,
				hook: func(event Event) error {
					if _, ok := event.(Chunk); ok {
						run(p.far, nft("input", "drop")...)
					}
					return nil
				},
			}.run(t)
			r.wants(t, PhaseReceive, ReceiveTimeout, EndedByDeadline)
			r.got(t, []byte("hello"))
			if r.Layer != LayerTransport || r.Hint != hintUnheard {
				t.Errorf("layer %d, hint %q", r.Layer, r.Hint)
			}
			if r.BytesSent != 18 || *r.BytesAcknowledged != 5 || r.TCPInfo.Unacknowledged == 0 || r.TCPInfo.Retransmits == 0 {
				t.Errorf("sent %d, acknowledged %d, %+v", r.BytesSent, *r.BytesAcknowledged, r.TCPInfo)
			}
			if r.took < limit || r.took > limit+500*time.Millisecond {
				t.Errorf("took %v of %v", r.took, limit)
			}
		})
	}
}

// A FIN that is on its way is not taken for a byte.
func TestHalfCloseIsNoByte(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	r := trial{
		config: Config{Dial: p.dial},
		request: Request{
			Target:  Target{Scheme: "tcp", Host: "10.9.0.2", Port: 80},
			Steps:   []Step{Send{Data: []byte("hello")}, Receive{Length: 5}, HalfClose{}, Receive{}},
			Timeout: 300 * time.Millisecond,
		},
		hook: func(event Event) error {
			if _, ok := event.(Chunk); ok {
				run(p.far, nft("input", "drop")...)
			}
			return nil
		},
	}.run(t)
	r.wants(t, PhaseReceive, ReceiveTimeout, EndedByDeadline)
	if *r.BytesAcknowledged != 5 {
		t.Errorf("%d bytes acknowledged of 5", *r.BytesAcknowledged)
	}
}

// A third of all packets lost costs time, and no byte.
func TestLoss(t *testing.T) {
	t.Parallel()
	for i := range 5 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			data := nettest.Data(50_000)
			run(p.far, "nft add table inet t", "nft add chain inet t c { type filter hook input priority 0; }",
				"nft add rule inet t c tcp dport 80 tcp flags & (syn|ack) != syn numgen random mod 100 < 30 drop")
			target := Target{Scheme: "tcp", Host: "10.9.0.2", Port: 80}
			r := trial{config: Config{Dial: p.dial}, request: Request{Target: target, Steps: DefaultSteps(target, data, false)}, peer: p.tally}.run(t)
			r.wants(t, PhaseClose, None, EndedByPeerClosed)
			r.got(t, data)
		})
	}
}

// A datagram that a firewall drops is silence; one that it rejects is told.
func TestDatagramsThroughAFirewall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		near, far []string
		phase     Phase
		reason    Reason
		errno     syscall.Errno
		by        EndedBy
	}{
		{"nothing wrong", nil, nil, PhaseClose, None, 0, EndedByCount},
		{"drop", nil, nft("input", "drop"), PhaseReceive, ReceiveTimeout, 0, EndedByDeadline},
		{"reject: port", nil, nft("input", "reject with icmp port-unreachable"), PhaseReceive, ConnectionRefused, unix.ECONNREFUSED, EndedByNone},
		{"drop here", nft("output", "drop"), nil, PhaseSend, DeniedLocally, unix.EPERM, EndedByNone},
		{"reject here: port", nft("output", "reject with icmp port-unreachable"), nil, PhaseSend, DeniedLocally, unix.EPERM, EndedByNone},
		{"reject here: admin", nft("output", "reject with icmp admin-prohibited"), nil, PhaseSend, DeniedLocally, unix.EPERM, EndedByNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			run(p.near, tt.near...)
			run(p.far, tt.far...)
			target := Target{Scheme: "udp", Host: "10.9.0.2", Port: 80}
			r := trial{
				config:  Config{Dial: p.dial},
				request: Request{Target: target, Steps: DefaultSteps(target, []byte("?"), false), Timeout: time.Second},
			}.run(t)
			r.wants(t, tt.phase, tt.reason, tt.by)
			if r.Errno != int(tt.errno) {
				t.Errorf("%s, want %s", ErrnoName(r.Errno), ErrnoName(int(tt.errno)))
			}
		})
	}
}

// A name with an address that is dropped and one that is not: the second is tried while the first is silent.
func TestOneAddressIsDropped(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	run(p.far, "nft add table inet t", "nft add chain inet t c { type filter hook input priority 0; }",
		"nft add rule inet t c ip6 daddr fd09::2 tcp dport 80 drop")
	const delay = 100 * time.Millisecond
	both := []netip.Addr{netip.MustParseAddr("fd09::2"), netip.MustParseAddr("10.9.0.2")}
	target := Target{Scheme: "tcp", Host: "both", Port: 80}
	r := trial{
		config: Config{
			Dial: p.dial,
			Resolve: func(context.Context, string, resolve.Family) (*resolve.HostResult, error) {
				return &resolve.HostResult{Addresses: both, Source: "files"}, nil
			},
			AttemptDelay: delay,
		},
		request: Request{Target: target, Steps: DefaultSteps(target, []byte("hello"), false)},
		peer:    p.tally,
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	r.got(t, []byte("hello"))
	if len(r.Attempts) != 2 || r.Attempts[0].Reason != Cancelled || r.Attempts[1].Start-r.Attempts[0].Start < delay {
		t.Errorf("attempts %+v", r.Attempts)
	}
	if r.Remote != "10.9.0.2:80" {
		t.Errorf("connected to %s: %+v", r.Remote, r.Attempts)
	}
}
