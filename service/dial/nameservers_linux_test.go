package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

// keeping returns NameServers that close no socket before the end of the test.
func keeping(t *testing.T) *NameServers {
	n := &NameServers{clearing: true}
	t.Cleanup(func() {
		n.clear()
		n.clear()
		if n.kept() != 0 {
			t.Errorf("%d sockets are left", n.kept())
		}
	})
	return n
}

// used returns a connection to server as NameServers makes them, but for port 53: what
// is closed of it serves the next Dial to that server.
func used(t *testing.T, n *NameServers, server netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	return n.use(conn, server)
}

func (n *NameServers) kept() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.spares)
}

func descriptor(t *testing.T, c net.Conn) (number int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { number = int(fd) }); err != nil {
		t.Fatal(err)
	}
	return number
}

// A socket that serves again is one that nobody can tell from a new one.
func TestNameServersUseSocketsAgain(t *testing.T) {
	for name, server := range map[string]netip.AddrPort{
		"IPv4": nettest.UDP(t, nettest.EchoPacket),
		"IPv6": nettest.UDP6(t, nettest.EchoPacket),
	} {
		t.Run(name, func(t *testing.T) {
			n := keeping(t)
			conn := used(t, n, server)
			number := descriptor(t, conn)
			var ports []int
			for range 20 {
				if d := descriptor(t, conn); d != number {
					t.Fatalf("descriptor %d, and before %d", d, number)
				}
				if got := conn.RemoteAddr().String(); got != server.String() {
					t.Fatalf("connected to %s, want %s", got, server)
				}
				local, ok := conn.LocalAddr().(*net.UDPAddr)
				if !ok || !local.IP.IsLoopback() {
					t.Fatalf("from %v", conn.LocalAddr())
				}
				echoes(t, conn)
				ports = append(ports, local.Port)
				conn.SetDeadline(time.Unix(1, 0)) // is over with the use
				conn.Close()
				var err error
				if conn, err = n.Dial(t.Context(), "udp", server); err != nil {
					t.Fatal(err)
				}
			}
			conn.Close()
			slices.Sort(ports)
			if all := len(slices.Compact(ports)); all < 15 {
				t.Errorf("20 uses have %d ports", all)
			}
		})
	}
}

// What a socket has left over is nothing for its next use.
func TestNameServersKeepNothingUnread(t *testing.T) {
	t.Parallel()
	sent := make(chan struct{}, 1)
	twice := nettest.UDP(t, func(conn net.PacketConn, from net.Addr, data []byte) {
		for range 2 {
			_, _ = conn.WriteTo(data, from)
		}
		sent <- struct{}{}
	})
	nobody, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := netip.MustParseAddrPort(nobody.LocalAddr().String())
	nobody.Close()

	n := keeping(t)
	conn := used(t, n, twice)
	echoes(t, conn)
	<-sent
	conn.Close()
	if n.kept() != 0 {
		t.Error("a socket with a datagram in it is kept")
	}

	conn = used(t, n, gone)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n.kept() != 0 {
		t.Error("a socket with an error in it is kept")
	}
}

// A use that is over leads to no other.
func TestNameServersAfterClose(t *testing.T) {
	t.Parallel()
	server := nettest.UDP(t, nettest.EchoPacket)
	n := keeping(t)
	over := used(t, n, server)
	over.Close()
	conn, err := n.Dial(t.Context(), "udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := over.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := over.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := over.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	echoes(t, conn)
}

// An error tells the address of this use.
func TestNameServersErrors(t *testing.T) {
	t.Parallel()
	server := nettest.UDP(t, nettest.EchoPacket)
	n := keeping(t)
	used(t, n, server).Close()
	conn, err := n.Dial(t.Context(), "udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Unix(1, 0))
	_, read := conn.Read(make([]byte, 1))
	_, write := conn.Write([]byte("x"))
	for op, err := range map[string]error{"read": read, "write": write} {
		e, ok := errors.AsType[*net.OpError](err)
		if !ok || !errors.Is(err, os.ErrDeadlineExceeded) || e.Op != op || e.Source.String() != conn.LocalAddr().String() || e.Addr.String() != server.String() {
			t.Errorf("%s from %v: %#v", op, conn.LocalAddr(), err)
		}
	}
}

// Where there is no socket to use again, and for whom there is none, Dial is
// NameServer.
func TestNameServersRefuse(t *testing.T) {
	t.Parallel()
	server := nettest.UDP(t, nettest.EchoPacket)
	n := keeping(t)
	used(t, n, server).Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, dial := range map[string]func(context.Context, string, netip.AddrPort) (net.Conn, error){"new": NameServer, "used": n.Dial} {
		if _, err := dial(ctx, "udp", netip.MustParseAddrPort("127.0.0.199:53")); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", name, err)
		}
		if _, err := dial(timeout(t, 10*time.Second), "tcp", netip.MustParseAddrPort("127.0.0.199:53")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s, tcp: %v", name, err)
		}
		if _, err := dial(t.Context(), "udp", netip.MustParseAddrPort("127.0.0.199:54")); err == nil {
			t.Errorf("%s: connected to port 54", name)
		}
	}
	if _, err := n.Dial(ctx, "udp", server); err == nil {
		t.Error("a use begins with a context that is over")
	}
}

// The options of a new socket are those of NameServer, and stay.
func TestNameServersOptions(t *testing.T) {
	t.Parallel()
	n := keeping(t)
	for range 2 {
		conn, err := n.Dial(t.Context(), "udp", netip.MustParseAddrPort("127.0.0.199:53"))
		if err != nil {
			t.Fatal(err)
		}
		fd := descriptor(t, conn)
		if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST); err != nil || v != 0 {
			t.Errorf("SO_BROADCAST %d %v", v, err)
		}
		conn.Close()
		if n.kept() != 1 {
			t.Errorf("%d sockets are kept", n.kept())
		}
	}
}

// Sockets that nobody takes are closed.
func TestNameServersAreClosed(t *testing.T) {
	nettest.CheckFDs(t)
	server := nettest.UDP(t, nettest.EchoPacket)
	var n NameServers
	var conns []net.Conn
	for range 3 {
		conns = append(conns, used(t, &n, server))
	}
	for _, conn := range conns {
		conn.Close()
	}
}

func TestNameServersConcurrently(t *testing.T) {
	t.Parallel()
	server := nettest.UDP(t, nettest.EchoPacket)
	n := keeping(t)
	var conns []net.Conn
	for range 8 {
		conns = append(conns, used(t, n, server))
	}
	for _, conn := range conns {
		conn.Close()
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				conn, err := n.Dial(t.Context(), "udp", server)
				if err != nil {
					t.Error(err)
					return
				}
				echoes(t, conn)
				conn.Close()
			}
		})
	}
	wg.Wait()
	if n.kept() != 8 {
		t.Errorf("of 8 sockets %d are left", n.kept())
	}
}
