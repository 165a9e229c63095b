package resolve

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sourceSocket asks the kernel which source address it would use.
type sourceSocket struct {
	fd     int // -1 or 0 before the first use: none
	open   bool
	family Family
}

func (s *sourceSocket) close() {
	if s.open {
		unix.Close(s.fd)
		s.open = false
	}
}

func (s *sourceSocket) reopen(family Family) {
	s.close()
	s.family = family
	fd, err := unix.Socket(int(family), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	s.fd, s.open = fd, err == nil
}

// sourceFor is the source address for a destination; for an IPv4 destination
// on an IPv6 socket it is the mapped one.
func (s *sourceSocket) sourceFor(addr netip.Addr, scope uint32) (netip.Addr, bool) {
	var to unix.Sockaddr
	family := AF_INET6
	if addr.Is4() {
		to, family = &unix.SockaddrInet4{Addr: addr.As4()}, AF_INET
	} else {
		to = &unix.SockaddrInet6{Addr: addr.As16(), ZoneId: scope}
	}
	if !s.open || s.family == AF_INET && family == AF_INET6 {
		s.reopen(family)
	} else {
		disconnect(s.fd)
	}
	for s.open {
		err := unix.Connect(s.fd, to)
		if err == nil {
			return localOf(s.fd)
		}
		if err == unix.EAFNOSUPPORT && s.family == AF_INET6 && family == AF_INET {
			s.reopen(AF_INET) // IPv6 sockets may be for IPv6 alone
			continue
		}
		break
	}
	return netip.Addr{}, false
}

func localOf(fd int) (netip.Addr, bool) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, false
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), true
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr), true
	}
	return netip.Addr{}, false
}

// disconnect frees a datagram socket from its peer, so that the next connect
// chooses a source address afresh.
func disconnect(fd int) {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
}
