package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// LookupHost finds the names and addresses of a host as gethostbyname_ex does,
// through the sources of nsswitch.conf(5), and keeps a trace. family narrows
// the addresses down; AF_UNSPEC is both.
//
// An address, in any form inet_aton(3) takes, is its own answer. localhost and
// the names below it are answered here and never sent anywhere (RFC 6761); the
// hosts file may name their addresses. A name outside ASCII is encoded by
// IDNA. Each address and each alias comes once.
//
// The error is an *Error.
func (r *Resolver) LookupHost(ctx context.Context, host string, family Family) (*HostResult, error) {
	h := &hostLookup{walk: r.newWalk(ctx, r.config.timeout()), asked: host, family: family}
	defer h.told()
	return h.run()
}

// Addresses is LookupHost for a caller that wants to connect: the addresses
// come in the order of RFC 6724, as getaddrinfo would hand them out, and
// link-local ones keep their zone. The error is an *Error.
func (r *Resolver) Addresses(ctx context.Context, host string, family Family) (*HostResult, error) {
	h := &hostLookup{walk: r.newWalk(ctx, r.config.timeout()), asked: host, family: family}
	defer h.told()
	result, err := h.run()
	if err != nil || len(result.Addresses) < 2 {
		return result, err
	}
	candidates := make([]candidate, len(result.Addresses))
	for i, a := range result.Addresses {
		candidates[i].addr = a.WithZone("")
		if a.Zone() != "" {
			candidates[i].scopeID, _ = zoneID(a.Zone())
		}
	}
	ordered := make([]netip.Addr, len(result.Addresses))
	for i, position := range h.rankAndSort(candidates) {
		ordered[i] = result.Addresses[position]
	}
	result.Addresses = ordered
	result.Duration = time.Since(h.start)
	return result, nil
}

// LookupAddress finds the names of an address as gethostbyaddr does. The
// canonical name is the first one; when the DNS has several they follow as
// aliases. The error is an *Error.
func (r *Resolver) LookupAddress(ctx context.Context, addr netip.Addr) (*HostResult, error) {
	h := &hostLookup{walk: r.newWalk(ctx, r.config.timeout()), asked: addr.String()}
	defer h.told()
	if !addr.IsValid() {
		return nil, h.fail(BadName, "", nil)
	}
	ip := addr.WithZone("").Unmap()
	for _, src := range h.sys.sources {
		if src.name == sourceDNS {
			name := reverseName(ip)
			a := h.query(name, []uint16{dns.TypePTR})
			h.judge([]*asked{a})
			if a.ok {
				names, bad := pointers(a.replies[0].msg)
				if len(names) > 0 {
					return h.result(sourceDNS, &hostEntry{name: names[0], aliases: names[1:], addrs: []netip.Addr{addr}}), nil
				}
				if bad {
					h.worst(Malformed, a.replies[0].server, errors.New("the PTR record is no host name"))
				}
			}
			if src.returns[a.lookupStatus()] {
				break
			}
			continue
		}
		o, known := h.byAddr(src.name, ip)
		if o.status == statusSuccess {
			o.entry.addrs = []netip.Addr{addr}
			return h.result(src.name, o.entry), nil
		}
		if known {
			h.worst(NotFound, "", nil)
		}
		if src.returns[o.status] {
			break
		}
	}
	return nil, h.failure()
}

// hostLookup is one lookup by the RFCs. Of the reasons met on the way it keeps
// the one that decides.
type hostLookup struct {
	*walk
	asked  string
	family Family
	notes  []string

	reason Reason
	server string
	err    error
}

func (h *hostLookup) run() (*HostResult, error) {
	switch h.family {
	case AF_UNSPEC, AF_INET, AF_INET6:
	default:
		return nil, h.fail(BadName, "", fmt.Errorf("address family %v", h.family))
	}
	if addr, ok := parseLiteral(h.asked); ok {
		h.step(Step{Source: sourceLiteral, Name: h.asked, Answers: []string{addr.String()}})
		if !ofFamily(addr, h.family) {
			return nil, h.fail(NoData, "", nil)
		}
		return h.result(sourceLiteral, &hostEntry{name: h.asked, addrs: []netip.Addr{addr}}), nil
	}
	name, ok := idnaEncode(h.asked)
	if !ok {
		return nil, h.fail(BadName, "", errors.New("not a valid internationalized name"))
	}
	if isLocalhost(name) {
		return h.localhost(unrooted(name))
	}
	for _, src := range h.sys.sources {
		var o outcome
		if src.name == sourceDNS {
			o = h.dns(name)
		} else {
			o, _ = h.byName(src.name, name, h.family, true)
			if src.name == sourceFiles && o.status == statusNotFound && name != h.asked {
				o, _ = h.byName(src.name, h.asked, h.family, true)
			}
			if o.status == statusNotFound {
				h.worst(NotFound, "", nil)
			}
		}
		if o.status == statusSuccess {
			return h.result(src.name, o.entry), nil
		}
		if src.returns[o.status] {
			break
		}
	}
	return nil, h.failure()
}

// IsLiteral says whether a host is an address, in any form that resolves without
// a lookup (127.1 is one).
func IsLiteral(host string) bool {
	_, ok := parseLiteral(host)
	return ok
}

// parseLiteral reads an address: IPv4 in every form, IPv6 with or without a
// zone that exists.
func parseLiteral(s string) (netip.Addr, bool) {
	if a, ok := parseAton(s); ok {
		return a, true
	}
	if !strings.Contains(s, ":") { // which spares names an error that tells why
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, false
	}
	if a.Zone() == "" {
		return a, true
	}
	id, ok := scopeID(a.WithZone(""), a.Zone())
	if !ok {
		return netip.Addr{}, false
	}
	return a.WithZone(zoneName(id)), true
}

