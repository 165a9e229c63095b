//go:build system

package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
)

// routed is a host, near, from where exchanges run, a router, and a net behind it in which far echoes on port 80, TCP and
// UDP, and has nobody on port 81.
type routed struct {
	near, router, far *nettest.Netns
}

func newRouted(t *testing.T) routed {
	t.Helper()
	n := routed{near: nettest.Namespace(t), router: nettest.Namespace(t), far: nettest.Namespace(t)}
	p := netip.MustParsePrefix
	// A router asks its neighbours from its link-local address.
	nettest.Link(n.near, []netip.Prefix{p("10.9.0.1/24"), p("10.9.0.3/24"), p("fd09::1/64")},
		n.router, []netip.Prefix{p("10.9.0.254/24"), p("fd09::254/64"), p("fe80::254/64")})
	nettest.Link(n.router, []netip.Prefix{p("10.9.2.254/24"), p("fd0b::254/64"), p("fe80::254/64")},
		n.far, []netip.Prefix{p("10.9.2.2/24"), p("fd0b::2/64")})
	for _, each := range []*nettest.Netns{n.near, n.router, n.far} { // kernels ration their ICMP messages
		each.Run("sh", "-c", "cd /proc/sys/net && echo 0 | tee ipv4/icmp_ratelimit ipv6/icmp/ratelimit && echo 1000000 | tee ipv4/icmp_msgs_per_sec ipv4/icmp_msgs_burst")
	}
	n.router.Run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
	run(n.near, "ip route add default via 10.9.0.254", "ip route add default via fd09::254")
	run(n.far, "ip route add default via 10.9.2.254", "ip route add default via fd0b::254")
	n.far.Do(func() {
		nettest.Listen(t, "tcp4", "10.9.2.2:80", nettest.Echo)
		nettest.Listen(t, "tcp6", "[fd0b::2]:80", nettest.Echo)
		nettest.ListenPacket(t, "udp4", "10.9.2.2:80", nettest.EchoPacket)
		nettest.ListenPacket(t, "udp6", "[fd0b::2]:80", nettest.EchoPacket)
	})
	return n
}

// run carries out an exchange in near.
func (n routed) run(t *testing.T, x trial) (r *record) {
	t.Helper()
	x.config.Dial = func(ctx context.Context, request dial.Request) (c net.Conn, err error) {
		err = errors.New("the namespace could not be entered")
		n.near.Do(func() { c, err = dialer(admitAll)(ctx, request) })
		return c, err
	}
	n.near.Do(func() { r = x.run(t) })
	return r
}

