package service

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	probev1 "probed/gen/probe/v1"
	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/policy"
	"probed/service/resolve"
)

type policyServer struct {
	probev1.UnimplementedPolicyServiceServer
	*Service
}

func (s *policyServer) ExplainPolicy(ctx context.Context, message *probev1.ExplainPolicyRequest) (*probev1.ExplainPolicyResponse, error) {
	target, err := exchange.ParseTarget(message.GetTarget(), s.port)
	if err != nil {
		return nil, statusOf(err)
	}
	rules, subject := s.policy(), subjectOf(ctx)
	response := &probev1.ExplainPolicyResponse{Subject: subject, Roles: rules.RolesOf(subject), Open: !rules.HasRoles()}
	if isName(target.Host) {
		name := resolve.ASCII(target.Host)
		decision := rules.DecideName(subject, name)
		response.Resolve = decisionMessage(probev1.PolicyVerb_POLICY_VERB_RESOLVE, decision, rules.ExplainName(subject, name))
		if !decision.Allowed {
			return response, nil
		}
	}
	reached, outcome := s.reach(ctx, target)
	if strings.HasPrefix(target.Path, "@") { // what is abstract, package dial denies by itself
		reached = []policy.Target{{Network: target.Scheme, Path: target.Path}}
	}
	if outcome.Resolution != nil {
		response.ResolutionError = text(outcome.Resolution.Error())
	}
	for _, one := range reached {
		where := dial.Destination(one).String()
		if target.IsUnix() {
			where = target.Path // where a link in it leads is not for the caller to know
		}
		message := &probev1.AddressPolicy{Address: text(where)}
		for _, verb := range verbs {
			if verb.verb == probev1.PolicyVerb_POLICY_VERB_SKIP_VERIFY && !strings.HasPrefix(one.Network, "tcp") {
				continue
			}
			asked := one
			verb.add(&asked)
			message.Decisions = append(message.Decisions, decisionMessage(verb.verb, rules.Decide(subject, asked), rules.Explain(subject, asked)))
		}
		response.Addresses = append(response.Addresses, message)
	}
	return response, nil
}

// verbs are what can be done with an address, and what each adds to what the policy is asked.
var verbs = []struct {
	verb probev1.PolicyVerb
	add  func(*policy.Target)
}{
	{probev1.PolicyVerb_POLICY_VERB_CONNECT, func(*policy.Target) {}},
	{probev1.PolicyVerb_POLICY_VERB_SEND, func(t *policy.Target) { t.Send = true }},
	{probev1.PolicyVerb_POLICY_VERB_SKIP_VERIFY, func(t *policy.Target) { t.SkipVerify = true }},
}

// reach returns what the policy would be asked about if a connection to every address of target were opened. It opens
// them all, with a policy that takes down what it is asked and denies it: so there is no second notion of what a target
// comes to, and nothing is connected.
func (s *policyServer) reach(ctx context.Context, target exchange.Target) ([]policy.Target, *exchange.Outcome) {
	var (
		mu    sync.Mutex
		asked []policy.Target
	)
	dialer := dial.Dialer{Policy: func(_ context.Context, destination dial.Destination) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, policy.Target(destination))
		return errNotToConnect
	}}
	engine := exchange.New(exchange.Config{Dial: dialer.Dial, Resolve: s.resolver.Addresses})
	outcome := engine.Run(ctx, exchange.Request{Target: target, AllAddresses: true}, nil)
	order := make(map[string]int)
	for i, attempt := range outcome.Attempts {
		order[attempt.Address] = i
	}
	slices.SortStableFunc(asked, func(a, b policy.Target) int {
		return cmp.Compare(order[dial.Destination(a).String()], order[dial.Destination(b).String()])
	})
	return asked, outcome
}

// errNotToConnect ends a dial short of its connect.
var errNotToConnect = errors.New("not to be connected")

func decisionMessage(verb probev1.PolicyVerb, decision policy.Decision, verdicts []policy.Verdict) *probev1.PolicyDecision {
	message := &probev1.PolicyDecision{Verb: verb, Allowed: decision.Allowed, Rule: decision.Rule}
	if decision.Rule == policy.RuleDenyDefault {
		for _, verdict := range verdicts {
			if verdict.Mismatch != "" {
				message.Mismatches = append(message.Mismatches, &probev1.RuleMismatch{Role: verdict.Role, Rule: verdict.Rule, Part: verdict.Mismatch})
			}
		}
	}
	return message
}
