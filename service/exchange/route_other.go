//go:build !linux

package exchange

import "net/netip"

// routeTo is told on Linux alone.
func routeTo(netip.AddrPort, netip.Addr, string) *Route { return nil }
