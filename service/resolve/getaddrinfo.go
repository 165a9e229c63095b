package resolve

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// transport is one row of what getaddrinfo knows to combine.
type transport struct {
	socketType SocketType
	protocol   Protocol
	name       string // in the services database
	byDefault  bool   // handed out when neither type nor protocol is asked for
	raw        bool   // any protocol, and no services
}

// transports in the order in which getaddrinfo tries and returns them.
func transports() []transport {
	return []transport{
		{SOCK_STREAM, IPPROTO_TCP, "tcp", true, false},
		{SOCK_DGRAM, IPPROTO_UDP, "udp", true, false},
		{SOCK_DCCP, IPPROTO_DCCP, "dccp", false, false},
		{SOCK_DGRAM, IPPROTO_UDPLITE, "udplite", false, false},
		{SOCK_STREAM, IPPROTO_SCTP, "sctp", false, false},
		{SOCK_SEQPACKET, IPPROTO_SCTP, "sctp", false, false},
		{SOCK_RAW, 0, "raw", true, true},
	}
}

const knownAIFlags = AI_PASSIVE | AI_CANONNAME | AI_NUMERICHOST | AI_V4MAPPED | AI_ALL | AI_ADDRCONFIG |
	AI_IDN | AI_CANONIDN | 0x300 /* two IDN flags that have no effect any more */ | AI_NUMERICSERV

// endpoint is a socket type, protocol and port that a service comes to.
type endpoint struct {
	socketType SocketType
	protocol   Protocol
	port       uint16
}

// destination is one address found for a host.
type destination struct {
	addr  netip.Addr // without zone
	scope uint32
}

// getAddrInfo is one call of GetAddrInfo.
type getAddrInfo struct {
	*walk
	hints Hints
	name  string // to look up: the host, after IDNA when asked for

	found   []destination
	canon   string // empty: none yet
	gotIPv6 bool   // the last answer was of IPv6
}

// GetAddrInfo is getaddrinfo(3) with glibc's meaning. A nil host or service is
// C's NULL, which is not the same as an empty one. The error is a *GAIError.
func (r *Resolver) GetAddrInfo(ctx context.Context, host, service *string, hints Hints) ([]AddrInfo, error) {
	g := &getAddrInfo{walk: r.newWalk(ctx, r.config.timeout()), hints: hints}
	defer g.told()
	list, code := g.run(host, service)
	if code != 0 {
		e := &GAIError{Code: code, Trace: g.trace, Duration: time.Since(g.start)}
		if code == EAI_AGAIN || code == EAI_SYSTEM {
			e.Err = g.cause()
		}
		return nil, e
	}
	return list, nil
}

// cause is the last thing that went wrong on the walk.
func (w *walk) cause() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	for i := len(w.trace) - 1; i >= 0; i-- {
		if s := &w.trace[i]; s.Reason != ReasonNone && s.Reason != NotFound && s.Reason != NoData {
			return &Error{Reason: s.Reason, Name: s.Name, Server: s.Server, Err: s.Err}
		}
	}
	return nil
}

func (g *getAddrInfo) run(host, service *string) ([]AddrInfo, EAI) {
	star := func(s *string) *string {
		if s != nil && *s == "*" {
			return nil
		}
		return s
	}
	host, service = cString(star(host)), cString(star(service))
	if host == nil && service == nil {
		return nil, EAI_NONAME
	}
	if g.hints.Flags&^knownAIFlags != 0 || g.hints.Flags&AI_CANONNAME != 0 && host == nil {
		return nil, EAI_BADFLAGS
	}
	switch g.hints.Family {
	case AF_UNSPEC, AF_INET, AF_INET6:
	default:
		return nil, EAI_FAMILY
	}
	if g.hints.Flags&AI_ADDRCONFIG != 0 && !g.narrow() {
		return nil, EAI_NONAME
	}
	number := int32(-1)
	if service != nil && *service == "" {
		service = nil
	}
	if service != nil {
		var numeric bool
		if number, numeric = serviceNumber(*service); !numeric && g.hints.Flags&AI_NUMERICSERV != 0 {
			return nil, EAI_NONAME
		}
	}
	endpoints, code := g.endpoints(service, number)
	if code != 0 {
		return nil, code
	}
	if code := g.addresses(host); code != 0 {
		return nil, code
	}
	list := g.list(endpoints)
	if len(list) == 0 {
		return nil, EAI_NONAME // a mapped address alone, dropped for not being IPv6
	}
	return list, 0
}

// cString cuts a string where C would end it.
func cString(s *string) *string {
	if s == nil {
		return nil
	}
	head, _, _ := strings.Cut(*s, "\x00")
	return &head
}

