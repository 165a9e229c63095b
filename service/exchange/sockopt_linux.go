package exchange

import (
	"golang.org/x/sys/unix"

	"probed/service/resolve"
)

// readSocketOptions reads the options of the open socket.
func readSocketOptions(fd int, socket Socket) *SocketOptions {
	// An option that cannot be read has its zero value.
	get := func(level, option int) int {
		value, _ := unix.GetsockoptInt(fd, level, option)
		return value
	}
	o := &SocketOptions{
		ReceiveBuffer: get(unix.SOL_SOCKET, unix.SO_RCVBUF),
		SendBuffer:    get(unix.SOL_SOCKET, unix.SO_SNDBUF),
		KeepAlive:     get(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0,
	}
	switch socket.Family {
	case resolve.AF_INET:
		o.TTL = get(unix.IPPROTO_IP, unix.IP_TTL)
	case resolve.AF_INET6:
		o.TTL = get(unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS)
	}
	if socket.Protocol == resolve.IPPROTO_TCP {
		o.NoDelay = get(unix.IPPROTO_TCP, unix.TCP_NODELAY) != 0
		o.CongestionControl, _ = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}
	return o
}
