//go:build system

package dial

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

// mayPing lets our group have ICMP sockets in n.
func mayPing(n *nettest.Netns) { n.Run("sh", "-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range") }

// echo sends an echo request, and returns who answered it.
func echo(t *testing.T, c net.Conn, v6 bool) (from netip.Addr, err error) {
	t.Helper()
	request, answer := []byte("\x08\x00____\x00\x07hello"), byte(0)
	if v6 {
		request[0], answer = 128, 129
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(request); err != nil {
		return netip.Addr{}, err
	}
	reply := make([]byte, 100)
	n, sender, err := c.(*PingConn).ReadFromUDPAddrPort(reply)
	if err != nil {
		return netip.Addr{}, err
	}
	if reply[0] != answer || string(reply[6:n]) != "\x00\x07hello" {
		t.Errorf("%q answered", reply[:n])
	}
	return sender.Addr().Unmap(), nil
}

func TestPing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, network, address, source, local, remote string }{
		{"loopback", "icmp", "127.0.0.1", "", "127.0.0.1", "127.0.0.1"},
		{"loopback, v6", "icmp", "::1", "", "::1", "::1"},
		{"unspecified", "icmp4", "0.0.0.0", "", "127.0.0.1", "127.0.0.1"},
		{"unspecified, v6", "icmp6", "::", "", "::1", "::1"},
		{"neighbour", "icmp", "10.9.0.254", "", "10.9.0.1", "10.9.0.254"},
		{"mapped", "icmp", "::ffff:10.9.0.254", "", "10.9.0.1", "10.9.0.254"},
		{"from another address", "icmp", "10.9.0.254", "10.9.0.3", "10.9.0.3", "10.9.0.254"},
		{"neighbour, v6", "icmp6", "fd09::254", "fd09::1", "fd09::1", "fd09::254"},
		{"link-local", "icmp", "fe80::254%veth0", "", "fe80::1%veth0", "fe80::254%veth0"},
		{"behind a router", "icmp", "10.9.2.2", "", "10.9.0.1", "10.9.2.2"},
		{"behind a router, v6", "icmp", "fd0b::2", "", "fd09::1", "fd0b::2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, _, _ := routed(t)
			mayPing(near)
			near.Run("ip", "addr", "add", "fe80::1/64", "dev", "veth0", "nodad")
			address := netip.MustParseAddr(tt.address)
			r := Request{Network: tt.network, Address: netip.AddrPortFrom(address, 0)}
			if tt.source != "" {
				r.Source = netip.MustParseAddr(tt.source)
			}
			c, err := dialIn(t, near, 10*time.Second, r)
			if err != nil {
				t.Fatal(err)
			}
			if local, remote := c.LocalAddr(), c.RemoteAddr(); local.String() != tt.local || remote.String() != tt.remote || remote.Network() != "ip" {
				t.Errorf("from %v to %v, want from %s to %s", local, remote, tt.local, tt.remote)
			}
			remote := netip.MustParseAddr(tt.remote)
			if from, err := echo(t, c, remote.Is6()); err != nil || from != remote {
				t.Errorf("%v answered, %v; want %v", from, err, remote)
			}
		})
	}
}

// Whom the host gives no such socket is told so, who is denied is not.
func TestPingErrors(t *testing.T) {
	t.Parallel()
	address := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), 0) }
	near, _, _ := routed(t)
	near.Run("ip", "route", "add", "prohibit", "10.9.3.0/24")
	other, _, _ := routed(t)
	mayPing(near)
	for _, tt := range []struct {
		name, call string
		where      *nettest.Netns
		request    Request
		want       syscall.Errno
	}{
		{"not our group", "socket", other, Request{Network: "icmp", Address: address("127.0.0.1")}, unix.EACCES},
		{"not our group, v6", "socket", other, Request{Network: "icmp", Address: address("::1")}, unix.EACCES},
		{"the other family", "socket", near, Request{Network: "icmp6", Address: address("127.0.0.1")}, unix.EAFNOSUPPORT},
		{"prohibited", "connect", near, Request{Network: "icmp", Address: address("10.9.3.1")}, unix.EACCES},
		{"broadcast", "connect", near, Request{Network: "icmp", Address: address("10.9.0.255")}, unix.EACCES},
		{"a source of the other family", "bind", near, Request{Network: "icmp", Address: address("10.9.2.2"), Source: netip.MustParseAddr("fd09::1")}, unix.EADDRNOTAVAIL},
		{"a source of another host", "bind", near, Request{Network: "icmp", Address: address("10.9.2.2"), Source: netip.MustParseAddr("10.9.0.2")}, unix.EADDRNOTAVAIL},
		{"no such zone", "if_nametoindex", near, Request{Network: "icmp", Address: address("fe80::1%nosuch")}, unix.ENODEV},
		{"no such interface", "setsockopt", near, Request{Network: "icmp", Address: address("10.9.2.2"), Interface: "nosuch"}, unix.ENODEV},
	} {
		_, err := dialIn(t, tt.where, 10*time.Second, tt.request)
		call, ok := errors.AsType[*os.SyscallError](err)
		if !ok || call.Syscall != tt.call || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %s: %v", tt.name, err, tt.call, tt.want)
		}
	}
}

// What ICMP says of an echo request is told, as of a UDP datagram.
func TestICMPOfPing(t *testing.T) {
	t.Parallel()
	forward := func(rule string) string {
		return "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' && nft add rule inet t c meta l4proto { icmp, icmpv6 } " + rule
	}
	const v4, v6 = "10.9.2.2", "fd0b::2"
	for _, tt := range []struct {
		name, router, address string
		want                  error
		icmp                  string
	}{
		{"port", forward("reject with icmpx port-unreachable"), v4, syscall.ECONNREFUSED, "10.9.0.254 3/3"},
		{"admin", forward("reject with icmpx admin-prohibited"), v4, syscall.EHOSTUNREACH, "10.9.0.254 3/13"},
		{"admin, v6", forward("reject with icmpx admin-prohibited"), v6, syscall.EACCES, "fd09::254 1/1"},
		{"no route", "ip route del 10.9.2.0/24", v4, syscall.ENETUNREACH, "10.9.0.254 3/0"},
		{"no route, v6", "ip route del fd0b::/64", v6, syscall.ENETUNREACH, "fd09::254 1/0"},
		{"nobody has the address", "true", "10.9.0.99", syscall.EHOSTUNREACH, "own 10.9.0.1 3/1"},
		{"nobody has the address, v6", "true", "fd09::99", syscall.EHOSTUNREACH, "own fd09::1 1/3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, router, _ := routed(t)
			mayPing(near)
			router.Run("sh", "-c", tt.router)
			address := netip.MustParseAddr(tt.address)
			c, err := dialIn(t, near, 5*time.Second, Request{Network: "icmp", Address: netip.AddrPortFrom(address, 0)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = echo(t, c, address.Is6())
			raw, rawErr := c.(syscall.Conn).SyscallConn()
			if rawErr != nil {
				t.Fatal(rawErr)
			}
			if err = WithICMP(raw, err); !errors.Is(err, tt.want) || icmp(err) != tt.icmp {
				t.Fatalf("%v, by ICMP %q; want %v, by %q", err, icmp(err), tt.want, tt.icmp)
			}
		})
	}
}
