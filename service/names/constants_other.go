//go:build !linux

package names

import "syscall"

// constants returns what package syscall has on every platform.
func constants() []Constant {
	return []Constant{
		{"AF_UNSPEC", syscall.AF_UNSPEC, "unspecified: any family"},
		{"AF_UNIX", syscall.AF_UNIX, "local sockets, named by a path"},
		{"AF_INET", syscall.AF_INET, "IPv4"},
		{"AF_INET6", syscall.AF_INET6, "IPv6"},

		{"SOCK_STREAM", syscall.SOCK_STREAM, "stream of bytes, reliable and in order (TCP)"},
		{"SOCK_DGRAM", syscall.SOCK_DGRAM, "datagrams, unreliable (UDP)"},
		{"SOCK_RAW", syscall.SOCK_RAW, "raw packets of a protocol"},
		{"SOCK_SEQPACKET", syscall.SOCK_SEQPACKET, "records, reliable and in order (SCTP)"},

		{"IPPROTO_IP", syscall.IPPROTO_IP, "the default protocol of the socket type; options of IPv4"},
		{"IPPROTO_TCP", syscall.IPPROTO_TCP, "Transmission Control Protocol"},
		{"IPPROTO_UDP", syscall.IPPROTO_UDP, "User Datagram Protocol"},
		{"IPPROTO_IPV6", syscall.IPPROTO_IPV6, "IPv6 inside IP; options of IPv6"},
	}
}
