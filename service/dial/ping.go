package dial

import (
	"net"
	"net/netip"
)

// PingConn is an ICMP socket without privilege (icmp(7)), connected to one address.
//
// What is written is a whole echo request, header and all, of which the kernel fills
// in the identifier and the checksum; it takes nothing else (EINVAL). What is read is
// a whole echo reply with that identifier. The kernel hands it over whoever sent it:
// recvfrom(2) tells, and it is for the reader to compare.
type PingConn struct {
	*net.UDPConn
	local, remote *net.IPAddr
}

// LocalAddr is a *net.IPAddr: ICMP has no ports.
func (c *PingConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is a *net.IPAddr: ICMP has no ports.
func (c *PingConn) RemoteAddr() net.Addr { return c.remote }

func ipAddr(a netip.Addr) *net.IPAddr {
	return &net.IPAddr{IP: a.Unmap().AsSlice(), Zone: a.Zone()}
}
