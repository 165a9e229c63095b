package dial

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// errorQueue is a socket's queue of ICMP messages (IP_RECVERR, ip(7)), for as long
// as the socket is being connected. It has a descriptor of its own, since package
// net closes the socket's when the connect fails, before anybody could ask why.
// Without one (the kernel knows no such queue, there are no more descriptors) it is
// empty: what a dial does must not depend on it.
type errorQueue struct {
	fd int // -1: none
	v6 bool
}

// watch makes the socket fd queue the messages that concern it.
//
// A UDP socket keeps doing so, and is the better for it: without the queue the
// kernel drops those messages that it holds to be passing, host unreachable among
// them, and the peer seems to be silent. WithICMP reads it.
func (q *errorQueue) watch(fd int, transport string, v6 bool) {
	q.close() // package net repeats some connects with a new socket
	q.v6 = v6
	if setRecvErr(fd, v6, 1) != nil || transport == "udp" { // which no message keeps from being connected
		return
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = setRecvErr(fd, v6, 0)
		return
	}
	q.fd = own
}

// close ends the watch. With the option a TCP connection, once open, would be cut
// off by messages that TCP is to survive (RFC 1122, section 4.2.3.9), so it is off
// from here on.
func (q *errorQueue) close() {
	if q.fd < 0 {
		return
	}
	_ = setRecvErr(q.fd, q.v6, 0)
	unix.Close(q.fd)
	q.fd = -1
}

// explain returns err, with which the connect has failed, and if an ICMP message is
// behind it, with that.
func (q *errorQueue) explain(err error) error {
	if q.fd < 0 {
		return err
	}
	return withICMP(q.fd, err)
}

// WithICMP returns err, with which a read or a write on a dialled UDP or ICMP socket
// has failed, and if an ICMP message is behind it, as an *ICMPError that wraps err. It
// takes all such messages off the socket, so that one is told once; it is to be
// called at each failure, or the messages that pile up leave no room for data.
//
// On any other socket, and on other systems than Linux, it returns err as it is.
func WithICMP(c syscall.RawConn, err error) error {
	explained := err
	e := c.Control(func(fd uintptr) {
		// A unix socket knows no such queue and would hand out data in its place.
		protocol, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if e != nil {
			return
		}
		switch protocol {
		case unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			explained = withICMP(int(fd), err)
		}
	})
	if e != nil {
		return err
	}
	return explained
}

func setRecvErr(fd int, v6 bool, value int) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, value)
}

// withICMP empties the socket's queue and looks in it for the message that err
// comes from: the first that the kernel turned into the same error number.
func withICMP(fd int, err error) error {
	number, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	var found *ICMPError
	var control [256]byte
	// The bound is there for a flood of messages, which may come as fast as they are
	// read.
	for range 1000 {
		_, n, _, _, e := unix.Recvmsg(fd, nil, control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if e != nil {
			break
		}
		if found == nil {
			if m, errno := parseICMP(control[:n]); errno == number {
				found = m
			}
		}
	}
	if found == nil {
		return err
	}
	found.Err = err
	found.Own = isOwn(found.From) || found.From.WithZone("") == localAddress(fd)
	return found
}

// parseICMP finds the ICMP message in what recvmsg(2) returned beside an entry of
// the queue, and the error number that it was turned into. Without one it is nil
// and 0: entries are of other origins too.
func parseICMP(control []byte) (*ICMPError, syscall.Errno) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, 0
	}
	for _, m := range messages {
		ipv4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		ipv6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !ipv4 && !ipv6 || len(m.Data) < 16 {
			continue
		}
		// A struct sock_extended_err, and behind it the sender's struct sockaddr_in or
		// sockaddr_in6 (SO_EE_OFFENDER).
		errno, origin := binary.NativeEndian.Uint32(m.Data), m.Data[4]
		e := &ICMPError{Type: m.Data[5], Code: m.Data[6], V6: origin == unix.SO_EE_ORIGIN_ICMP6}
		switch from := m.Data[16:]; {
		case origin == unix.SO_EE_ORIGIN_ICMP && len(from) >= 8 && binary.NativeEndian.Uint16(from) == unix.AF_INET:
			e.From = netip.AddrFrom4([4]byte(from[4:8]))
		case origin == unix.SO_EE_ORIGIN_ICMP6 && len(from) >= 28 && binary.NativeEndian.Uint16(from) == unix.AF_INET6:
			e.From = netip.AddrFrom16([16]byte(from[8:24])).WithZone(zoneName(binary.NativeEndian.Uint32(from[24:28])))
		default:
			continue
		}
		return e, syscall.Errno(errno)
	}
	return nil, 0
}

// zoneName is the zone with that index; empty for 0, which is none.
func zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// localAddress is the address that the socket sends from; invalid if it has none.
func localAddress(fd int) netip.Addr {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}
	}
	return addressIn(local).WithZone("")
}

// addressIn is the address in what the kernel tells; invalid if there is none.
func addressIn(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).WithZone(zoneName(a.ZoneId))
	}
	return netip.Addr{}
}