// What a router on the way does to packets, and what the outcome makes of it: over TCP when connecting, over UDP with the
// answer to the first datagram.
func TestRouterFaults(t *testing.T) {
	t.Parallel()
	drop := func(rule string) []string { return nft("forward", rule) }
	const v4, v6 = "10.9.2.2:80", "[fd0b::2]:80"
	const r4, r6 = "10.9.0.254 ", "fd09::254 "
	type verdict struct {
		reason Reason
		errno  syscall.Errno
		layer  Layer
		icmp   string
		hint   string // empty: the reason's
	}
	var (
		fine      = verdict{}
		silent    = verdict{ConnectTimeout, 0, LayerTransport, "", ""}
		silentUDP = verdict{ReceiveTimeout, 0, LayerApplication, "", hintDatagramSilence}
		reset     = verdict{ConnectionRefused, unix.ECONNREFUSED, LayerTransport, "", ""}
		refused   = func(icmp, hint string) verdict {
			return verdict{ConnectionRefused, unix.ECONNREFUSED, LayerTransport, icmp, hint}
		}
		prohibited = func(errno syscall.Errno, icmp string) verdict {
			return verdict{HostUnreachable, errno, LayerInternet, icmp, hintRejected}
		}
		unreachable = func(icmp, hint string) verdict {
			return verdict{HostUnreachable, unix.EHOSTUNREACH, LayerInternet, icmp, hint}
		}
		noRoute = func(icmp string) verdict {
			return verdict{NetworkUnreachable, unix.ENETUNREACH, LayerInternet, icmp, hintNoRouteThere}
		}
		link = func(icmp string) verdict {
			return verdict{HostUnreachable, unix.EHOSTUNREACH, LayerLink, icmp, hintLink}
		}
	)
	for _, tt := range []struct {
		name     string
		router   []string
		address  string
		tcp, udp verdict
	}{
		{"nothing wrong", nil, v4, fine, fine},
		{"nothing wrong, v6", nil, v6, fine, fine},
		{"nobody listens", nil, "10.9.2.2:81", reset, refused("10.9.2.2 3/3 port unreachable", "")},
		{"nobody listens, v6", nil, "[fd0b::2]:81", reset, refused("fd0b::2 1/4 port unreachable", "")},
		{"drop", drop("drop"), v4, silent, silentUDP},
		{"drop, v6", drop("drop"), v6, silent, silentUDP},
		{"reset", drop("meta l4proto tcp reject with tcp reset"), v4, reset, fine},
		{"reset, v6", drop("meta l4proto tcp reject with tcp reset"), v6, reset, fine},
		{"reject: port", drop("reject with icmpx port-unreachable"), v4,
			refused(r4+"3/3 port unreachable", hintRefusedOnTheWay), refused(r4+"3/3 port unreachable", hintRefusedOnTheWay)},
		{"reject: port, v6", drop("reject with icmpx port-unreachable"), v6,
			refused(r6+"1/4 port unreachable", hintRefusedOnTheWay), refused(r6+"1/4 port unreachable", hintRefusedOnTheWay)},
		{"reject: host", drop("reject with icmpx host-unreachable"), v4,
			unreachable(r4+"3/1 host unreachable", ""), unreachable(r4+"3/1 host unreachable", "")},
		{"reject: host, v6", drop("reject with icmpx host-unreachable"), v6,
			unreachable(r6+"1/3 address unreachable", ""), unreachable(r6+"1/3 address unreachable", "")},
		{"reject: net", drop("reject with icmpx no-route"), v4, noRoute(r4 + "3/0 network unreachable"), noRoute(r4 + "3/0 network unreachable")},
		{"reject: net, v6", drop("reject with icmpx no-route"), v6, noRoute(r6 + "1/0 no route to destination"), noRoute(r6 + "1/0 no route to destination")},
		{"reject: admin", drop("reject with icmpx admin-prohibited"), v4,
			prohibited(unix.EHOSTUNREACH, r4+"3/13 administratively prohibited"), prohibited(unix.EHOSTUNREACH, r4+"3/13 administratively prohibited")},
		{"reject: admin, v6", drop("reject with icmpx admin-prohibited"), v6,
			prohibited(unix.EACCES, r6+"1/1 administratively prohibited"), prohibited(unix.EACCES, r6+"1/1 administratively prohibited")},
		{"unreachable route", []string{"ip route add unreachable 10.9.2.2"}, v4,
			unreachable(r4+"3/1 host unreachable", ""), unreachable(r4+"3/1 host unreachable", "")},
		{"unreachable route, v6", []string{"ip route add unreachable fd0b::2"}, v6,
			noRoute(r6 + "1/0 no route to destination"), noRoute(r6 + "1/0 no route to destination")},
		{"prohibit route", []string{"ip route add prohibit 10.9.2.2"}, v4,
			prohibited(unix.EHOSTUNREACH, r4+"3/13 administratively prohibited"), prohibited(unix.EHOSTUNREACH, r4+"3/13 administratively prohibited")},
		{"prohibit route, v6", []string{"ip route add prohibit fd0b::2"}, v6,
			prohibited(unix.EACCES, r6+"1/1 administratively prohibited"), prohibited(unix.EACCES, r6+"1/1 administratively prohibited")},
		{"blackhole route", []string{"ip route add blackhole 10.9.2.2"}, v4, silent, silentUDP},
		{"blackhole route, v6", []string{"ip route add blackhole fd0b::2"}, v6, silent, silentUDP},
		{"no route", []string{"ip route del 10.9.2.0/24"}, v4, noRoute(r4 + "3/0 network unreachable"), noRoute(r4 + "3/0 network unreachable")},
		{"no route, v6", []string{"ip route del fd0b::/64"}, v6, noRoute(r6 + "1/0 no route to destination"), noRoute(r6 + "1/0 no route to destination")},
		{"nobody has the address", nil, "10.9.2.99:80",
			unreachable(r4+"3/1 host unreachable", ""), unreachable(r4+"3/1 host unreachable", "")},
		{"nobody has the address, v6", nil, "[fd0b::99]:80",
			unreachable(r6+"1/3 address unreachable", ""), unreachable(r6+"1/3 address unreachable", "")},
		{"a loop", []string{"ip route add 10.9.3.0/24 via 10.9.2.2"}, "10.9.3.1:80",
			unreachable("10.9.2.2 11/0 time to live exceeded", hintLoop), unreachable("10.9.2.2 11/0 time to live exceeded", hintLoop)},
		{"a loop, v6", []string{"ip route add fd0c::/64 via fd0b::2"}, "[fd0c::1]:80",
			unreachable("fd0b::2 3/0 hop limit exceeded", hintLoop), unreachable("fd0b::2 3/0 hop limit exceeded", hintLoop)},
		{"the router is down", []string{"ip link set veth0 down"}, v4,
			link("10.9.0.1 3/1 host unreachable"), link("10.9.0.1 3/1 host unreachable")},
		{"the router is down, v6", []string{"ip link set veth0 down"}, v6,
			link("fd09::1 1/3 address unreachable"), link("fd09::1 1/3 address unreachable")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newRouted(t)
			if strings.HasPrefix(tt.name, "a loop") {
				n.far.Run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
			}
			run(n.router, tt.router...)
			// TCP first: it sends again until neighbours know each other, and a datagram is sent once.
			for _, scheme := range []string{"tcp", "udp"} {
				want := map[string]verdict{"tcp": tt.tcp, "udp": tt.udp}[scheme]
				target, err := ParseTarget(scheme+"://"+tt.address, nil)
				if err != nil {
					t.Fatal(err)
				}
				phase, by := PhaseConnect, EndedByNone
				if scheme == "udp" {
					phase = PhaseReceive
				}
				x := trial{config: Config{Resolve: hosts(t)}, request: Request{Target: target, Steps: DefaultSteps(target, []byte("?"), false)}}
				switch {
				case want.reason == ConnectTimeout:
					x.config.ConnectTimeout = 300 * time.Millisecond
				case want.reason == ReceiveTimeout:
					x.request.Timeout, by = 300*time.Millisecond, EndedByDeadline
				case want.reason == None && scheme == "udp":
					phase, by = PhaseClose, EndedByCount
				case want.reason == None:
					phase, by = PhaseClose, EndedByPeerClosed
				}
				r := n.run(t, x)
				r.wants(t, phase, want.reason, by)
				if r.Errno != int(want.errno) || r.Layer != want.layer || inWords(r.ICMP) != want.icmp {
					t.Errorf("%s: %s, layer %d, by %q; want %v, layer %d, by %q", scheme, ErrnoName(r.Errno), r.Layer, inWords(r.ICMP), want.errno, want.layer, want.icmp)
				}
				if hint := cmp.Or(want.hint, reasons[want.reason].hint); r.Hint != hint {
					t.Errorf("%s: hint %q, want %q", scheme, r.Hint, hint)
				}
				route := Route{Source: netip.MustParseAddr("10.9.0.1"), Interface: "veth0", Gateway: netip.MustParseAddr("10.9.0.254"), MTU: 1500}
				if strings.HasPrefix(tt.address, "[") {
					route.Source, route.Gateway = netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::254")
				}
				if r.Route == nil || *r.Route != route {
					t.Errorf("%s: route %+v, want %+v", scheme, r.Route, route)
				}
			}
		})
	}
}

