package nettest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TCP listens on 127.0.0.1 and gives each connection to handle in a goroutine of
// its own; when handle returns, the connection is closed. At cleanup the
// listener and the connections still open are closed, which ends any read or
// write a handler is blocked in, and the handlers are waited for.
func TCP(t testing.TB, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	return addrPort(t, Listen(t, "tcp4", "127.0.0.1:0", handle))
}

// TCP6 is TCP on ::1.
func TCP6(t testing.TB, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	return addrPort(t, Listen(t, "tcp6", "[::1]:0", handle))
}

// Unix is TCP on a unix socket of network "unix" or "unixpacket". The path it
// returns has no symbolic link in it and is short enough for a sockaddr_un
// whatever the test is called.
func Unix(t testing.TB, network string, handle func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(SocketDir(t), "s")
	Listen(t, network, path, handle)
	return path
}

// Listen is what TCP, TCP6 and Unix are made of: any stream network and address
// of package net, for the tests that need a particular one (another address of
// 127.0.0.0/8, a socket inside a namespace).
func Listen(t testing.TB, network, address string, handle func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	s := &server{listener: l, conns: make(map[net.Conn]struct{})}
	s.running.Go(func() { s.accept(handle) })
	t.Cleanup(s.close)
	return l.Addr()
}

// server owns one listener, its connections and the goroutines that serve them.
type server struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func (s *server) accept(handle func(net.Conn)) {
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // A connection that was reset before it was accepted.
		}
		if !s.add(c) {
			c.Close()
			return
		}
		s.running.Go(func() {
			defer s.remove(c)
			handle(c)
		})
	}
}

func (s *server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[c] = struct{}{}
	}
	return !s.closed
}

func (s *server) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *server) close() {
	s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// UDP listens on 127.0.0.1 and calls handle for each datagram, one after the
// other; data is valid until handle returns. EchoPacket is the usual handler.
func UDP(t testing.TB, handle func(pc net.PacketConn, from net.Addr, data []byte)) netip.AddrPort {
	t.Helper()
	return addrPort(t, ListenPacket(t, "udp4", "127.0.0.1:0", handle))
}

// UDP6 is UDP on ::1.
func UDP6(t testing.TB, handle func(pc net.PacketConn, from net.Addr, data []byte)) netip.AddrPort {
	t.Helper()
	return addrPort(t, ListenPacket(t, "udp6", "[::1]:0", handle))
}

// Unixgram is UDP on a unix datagram socket. From a sender that bound no address
// there is nothing to answer to: then from is nil.
func Unixgram(t testing.TB, handle func(pc net.PacketConn, from net.Addr, data []byte)) string {
	t.Helper()
	path := filepath.Join(SocketDir(t), "s")
	ListenPacket(t, "unixgram", path, handle)
	return path
}

// ListenPacket is what UDP, UDP6 and Unixgram are made of.
func ListenPacket(t testing.TB, network, address string, handle func(pc net.PacketConn, from net.Addr, data []byte)) net.Addr {
	t.Helper()
	pc, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // An ICMP error for an earlier answer.
			}
			if u, ok := from.(*net.UnixAddr); ok && u == nil {
				from = nil
			}
			handle(pc, from, buf[:n])
		}
	})
	t.Cleanup(func() {
		pc.Close()
		running.Wait()
	})
	return pc.LocalAddr()
}

// SocketDir makes a directory for unix sockets and removes it at cleanup. Unlike
// t.TempDir its name does not grow with the test's, since a socket's path has
// room for 107 bytes, and no symbolic link is in it.
func SocketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "probed")
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	return dir
}

func addrPort(t testing.TB, a net.Addr) netip.AddrPort {
	t.Helper()
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatalf("nettest: address of a listener: %v", err)
	}
	return ap
}
