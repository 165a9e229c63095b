package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/guard"
	"probed/service/policy"
)

// reader turns the message of a file into a config, and reports what the rules in the schema cannot see: what only the
// rooms know to read, names that stand twice, and files that are not what they should be.
type reader struct {
	*document
	now time.Time
	c   config

	elsewhere []fault // in files that this one names
}

// all are the faults, those of the files in their order.
func (r *reader) all() []fault {
	r.sort()
	return append(r.faults, r.elsewhere...)
}

// warn notes what may not be meant.
func (r *reader) warn(field, format string, args ...any) {
	r.c.warnings = append(r.c.warnings, r.fault(field, format, args...))
}

// path makes the path in a field one of this process: it begins at the directory of the file that has the field.
func (r *reader) path(field, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(r.placeOf(field).file), path)
}

func (r *reader) config(m *configv1.Config) {
	listeners := m.GetListeners()
	if grpc := listeners.GetGrpc(); grpc != nil {
		r.c.grpc = listenerConfig{grpc.Address, r.tls("listeners.grpc.tls", grpc.GetTls(), m.GetAuth())}
	}
	if http := listeners.GetHttp(); http != nil {
		r.c.http = listenerConfig{http.Address, r.tls("listeners.http.tls", http.GetTls(), m.GetAuth())}
		r.c.allowedHosts = http.GetAllowedHosts()
	}
	if ops := listeners.GetOps(); ops != nil {
		r.c.ops.address = ops.Address
	}
	r.listeners(listeners)
	if auth := m.GetAuth(); auth != nil {
		r.auth(auth)
	}
	if m.GetPolicy() != nil {
		r.policy(m.GetPolicy())
	}
	r.c.limits, r.c.drain = m.GetLimits(), m.GetDrain()
	if r.c.audit = m.GetAudit().GetPath(); r.c.audit != "" && r.c.audit != "-" {
		r.c.audit = r.path("audit.path", r.c.audit)
		r.auditPath("audit.path", r.c.audit)
	}
	r.modules(m.GetModules())
}

func (r *reader) tls(field string, m *configv1.Tls, auth *configv1.Auth) *tlsFiles {
	// What is required and missing has been reported.
	if m.GetCertificateFile() == "" || m.GetKeyFile() == "" {
		return nil
	}
	files := &tlsFiles{
		certificate: r.path(field+".certificate_file", m.GetCertificateFile()),
		key:         r.path(field+".key_file", m.GetKeyFile()),
		clientCA:    r.path(field+".client_ca_file", m.GetClientCaFile()),
		minVersion:  tls.VersionTLS12,
	}
	if m.GetMinimumVersion() == "1.3" {
		files.minVersion = tls.VersionTLS13
	}
	r.c.watched.add(files.certificate)
	r.c.watched.add(files.key)
	if certificate, key, err := readKeyPair(files.certificate, files.key); err != nil {
		if key {
			r.report(field+".key_file", "%v", err)
		} else {
			r.report(field+".certificate_file", "%v", err)
		}
	} else {
		r.checkValidity(field+".certificate_file", files.certificate, certificate.Leaf)
	}
	if files.clientCA != "" {
		if auth.GetCertificates() == nil {
			r.report(field+".client_ca_file", "it is for auth.certificates, which is not there: no caller would be asked for a certificate")
		}
		r.authorities(field+".client_ca_file", files.clientCA)
	}
	return files
}

// authorities checks a file of authorities.
func (r *reader) authorities(field, file string) {
	r.c.watched.add(file)
	certificates, err := readCertificates(file)
	if err != nil {
		r.report(field, "%v", err)
	}
	for _, certificate := range certificates {
		r.checkValidity(field, file, certificate)
	}
}

// nameSources are what auth.certificates.subject_from may say, empty included; the schema has the same list.
var nameSources = map[string]guard.NameSource{
	"":            guard.FirstName,
	"first":       guard.FirstName,
	"uri":         guard.URIName,
	"dns":         guard.DNSName,
	"email":       guard.EmailName,
	"common-name": guard.CommonName,
}

