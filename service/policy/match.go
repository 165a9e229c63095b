package policy

import (
	"net/netip"
	"path"
	"strings"
)

// question is what rules are held against.
type question struct {
	kind    kind
	verbs   Verbs  // all of them needed
	network string // aboutSocket, aboutPath
	host    string // aboutSocket, aboutName
	address netip.Addr
	port    uint16
	path    string
}

type kind int

const (
	aboutSocket  kind = iota // of an IP network
	aboutPath                // a unix socket
	aboutName                // a lookup
	aboutAddress             // a lookup
)

// questionOf is the question whether t may be reached. When t cannot be judged,
// unfit is the rule that denies it.
func questionOf(t Target) (q question, unfit string) {
	q = question{verbs: Connect, network: t.Network, host: t.Host, port: t.Address.Port(), path: t.Path}
	switch t.Network {
	case "unix", "unixgram", "unixpacket":
		q.kind = aboutPath
		if !namesSocket(t.Path) {
			return q, RuleDenyUnixPath
		}
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "icmp", "icmp4", "icmp6":
		q.kind = aboutSocket
		if !t.Address.IsValid() {
			return q, RuleDenyUnparsable
		}
		q.address = canonical(t.Address.Addr())
	default:
		return q, RuleDenyUnparsable
	}
	if t.Send {
		q.verbs |= Send
	}
	if t.SkipVerify {
		q.verbs |= SkipVerify
	}
	return q, ""
}

// namesSocket says whether a target's path can be that of a socket in the file
// system. Abstract sockets have no path and no permissions; "@" and NUL are how they
// are written.
func namesSocket(target string) bool {
	return path.IsAbs(target) && path.Clean(target) == target && target != "/" && !strings.ContainsRune(target, 0)
}

// appendReadings appends what rules must grant, one after the other: each reading of the
// address, or, where there is none, the zero Addr.
func (q *question) appendReadings(all []netip.Addr) []netip.Addr {
	if q.kind == aboutSocket || q.kind == aboutAddress {
		return appendReadings(all, q.address)
	}
	return append(all, netip.Addr{})
}

// mismatch returns the first part of the rule, in this order, that does not match
// what q asks of one reading of its address; "" when all do.
func (r *Rule) mismatch(q *question, reading netip.Addr) string {
	switch {
	case r.Verbs&q.verbs != q.verbs:
		return MismatchVerbs
	case !r.matchesNetwork(q, reading):
		return MismatchNetworks
	case !r.matchesHost(q):
		return MismatchHosts
	case !r.matchesAddress(q, reading):
		return MismatchCIDRs
	case !r.matchesPort(q):
		return MismatchPorts
	case !r.matchesPath(q):
		return MismatchUnixPaths
	}
	return ""
}

func (r *Rule) matchesNetwork(q *question, reading netip.Addr) bool {
	if len(r.Networks) == 0 || q.kind == aboutName || q.kind == aboutAddress {
		return true
	}
	for _, network := range r.Networks {
		if q.kind == aboutPath {
			if network == q.network {
				return true
			}
			continue
		}
		switch family, ok := strings.CutPrefix(network, transportOf(q.network)); {
		case !ok:
		case family == "", family == "4" && reading.Is4(), family == "6" && reading.Is6():
			return true
		}
	}
	return false
}

// transportOf is an IP network without its family.
func transportOf(network string) string { return strings.TrimRight(network, "46") }

func (r *Rule) matchesHost(q *question) bool {
	if len(r.Hosts) == 0 {
		return true
	}
	if q.kind == aboutPath || q.kind == aboutAddress {
		return false
	}
	for _, pattern := range r.Hosts {
		if matchHost(pattern, q.host) {
			return true
		}
	}
	return false
}

func (r *Rule) matchesAddress(q *question, reading netip.Addr) bool {
	if len(r.Prefixes) == 0 || q.kind == aboutName {
		return true
	}
	if q.kind == aboutPath {
		return false
	}
	for _, p := range r.Prefixes {
		p = canonicalPrefix(p)
		if p.Contains(reading) && (p.Bits() == 0 || !isUnspecified(reading)) {
			return true
		}
	}
	return false
}

func (r *Rule) matchesPort(q *question) bool {
	if len(r.Ports) == 0 || q.kind == aboutName || q.kind == aboutAddress {
		return true
	}
	if q.kind == aboutPath || transportOf(q.network) == "icmp" { // which have none
		return false
	}
	for _, ports := range r.Ports {
		if ports.contains(q.port) {
			return true
		}
	}
	return false
}

func (r *Rule) matchesPath(q *question) bool {
	if q.kind == aboutPath {
		return onList(r.UnixPaths, q.path)
	}
	return len(r.UnixPaths) == 0
}
