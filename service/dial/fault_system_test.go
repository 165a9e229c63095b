//go:build system

package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
)

// pair is two hosts on one wire: near, where the dialling is done, and far, which
// listens for TCP on port 80 and answers UDP on port 53.
func pair(t *testing.T) (near, far *nettest.Netns, link string) {
	t.Helper()
	near, far = nettest.Namespace(t), nettest.Namespace(t)
	p := netip.MustParsePrefix
	link, _ = nettest.Link(near, []netip.Prefix{p("10.9.0.1/24"), p("10.9.0.3/24"), p("fd09::1/64")},
		far, []netip.Prefix{p("10.9.0.2/24"), p("fd09::2/64")})
	far.Do(func() {
		nettest.Listen(t, "tcp4", "10.9.0.2:80", nettest.Echo)
		nettest.Listen(t, "tcp6", "[fd09::2]:80", nettest.Echo)
		nettest.ListenPacket(t, "udp4", "10.9.0.2:53", nettest.EchoPacket)
	})
	return near, far, link
}

func dialIn(t *testing.T, n *nettest.Netns, limit time.Duration, r Request) (c net.Conn, err error) {
	t.Helper()
	n.Do(func() {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c, err = (&Dialer{Policy: admitAll}).Dial(ctx, r)
	})
	if c != nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// What each way of not getting through looks like. These are the errnos that the
// reasons of an outcome are told from.
func TestFaults(t *testing.T) {
	t.Parallel()
	type cmd = []string
	nft := func(rule ...string) []cmd {
		return []cmd{
			{"nft", "add", "table", "inet", "t"},
			{"nft", "add", "chain", "inet", "t", "c", "{ type filter hook input priority 0; }"},
			append(cmd{"nft", "add", "rule", "inet", "t", "c", "tcp", "dport", "80"}, rule...),
		}
	}
	nftOut := func(rule ...string) []cmd {
		return []cmd{
			{"nft", "add", "table", "inet", "t"},
			{"nft", "add", "chain", "inet", "t", "c", "{ type filter hook output priority 0; }"},
			append(cmd{"nft", "add", "rule", "inet", "t", "c", "tcp", "dport", "80"}, rule...),
		}
	}
	route := func(kind string) []cmd {
		return []cmd{{"ip", "route", "add", kind, "10.9.1.0/24"}, {"ip", "-6", "route", "add", kind, "fd0a::/64"}}
	}
	const v4, v6, routed4, routed6 = "10.9.0.2:80", "[fd09::2]:80", "10.9.1.1:80", "[fd0a::1]:80"
	for _, tt := range []struct {
		name      string
		near, far []cmd
		address   string
		want      error
		icmp      string // sender, type and code of the message behind it
	}{
		{"nothing wrong", nil, nil, v4, nil, ""},
		{"nothing wrong, v6", nil, nil, v6, nil, ""},
		{"nobody listens", nil, nil, "10.9.0.2:81", syscall.ECONNREFUSED, ""},
		{"nobody listens, v6", nil, nil, "[fd09::2]:81", syscall.ECONNREFUSED, ""},
		{"drop", nil, nft("drop"), v4, context.DeadlineExceeded, ""},
		{"drop, v6", nil, nft("drop"), v6, context.DeadlineExceeded, ""},
		{"reject with reset", nil, nft("reject", "with", "tcp", "reset"), v4, syscall.ECONNREFUSED, ""},
		{"reject with reset, v6", nil, nft("reject", "with", "tcp", "reset"), v6, syscall.ECONNREFUSED, ""},
		{"reject: port", nil, nft("reject", "with", "icmpx", "port-unreachable"), v4, syscall.ECONNREFUSED, "10.9.0.2 3/3"},
		{"reject: port, v6", nil, nft("reject", "with", "icmpx", "port-unreachable"), v6, syscall.ECONNREFUSED, "fd09::2 1/4"},
		{"reject: host", nil, nft("reject", "with", "icmp", "host-unreachable"), v4, syscall.EHOSTUNREACH, "10.9.0.2 3/1"},
		{"reject: net", nil, nft("reject", "with", "icmp", "net-unreachable"), v4, syscall.ENETUNREACH, "10.9.0.2 3/0"},
		{"reject: no route, v6", nil, nft("reject", "with", "icmpv6", "no-route"), v6, syscall.ENETUNREACH, "fd09::2 1/0"},
		{"reject: address, v6", nil, nft("reject", "with", "icmpv6", "addr-unreachable"), v6, syscall.EHOSTUNREACH, "fd09::2 1/3"},
		{"reject: admin", nil, nft("reject", "with", "icmpx", "admin-prohibited"), v4, syscall.EHOSTUNREACH, "10.9.0.2 3/13"},
		{"reject: admin, v6", nil, nft("reject", "with", "icmpx", "admin-prohibited"), v6, syscall.EACCES, "fd09::2 1/1"},
		{"dropped here", nftOut("drop"), nil, v4, context.DeadlineExceeded, ""},
		{"rejected here", nftOut("reject", "with", "tcp", "reset"), nil, v4, syscall.ECONNREFUSED, ""},
		{"rejected here: port", nftOut("reject", "with", "icmpx", "port-unreachable"), nil, v4, syscall.ECONNREFUSED, "own 10.9.0.1 3/3"},
		{"rejected here: port, v6", nftOut("reject", "with", "icmpx", "port-unreachable"), nil, v6, syscall.ECONNREFUSED, "own fd09::1 1/4"},
		{"rejected here: admin", nftOut("reject", "with", "icmpx", "admin-prohibited"), nil, v4, syscall.EHOSTUNREACH, "own 10.9.0.1 3/13"},
		{"rejected here: admin, v6", nftOut("reject", "with", "icmpx", "admin-prohibited"), nil, v6, syscall.EACCES, "own fd09::1 1/1"},
		{"blackhole", route("blackhole"), nil, routed4, syscall.EINVAL, ""},
		{"blackhole, v6", route("blackhole"), nil, routed6, syscall.EINVAL, ""},
		{"prohibit", route("prohibit"), nil, routed4, syscall.EACCES, ""},
		{"prohibit, v6", route("prohibit"), nil, routed6, syscall.EACCES, ""},
		{"unreachable", route("unreachable"), nil, routed4, syscall.EHOSTUNREACH, ""},
		{"unreachable, v6", route("unreachable"), nil, routed6, syscall.EHOSTUNREACH, ""},
		{"no route", nil, nil, routed4, syscall.ENETUNREACH, ""},
		{"no route, v6", nil, nil, routed6, syscall.ENETUNREACH, ""},
		{"nobody has the address", nil, nil, "10.9.0.99:80", syscall.EHOSTUNREACH, "own 10.9.0.1 3/1"},
		{"nobody has the address, v6", nil, nil, "[fd09::99]:80", syscall.EHOSTUNREACH, "own fd09::1 1/3"},
		{"broadcast of the subnet", nil, nil, "10.9.0.255:80", syscall.ENETUNREACH, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, far, _ := pair(t)
			for _, c := range tt.near {
				near.Run(c[0], c[1:]...)
			}
			for _, c := range tt.far {
				far.Run(c[0], c[1:]...)
			}
			limit := 10 * time.Second
			if errors.Is(tt.want, context.DeadlineExceeded) {
				limit = 300 * time.Millisecond
			}
			start := time.Now()
			c, err := dialIn(t, near, limit, Request{Network: "tcp", Address: netip.MustParseAddrPort(tt.address)})
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if took := time.Since(start); took > limit+500*time.Millisecond {
				t.Errorf("took %v of %v", took, limit)
			}
			if got := icmp(err); got != tt.icmp {
				t.Errorf("by ICMP %q, want %q", got, tt.icmp)
			}
			if err == nil {
				echoes(t, c)
			}
		})
	}
}