func (r *reader) auth(m *configv1.Auth) {
	if m.GetCertificates() != nil {
		r.c.certificates = &guard.CertificateConfig{SubjectFrom: nameSources[m.GetCertificates().GetSubjectFrom()]}
	}
	owners := make(map[string]string) // where a token's hash stands
	r.tokens("auth.tokens", m.GetTokens(), &r.c, owners)
	tokensFile := r.path("auth.tokens_file", m.GetTokensFile())
	_, err := os.Stat(tokensFile)
	missing := m.GetTokensFileOptional() && errors.Is(err, fs.ErrNotExist)
	switch {
	case missing:
		r.c.watched.add(tokensFile)
	case tokensFile != "":
		r.tokensFile(tokensFile, owners)
	}
	names := make(map[string]string)
	for i, issuer := range m.GetIssuers() {
		r.issuer(fmt.Sprintf("auth.issuers[%d]", i), issuer, names)
	}
	switch {
	case missing && r.c.asks():
		r.c.awaited = tokensFile
	case missing:
		r.report("auth.tokens_file", "%s is not there, and there is no other way to prove who calls: nobody could", tokensFile)
	case r.c.asks() || len(r.faults)+len(r.elsewhere) > 0:
	case m.GetTokensFile() != "": // as when the file is about to be written
		r.report("auth.tokens_file", "there is no token in it, and no other way to prove who calls: nobody could")
	default:
		r.warn("auth", "there is no way in it to prove who calls, so nobody is asked")
	}
}

// tokens appends to those of c, which is this reader's or that of the reader whose file names this one's.
func (r *reader) tokens(field string, tokens []*configv1.Token, c *config, owners map[string]string) {
	for i, token := range tokens {
		each := fmt.Sprintf("%s[%d]", field, i)
		hash, err := guard.ParseTokenHash(token.GetSha256())
		if err != nil {
			continue // The schema has the same rule, and has reported it.
		}
		// One token has one subject. Two tokens of one name are as it should be while one replaces the other.
		r.once(each+".sha256", strings.ToLower(token.GetSha256()), owners)
		var notAfter time.Time
		if token.GetExpires() != nil {
			notAfter = token.GetExpires().AsTime()
			if !notAfter.After(r.now) {
				r.warn(each+".expires", "the token %s has expired", token.GetName())
			}
		}
		c.tokens = append(c.tokens, guard.Token{Name: token.GetName(), Hash: hash, NotAfter: notAfter})
	}
}

func (r *reader) tokensFile(file string, owners map[string]string) {
	r.c.watched.add(file)
	message := new(configv1.Tokens)
	inner := &reader{document: readDocument([]string{file}, r.getenv, message), now: r.now}
	if inner.isRead() {
		inner.tokens("tokens", message.GetTokens(), &r.c, owners)
	}
	r.elsewhere = append(r.elsewhere, inner.all()...)
	r.c.warnings = append(r.c.warnings, inner.c.warnings...)
}

func (r *reader) issuer(field string, m *configv1.Issuer, names map[string]string) {
	name := m.GetName()
	if name == "" {
		name = "oidc"
	}
	r.once(field+".name", name, names)
	issuer := issuerConfig{
		Issuer:          guard.Issuer{Name: name, URL: m.GetUrl(), Audience: m.GetAudience(), Algorithms: m.GetAlgorithms()},
		caFile:          r.path(field+".ca_file", m.GetCaFile()),
		bearerTokenFile: r.path(field+".bearer_token_file", m.GetBearerTokenFile()),
	}
	if issuer.caFile != "" {
		r.authorities(field+".ca_file", issuer.caFile)
	}
	if issuer.bearerTokenFile != "" {
		if token, err := readRegular(issuer.bearerTokenFile); err != nil {
			r.report(field+".bearer_token_file", "%s: %v", issuer.bearerTokenFile, err)
		} else if len(strings.Fields(string(token))) != 1 {
			r.report(field+".bearer_token_file", "%s: it is not a token alone", issuer.bearerTokenFile)
		}
	}
	r.c.issuers = append(r.c.issuers, issuer)
}

