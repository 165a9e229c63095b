// Package policy decides who may reach what.
//
// A network probe is a request forger by trade, so there is one decision, Decide,
// and it is asked about the address a socket is about to be connected to, never
// about a name alone: an answer that changes between check and connect changes
// nothing. package dial asks it at that very moment.
//
// What Decide admits has passed, in this order:
//
//  1. It can be judged at all: a known network and a valid address, or a path that
//     is absolute and clean. (Abstract unix sockets have none, and never pass.)
//  2. It is not one of probed's own listeners. Nothing lifts this.
//  3. It is under no permanent deny: addresses that mean this machine or this link
//     whatever machine asks, and so give a caller what only the host should reach.
//     An exact prefix in Lift lifts one address.
//  4. The roles of the caller grant it: one rule of one of them matches in each of
//     its parts and has all verbs that are needed. What no rule grants is denied;
//     there are no rules that deny. In a Policy that is Open this step is left
//     out, and a unix socket has to be on the list of the Policy instead.
//
// Steps 2 and 3 are about addresses; a unix socket has none.
//
// An IPv6 address that carries an IPv4 address for a translator or a tunnel is
// judged twice, as itself and as what it carries, and must pass as both; different
// rules may grant the two.
//
// Private ranges (RFC 1918, RFC 4193) are under no permanent deny: reaching those
// is what a probe is for.
//
// Looking something up opens no socket that the caller chose, so steps 2 and 3 do
// not concern it. DecideName and DecideAddress go by the roles alone.
package policy

import (
	"net/netip"
	"sync"
)

// The rules a Decision names beside those of roles. They are stable: audit records
// and tests know them. A rule of a role is "ROLE/RULE", by their names.
const (
	RuleAllowAll        = "allow-all"         // Open, or AllowAll, and nothing forbids it.
	RuleAllowUnixPath   = "allow-unix-path"   // Open, and a unix socket that UnixPaths lists.
	RuleDenyDefault     = "deny-default"      // No rule of the caller's roles grants it.
	RuleDenyUnparsable  = "deny-unparsable"   // The target cannot be judged.
	RuleDenyUnixPath    = "deny-unix-path"    // A path that names no socket, or, if Open, that UnixPaths does not list.
	RuleDenyOwnListener = "deny-own-listener" // One of Listeners.
	RuleDenyUnspecified = "deny-unspecified"  // 0.0.0.0/8 and ::, off loopback mode.
	RuleDenyLoopback    = "deny-loopback"     // 127.0.0.0/8 and ::1, off loopback mode.
	RuleDenyMetadata    = "deny-metadata"     // Where clouds hand out credentials.
	RuleDenyLinkLocal   = "deny-link-local"   // 169.254.0.0/16 and fe80::/10.
	RuleDenyMulticast   = "deny-multicast"    // 224.0.0.0/4 and ff00::/8.
	RuleDenyBroadcast   = "deny-broadcast"    // 255.255.255.255.
)

// Rules are all of these.
func Rules() []string {
	return []string{
		RuleAllowAll, RuleAllowUnixPath, RuleDenyDefault, RuleDenyUnparsable, RuleDenyUnixPath, RuleDenyOwnListener,
		RuleDenyUnspecified, RuleDenyLoopback, RuleDenyMetadata, RuleDenyLinkLocal, RuleDenyMulticast, RuleDenyBroadcast,
	}
}

// Target is what is about to be reached. Its fields are those of
// dial.Destination, so that one converts to the other.
type Target struct {
	Network string         // tcp, udp, icmp, unix, unixgram or unixpacket, the first three also with a 4 or a 6.
	Address netip.AddrPort // For IP networks. Decide makes it canonical itself.
	Path    string         // For unix networks: absolute, with no symbolic link in it.
	Host    string         // The name that was asked for; empty when it was an address.

	// Send: bytes of the caller's will be handed to the peer. It takes the verb Send.
	Send bool

	// SkipVerify: the certificate of the peer will not be verified. It takes the verb
	// SkipVerify.
	SkipVerify bool
}

