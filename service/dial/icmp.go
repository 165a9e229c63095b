package dial

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// ICMPError is an ICMP message (RFC 792; RFC 4443 for IPv6) that made a system call
// fail: a host on the way, the peer's, or this one said why a packet could not be
// delivered. The error number alone does not tell who said so, and means several
// messages.
//
// Linux has it for TCP since 5.8. Other systems have none.
type ICMPError struct {
	// From is who sent it; a link-local address comes with its zone.
	From netip.Addr

	// Own says that From is an address of this host. With "host unreachable", and
	// "address unreachable" of IPv6, the kernel tells itself so that the next hop or
	// the peer does not answer on the link; any other message of its own is from a
	// rule of the firewall here, as that one may be too.
	Own bool

	Type, Code uint8
	V6         bool // It is of ICMPv6, whose types and codes are others.

	// Err is what the system call failed with. A syscall.Errno is in it.
	Err error
}

func (e *ICMPError) Error() string {
	protocol := "ICMP"
	if e.V6 {
		protocol = "ICMPv6"
	}
	return fmt.Sprintf("%v (%s type %d code %d from %v)", e.Err, protocol, e.Type, e.Code, e.From)
}

func (e *ICMPError) Unwrap() error { return e.Err }

// isOwn says whether a is an address of this host.
func isOwn(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(local net.Addr) bool {
		n, ok := local.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == a.WithZone("")
	})
}
