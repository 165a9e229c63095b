package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
	"probed/service/policy"
)

func newPolicyCommand(t *tool) *cobra.Command {
	command := &cobra.Command{
		Use:   "policy COMMAND",
		Short: "What may I do there, and why?",
		Long: `Ask a probed what its policy lets you do. Its configuration says who is in which role, and
what each role may look up, connect to and send to.`,
		Example: `  probectl policy explain db.shop:5432`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fmt.Errorf("there is no command %q: there is explain", args[0])
		},
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newPolicyExplainCommand(t))
	return command
}

func newPolicyExplainCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "explain TARGET",
		Short: "May I connect there, send, and pass over certificates; by which rule, or why not?",
		Long: `Tell who you are to a probed, in which roles, and what these let you do with a target: look
its name up (resolve), connect, send, and go on whatever its certificate says (skip-verify).
Of what no rule allows, it tells each rule of your roles and the first part of it that does
not fit. Nothing is connected to. A name is looked up, if you may; if not, nothing is told
of it.

` + targetHelp + `

What counts is decided again at each connect: by then the addresses of a name may be others.

The exit code is 0 if you may connect to at least one of its addresses.`,
		Example: `  probectl policy explain db.shop:5432
  probectl policy explain tls://192.0.2.1:443 --server probed.shop --token-file token
  probectl policy explain unix:///run/app.sock -o json | jq '.addresses[].decisions'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(targets),
		RunE: func(command *cobra.Command, args []string) error {
			return askWhether(command.Context(), t, probev1.NewPolicyServiceClient, probev1.PolicyServiceClient.ExplainPolicy,
				&probev1.ExplainPolicyRequest{Target: args[0]}, policyTable, mayConnect)
		},
	}
}

// mayConnect tells whether the caller may connect to one of the addresses.
func mayConnect(answer *probev1.ExplainPolicyResponse) bool {
	return slices.ContainsFunc(answer.GetAddresses(), func(a *probev1.AddressPolicy) bool {
		return slices.ContainsFunc(a.GetDecisions(), func(d *probev1.PolicyDecision) bool {
			return d.GetVerb() == probev1.PolicyVerb_POLICY_VERB_CONNECT && d.GetAllowed()
		})
	})
}

func policyTable(p *printer, answer *probev1.ExplainPolicyResponse) {
	p.line("you are %s", caller(answer))
	var rows [][]string
	for d := range decisions(answer) {
		allowed := "no"
		if d.GetAllowed() {
			allowed = "yes"
		}
		rows = append(rows, []string{d.address, verbName(d.GetVerb()), allowed, d.GetRule()})
	}
	if len(rows) > 0 {
		p.table("ADDRESS VERB ALLOWED RULE", rows)
	}
	switch {
	case answer.GetResolve() != nil && !answer.GetResolve().GetAllowed():
		p.line("note: you may not look this name up, so nothing is told of its addresses")
	case answer.GetResolutionError() != "":
		p.line("note: it has no address: %s", answer.GetResolutionError())
	}
	var told []string
	for d := range decisions(answer) {
		if rule := d.GetRule(); forEverybody(rule) && !slices.Contains(told, rule) {
			p.line("note: %s holds for everybody, whatever their roles", rule)
			told = append(told, rule)
		}
	}
	for _, m := range mismatchesOf(answer) {
		p.line("")
		p.line("no rule of yours allows %s:", m.what())
		for _, line := range m.lines {
			p.line("  %s", line)
		}
	}
}

// caller is who asks, and by what they may do things.
func caller(answer *probev1.ExplainPolicyResponse) string {
	roles := answer.GetRoles()
	switch {
	case len(roles) == 1:
		return answer.GetSubject() + ", in the role " + roles[0]
	case len(roles) > 1:
		return answer.GetSubject() + ", in the roles " + strings.Join(roles, ", ")
	}
	if answer.GetOpen() {
		return answer.GetSubject() + "; everybody may do here what is not forbidden to all"
	}
	return answer.GetSubject() + ", in no role"
}

// decision is one of an answer, and the address that it is about; "" when it is about the name.
type decision struct {
	*probev1.PolicyDecision
	address string
}

// decisions are all of an answer, in its order.
func decisions(answer *probev1.ExplainPolicyResponse) func(yield func(decision) bool) {
	return func(yield func(decision) bool) {
		if d := answer.GetResolve(); d != nil && !yield(decision{d, ""}) {
			return
		}
		for _, a := range answer.GetAddresses() {
			for _, d := range a.GetDecisions() {
				if !yield(decision{d, a.GetAddress()}) {
					return
				}
			}
		}
	}
}

// forEverybody tells whether a rule denies something to all.
func forEverybody(rule string) bool {
	return strings.HasPrefix(rule, "deny-") && rule != policy.RuleDenyDefault
}

func verbName(verb probev1.PolicyVerb) string {
	return strings.ReplaceAll(strings.ToLower(short("POLICY_VERB_", verb)), "_", "-")
}

// mismatches is why no rule allows some verbs at some addresses, which they have in common.
type mismatches struct {
	verbs, addresses []string
	lines            []string // a rule, and what of it does not fit
}

func (m *mismatches) what() string {
	if len(m.addresses) == 0 {
		return strings.Join(m.verbs, ", ")
	}
	return strings.Join(m.verbs, ", ") + " at " + strings.Join(m.addresses, ", ")
}

// mismatchesOf puts together what is denied for the same reasons: first the verbs of an address, then the addresses. A
// policy has many rules, and a name many addresses.
func mismatchesOf(answer *probev1.ExplainPolicyResponse) []*mismatches {
	var all []*mismatches
	for d := range decisions(answer) {
		var lines []string
		for _, m := range d.GetMismatches() {
			// An address that has another one in it is held against each rule twice.
			if line := fmt.Sprintf("%s/%s: %s do not fit", m.GetRole(), m.GetRule(), m.GetPart()); !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
		if lines == nil {
			continue
		}
		var addresses []string
		if d.address != "" {
			addresses = []string{d.address}
		}
		if i := slices.IndexFunc(all, func(m *mismatches) bool {
			return slices.Equal(m.addresses, addresses) && slices.Equal(m.lines, lines)
		}); i >= 0 {
			all[i].verbs = append(all[i].verbs, verbName(d.GetVerb()))
			continue
		}
		all = append(all, &mismatches{[]string{verbName(d.GetVerb())}, addresses, lines})
	}
	var merged []*mismatches
	for _, m := range all {
		if i := slices.IndexFunc(merged, func(o *mismatches) bool {
			return len(o.addresses) > 0 && len(m.addresses) > 0 && slices.Equal(o.verbs, m.verbs) && slices.Equal(o.lines, m.lines)
		}); i >= 0 {
			merged[i].addresses = append(merged[i].addresses, m.addresses...)
			continue
		}
		merged = append(merged, m)
	}
	return merged
}