// Decision is what Decide found.
type Decision struct {
	Allowed bool
	Rule    string // Which rule decided: a constant Rule…, or "ROLE/RULE".
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

// Policy is what an operator allows. Its zero value allows nothing at all. A Policy
// is not changed once it is in use, nor copied; its methods may be called from any
// goroutine, and on nil, which is as the zero value.
type Policy struct {
	// Loopback admits loopback and unspecified addresses past the permanent denies.
	// It is for a probed that itself listens on loopback only, whose callers reach
	// them anyway.
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
	// one.) It never exempts an own listener, and grants nothing by itself.
	Lift []netip.Prefix

	// Open lets everybody do what no permanent deny forbids, whatever the roles say.
	// Without it they decide.
	Open bool

	// UnixPaths lists the sockets that everybody may reach if the policy is Open, in
	// the form CheckUnixPath tells. Otherwise it is without effect: rules have lists
	// of their own. A path with a symbolic link in it matches nothing, because targets
	// have theirs resolved: /run/x.sock, not /var/run/x.sock.
	UnixPaths []string

	// Roles say who may do what. A caller may be in several, and may do what any of
	// them grants.
	Roles []Role

	all bool

	// labels are the names of the rules as a Decision has them, put together once so
	// that a decision allocates nothing.
	labels     [][]string
	labelsOnce sync.Once
}

// AllowAll returns the policy of the user at the keyboard, for a service that
// runs inside the user's own process and can reach no more than the user can.
func AllowAll() *Policy {
	return &Policy{all: true}
}

// Decide says whether subject may reach t, and by which rule. It takes the verb
// Connect, and Send and SkipVerify as t says, all from one rule. When several denies
// hold, an own listener is named first, and what an address is before what it
// carries; of the rules that grant an address, the one that grants it as itself.
func (p *Policy) Decide(subject string, t Target) Decision {
	if p == nil {
		p = &Policy{}
	}
	q, unfit := questionOf(t)
	switch {
	case unfit != "":
		return deny(unfit)
	case p.all:
		return allow(RuleAllowAll)
	case q.kind == aboutPath && p.Open:
		if !onList(p.UnixPaths, q.path) {
			return deny(RuleDenyUnixPath)
		}
		return allow(RuleAllowUnixPath)
	}
	var buffer [mostReadings]netip.Addr
	readings := q.appendReadings(buffer[:0])
	if q.kind == aboutSocket {
		if rule := p.forbids(readings, q.port); rule != "" {
			return deny(rule)
		}
		if p.Open {
			return allow(RuleAllowAll)
		}
	}
	return p.decideByRole(subject, &q, readings)
}

// forbids returns the rule that forbids a socket whoever asks for it; "" when none
// does.
func (p *Policy) forbids(readings []netip.Addr, port uint16) string {
	for _, a := range readings {
		if p.listensOn(a, port) {
			return RuleDenyOwnListener
		}
	}
	for _, a := range readings {
		if rule := permanentDeny(a); rule != "" && !p.exempts(a, rule) {
			return rule
		}
	}
	return ""
}

// DecideName says whether subject may have host looked up, a name. It takes the verb
// Resolve, of a rule whose Hosts match, if it has any. Its other parts do not count,
// for the addresses are not known yet; but a rule with UnixPaths grants no lookups.
func (p *Policy) DecideName(subject, host string) Decision {
	return p.decideLookup(subject, &question{kind: aboutName, verbs: Resolve, host: host})
}

// DecideAddress says whether subject may have the names of a looked up. It takes the
// verb Resolve, of a rule without Hosts and UnixPaths, whose Prefixes match, if it
// has any. What is embedded in a must be granted too.
func (p *Policy) DecideAddress(subject string, a netip.Addr) Decision {
	if !a.IsValid() {
		return deny(RuleDenyUnparsable)
	}
	return p.decideLookup(subject, &question{kind: aboutAddress, verbs: Resolve, address: canonical(a)})
}

func (p *Policy) decideLookup(subject string, q *question) Decision {
	switch {
	case p == nil:
		return deny(RuleDenyDefault)
	case p.all || p.Open:
		return allow(RuleAllowAll)
	}
	var buffer [mostReadings]netip.Addr
	return p.decideByRole(subject, q, q.appendReadings(buffer[:0]))
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
