// Package policy decides who may reach what.
//
// A network probe is a request forger by trade, so there is one decision, Decide,
// and it is asked about the address a socket is about to be connected to, never
// about a name: an answer that changes between check and connect changes nothing.
// package dial asks it at that very moment.
//
// What Decide admits has passed, in this order:
//
//  1. It can be judged at all: a known network and a valid address or path.
//  2. A unix socket is on the list of paths. (Nothing else concerns it.)
//  3. It is not one of probed's own listeners. Nothing lifts this.
//  4. It is under no permanent deny: addresses that mean this machine or this link
//     whatever machine asks, and so give a caller what only the host should reach.
//     An exact prefix in Lift lifts one address.
//
// An IPv6 address that carries an IPv4 address for a translator or a tunnel is
// judged twice, as itself and as what it carries, and must pass as both.
//
// Private ranges (RFC 1918, RFC 4193) pass: reaching those is what a probe is for.
package policy

import (
	"net/netip"
	"path"
	"strings"
)

// The rules a Decision names. They are stable: audit records and tests know them.
const (
	RuleAllowAll        = "allow-all"         // Nothing forbids it.
	RuleAllowUnixPath   = "allow-unix-path"   // A unix socket that UnixPaths lists.
	RuleDenyUnparsable  = "deny-unparsable"   // The target cannot be judged.
	RuleDenyUnixPath    = "deny-unix-path"    // A unix socket that UnixPaths does not list.
	RuleDenyOwnListener = "deny-own-listener" // One of Listeners.
	RuleDenyUnspecified = "deny-unspecified"  // 0.0.0.0/8 and ::, off loopback mode.
	RuleDenyLoopback    = "deny-loopback"     // 127.0.0.0/8 and ::1, off loopback mode.
	RuleDenyMetadata    = "deny-metadata"     // Where clouds hand out credentials.
	RuleDenyLinkLocal   = "deny-link-local"   // 169.254.0.0/16 and fe80::/10.
	RuleDenyMulticast   = "deny-multicast"    // 224.0.0.0/4 and ff00::/8.
	RuleDenyBroadcast   = "deny-broadcast"    // 255.255.255.255.
)

// Target is what is about to be reached. Its fields are those of
// dial.Destination, so that one converts to the other.
type Target struct {
	Network string         // tcp, udp, unix, unixgram or unixpacket, or with a 4 or 6 as in package net.
	Address netip.AddrPort // For IP networks. Decide makes it canonical itself.
	Path    string         // For unix networks: absolute, with no symbolic link in it.
	Host    string         // The name that was asked for; empty when it was an address.

	// SkipVerify: the certificate of the peer will not be verified. No rule of today
	// forbids it; it is here for roles that grant it as a right of its own.
	SkipVerify bool
}

// Decision is what Decide found.
type Decision struct {
	Allowed bool
	Rule    string // Which rule decided: one of the constants Rule….
}

// Err returns nil for what is allowed and a *DeniedError for what is not.
func (d Decision) Err() error {
	if d.Allowed {
		return nil
	}
	return &DeniedError{Rule: d.Rule}
}

// DeniedError says by which rule a target was denied.
type DeniedError struct {
	Rule string
}

func (e *DeniedError) Error() string { return "rule " + e.Rule }

// Policy is what an operator allows. Its zero value is the strictest: all
// permanent denies, loopback among them, and no unix socket. A Policy is not
// changed while it is in use; Decide may be called from any goroutine.
type Policy struct {
	// Loopback admits loopback and unspecified addresses. It is for a probed that
	// itself listens on loopback only, whose callers reach them anyway.
	Loopback bool

	// Listeners are probed's own, as they were bound; its echo listeners are left
	// out. One on 0.0.0.0, on ::, or without an address stands for every address of
	// this host. A listener reached through address translation (the virtual address
	// of a Kubernetes Service, a published port) cannot be recognised: there,
	// authentication is what protects it.
	Listeners []netip.AddrPort

	// Lift exempts single addresses from the permanent denies: each prefix is a /32
	// or, for IPv6, a /128, and any other is without effect, since a wide lift would
	// in time cover what nobody thought of. (NodeLocal DNS on 169.254.20.10 needs
	// one.) It never exempts an own listener.
	Lift []netip.Prefix

	// UnixPaths lists the sockets that may be reached: an absolute path for one
	// socket, or DIR/* for every socket directly in DIR. A path with a symbolic link
	// in it matches nothing, because targets have theirs resolved: /run/x.sock, not
	// /var/run/x.sock.
	UnixPaths []string

	all bool
}

// AllowAll returns the policy of the user at the keyboard, for a service that
// runs inside the user's own process and can reach no more than the user can.
func AllowAll() *Policy {
	return &Policy{all: true}
}

// Decide says whether t may be reached, and by which rule. A nil Policy denies
// like a zero one. When several denies hold, an own listener is named first, and
// what an address is before what it carries.
func (p *Policy) Decide(t Target) Decision {
	if p == nil {
		p = &Policy{}
	}
	switch t.Network {
	case "unix", "unixgram", "unixpacket":
		return p.decidePath(t.Path)
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		return p.decideAddress(t.Address)
	}
	return deny(RuleDenyUnparsable)
}

func (p *Policy) decidePath(target string) Decision {
	// Abstract sockets have no path and no permissions; "@" and NUL are how they are
	// written. They are not lifted by any list.
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" || strings.ContainsRune(target, 0) {
		return deny(RuleDenyUnixPath)
	}
	if p.all {
		return allow(RuleAllowAll)
	}
	for _, allowed := range p.UnixPaths {
		if dir, ok := strings.CutSuffix(allowed, "*"); ok && strings.HasSuffix(dir, "/") {
			allowed = dir + path.Base(target)
		}
		if target == allowed {
			return allow(RuleAllowUnixPath)
		}
	}
	return deny(RuleDenyUnixPath)
}

func (p *Policy) decideAddress(target netip.AddrPort) Decision {
	if !target.IsValid() {
		return deny(RuleDenyUnparsable)
	}
	if p.all {
		return allow(RuleAllowAll)
	}
	readings := readings(canonical(target.Addr()))
	for _, a := range readings {
		if p.listensOn(a, target.Port()) {
			return deny(RuleDenyOwnListener)
		}
	}
	for _, a := range readings {
		if rule := permanentDeny(a); rule != "" && !p.exempts(a, rule) {
			return deny(rule)
		}
	}
	return allow(RuleAllowAll)
}

// exempts says whether the deny does not hold for a, by the mode or by a lift.
func (p *Policy) exempts(a netip.Addr, rule string) bool {
	if p.Loopback && (rule == RuleDenyLoopback || rule == RuleDenyUnspecified) {
		return true
	}
	for _, l := range p.Lift {
		if l.IsSingleIP() && canonical(l.Addr()) == a {
			return true
		}
	}
	return false
}

func allow(rule string) Decision { return Decision{Allowed: true, Rule: rule} }

func deny(rule string) Decision { return Decision{Rule: rule} }