// The source and the interface that were asked for decide about the route, which has what the kernel keeps of it.
func TestRoutes(t *testing.T) {
	t.Parallel()
	n := newRouted(t)
	run(n.near, "ip route add 10.9.2.0/24 via 10.9.0.254 mtu 1280", "ip route add 10.9.4.0/24 via inet6 fd09::254",
		"ip rule add from 10.9.0.3 lookup 7", "ip route add table 7 default via 10.9.0.253 dev veth0",
		"ip addr add fe80::1/64 dev veth0 nodad", "ip route add unreachable fd0d::/64", "ip route add prohibit fd0e::/64", "ip route add blackhole fd0f::/64")
	for _, tt := range []struct {
		to, source, iface string
		want              string // source, interface, gateway, MTU; empty: none
	}{
		{"10.9.0.2", "", "", "10.9.0.1 veth0 - 1500"},
		{"10.9.2.2", "", "", "10.9.0.1 veth0 10.9.0.254 1280"},
		{"10.9.4.2", "", "", "10.9.0.1 veth0 fd09::254 1500"},
		{"10.9.2.2", "10.9.0.3", "", "10.9.0.3 veth0 10.9.0.253 1500"},
		{"10.9.2.2", "192.0.2.1", "", ""}, // not of this host
		{"10.9.2.2", "", "veth0", "10.9.0.1 veth0 10.9.0.254 1280"},
		{"10.9.0.1", "", "", "10.9.0.1 lo - 65536"},
		{"fd0b::2", "", "", "fd09::1 veth0 fd09::254 1500"},
		{"fd0b::2", "fd09::1", "", "fd09::1 veth0 fd09::254 1500"},
		{"fd09::1", "", "", "fd09::1 lo - 65536"},
		{"fe80::2%veth0", "", "", "fe80::1 veth0 - 1500"},
		{"fe80::2%2", "", "", "fe80::1 veth0 - 1500"},
		{"fd0d::1", "", "", ""},
		{"fd0e::1", "", "", ""},
		{"fd0f::1", "", "", ""},
	} {
		source, _ := netip.ParseAddr(tt.source)
		n.near.Do(func() {
			route := new(router).to(netip.AddrPortFrom(netip.MustParseAddr(tt.to), 80), source, tt.iface, make([]byte, minChunk))
			if got := routeInWords(route); got != tt.want {
				t.Errorf("to %s from %q by %q: %q, want %q", tt.to, tt.source, tt.iface, got, tt.want)
			}
		})
	}
}

func routeInWords(r *Route) string {
	if r == nil {
		return ""
	}
	gateway := "-"
	if r.Gateway.IsValid() {
		gateway = r.Gateway.String()
	}
	return fmt.Sprintf("%v %s %s %d", r.Source, r.Interface, gateway, r.MTU)
}