// The kernel keeps dialled sockets from the broadcast address of a subnet.
func TestNoBroadcast(t *testing.T) {
	t.Parallel()
	near, _, _ := pair(t)
	_, err := dialIn(t, near, 5*time.Second, Request{Network: "udp", Address: netip.MustParseAddrPort("10.9.0.255:9")})
	if !errors.Is(err, syscall.EACCES) {
		t.Errorf("%v, want EACCES", err)
	}
}

func TestSourceAndInterface(t *testing.T) {
	t.Parallel()
	near, _, link := pair(t)
	far := netip.MustParseAddrPort("10.9.0.2:80")
	for _, tt := range []struct {
		name  string
		r     Request
		local string
		err   error
	}{
		{"first address", Request{Network: "tcp", Address: far}, "10.9.0.1", nil},
		{"other address", Request{Network: "tcp", Address: far, Source: netip.MustParseAddr("10.9.0.3")}, "10.9.0.3", nil},
		{"the link", Request{Network: "tcp", Address: far, Interface: link}, "10.9.0.1", nil},
		{"not by loopback", Request{Network: "tcp", Address: far, Interface: "lo"}, "", context.DeadlineExceeded},
		{"udp", Request{Network: "udp", Address: netip.MustParseAddrPort("10.9.0.2:53"), Interface: link,
			Source: netip.MustParseAddr("10.9.0.3")}, "10.9.0.3", nil},
	} {
		limit := 5 * time.Second
		if tt.err != nil {
			limit = 300 * time.Millisecond
		}
		c, err := dialIn(t, near, limit, tt.r)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
		if err != nil {
			continue
		}
		echoes(t, c)
		if got := netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String(); got != tt.local {
			t.Errorf("%s: from %s, want %s", tt.name, got, tt.local)
		}
	}
}

