package resolve

import (
	"net/netip"
	"strings"
)

// This file is the half of getaddrinfo(3) that turns a host into addresses.

// addresses fills in what the host comes to.
func (g *getAddrInfo) addresses(host *string) EAI {
	if host == nil {
		g.localhost()
		return 0
	}
	g.name = *host
	if g.hints.Flags&AI_IDN != 0 {
		ascii, ok := idnaEncode(*host)
		if !ok {
			return EAI_IDN_ENCODE
		}
		g.name = ascii
	}
	code, literal := g.literal()
	if code == 0 && !literal {
		if g.hints.Family == AF_INET && g.hints.Flags&AI_CANONNAME == 0 {
			code = g.simple()
		} else {
			code = g.sources()
		}
	}
	if code != 0 {
		return code
	}
	if len(g.found) == 0 {
		return EAI_NONAME
	}
	if g.hints.Flags&AI_CANONNAME != 0 {
		if g.canon == "" {
			g.canon = *host
		}
		if g.hints.Flags&AI_CANONIDN != 0 {
			g.canon = idnaDecode(g.canon)
		}
	}
	return 0
}

// localhost are the addresses without a host: to bind to with AI_PASSIVE, to
// connect to without.
func (g *getAddrInfo) localhost() {
	passive := g.hints.Flags&AI_PASSIVE != 0
	add := func(unspecified, loopback netip.Addr) {
		if passive {
			loopback = unspecified
		}
		g.found = append(g.found, destination{addr: loopback})
	}
	if g.hints.Family != AF_INET {
		add(netip.IPv6Unspecified(), netip.IPv6Loopback())
	}
	if g.hints.Family != AF_INET6 {
		add(netip.IPv4Unspecified(), loopback4)
	}
}

// literal takes the host for an address. done means that nothing else is to be
// tried.
func (g *getAddrInfo) literal() (code EAI, done bool) {
	family, flags := g.hints.Family, g.hints.Flags
	if addr, ok := parseAton(g.name); ok {
		switch {
		case family != AF_INET6:
		case flags&AI_V4MAPPED != 0:
			addr = netip.AddrFrom16(addr.As16())
		default:
			return EAI_ADDRFAMILY, true
		}
		g.found = []destination{{addr: addr}}
	} else if text, zone, zoned := strings.Cut(g.name, "%"); true {
		addr, ok := parse6(text)
		if !ok {
			if flags&AI_NUMERICHOST != 0 {
				return EAI_NONAME, true
			}
			return 0, false
		}
		d := destination{addr: addr}
		switch {
		case family != AF_INET:
		case addr.Is4In6():
			d.addr = addr.Unmap()
		default:
			return EAI_ADDRFAMILY, true
		}
		if zoned {
			id, ok := scopeID(addr, zone)
			if !ok {
				return EAI_NONAME, true
			}
			if d.addr.Is6() {
				d.scope = id
			}
		}
		g.found = []destination{d}
	}
	if flags&AI_CANONNAME != 0 {
		g.canon = g.name
	}
	return 0, true
}

// simple is the way for IPv4 alone without a canonical name: getaddrinfo then
// calls gethostbyname2_r(3), whose failures come out differently.
func (g *getAddrInfo) simple() EAI {
	if digitsAndDots(g.name) {
		return EAI_NONAME
	}
	out := outcome{status: statusUnavailable, herr: noRecovery}
	used := false
	for _, src := range g.sys.sources {
		o, known := g.byName(src.name, g.name, AF_INET, true)
		if !known {
			if src.returns[statusUnavailable] {
				break
			}
			continue
		}
		out, used = o, true
		if src.returns[o.status] {
			break
		}
	}
	switch {
	case out.status == statusSuccess:
		g.add(out.entry, AF_INET)
		return 0
	case used && (out.status == statusNotFound ||
		// No server told, but the name as it stands was already known to fail.
		out.status == statusUnavailable && out.herr == hostNotFound):
		if out.herr == noData {
			return EAI_NODATA
		}
		return EAI_NONAME
	case out.herr == netdbInternal:
		return EAI_SYSTEM
	case out.herr == tryAgain:
		return EAI_AGAIN
	}
	return EAI_NODATA
}

