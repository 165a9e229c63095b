package policy

import (
	"net"
	"net/netip"
	"slices"
)

// canonical is the one form in which addresses are compared: an IPv4 address is
// never IPv4-mapped, and no zone hides what an address is.
func canonical(a netip.Addr) netip.Addr {
	return a.Unmap().WithZone("")
}

// canonicalPrefix is p in the same form: a prefix of IPv4-mapped addresses is one of
// IPv4 addresses. Shorter ones than that keep to IPv6, and ::/0 covers no IPv4.
func canonicalPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// permanentDenies are the special addresses, the more particular first. Not among
// them, on purpose:
//
//   - 240.0.0.0/4: reserved (RFC 1112), yet Linux routes it as unicast and clouds
//     let their customers number pods with it.
//   - fec0::/10: no longer special; RFC 3879 has it treated as global unicast.
//   - The broadcast address of a subnet, which no address shows by itself. The kernel
//     knows it, and refuses it (EACCES) to a socket without SO_BROADCAST; package
//     dial takes that option from every socket.
var permanentDenies = []struct {
	prefix netip.Prefix
	rule   string
}{
	// RFC 1122 has all of 0.0.0.0/8 mean this host on this network. Linux connects
	// 0.0.0.0 to the socket's own source address if it has one, else to loopback, and
	// :: to loopback.
	{netip.MustParsePrefix("0.0.0.0/8"), RuleDenyUnspecified},
	{netip.MustParsePrefix("::/128"), RuleDenyUnspecified},
	{netip.MustParsePrefix("127.0.0.0/8"), RuleDenyLoopback},
	{netip.MustParsePrefix("::1/128"), RuleDenyLoopback},

	{netip.MustParsePrefix("169.254.169.254/32"), RuleDenyMetadata}, // AWS, Azure, Google, and most others
	{netip.MustParsePrefix("fd00:ec2::254/128"), RuleDenyMetadata},  // AWS
	{netip.MustParsePrefix("fd00:ec2::23/128"), RuleDenyMetadata},   // AWS: credentials of EKS pods (169.254.170.23 is link-local)
	{netip.MustParsePrefix("fd20:ce::254/128"), RuleDenyMetadata},   // Google
	{netip.MustParsePrefix("168.63.129.16/32"), RuleDenyMetadata},   // Azure
	{netip.MustParsePrefix("100.100.100.200/32"), RuleDenyMetadata}, // Alibaba

	{netip.MustParsePrefix("169.254.0.0/16"), RuleDenyLinkLocal},
	{netip.MustParsePrefix("fe80::/10"), RuleDenyLinkLocal},
	{netip.MustParsePrefix("224.0.0.0/4"), RuleDenyMulticast},
	{netip.MustParsePrefix("ff00::/8"), RuleDenyMulticast},
	{netip.MustParsePrefix("255.255.255.255/32"), RuleDenyBroadcast},
}

// permanentDeny returns the rule that denies a, or "" when none does.
func permanentDeny(a netip.Addr) string {
	for _, d := range permanentDenies {
		if d.prefix.Contains(a) {
			return d.rule
		}
	}
	return ""
}

// listensOn says whether a socket connected to a and port would reach one of
// probed's own listeners.
func (p *Policy) listensOn(a netip.Addr, port uint16) bool {
	// Host interfaces are asked for only when a wildcard listener has the port.
	wildcard := false
	for _, l := range p.Listeners {
		if l.Port() != port {
			continue
		}
		if canonical(l.Addr()) == a {
			return true
		}
		wildcard = wildcard || !l.Addr().IsValid() || l.Addr().Unmap().IsUnspecified()
		// An unspecified target is the socket's own source address, which the caller
		// may choose: it reaches every listener with that port.
		if isUnspecified(a) {
			return true
		}
	}
	return wildcard && isLocal(a)
}

// isLocal says whether a is an address of this host's interfaces. (One that is
// local by a route alone, as load balancers have them, is not seen.) The family of
// a wildcard listener is left out of account: one on :: takes IPv4 too, unless the
// system is set up otherwise.
func isLocal(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // Not known to be another host's.
	}
	return slices.ContainsFunc(addrs, func(local net.Addr) bool {
		n, ok := local.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && canonical(ip) == a
	})
}

// mostReadings is how many addresses appendReadings finds at most.
const mostReadings = 6

// appendReadings appends every address that a may turn out to be on its way: itself,
// and the IPv4 addresses embedded in it for translators and tunnels. a is
// canonical. The prefixes that a site chooses for its own translators cannot be
// known here.
func appendReadings(all []netip.Addr, a netip.Addr) []netip.Addr {
	all = append(all, a)
	if a.Is4() {
		return all
	}
	b := a.As16()
	v4 := func(i, j, k, l int) netip.Addr { return netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]}) }
	last := v4(12, 13, 14, 15)

	switch {
	case compatible.Contains(a) && !a.IsUnspecified() && !a.IsLoopback(),
		translated.Contains(a), nat64.Contains(a):
		all = append(all, last)
	case nat64Local.Contains(a):
		all = appendLocalNAT64(all, [...]netip.Addr{v4(6, 7, 9, 10), v4(7, 9, 10, 11), v4(9, 10, 11, 12), last})
	case sixToFour.Contains(a):
		all = append(all, v4(2, 3, 4, 5))
	case teredo.Contains(a):
		server, client := v4(4, 5, 6, 7), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
		all = append(all, server, client)
	}
	// ISATAP (RFC 5214) is a form of the interface identifier, under any prefix; the
	// first octet has the bit that says the IPv4 address is globally unique.
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		all = append(all, last)
	}
	return all
}

var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, section 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 (SIIT)
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// appendLocalNAT64 sorts out the readings of a 64:ff9b:1::/48 address. RFC 8215
// leaves to the site how long its prefix is, and RFC 6052, section 2.2, puts the
// IPv4 address in another place for each of the lengths 48, 56, 64 and 96, so each
// place is read, the last for 96. One that reads as 0.0.0.0/8 is empty: the address
// stands elsewhere. Only if all are, one of them is the address.
func appendLocalNAT64(all []netip.Addr, places [4]netip.Addr) []netip.Addr {
	found := false
	for _, a := range places {
		if !isUnspecified(a) {
			all, found = append(all, a), true
		}
	}
	if !found {
		all = append(all, places[3])
	}
	return all
}

// isUnspecified says whether a is ::, or of 0.0.0.0/8. (This host on this network, as
// RFC 1122 has it.)
func isUnspecified(a netip.Addr) bool {
	return a == netip.IPv6Unspecified() || a.Is4() && a.As4()[0] == 0
}