// narrow applies AI_ADDRCONFIG: families without an address on this machine,
// loopback not counted, are left out. It reports whether any family is left.
func (g *getAddrInfo) narrow() bool {
	has4, has6 := false, false
	local, _ := g.local()
	for _, l := range local {
		switch {
		case l.addr.Is4():
			has4 = has4 || l.addr != loopback4
		default:
			has6 = has6 || l.addr != netip.IPv6Loopback()
		}
	}
	switch g.hints.Family {
	case AF_INET:
		return has4
	case AF_INET6:
		return has6
	}
	if has4 != has6 {
		g.hints.Family = AF_INET
		if has6 {
			g.hints.Family = AF_INET6
		}
	}
	return true
}

// endpoints are the combinations of type, protocol and port to return for each
// address.
func (g *getAddrInfo) endpoints(service *string, number int32) ([]endpoint, EAI) {
	all := transports()
	var chosen *transport
	if g.hints.Protocol != 0 || g.hints.SocketType != 0 {
		for i := range all {
			t := &all[i]
			if (g.hints.SocketType == 0 || g.hints.SocketType == t.socketType) &&
				(g.hints.Protocol == 0 || t.raw || g.hints.Protocol == t.protocol) {
				chosen = t
				break
			}
		}
		switch {
		case chosen == nil && g.hints.SocketType != 0:
			return nil, EAI_SOCKTYPE
		case chosen == nil, chosen.raw && service != nil:
			return nil, EAI_SERVICE
		}
	}
	var list []endpoint
	add := func(t *transport, port uint16) {
		e := endpoint{t.socketType, t.protocol, port}
		if t.raw {
			e.protocol = g.hints.Protocol
		}
		list = append(list, e)
	}
	byName := func(t *transport) {
		if g.r.config.ServicePort == nil {
			return
		}
		if port, ok := g.r.config.ServicePort(*service, t.name); ok {
			add(t, port)
		}
	}
	switch named := service != nil && number < 0; {
	case !named && chosen != nil:
		add(chosen, portOf(service, number))
	case !named:
		for i := range all {
			if all[i].byDefault {
				add(&all[i], portOf(service, number))
			}
		}
	case chosen != nil:
		byName(chosen)
	default:
		for i := range all {
			if !all[i].raw {
				byName(&all[i])
			}
		}
	}
	if len(list) == 0 {
		return nil, EAI_SERVICE
	}
	return list, 0
}

// portOf cuts a service number to a port as htons does; 0 without a service.
func portOf(service *string, number int32) uint16 {
	if service == nil {
		return 0
	}
	return uint16(number)
}

// list combines addresses with endpoints, in the order of RFC 6724.
func (g *getAddrInfo) list(endpoints []endpoint) []AddrInfo {
	infos := make([]AddrInfo, 0, len(g.found)*len(endpoints))
	addresses := 0
	for _, d := range g.found {
		family := AF_INET6
		if d.addr.Is4() {
			family = AF_INET
		} else if g.gotIPv6 && d.addr.Is4In6() && g.hints.Flags&(AI_V4MAPPED|AI_ALL) == AI_V4MAPPED {
			continue
		}
		for _, e := range endpoints {
			infos = append(infos, AddrInfo{
				Flags: g.hints.Flags, Family: family, SocketType: e.socketType, Protocol: e.protocol,
				Address: SocketAddress{IP: d.addr, Port: e.port, ScopeID: d.scope},
			})
		}
		addresses++
	}
	if addresses > 1 {
		infos = g.order(infos)
	}
	if len(infos) > 0 {
		infos[0].CanonicalName = g.canon
	}
	return infos
}

func (g *getAddrInfo) order(infos []AddrInfo) []AddrInfo {
	candidates := make([]candidate, len(infos))
	for i := range infos {
		candidates[i].addr, candidates[i].scopeID = infos[i].Address.IP, infos[i].Address.ScopeID
	}
	sorted := make([]AddrInfo, len(infos))
	for i, position := range g.rankAndSort(candidates) {
		sorted[i] = infos[position]
	}
	return sorted
}

// rankAndSort orders candidates by this machine's addresses and routes.
func (w *walk) rankAndSort(candidates []candidate) []int {
	probe(candidates, w.knownLocal())
	o := orderer{tables: w.sys.gai, links: tunnels}
	o.rank(candidates)
	return o.sort(candidates)
}

// knownLocal are this machine's addresses for the sake of sorting. Without any
// IPv6 address but loopback glibc throws the list away, and with it prefix
// lengths and interfaces.
func (w *walk) knownLocal() []localAddress {
	local, err := w.local()
	if err != nil {
		return nil
	}
	for _, l := range local {
		if l.addr.Is6() && l.addr != netip.IPv6Loopback() {
			return local
		}
	}
	return nil
}