// With a source chosen, ports are still shared between destinations: here there
// are fewer of them than connections.
func TestSourcePortsAreShared(t *testing.T) {
	t.Parallel()
	near, far, _ := pair(t)
	near.Run("sh", "-c", "echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range")
	for _, port := range []string{"81", "82", "83"} {
		far.Do(func() { nettest.Listen(t, "tcp4", "10.9.0.2:"+port, nettest.Silent) })
	}
	for _, port := range []uint16{80, 81, 82, 83} {
		for i := range 2 {
			r := Request{Network: "tcp", Address: netip.AddrPortFrom(netip.MustParseAddr("10.9.0.2"), port),
				Source: netip.MustParseAddr("10.9.0.3")}
			if _, err := dialIn(t, near, 5*time.Second, r); err != nil {
				t.Errorf("connection %d to port %d: %v", i, port, err)
			}
		}
	}
}

// Link-local addresses need their zone; with it they work.
func TestLinkLocal(t *testing.T) {
	t.Parallel()
	near, far, link := pair(t)
	near.Run("ip", "addr", "add", "fe80::1/64", "dev", link, "nodad")
	far.Run("ip", "addr", "add", "fe80::2/64", "dev", "veth0", "nodad")
	far.Do(func() { nettest.Listen(t, "tcp6", "[fe80::2%veth0]:80", nettest.Echo) })

	to := netip.MustParseAddrPort("[fe80::2]:80")
	if _, err := dialIn(t, near, 5*time.Second, Request{Network: "tcp", Address: to}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("without a zone: %v, want EINVAL", err)
	}
	to = netip.AddrPortFrom(to.Addr().WithZone(link), 80)
	c, err := dialIn(t, near, 5*time.Second, Request{Network: "tcp", Address: to})
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, c)
}

// The servers of resolv.conf are reached on addresses that policies deny.
func TestNameServerAnswers(t *testing.T) {
	t.Parallel()
	n := nettest.Namespace(t)
	n.Run("ip", "addr", "add", "169.254.20.10/32", "dev", "lo")
	n.Do(func() {
		nettest.ListenPacket(t, "udp4", "169.254.20.10:53", nettest.EchoPacket)
		nettest.Listen(t, "tcp4", "127.0.0.53:53", nettest.Echo)
	})
	for network, server := range map[string]string{"udp": "169.254.20.10:53", "tcp": "127.0.0.53:53"} {
		var (
			c   net.Conn
			err error
		)
		n.Do(func() { c, err = NameServer(timeout(t, 5*time.Second), network, netip.MustParseAddrPort(server)) })
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		defer c.Close()
		echoes(t, c)
	}
}
