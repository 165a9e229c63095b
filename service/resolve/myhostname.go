package resolve

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// myhostname is nss-myhostname(8): the machine's own name, localhost and
// _gateway are known without any file. Its own name stands for 127.0.0.2 when
// the machine has no address, because that one leads back to the name.

var ownAddress = netip.AddrFrom4([4]byte{127, 0, 0, 2})

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func (w *walk) myhostnameByName(name string, family Family) outcome {
	i := w.step(Step{Source: sourceMyhostname, Name: name})
	e := w.ownName(name, family)
	if e == nil {
		w.trace[i].Reason = NotFound
		return missing()
	}
	w.trace[i].Answers = addrStrings(e.addrs)
	return outcome{status: statusSuccess, entry: e}
}

func (w *walk) ownName(name string, family Family) *hostEntry {
	e := &hostEntry{}
	fallback := loopback4
	switch {
	case isLocalhost(name):
		e.name = "localhost"
	case name == "_gateway" || name == "_gateway.":
		e.name = "_gateway"
		routes, _ := defaultRoutes(func(uint32) string { return "" })
		slices.SortStableFunc(routes, func(a, b Route) int { return cmp.Compare(a.Metric, b.Metric) })
		for _, r := range routes {
			if r.Gateway.IsValid() && ofFamily(r.Gateway, family) && !slices.Contains(e.addrs, r.Gateway) {
				e.addrs = append(e.addrs, r.Gateway)
			}
		}
		slices.SortStableFunc(e.addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
		if len(e.addrs) == 0 {
			return nil
		}
		return e
	default:
		if w.sys.hostname == "" || strings.TrimSuffix(name, ".") != w.sys.hostname {
			return nil
		}
		e.name = w.sys.hostname
		fallback = ownAddress
		for _, l := range w.ownAddresses(family) {
			e.addrs = append(e.addrs, l.addr)
			var scope uint32
			if family == AF_UNSPEC && l.addr.Is6() && l.addr.IsLinkLocalUnicast() {
				scope = l.index
			}
			e.scopes = append(e.scopes, scope)
		}
	}
	if len(e.addrs) > 0 {
		return e
	}
	e.scopes = nil
	if family != AF_INET6 {
		e.addrs = append(e.addrs, fallback)
	}
	if family != AF_INET {
		e.addrs = append(e.addrs, netip.IPv6Loopback())
	}
	if family == AF_INET6 && e.name == w.sys.hostname {
		e.aliases = []string{"localhost"}
	}
	return e
}

// ownAddresses are the addresses of this machine that others may use: IPv4
// first, then by scope and interface.
func (w *walk) ownAddresses(family Family) []localAddress {
	local, _ := w.local()
	var own []localAddress
	for _, l := range local {
		if l.flags&flagDeprecated == 0 && l.scope != scopeHost && l.scope != scopeNowhere && ofFamily(l.addr, family) {
			own = append(own, l)
		}
	}
	slices.SortStableFunc(own, func(a, b localAddress) int {
		return cmp.Or(
			cmp.Compare(a.addr.BitLen(), b.addr.BitLen()),
			cmp.Compare(a.scope, b.scope),
			cmp.Compare(a.index, b.index),
			a.addr.Compare(b.addr),
		)
	})
	return own
}

func (w *walk) myhostnameByAddr(addr netip.Addr) outcome {
	i := w.step(Step{Source: sourceMyhostname, Name: addr.String()})
	e := &hostEntry{addrs: []netip.Addr{addr}}
	switch {
	case addr == loopback4:
		e.name = "localhost"
	case addr == netip.IPv6Loopback():
		e.name, e.aliases = "localhost", []string{w.sys.hostname}
	case addr == ownAddress, slices.ContainsFunc(w.ownAddresses(AF_UNSPEC), func(l localAddress) bool { return l.addr == addr }):
		e.name = w.sys.hostname
	default:
		if gw := w.ownName("_gateway", AF_UNSPEC); gw != nil && slices.Contains(gw.addrs, addr) {
			e.name = "_gateway"
			break
		}
		w.trace[i].Reason = NotFound
		return missing()
	}
	w.trace[i].Answers = append([]string{e.name}, e.aliases...)
	return outcome{status: statusSuccess, entry: e}
}

// isLocalhost tells the names that mean this machine (RFC 6761 6.3).
func isLocalhost(name string) bool {
	name = asciiLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || name == "localhost.localdomain" ||
		strings.HasSuffix(name, ".localhost") || strings.HasSuffix(name, ".localhost.localdomain")
}

func ofFamily(addr netip.Addr, family Family) bool {
	return family == AF_UNSPEC || addr.Is4() == (family == AF_INET)
}
