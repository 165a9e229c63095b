package exchange

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
)

func TestSocketOptions(t *testing.T) {
	t.Parallel()
	available, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	algorithm := strings.Fields(string(available))[0]
	// What the kernel makes of a size that it is asked for: twice that (socket(7)).
	const size = 16 << 10
	set := func(fd int, tcp, v6 bool) {
		options := [][3]int{{unix.SOL_SOCKET, unix.SO_RCVBUF, size}, {unix.SOL_SOCKET, unix.SO_SNDBUF, size}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}}
		if tcp {
			options = append(options, [3]int{unix.IPPROTO_TCP, unix.TCP_NODELAY, 0})
			if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, algorithm); err != nil {
				t.Error(err)
			}
		}
		if v6 {
			options = append(options, [3]int{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 33})
		} else {
			options = append(options, [3]int{unix.IPPROTO_IP, unix.IP_TTL, 33})
		}
		for _, o := range options {
			if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
				t.Errorf("option %v: %v", o, err)
			}
		}
	}
	target := func(scheme string) Target {
		switch scheme {
		case "udp", "udp6":
			target, _ := datagramTarget(t, scheme, nettest.EchoPacket)
			return target
		}
		target, _ := streamTarget(t, scheme, nettest.Echo)
		return target
	}
	for scheme, want := range map[string]SocketOptions{
		"tcp":  {ReceiveBuffer: 2 * size, SendBuffer: 2 * size, TTL: 33, KeepAlive: true, CongestionControl: algorithm},
		"tcp6": {ReceiveBuffer: 2 * size, SendBuffer: 2 * size, TTL: 33, KeepAlive: true, CongestionControl: algorithm},
		"udp":  {ReceiveBuffer: 2 * size, SendBuffer: 2 * size, TTL: 33, KeepAlive: true},
		"udp6": {ReceiveBuffer: 2 * size, SendBuffer: 2 * size, TTL: 33, KeepAlive: true},
	} {
		target := target(scheme)
		c := dialTarget(t, target)
		if err := c.raw.Control(func(fd uintptr) { set(int(fd), strings.HasPrefix(scheme, "tcp"), strings.HasSuffix(scheme, "6")) }); err != nil {
			t.Fatal(err)
		}
		if got := c.ask().options; got == nil || *got != want {
			t.Errorf("%s: %+v, want %+v", scheme, got, want)
		}
	}

	// As they come: a dialled TCP socket sends small segments at once and is not kept alive.
	c := dialTarget(t, target("tcp"))
	if got := c.ask().options; got == nil || !got.NoDelay || got.KeepAlive || got.TTL == 0 || got.ReceiveBuffer == 0 || got.SendBuffer == 0 || got.CongestionControl == "" {
		t.Errorf("tcp: %+v", got)
	}
	c.Close()
	if got := c.ask().options; got != nil {
		t.Errorf("of a closed socket: %+v", *got)
	}
	// A unix socket has buffers.
	c = dialTarget(t, target("unix"))
	got := c.ask().options
	if got == nil || *got != (SocketOptions{ReceiveBuffer: got.ReceiveBuffer, SendBuffer: got.SendBuffer}) || got.SendBuffer == 0 {
		t.Errorf("unix: %+v", got)
	}
}

func dialTarget(t *testing.T, target Target) *conn {
	t.Helper()
	request := dial.Request{Network: target.network(), Path: target.Path}
	if !target.IsUnix() {
		request.Address = netip.AddrPortFrom(netip.MustParseAddr(target.Host), target.Port)
	}
	c, err := dialer(admitAll)(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newConn(c, target, &buffers{})
}
