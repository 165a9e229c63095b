package policy

import "net/netip"

// The parts of a rule that Verdict.Mismatch names, as a policy file calls them, in
// the order in which they are looked at.
const (
	MismatchVerbs     = "verbs"
	MismatchNetworks  = "networks"
	MismatchHosts     = "hosts"
	MismatchCIDRs     = "cidrs"
	MismatchPorts     = "ports"
	MismatchUnixPaths = "unix_paths"
)

// Verdict is how one rule stands to a target.
type Verdict struct {
	Role, Rule string // their names

	// Address is what the target was judged as: its address in canonical form, or an
	// IPv4 address that is embedded in it. The zero Addr for a unix socket.
	Address netip.Addr

	// Mismatch is the first part of the rule that does not match, a constant
	// Mismatch…; empty when all do, and the rule grants the target.
	Mismatch string
}

// Explain holds each rule of subject's roles against t, and returns what came of it,
// in the policy's order; for a target that is judged as several addresses, all rules
// for the first, then all for the next. By its roles subject may reach t if each
// address has a verdict without a mismatch. Whether a permanent deny forbids t is
// not in it: Decide says that.
//
// There are no verdicts when no rule is asked: in a policy that is Open, and for a
// target that cannot be judged.
func (p *Policy) Explain(subject string, t Target) []Verdict {
	q, unfit := questionOf(t)
	if unfit != "" {
		return nil
	}
	return p.explain(subject, &q)
}

// ExplainName is Explain for the lookup of a name.
func (p *Policy) ExplainName(subject, host string) []Verdict {
	return p.explain(subject, &question{kind: aboutName, verbs: Resolve, host: host})
}

func (p *Policy) explain(subject string, q *question) []Verdict {
	if p == nil || p.all || p.Open {
		return nil
	}
	var verdicts []Verdict
	for _, reading := range q.appendReadings(nil) {
		for i := range p.Roles {
			role := &p.Roles[i]
			if !role.has(subject) {
				continue
			}
			for j := range role.Rules {
				rule := &role.Rules[j]
				verdicts = append(verdicts, Verdict{role.Name, rule.Name, reading, rule.mismatch(q, reading)})
			}
		}
	}
	return verdicts
}
