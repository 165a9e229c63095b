//go:build system

package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

// routed is a host, a router, and a net behind that, in which far listens.
func routed(t *testing.T) (near, router, far *nettest.Netns) {
	t.Helper()
	near, router, far = nettest.Namespace(t), nettest.Namespace(t), nettest.Namespace(t)
	p := netip.MustParsePrefix
	nettest.Link(near, []netip.Prefix{p("10.9.0.1/24"), p("10.9.0.3/24"), p("fd09::1/64")},
		router, []netip.Prefix{p("10.9.0.254/24"), p("fd09::254/64"), p("fe80::254/64")}) // for a router asks its neighbours from there
	nettest.Link(router, []netip.Prefix{p("10.9.2.254/24"), p("fd0b::254/64"), p("fe80::254/64")},
		far, []netip.Prefix{p("10.9.2.2/24"), p("fd0b::2/64")})
	for _, n := range []*nettest.Netns{near, router, far} { // kernels ration their ICMP messages
		n.Run("sh", "-c", "cd /proc/sys/net && echo 0 | tee ipv4/icmp_ratelimit ipv6/icmp/ratelimit && echo 1000000 | tee ipv4/icmp_msgs_per_sec ipv4/icmp_msgs_burst")
	}
	router.Run("sh", "-c", "cd /proc/sys/net && echo 1 | tee ipv4/ip_forward ipv6/conf/all/forwarding")
	near.Run("ip", "route", "add", "default", "via", "10.9.0.254")
	near.Run("ip", "route", "add", "default", "via", "fd09::254")
	far.Run("ip", "route", "add", "default", "via", "10.9.2.254")
	far.Run("ip", "route", "add", "default", "via", "fd0b::254")
	far.Do(func() {
		nettest.Listen(t, "tcp4", "10.9.2.2:80", nettest.Echo)
		nettest.Listen(t, "tcp6", "[fd0b::2]:80", nettest.Echo)
		nettest.ListenPacket(t, "udp4", "10.9.2.2:80", nettest.EchoPacket)
		nettest.ListenPacket(t, "udp6", "[fd0b::2]:80", nettest.EchoPacket)
	})
	return near, router, far
}

