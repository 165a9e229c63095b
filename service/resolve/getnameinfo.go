package resolve

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const knownNIFlags = NI_NUMERICHOST | NI_NUMERICSERV | NI_NOFQDN | NI_NAMEREQD | NI_DGRAM |
	NI_IDN | 192 /* two IDN flags that have no effect any more */

// GetNameInfo is getnameinfo(3) with glibc's meaning. The zone of the address
// is an interface name or index; it may stand at any IPv6 address. The error
// is a *GAIError.
func (r *Resolver) GetNameInfo(ctx context.Context, addr netip.AddrPort, flags NIFlags) (NameInfo, error) {
	w := r.newWalk(ctx, r.config.timeout())
	defer w.told()
	info, code := w.nameInfo(addr, flags)
	if code != 0 {
		e := &GAIError{Code: code, Trace: w.trace, Duration: time.Since(w.start)}
		if code == EAI_AGAIN || code == EAI_SYSTEM {
			e.Err = w.cause()
		}
		return NameInfo{}, e
	}
	return info, nil
}

func (w *walk) nameInfo(addr netip.AddrPort, flags NIFlags) (info NameInfo, code EAI) {
	if flags&^knownNIFlags != 0 {
		return info, EAI_BADFLAGS
	}
	if !addr.IsValid() {
		return info, EAI_FAMILY
	}
	ip := addr.Addr()
	var scope uint32
	if zone := ip.Zone(); zone != "" {
		var ok bool
		if scope, ok = zoneID(zone); !ok {
			return info, EAI_NONAME
		}
		ip = ip.WithZone("")
	}
	if flags&NI_NUMERICHOST == 0 {
		if info.Host, code = w.nameOf(ip, flags); code != 0 && code != EAI_NONAME {
			return info, code
		}
	}
	if info.Host == "" && (code != 0 || flags&NI_NUMERICHOST != 0) {
		if flags&NI_NAMEREQD != 0 {
			return info, EAI_NONAME
		}
		info.Host = numericHost(ip, scope)
	}
	info.Service = strconv.Itoa(int(addr.Port()))
	if flags&NI_NUMERICSERV == 0 && w.r.config.ServiceName != nil {
		protocol := "tcp"
		if flags&NI_DGRAM != 0 {
			protocol = "udp"
		}
		if name, ok := w.r.config.ServiceName(addr.Port(), protocol); ok {
			info.Service = name
		}
	}
	return info, 0
}

// nameOf is gethostbyaddr(3).
func (w *walk) nameOf(ip netip.Addr, flags NIFlags) (string, EAI) {
	e, herr := w.hostByAddr(ip)
	if e == nil {
		switch herr {
		case netdbInternal:
			return "", EAI_SYSTEM
		case tryAgain:
			return "", EAI_AGAIN
		}
		return "", EAI_NONAME
	}
	name := e.name
	if flags&NI_NOFQDN != 0 {
		if domain := w.ownDomain(); domain != "" {
			// Everything from the first place where the domain begins.
			if i := strings.Index(name, domain); i > 0 && name[i-1] == '.' {
				name = name[:i-1]
			}
		}
	}
	if flags&NI_IDN != 0 {
		name = idnaDecode(name)
	}
	return name, 0
}

// hostByAddr asks the sources of nsswitch.conf for an address.
func (w *walk) hostByAddr(ip netip.Addr) (*hostEntry, hostErrno) {
	if ip == netip.IPv6Unspecified() {
		return nil, hostNotFound
	}
	herr := noRecovery
	for _, src := range w.sys.sources {
		o, known := w.byAddr(src.name, ip)
		if known {
			herr = o.herr
			if o.status == statusSuccess {
				return o.entry, netdbSuccess
			}
		}
		if src.returns[o.status] {
			break
		}
	}
	return nil, herr
}

// ownDomain is the domain of this machine, as NI_NOFQDN cuts it off: taken
// from the names of localhost, of the host, and of 127.0.0.1, the first with a
// dot in it.
func (w *walk) ownDomain() string {
	byName := func(name string) string {
		for _, src := range w.sys.sources {
			o, _ := w.byName(src.name, name, AF_INET, true)
			if o.status == statusSuccess {
				return o.entry.name
			}
			if src.returns[o.status] {
				break
			}
		}
		return ""
	}
	for _, name := range []func() string{
		func() string { return byName("localhost") },
		func() string { return w.sys.hostname },
		func() string { return byName(w.sys.hostname) },
		func() string {
			if e, _ := w.hostByAddr(loopback4); e != nil {
				return e.name
			}
			return ""
		},
	} {
		if _, domain, ok := strings.Cut(name(), "."); ok {
			return domain
		}
	}
	return ""
}

// zoneID is the interface index of a zone of netip.Addr.
func zoneID(zone string) (uint32, bool) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), true
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index), true
	}
	return 0, false
}

// numericHost writes an address as getnameinfo does: the zone by name where an
// interface delimits the scope, otherwise as a number.
func numericHost(ip netip.Addr, scope uint32) string {
	s := formatAddr(ip)
	if !ip.Is6() || scope == 0 {
		return s
	}
	if hasLinkScope(ip) {
		return s + "%" + zoneName(scope)
	}
	return s + "%" + strconv.FormatUint(uint64(scope), 10)
}

// formatAddr is inet_ntop(3). It differs from netip in that it writes
// IPv4-compatible addresses with dots, too.
func formatAddr(ip netip.Addr) string {
	if b := ip.As16(); ip.Is6() && [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
		return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
	}
	return ip.String()
}
