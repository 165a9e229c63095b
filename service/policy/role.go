package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Verbs is a set of things that a caller may do with what a rule matches.
type Verbs uint8

// The verbs. A policy file and String name them resolve, connect, send and
// skip-verify.
const (
	Resolve    Verbs = 1 << iota // Look it up in the DNS and the hosts file.
	Connect                      // Open a connection, and shake hands where TLS is spoken.
	Send                         // Hand bytes of one's own to the peer. Useless without Connect.
	SkipVerify                   // Speak TLS without verifying the peer's certificate. Useless without Connect.
)

var verbNames = [...]string{"resolve", "connect", "send", "skip-verify"}

// ParseVerb returns the verb of that name. The error tells the names there are.
func ParseVerb(name string) (Verbs, error) {
	if i := slices.Index(verbNames[:], name); i >= 0 {
		return 1 << i, nil
	}
	return 0, fmt.Errorf("%q is no verb: there are %s", name, strings.Join(verbNames[:], ", "))
}

// String names the verbs with a comma between them; "none" when there are none.
func (v Verbs) String() string {
	var names []string
	for i, name := range verbNames {
		if v&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := v >> len(verbNames) << len(verbNames); rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint8(rest)))
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ",")
}

// PortRange is the ports from First to Last, both included. Its zero value is port 0
// alone.
type PortRange struct {
	First, Last uint16
}

// ParsePortRange reads "80" or "8000-8100".
func ParsePortRange(s string) (PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	var r PortRange
	var err error
	if r.First, err = parsePort(first); err != nil {
		return PortRange{}, err
	}
	if r.Last, err = parsePort(last); err != nil {
		return PortRange{}, err
	}
	if r.First > r.Last {
		return PortRange{}, fmt.Errorf("the range %q ends before it begins", s)
	}
	return r, nil
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("there is no port %s: the last is 65535", s)
	case err != nil:
		return 0, fmt.Errorf("%q is no port: give a number (80) or a range (8000-8100)", s)
	}
	return uint16(port), nil
}

// String writes the range as ParsePortRange reads it.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r PortRange) contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Role is what the subjects in it may do: what any of its rules grants.
type Role struct {
	// Name is told in decisions; no two roles of a policy should have the same.
	Name string

	// Subjects are patterns of who is in the role, see CheckSubjectPattern.
	Subjects []string

	Rules []Rule

	// Operations are what of the service itself who is in the role may look into, see
	// the constants Operation…. What an unknown one grants, nobody asks for.
	Operations []string
}

// OperationChannelz is to see the connections of all callers, with their addresses
// and what goes over them in numbers.
const OperationChannelz = "channelz"

// Rule grants its verbs on what it matches. It matches what each of its parts
// matches; a part that is empty matches anything, save UnixPaths, which decides
// whether the rule is about unix sockets, and Verbs, of which none grant nothing.
//
// A part with something in it that the checks of this package refuse is no error
// here: that something matches nothing.
type Rule struct {
	// Name is told in decisions; no two rules of a role should have the same.
	Name string

	// Networks are tcp, udp and icmp, each also with a 4 or a 6 for one family alone,
	// and unix, unixgram and unixpacket. The family is that of the address judged: an IPv4
	// address embedded in an IPv6 one is IPv4.
	Networks []string

	// Hosts are patterns of names, see CheckHostPattern. They are held against the
	// name that was asked for, without a search domain appended to it. A target given
	// as an address has none, and no pattern matches it.
	Hosts []string

	// Prefixes are of addresses. One of IPv4-mapped addresses is one of IPv4. The
	// unspecified addresses (0.0.0.0/8 and ::) lead to an address of this host that is
	// not known beforehand, so only a prefix of length 0 covers them.
	Prefixes []netip.Prefix

	// Ports are of tcp and udp. A rule with some does not match icmp, which has none.
	Ports []PortRange

	// UnixPaths lists unix sockets, in the form CheckUnixPath tells. A rule without it
	// matches no unix socket. One with it matches nothing else, and if it also has
	// Hosts, Prefixes or Ports, nothing at all.
	UnixPaths []string

	Verbs Verbs
}

// HasRoles says whether roles decide at all: they do not in a policy that is Open,
// nor in that of AllowAll.
func (p *Policy) HasRoles() bool { return p == nil || !p.all && !p.Open }

// Holds says whether one rule of subject's roles has all of the verbs v, whatever
// else it asks for. Who does not hold a verb need not be asked what for.
func (p *Policy) Holds(subject string, v Verbs) bool {
	if p == nil {
		return false
	}
	if p.all || p.Open {
		return true
	}
	for i := range p.Roles {
		if role := &p.Roles[i]; role.has(subject) {
			for j := range role.Rules {
				if role.Rules[j].Verbs&v == v {
					return true
				}
			}
		}
	}
	return false
}

// Operates says whether subject may look into the service itself: one of its roles
// says so, or nobody is asked for roles and whoever asks is on this host (Open and
// Loopback). What Open alone lets everybody do is what they would do to others.
func (p *Policy) Operates(subject, operation string) bool {
	if p == nil {
		return false
	}
	if p.all || p.Open && p.Loopback {
		return true
	}
	for i := range p.Roles {
		if role := &p.Roles[i]; !p.Open && role.has(subject) && slices.Contains(role.Operations, operation) {
			return true
		}
	}
	return false
}

// RolesOf returns the names of the roles that subject is in, in the policy's order.
func (p *Policy) RolesOf(subject string) []string {
	if p == nil {
		return nil
	}
	var names []string
	for i := range p.Roles {
		if p.Roles[i].has(subject) {
			names = append(names, p.Roles[i].Name)
		}
	}
	return names
}

// has says whether subject is in the role. The empty subject, which is nobody, is in
// none.
func (r *Role) has(subject string) bool {
	if subject == "" {
		return false
	}
	for _, pattern := range r.Subjects {
		if matchSubject(pattern, subject) {
			return true
		}
	}
	return false
}

// decideByRole is the last step of each decision: whether the roles of subject grant
// what q asks of each reading of its address, of which there is at least one.
func (p *Policy) decideByRole(subject string, q *question, readings []netip.Addr) Decision {
	granted := ""
	for i, reading := range readings {
		rule := p.grants(subject, q, reading)
		if rule == "" {
			return deny(RuleDenyDefault)
		}
		if i == 0 {
			granted = rule
		}
	}
	return allow(granted)
}

// grants returns the first rule that grants what q asks of one reading of its
// address, as a Decision names it; "" when none does.
func (p *Policy) grants(subject string, q *question, reading netip.Addr) string {
	for i := range p.Roles {
		role := &p.Roles[i]
		if !role.has(subject) {
			continue
		}
		for j := range role.Rules {
			if role.Rules[j].mismatch(q, reading) == "" {
				return p.label(i, j)
			}
		}
	}
	return ""
}

// label names the rule j of the role i.
func (p *Policy) label(i, j int) string {
	p.labelsOnce.Do(func() {
		p.labels = make([][]string, len(p.Roles))
		for i, role := range p.Roles {
			for _, rule := range role.Rules {
				p.labels[i] = append(p.labels[i], role.Name+"/"+rule.Name)
			}
		}
	})
	return p.labels[i][j]
}