// Who answered with which message is told of what a router says too.
func TestICMPOfRouter(t *testing.T) {
	t.Parallel()
	forward := func(rule string) string {
		return "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' && nft add rule inet t c th dport 80 " + rule
	}
	const v4, v6 = "10.9.2.2:80", "[fd0b::2]:80"
	const r4, r6 = "10.9.0.254 ", "fd09::254 "
	for _, tt := range []struct {
		name, router, address string
		want                  error
		icmp                  string
	}{
		{"nothing wrong", "true", v4, nil, ""},
		{"nothing wrong, v6", "true", v6, nil, ""},
		{"nobody listens", "true", "10.9.2.2:81", syscall.ECONNREFUSED, ""},
		{"port", forward("reject with icmpx port-unreachable"), v4, syscall.ECONNREFUSED, r4 + "3/3"},
		{"port, v6", forward("reject with icmpx port-unreachable"), v6, syscall.ECONNREFUSED, r6 + "1/4"},
		{"host", forward("reject with icmp host-unreachable"), v4, syscall.EHOSTUNREACH, r4 + "3/1"},
		{"address, v6", forward("reject with icmpv6 addr-unreachable"), v6, syscall.EHOSTUNREACH, r6 + "1/3"},
		{"net", forward("reject with icmp net-unreachable"), v4, syscall.ENETUNREACH, r4 + "3/0"},
		{"protocol", forward("reject with icmp prot-unreachable"), v4, syscall.ENOPROTOOPT, r4 + "3/2"},
		{"net prohibited", forward("reject with icmp net-prohibited"), v4, syscall.ENETUNREACH, r4 + "3/9"},
		{"host prohibited", forward("reject with icmp host-prohibited"), v4, syscall.EHOSTUNREACH, r4 + "3/10"},
		{"admin", forward("reject with icmp admin-prohibited"), v4, syscall.EHOSTUNREACH, r4 + "3/13"},
		{"admin, v6", forward("reject with icmpv6 admin-prohibited"), v6, syscall.EACCES, r6 + "1/1"},
		{"policy, v6", forward("reject with icmpv6 policy-fail"), v6, syscall.EACCES, r6 + "1/5"},
		{"reject route, v6", forward("reject with icmpv6 reject-route"), v6, syscall.EACCES, r6 + "1/6"},
		{"reset", forward("reject with tcp reset"), v4, syscall.ECONNREFUSED, ""},
		{"drop", forward("drop"), v4, context.DeadlineExceeded, ""},
		{"unreachable route", "ip route add unreachable 10.9.2.2", v4, syscall.EHOSTUNREACH, r4 + "3/1"},
		{"unreachable route, v6", "ip route add unreachable fd0b::2", v6, syscall.ENETUNREACH, r6 + "1/0"},
		{"prohibit route", "ip route add prohibit 10.9.2.2", v4, syscall.EHOSTUNREACH, r4 + "3/13"},
		{"prohibit route, v6", "ip route add prohibit fd0b::2", v6, syscall.EACCES, r6 + "1/1"},
		{"blackhole route", "ip route add blackhole 10.9.2.2", v4, context.DeadlineExceeded, ""},
		{"no route", "ip route del 10.9.2.0/24", v4, syscall.ENETUNREACH, r4 + "3/0"},
		{"no route, v6", "ip route del fd0b::/64", v6, syscall.ENETUNREACH, r6 + "1/0"},
		{"behind the router nobody has the address", "true", "10.9.2.99:80", syscall.EHOSTUNREACH, r4 + "3/1"},
		{"behind the router nobody has the address, v6", "true", "[fd0b::99]:80", syscall.EHOSTUNREACH, r6 + "1/3"},
		{"a routing loop", "ip route add 10.9.3.0/24 via 10.9.2.2", "10.9.3.1:80", syscall.EHOSTUNREACH, "10.9.2.2 11/0"},
		{"a routing loop, v6", "ip route add fd0c::/64 via fd0b::2", "[fd0c::1]:80", syscall.EHOSTUNREACH, "fd0b::2 3/0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, router, far := routed(t)
			if strings.Contains(tt.name, "loop") {
				far.Run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
			}
			router.Run("sh", "-c", tt.router)
			limit := 10 * time.Second
			if errors.Is(tt.want, context.DeadlineExceeded) {
				limit = 300 * time.Millisecond
			}
			c, err := dialIn(t, near, limit, Request{Network: "tcp", Address: netip.MustParseAddrPort(tt.address)})
			if !errors.Is(err, tt.want) || icmp(err) != tt.icmp {
				t.Fatalf("%v, by ICMP %q; want %v, by %q", err, icmp(err), tt.want, tt.icmp)
			}
			if err == nil {
				echoes(t, c)
			}
		})
	}
}

// The kernel sends its own messages from the first address of an interface, whatever
// the socket's is.
func TestICMPFromAnotherAddressOfThisHost(t *testing.T) {
	t.Parallel()
	near, _, _ := routed(t)
	to := Request{Network: "tcp", Address: netip.MustParseAddrPort("10.9.0.99:80"), Source: netip.MustParseAddr("10.9.0.3")}
	_, err := dialIn(t, near, 10*time.Second, to)
	if !errors.Is(err, syscall.EHOSTUNREACH) || icmp(err) != "own 10.9.0.1 3/1" {
		t.Errorf("%v, by ICMP %q", err, icmp(err))
	}
}

