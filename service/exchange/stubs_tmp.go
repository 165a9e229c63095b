// Placeholders: delete this file as soon as icmp.go, route_linux.go and sockopt_linux.go have the real ones.
package exchange

import "net/netip"

func routeTo(netip.AddrPort, netip.Addr, string) *Route { return nil }
func (c *conn) socketOptions() *SocketOptions           { return nil }
func icmpOf(error) *ICMPError                           { return nil }
func (i *ICMPError) judge(r Reason) (Reason, Layer, string) {
	return r, LayerNone, ""
}
