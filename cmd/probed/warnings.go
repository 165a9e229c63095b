package main

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/guard"
	"probed/service/policy"
)

// What is right by the rules, and may yet not be what was meant.

// soon is how long before a certificate expires somebody should know.
const soon = 7 * 24 * time.Hour

// checkValidity warns of a certificate that holds no more, not yet, or not for long.
func (r *reader) checkValidity(field, file string, certificate *x509.Certificate) {
	switch name := certificate.Subject.String(); {
	case r.now.After(certificate.NotAfter):
		r.warn(field, "%s: the certificate of %q expired on %s", file, name, certificate.NotAfter.Format(time.RFC3339))
	case r.now.Before(certificate.NotBefore):
		r.warn(field, "%s: the certificate of %q holds from %s on", file, name, certificate.NotBefore.Format(time.RFC3339))
	case r.now.Add(soon).After(certificate.NotAfter):
		r.warn(field, "%s: the certificate of %q expires on %s", file, name, certificate.NotAfter.Format(time.RFC3339))
	}
}

// checkSubject warns of one that no caller can have. Where a * is in it, what stands before the colon must be whole to
// tell anything.
func (r *reader) checkSubject(field, subject string) {
	kind, name, isKind := strings.Cut(subject, ":")
	switch {
	case subject == "anonymous":
		if r.c.asks() {
			r.warn(field, "callers are asked who they are, so nobody is anonymous")
		}
	case !isKind || strings.Contains(kind, "*"):
	case kind == "mtls":
		if r.c.certificates == nil {
			r.warn(field, "nobody is %s: auth.certificates is not there", subject)
		}
	case kind == "token":
		has := func(t guard.Token) bool { return t.Name == name }
		if r.c.awaited == "" && !strings.Contains(name, "*") && !slices.ContainsFunc(r.c.tokens, has) {
			r.warn(field, "nobody is %s: there is no token of that name", subject)
		}
	default:
		if !slices.ContainsFunc(r.c.issuers, func(i issuerConfig) bool { return i.Name == kind }) {
			r.warn(field, "nobody is %s: there is no issuer of the name %s", subject, kind)
		}
	}
}

// checkLookups warns of a rule of role by which every name may be looked up, unless one says so on purpose. Who writes cidrs
// thinks of what is within them.
func (r *reader) checkLookups(field string, rule *configv1.Rule, role *configv1.Role) {
	looksUp := func(rule *configv1.Rule) bool {
		return slices.Contains(rule.GetVerbs(), "resolve") && len(rule.GetUnixPaths()) == 0
	}
	onPurpose := func(rule *configv1.Rule) bool { return looksUp(rule) && slices.Contains(rule.GetHosts(), "*") }
	if looksUp(rule) && len(rule.GetHosts()) == 0 && !slices.ContainsFunc(role.GetRules(), onPurpose) {
		r.warn(field+".verbs", `resolve without hosts: every name may be looked up, and cidrs and ports do not narrow that; give it hosts, ["*"] if every name is meant`)
	}
}

// checkRule warns of one that bounds nothing, and of one whose verbs come to nothing.
func (r *reader) checkRule(field string, rule *policy.Rule) {
	const connects = policy.Connect | policy.Send | policy.SkipVerify
	if rule.Verbs&connects != 0 && rule.Verbs&policy.Connect == 0 {
		r.warn(field+".verbs", "%s without connect grants nothing more", rule.Verbs&connects)
	}
	if rule.Verbs&policy.Connect == 0 || len(rule.UnixPaths) > 0 {
		return
	}
	// Networks of unix sockets alone match none without a path.
	if len(rule.Networks) > 0 && !slices.ContainsFunc(rule.Networks, func(n string) bool { return !strings.HasPrefix(n, "unix") }) {
		r.warn(field, "it matches nothing: there are no unix_paths in it")
		return
	}
	anyHost := len(rule.Hosts) == 0 || slices.Contains(rule.Hosts, "*")
	anyAddress := len(rule.Prefixes) == 0
	for _, prefix := range rule.Prefixes {
		anyAddress = anyAddress || prefix.Bits() == 0
	}
	switch {
	case anyHost && anyAddress:
		r.warn(field, "it admits every address that is not denied for good")
	case anyAddress:
		r.warn(field, "it admits whatever address these names lead to, which is for who answers for them to say: bound it with cidrs")
	}
}
