package dial

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialPing connects an ICMP socket. Package net knows only raw ones, which take a
// privilege.
func (d *Dialer) dialPing(ctx context.Context, r Request) (net.Conn, error) {
	if !r.Address.IsValid() {
		return nil, r.failed(&DeniedError{r.destination(), errUnparsable})
	}
	addr := r.Address.Addr().Unmap()
	family := "6"
	if addr.Is4() {
		family = "4"
	}
	if want := strings.TrimPrefix(r.Network, "icmp"); want != "" && want != family {
		return nil, r.failed(errno("socket", syscall.EAFNOSUPPORT))
	}
	if err := ctx.Err(); err != nil {
		return nil, r.failed(err)
	}
	// Before the socket, since whether there may be one is for those to know who are
	// admitted. What is asked about is a value, so nothing changes it in between.
	to := r.destination()
	to.Network, to.Address = "icmp"+family, netip.AddrPortFrom(addr.WithZone(""), 0)
	if err := d.asker(r)(ctx, to); err != nil {
		return nil, r.failed(err)
	}
	c, err := connectPing(addr, r.Source.Unmap(), r.Interface)
	if err != nil {
		return nil, r.failed(err)
	}
	return c, nil
}

func connectPing(addr, source netip.Addr, iface string) (*PingConn, error) {
	if source.IsValid() && source.Is4() != addr.Is4() {
		return nil, errno("bind", syscall.EADDRNOTAVAIL)
	}
	to, err := sockaddr(addr, 1) // the port means nothing, but without one getpeername(2) tells no peer
	if err != nil {
		return nil, err
	}
	family, protocol := unix.AF_INET6, unix.IPPROTO_ICMPV6
	if addr.Is4() {
		family, protocol = unix.AF_INET, unix.IPPROTO_ICMP
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "icmp")
	defer file.Close()
	// As for UDP: without it most messages are dropped, and the peer seems silent. A
	// kernel that has no such queue is no reason not to ask.
	_ = setRecvErr(fd, addr.Is6(), 1)
	if err := prepare(fd, "icmp", source.IsValid(), iface); err != nil {
		return nil, err
	}
	if source.IsValid() {
		from, err := sockaddr(source, 0)
		if err != nil {
			return nil, err
		}
		if err := unix.Bind(fd, from); err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
	}
	if err := unix.Connect(fd, to); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return nil, os.NewSyscallError("getpeername", err)
	}
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	// Package net takes every socket of datagrams on IP for one of UDP.
	return &PingConn{UDPConn: c.(*net.UDPConn), local: ipAddr(addressIn(local)), remote: ipAddr(addressIn(remote))}, nil
}

// sockaddr is an address as the kernel takes it. The error is that its zone does not
// exist.
func sockaddr(a netip.Addr, port int) (unix.Sockaddr, error) {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}, nil
	}
	zone, err := zoneIndex(a.Zone())
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port, ZoneId: uint32(zone)}, nil
}