// localhost answers for this machine, from the hosts file or without it.
func (h *hostLookup) localhost(name string) (*HostResult, error) {
	for _, src := range h.sys.sources {
		if src.name == sourceFiles {
			if o := h.filesByName(name, h.family); o.status == statusSuccess {
				return h.result(sourceFiles, o.entry), nil
			}
		}
	}
	e := &hostEntry{name: name}
	if h.family != AF_INET6 {
		e.addrs = append(e.addrs, loopback4)
	}
	if h.family != AF_INET {
		e.addrs = append(e.addrs, netip.IPv6Loopback())
	}
	h.step(Step{Source: sourceLocalhost, Name: name, Answers: addrStrings(e.addrs)})
	return h.result(sourceLocalhost, e), nil
}

// dns walks the search list and judges what came of it.
func (h *hostLookup) dns(name string) outcome {
	if name == "" || !hostNameOK(name) || name == "." {
		h.worst(BadName, "", nil)
		return missing()
	}
	types := h.addressTypes(h.family)
	before := h.queries
	a, all := h.search(name, types)
	h.judge(all)
	cost := h.queries - before
	if cost > len(types) {
		switch absolute := a.ok && a.name == dns.Fqdn(name); {
		case name[len(name)-1] == '.':
		case absolute || !a.ok && len(all) > 1:
			h.note(fmt.Sprintf("%d queries; a trailing dot would need %d", cost, len(types)))
		case a.ok && len(all) > 1:
			h.note(fmt.Sprintf("%d queries; the full name %s would need %d", cost, a.name, len(types)))
		}
	}
	if !a.ok {
		return a.failure()
	}
	o := a.bothFamilies()
	if o.status != statusSuccess {
		// Records, but no address among them.
		h.worst(NoData, a.replies[0].server, nil)
		return o
	}
	for i := range a.replies {
		if r := &a.replies[i]; r.msg == nil {
			h.note(fmt.Sprintf("no answer for %s: %s (server %s)", typeName(types[i]), r.reason, r.server))
		}
	}
	return o
}

// judge takes down the reasons of every name that gave no records.
func (h *hostLookup) judge(all []*asked) {
	for _, a := range all {
		for i := range a.replies {
			r := &a.replies[i]
			switch {
			case r.msg == nil:
				h.worst(r.reason, r.server, r.err)
			case r.msg.Rcode != dns.RcodeSuccess:
				h.worst(rcodeReason(r.msg.Rcode), r.server, nil)
			case loops(r.msg):
				h.worst(Looped, r.server, nil)
			default:
				h.worst(NoData, r.server, nil)
			}
		}
	}
}

// worst keeps the reason that decides: a server that could not tell outweighs
// "no such name", because the name might have been there.
func (h *hostLookup) worst(reason Reason, server string, err error) {
	weight := func(r Reason) int {
		switch r {
		case ReasonNone:
			return 0
		case NotFound:
			return 1
		case BadName: // no source can have it, so that one has not says less
			return 2
		case NoData:
			return 3
		case Malformed, Looped:
			return 4
		case Unreachable:
			return 5
		case Timeout, Mismatched:
			return 6
		case Refused:
			return 7
		case ServFail:
			return 8
		}
		return 9
	}
	if w, have := weight(reason), weight(h.reason); w > have || w == have && h.server == "" {
		h.reason, h.server, h.err = reason, server, err
	}
}

func (h *hostLookup) note(s string) { h.notes = append(h.notes, s) }

func (h *hostLookup) result(source string, e *hostEntry) *HostResult {
	addrs := e.addrs
	if e.scopes != nil {
		addrs = slices.Clone(e.addrs)
		for i, scope := range e.scopes {
			if scope != 0 {
				addrs[i] = addrs[i].WithZone(zoneName(scope))
			}
		}
	}
	return &HostResult{
		CanonicalName: e.name, Aliases: distinct(e.aliases, e.name), Addresses: distinct(addrs), Source: source,
		Trace: h.trace, Notes: h.notes, Duration: time.Since(h.start),
	}
}

// failure is the error for what was met on the way.
func (h *hostLookup) failure() *Error {
	if h.reason == ReasonNone {
		h.reason = NotConfigured
	}
	if err := h.ctx.Err(); err != nil {
		h.err = err
		if err == context.Canceled {
			h.reason = Cancelled
		}
	}
	return h.fail(h.reason, h.server, h.err)
}

func (h *hostLookup) fail(reason Reason, server string, err error) *Error {
	return &Error{
		Reason: reason, Name: h.asked, Server: server, Err: err,
		Trace: h.trace, Notes: h.notes, Duration: time.Since(h.start),
	}
}

// lookupStatus is the status of a single question, for nsswitch.conf.
func (a *asked) lookupStatus() lookupStatus {
	if a.ok {
		return statusSuccess
	}
	return a.failure().status
}

// distinct keeps each value once, at its first place, and none of those left
// out.
func distinct[T comparable](values []T, out ...T) []T {
	if len(values) == 0 {
		return nil
	}
	kept := make([]T, 0, len(values))
	if len(values) <= 16 {
		for _, v := range values {
			if !slices.Contains(kept, v) && !slices.Contains(out, v) {
				kept = append(kept, v)
			}
		}
		return kept
	}
	seen := make(map[T]bool, len(values))
	for _, v := range out {
		seen[v] = true
	}
	for _, v := range values {
		if !seen[v] {
			seen[v] = true
			kept = append(kept, v)
		}
	}
	return kept
}