// A connection, once open, lives through what ICMP has to say of it.
func TestOpenConnectionIgnoresICMP(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"10.9.2.2:80", "[fd0b::2]:80"} {
		near, router, _ := routed(t)
		c, err := dialIn(t, near, 5*time.Second, Request{Network: "tcp", Address: netip.MustParseAddrPort(address)})
		if err != nil {
			t.Fatal(err)
		}
		router.Run("sh", "-c", "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' && nft add rule inet t c tcp dport 80 reject with icmpx host-unreachable")
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			t.Errorf("%s: %v, want a timeout", address, err)
		}
		router.Run("nft", "delete", "table", "inet", "t")
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 9)); n != 1 || err != nil {
			t.Errorf("%s: %d bytes, %v: the byte never came back", address, n, err)
		}
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// A UDP socket is told who could not deliver its datagrams, once for all of them,
// and goes on working.
func TestICMPOfUDP(t *testing.T) {
	t.Parallel()
	forward := func(rule string) string {
		return "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' && nft add rule inet t c udp dport 80 " + rule
	}
	const v4, v6 = "10.9.2.2:80", "[fd0b::2]:80"
	for _, tt := range []struct {
		name, router, address string
		want                  error
		icmp                  string
	}{
		{"nobody listens", "true", "10.9.2.2:81", syscall.ECONNREFUSED, "10.9.2.2 3/3"},
		{"nobody listens, v6", "true", "[fd0b::2]:81", syscall.ECONNREFUSED, "fd0b::2 1/4"},
		{"port", forward("reject with icmpx port-unreachable"), v4, syscall.ECONNREFUSED, "10.9.0.254 3/3"},
		{"host", forward("reject with icmp host-unreachable"), v4, syscall.EHOSTUNREACH, "10.9.0.254 3/1"},
		{"net", forward("reject with icmp net-unreachable"), v4, syscall.ENETUNREACH, "10.9.0.254 3/0"},
		{"admin", forward("reject with icmpx admin-prohibited"), v4, syscall.EHOSTUNREACH, "10.9.0.254 3/13"},
		{"admin, v6", forward("reject with icmpx admin-prohibited"), v6, syscall.EACCES, "fd09::254 1/1"},
		{"no route, v6", forward("reject with icmpv6 no-route"), v6, syscall.ENETUNREACH, "fd09::254 1/0"},
		{"nobody has the address", "true", "10.9.0.99:80", syscall.EHOSTUNREACH, "own 10.9.0.1 3/1"},
		{"nobody has the address, v6", "true", "[fd09::99]:80", syscall.EHOSTUNREACH, "own fd09::1 1/3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, router, _ := routed(t)
			router.Run("sh", "-c", tt.router)
			c, err := dialIn(t, near, 5*time.Second, Request{Network: "udp", Address: netip.MustParseAddrPort(tt.address)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = c.Read(make([]byte, 1))
			raw, rawErr := c.(syscall.Conn).SyscallConn()
			if rawErr != nil {
				t.Fatal(rawErr)
			}
			err = WithICMP(raw, err)
			if !errors.Is(err, tt.want) || icmp(err) != tt.icmp {
				t.Fatalf("%v, by ICMP %q; want %v, by %q", err, icmp(err), tt.want, tt.icmp)
			}
			// It is told once.
			if again := WithICMP(raw, tt.want); icmp(again) != "" {
				t.Errorf("again: %v", again)
			}
			if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
				t.Errorf("%v, want a timeout", err)
			}
		})
	}
}

// Messages that nobody took do not keep datagrams out: at the first failure that is
// looked into they go.
func TestICMPOfManyDatagrams(t *testing.T) {
	t.Parallel()
	near, router, _ := routed(t)
	c, err := dialIn(t, near, 5*time.Second, Request{Network: "udp", Address: netip.MustParseAddrPort("10.9.2.2:80")})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	router.Run("sh", "-c", "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' && nft add rule inet t c udp dport 80 reject with icmp host-unreachable")
	// The queue has room for a few hundred.
	for failures := 0; failures < 1000; {
		if _, err = c.Write([]byte("x")); err != nil {
			failures++
		}
	}
	if got := icmp(WithICMP(raw, err)); !errors.Is(err, unix.EHOSTUNREACH) || got != "10.9.0.254 3/1" {
		t.Errorf("%v, by ICMP %q", err, got)
	}
	router.Run("nft", "delete", "table", "inet", "t")
	echoes(t, c)
}
