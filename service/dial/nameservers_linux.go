package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NameServers connects to the servers of the system's resolver configuration. To make
// and to close a UDP socket costs as much as to ask a question with it, and so one
// that is closed here serves again, if that is within a fraction of a second. It does
// so as a new one would: from a port that the kernel chooses anew, by the routes that
// there are now, and with nothing in it of what came before. The zero value is ready.
type NameServers struct {
	mu       sync.Mutex
	spares   []*spare // the one that was closed last is at the end
	clearing bool     // clear will be called
}

// spare is a UDP socket that is connected to nothing now, without an address of its
// own.
type spare struct {
	*net.UDPConn
	raw    syscall.RawConn
	fd     int            // of raw: nobody else has the socket, and so it stays open
	server netip.AddrPort // what it is connected to when it is in use
	old    bool           // It was there when clear last looked.
}

// spareTime is how long a socket waits for its next use, at least. At most it is twice
// as long.
const spareTime = 100 * time.Millisecond

// Dial does what NameServer does. A UDP connection is for one goroutine at a time,
// and may not be used when it has been closed.
func (n *NameServers) Dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	if network != "udp" {
		return NameServer(ctx, network, server)
	}
	if s := n.take(server); s != nil {
		if ctx.Err() == nil && connect(s.fd, server) == nil {
			return &nameServerConn{s, n}, nil
		}
		_ = s.Close()
	}
	// What is wrong with the server is told by a new socket.
	conn, err := NameServer(ctx, network, server)
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return conn, nil
	}
	return n.use(udp, server), nil
}

// use is the first use of a socket.
func (n *NameServers) use(udp *net.UDPConn, server netip.AddrPort) net.Conn {
	s := &spare{UDPConn: udp, server: server}
	raw, err := udp.SyscallConn()
	if err != nil {
		return udp
	}
	if s.raw = raw; raw.Control(func(fd uintptr) { s.fd = int(fd) }) != nil {
		return udp
	}
	return &nameServerConn{s, n}
}

// take returns a socket for the server, nil if there is none.
func (n *NameServers) take(server netip.AddrPort) *spare {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, s := range slices.Backward(n.spares) {
		if s.server == server {
			n.spares = slices.Delete(n.spares, i, i+1)
			return s
		}
	}
	return nil
}

func (n *NameServers) keep(s *spare) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s.old = false
	n.spares = append(n.spares, s)
	if !n.clearing {
		n.clearing = true
		n.clearLater()
	}
}

// clear closes what nobody has taken since it last looked.
func (n *NameServers) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spares = slices.DeleteFunc(n.spares, func(s *spare) bool {
		if s.old {
			_ = s.Close()
			return true
		}
		s.old = true
		return false
	})
	if n.clearing = len(n.spares) > 0; n.clearing {
		n.clearLater()
	}
}

func (n *NameServers) clearLater() { time.AfterFunc(spareTime, n.clear) }

// nameServerConn is one use of a socket.
type nameServerConn struct {
	*spare // nil when closed
	from   *NameServers
}

// Close gives the socket back, or closes it, if it cannot be made as if new.
func (c *nameServerConn) Close() error {
	s := c.spare
	if s == nil {
		return net.ErrClosed
	}
	c.spare = nil
	if s.SetDeadline(time.Time{}) != nil || disconnect(s.fd) != nil {
		return s.Close()
	}
	c.from.keep(s)
	return nil
}

func (c *nameServerConn) Read(b []byte) (int, error) {
	if c.spare == nil {
		return 0, net.ErrClosed
	}
	n, err := c.spare.Read(b)
	return n, c.now(err)
}

func (c *nameServerConn) Write(b []byte) (int, error) {
	if c.spare == nil {
		return 0, net.ErrClosed
	}
	n, err := c.spare.Write(b)
	return n, c.now(err)
}

// now corrects in an error the address of the socket: package net knows that of the
// first use.
func (c *nameServerConn) now(err error) error {
	if op, ok := err.(*net.OpError); ok { //nolint:errorlint // as package net returns it
		op.Source = c.LocalAddr()
	}
	return err
}

// LocalAddr is the address that this use has.
func (c *nameServerConn) LocalAddr() net.Addr {
	local, _ := addressOf(c.fd) // invalid if it has none
	return net.UDPAddrFromAddrPort(local)
}

// SyscallConn spares the one that package net would make.
func (c *nameServerConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// rawAddress has room for the address of any IP socket: its first fields are those of
// unix.RawSockaddrInet4.
type rawAddress = unix.RawSockaddrInet6

// call makes a system call about a UDP socket. None of those here blocks, so the
// runtime need not know of it.
func call(number uintptr, fd int, p unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(p), size); errno != 0 {
		return errno
	}
	return nil
}

// connect connects a socket that disconnect has been called for.
func connect(fd int, server netip.AddrPort) error {
	var to rawAddress
	size := uintptr(unix.SizeofSockaddrInet6)
	switch ip := server.Addr().Unmap(); {
	case ip.Zone() != "": // which would have to be looked up
		return syscall.EAFNOSUPPORT
	case ip.Is4():
		to4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&to))
		to4.Family, to4.Addr = unix.AF_INET, ip.As4()
		size = unix.SizeofSockaddrInet4
	default:
		to.Family, to.Addr = unix.AF_INET6, ip.As16()
	}
	to.Port = swapped(server.Port())
	return call(unix.SYS_CONNECT, fd, unsafe.Pointer(&to), size)
}

// swapped is a port in the order of bytes that the kernel has it in, and back.
func swapped(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

var errNotNew = errors.New("the socket is not as a new one")

// disconnect takes its peer and its own address from a socket. It fails if there is
// something left to read.
func disconnect(fd int) error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if err := call(unix.SYS_CONNECT, fd, unsafe.Pointer(&none), unsafe.Sizeof(none)); err != nil {
		return err
	}
	// From here on nothing comes in.
	var b [1]byte
	if err := call(unix.SYS_READ, fd, unsafe.Pointer(&b), 1); err != unix.EAGAIN { //nolint:errorlint // as call returns it
		return errNotNew
	}
	// With a kernel that keeps the port (Linux does not) all questions would come from
	// one, and answers be easier to forge.
	if local, err := addressOf(fd); err != nil || local.Port() != 0 {
		return errNotNew
	}
	return nil
}

// addressOf is the address of a socket.
func addressOf(fd int) (netip.AddrPort, error) {
	var local rawAddress
	size := uint32(unsafe.Sizeof(local))
	if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&local)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}, errno
	}
	addr := netip.AddrFrom16(local.Addr)
	if local.Family == unix.AF_INET {
		addr = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&local)).Addr)
	}
	return netip.AddrPortFrom(addr, swapped(local.Port)), nil
}