// digitsAndDots tells the names that gethostbyname takes for mistyped
// addresses and never looks up: digits and dots that end in a digit, and what
// looks like IPv6.
func digitsAndDots(name string) bool {
	if name == "" {
		return false
	}
	digits := strings.Trim(name, "0123456789.") == ""
	if digits && name[0] != '.' && name[len(name)-1] != '.' {
		return true
	}
	return name[0] == ':' || digitOf(name[0]) < 16 && strings.Contains(name, ":")
}

// sources walks the sources of nsswitch.conf.
func (g *getAddrInfo) sources() EAI {
	var (
		status            = statusUnavailable
		herr              hostErrno
		noData, noData6   EAI // 1 stands for "no data"
		wantCanon         = g.hints.Flags&AI_CANONNAME != 0
		family            = g.hints.Family
		v4mapped, alsoAll = g.hints.Flags&AI_V4MAPPED != 0, g.hints.Flags&AI_ALL != 0
	)
	for _, src := range g.sys.sources {
		g.found, g.canon, g.gotIPv6 = nil, "", false
		noData = 0
		if family == AF_UNSPEC {
			o, known := g.byName(src.name, g.name, AF_UNSPEC, true)
			status, herr = o.status, o.herr
			if o.status == statusSuccess {
				g.add(o.entry, AF_UNSPEC)
				if wantCanon {
					g.canon = o.entry.name
				}
			}
			if known {
				noData = dataCode(o)
				noData6 = noData
			}
		} else {
			status6 := statusUnavailable
			ask := func(f Family) (outcome, bool) {
				o, known := g.byName(src.name, g.name, f, !wantCanon)
				if known {
					noData = dataCode(o)
				}
				if o.status == statusSuccess {
					g.add(o.entry, f)
					if wantCanon && g.canon == "" {
						g.canon = o.entry.name
					}
				}
				status, herr = o.status, o.herr
				return o, known
			}
			known := true
			if family == AF_INET6 {
				var o outcome
				if o, known = ask(AF_INET6); o.herr == netdbInternal && known && o.status != statusSuccess {
					return EAI_SYSTEM
				}
				status6, noData6 = status, noData
			}
			if known && (family == AF_INET || v4mapped && (alsoAll || !g.gotIPv6)) {
				if o, known := ask(AF_INET); o.herr == netdbInternal && known && o.status != statusSuccess {
					return EAI_SYSTEM
				}
				if family == AF_INET {
					status6, noData6 = status, noData
				}
			}
			switch {
			case status == statusSuccess || status6 == statusSuccess:
				status = statusSuccess
			case status6 == statusTryAgain:
				status = statusTryAgain
			case status == statusUnavailable && status6 != statusUnavailable:
				status = status6
			}
		}
		if src.returns[status] {
			break
		}
	}
	switch {
	case (status == statusTryAgain || status == statusUnavailable) && herr == netdbInternal:
		return EAI_SYSTEM
	case noData != 0 && noData6 != 0:
		if noData == EAI_AGAIN && noData6 == EAI_AGAIN {
			return EAI_AGAIN
		}
		return EAI_NODATA
	}
	return 0
}

// dataCode tells a source that failed to answer from a name without data.
func dataCode(o outcome) EAI {
	switch {
	case o.status == statusSuccess:
		return 0
	case o.herr == tryAgain:
		return EAI_AGAIN
	case o.herr == noData:
		return 1
	}
	return 0
}

// add appends addresses; IPv4 ones become mapped when IPv6 is asked for.
func (g *getAddrInfo) add(e *hostEntry, family Family) {
	g.gotIPv6 = family == AF_INET6
	for i, a := range e.addrs {
		d := destination{addr: a}
		if i < len(e.scopes) {
			d.scope = e.scopes[i]
		}
		if family == AF_INET && g.hints.Family == AF_INET6 {
			d.addr = netip.AddrFrom16(a.As16())
		}
		g.found = append(g.found, d)
	}
}