// once reports a name that something before has too. Names that are empty are reported as such.
func (r *reader) once(field, name string, owners map[string]string) {
	if name == "" {
		return
	}
	if owner, twice := owners[name]; twice {
		r.report(field, "%q stands twice, first as %s", name, owner)
		return
	}
	at := r.placeOf(field)
	owners[name] = fmt.Sprintf("%s in line %d", field, at.line)
	if len(r.files) > 1 {
		owners[name] += " of " + at.file
	}
}

func (r *reader) policy(m *configv1.Policy) {
	r.c.policy = new(policyConfig)
	for i, lift := range m.GetLift() {
		if prefix, ok := r.prefix(fmt.Sprintf("policy.lift[%d]", i), lift); ok {
			r.c.policy.lift = append(r.c.policy.lift, prefix)
		}
	}
	names := make(map[string]string)
	for i, role := range m.GetRoles() {
		field := fmt.Sprintf("policy.roles[%d]", i)
		r.once(field+".name", role.GetName(), names)
		for j, subject := range role.GetSubjects() {
			each := fmt.Sprintf("%s.subjects[%d]", field, j)
			if err := policy.CheckSubjectPattern(subject); err != nil {
				r.report(each, "%q: %v", subject, err)
			} else {
				r.checkSubject(each, subject)
			}
		}
		rules := make([]policy.Rule, 0, len(role.GetRules()))
		ruleNames := make(map[string]string)
		for j, rule := range role.GetRules() {
			each := fmt.Sprintf("%s.rules[%d]", field, j)
			r.once(each+".name", rule.GetName(), ruleNames)
			r.checkLookups(each, rule, role)
			rules = append(rules, r.rule(each, rule))
		}
		r.c.policy.roles = append(r.c.policy.roles, policy.Role{
			Name: role.GetName(), Subjects: role.GetSubjects(), Rules: rules, Operations: role.GetOperations(),
		})
	}
	if len(m.GetRoles()) == 0 {
		r.warn("policy", "there is no role in it, so nobody may do anything")
	}
}

func (r *reader) rule(field string, m *configv1.Rule) policy.Rule {
	rule := policy.Rule{Name: m.GetName(), Networks: m.GetNetworks(), Hosts: m.GetHosts(), UnixPaths: m.GetUnixPaths()}
	for i, host := range m.GetHosts() {
		if err := policy.CheckHostPattern(host); err != nil {
			r.report(fmt.Sprintf("%s.hosts[%d]", field, i), "%q: %v", host, err)
		}
	}
	for i, cidr := range m.GetCidrs() {
		if prefix, ok := r.prefix(fmt.Sprintf("%s.cidrs[%d]", field, i), cidr); ok {
			rule.Prefixes = append(rule.Prefixes, prefix)
		}
	}
	for i, port := range m.GetPorts() {
		ports, err := policy.ParsePortRange(port)
		if err != nil {
			r.report(fmt.Sprintf("%s.ports[%d]", field, i), "%v", err)
		}
		rule.Ports = append(rule.Ports, ports)
	}
	for i, path := range m.GetUnixPaths() {
		// Beside the form, whether a symbolic link would keep it from ever matching.
		if err := checkUnixPath(path); err != nil {
			r.report(fmt.Sprintf("%s.unix_paths[%d]", field, i), "%q: %v", path, err)
		}
	}
	for _, verb := range m.GetVerbs() {
		verbs, err := policy.ParseVerb(verb)
		if err != nil {
			continue // The schema has the same list, and has reported it.
		}
		rule.Verbs |= verbs
	}
	r.checkRule(field, &rule)
	return rule
}

// prefix reads a prefix or a single address.
func (r *reader) prefix(field, text string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		address, addressErr := netip.ParseAddr(text)
		if addressErr == nil && address.Zone() != "" {
			r.report(field, "%q: an address has no zone here", text)
			return netip.Prefix{}, false
		}
		// What is neither has been reported by the schema.
		prefix, err = netip.PrefixFrom(address, address.BitLen()), addressErr
	}
	return prefix, err == nil
}
