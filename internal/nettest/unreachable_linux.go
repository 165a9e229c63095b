package nettest

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Refused returns a TCP address that answers connects with RST. The port is held
// by a socket that is bound and does not listen, so no other process can take it
// while the test runs.
func Refused(t testing.TB) netip.AddrPort {
	t.Helper()
	_, ap := bound(t, unix.SOCK_STREAM)
	return ap
}

// RefusedUDP returns a UDP address that answers datagrams with ICMP port
// unreachable. The port is held by a socket connected to itself, which the kernel
// does not consider for datagrams from anywhere else.
func RefusedUDP(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, ap := bound(t, unix.SOCK_DGRAM)
	if err := unix.Connect(fd, sockaddr(ap)); err != nil {
		t.Fatalf("nettest: connect: %v", err)
	}
	return ap
}

// Backlog returns a TCP address on loopback that leaves SYNs unanswered: a
// listener that never accepts and whose queue is full. Connecting to it times
// out, as behind a firewall that drops.
func Backlog(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, ap := bound(t, unix.SOCK_STREAM)
	// A queue of 0 has room for one connection (listen(2), and
	// sk_acceptq_is_full in the kernel: full when more than the backlog).
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatalf("nettest: listen: %v", err)
	}
	c, err := net.Dial("tcp4", ap.String())
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	// The client may know of the connection before the listener has queued it.
	// For a listening socket TCP_INFO has the queue's length in tcpi_unacked.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatalf("nettest: TCP_INFO: %v", err)
		}
		if info.Unacked == 1 {
			return ap
		}
		if time.Now().After(deadline) {
			t.Fatalf("nettest: the listener's queue holds %d connections, want 1", info.Unacked)
		}
	}
}

// bound returns a socket bound to a free port of 127.0.0.1, closed at cleanup.
func bound(t testing.TB, typ int) (fd int, ap netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("nettest: socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatalf("nettest: bind: %v", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("nettest: getsockname: %v", err)
	}
	in := sa.(*unix.SockaddrInet4)
	return fd, netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
}

func sockaddr(ap netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
}
