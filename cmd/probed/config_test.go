package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/guard"
	"probed/service/policy"
)

// now is when the files of these tests are read.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// configDir makes a directory with what a configuration may name: tls.crt and tls.key, clients-ca.crt, other.key of
// another certificate, old.crt and old.key that have expired, empty.crt, tokens.yaml and token.
func configDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, until := range map[string]time.Time{"tls": now.AddDate(1, 0, 0), "other": now.AddDate(1, 0, 0), "old": now.AddDate(0, 0, -1)} {
		certificate, key := selfSigned(t, name, until)
		write(name+".crt", certificate)
		write(name+".key", key)
	}
	certificate, _ := selfSigned(t, "clients", now.AddDate(1, 0, 0))
	write("clients-ca.crt", certificate)
	write("empty.crt", "no certificate\n")
	write("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	write("token", "header.payload.signature\n")
	write("two-words", "not a token\n")
	write("tokens.yaml", "tokens:\n  - name: deploy-1\n    sha256: sha256:"+strings.Repeat("1f", 32)+"\n")
	write("bad-tokens.yaml", "tokens:\n  - name: deploy 1\n    sha256: sha256:"+strings.Repeat("2f", 32)+"\n")
	return dir
}

func selfSigned(t testing.TB, name string, until time.Time) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"probed.example.com"},
		NotBefore: until.AddDate(-2, 0, 0), NotAfter: until, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// readText reads a configuration with that text, beside the files of configDir.
func readText(t testing.TB, dir, text string) (*config, error) {
	t.Helper()
	file := filepath.Join(dir, "probed.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return readConfigAt([]string{file}, noEnv, now)
}

// noEnv is an environment without variables.
func noEnv(string) string { return "" }

// parseText reads what a file says, from memory.
func parseText(file string, data []byte, into proto.Message) *document {
	d := newDocument(noEnv)
	d.begin(file)
	d.parse(data, into)
	d.check(into)
	return d
}

// The example is one that runs, says all there is to say, and has the defaults as it claims.
func TestExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/config/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := configDir(t)
	c, err := readText(t, dir, string(text))
	if err != nil {
		t.Fatal(err)
	}
	var warnings []string
	for _, w := range c.warnings {
		warnings = append(warnings, w.String())
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	if got, want := limitsOf(c.limits, true), limitsOf(nil, true); got != want {
		t.Errorf("limits %+v, want the defaults %+v", got, want)
	}
	delay, timeout := drainOf(c.drain, true)
	if wantDelay, wantTimeout := drainOf(nil, true); delay != wantDelay || timeout != wantTimeout {
		t.Errorf("drain %v, %v, want the defaults %v, %v", delay, timeout, wantDelay, wantTimeout)
	}
	if err := checkExposure(exposure{config: c, grpc: ":50051", http: ":8080"}); err != nil {
		t.Error(err)
	}
	// The issuer that stands in comments is right too, but for where its files are.
	commented := strings.NewReplacer("    # - name: kubernetes", "    - name: kubernetes", "    #   ", "      ",
		"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", "tls.crt", "/var/run/secrets/kubernetes.io/serviceaccount/token", "token").Replace(string(text))
	c, err = readText(t, dir, commented)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.issuers) != 2 || c.issuers[1].Name != "kubernetes" || c.issuers[1].URL != "https://kubernetes.default.svc" {
		t.Errorf("issuers %+v", c.issuers)
	}
	// Every key there is stands in it.
	for _, message := range []any{
		configv1.Config{}, configv1.Listeners{}, configv1.GrpcListener{}, configv1.HttpListener{}, configv1.OpsListener{}, configv1.Tls{},
		configv1.Auth{}, configv1.Certificates{}, configv1.Token{}, configv1.Issuer{}, configv1.Policy{}, configv1.Role{}, configv1.Rule{},
		configv1.Limits{}, configv1.Drain{}, configv1.Audit{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(message)) {
			tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if tag != "" && tag != "algorithms" && !strings.Contains(string(text), tag+":") {
				t.Errorf("%T: %s is not in the example", message, tag)
			}
		}
	}
}

func TestReadConfig(t *testing.T) {
	t.Parallel()
	dir := configDir(t)
	c, err := readText(t, dir, `
listeners:
  grpc: {address: "", tls: {certificateFile: tls.crt, keyFile: tls.key, clientCaFile: clients-ca.crt, minimumVersion: "1.3"}}
  http: {tls: {certificate_file: tls.crt, key_file: tls.key}, allowed_hosts: [probed.example.com]}
  ops: {address: ":9464"}
  echo: [udp://127.0.0.1:7]
auth:
  certificates: {subject_from: dns}
  tokens:
    - {name: ci, sha256: "sha256:`+strings.Repeat("aB", 32)+`", expires: 2027-01-31T00:00:00Z}
  tokens_file: tokens.yaml
  issuers: [{url: "https://login.example.com", audience: probed, ca_file: tls.crt, bearer_token_file: token, algorithms: [ES256]}]
policy:
  lift: ["169.254.20.10/32", "::1/128"]
  roles:
    - name: reader
      subjects: [token:ci, "*"]
      rules:
        - {name: web, networks: [tcp], hosts: ["*.example.com"], cidrs: [10.0.0.0/8, 192.0.2.7], ports: [443, "80", 8000-8100], verbs: [resolve, connect, send]}
        - {name: socket, unix_paths: ["/nowhere/*"], verbs: [connect]}
limits: {sessions: 10, session_bytes: 1.5Gi, dial_timeout: 1m30s, dials_per_second: 0}
drain: {delay: 0s}
audit: {path: audit.log}
`)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	empty, ops := "", ":9464"
	want := &config{

		grpc:         listenerConfig{&empty, &tlsFiles{in("tls.crt"), in("tls.key"), in("clients-ca.crt"), tls.VersionTLS13}},
		http:         listenerConfig{nil, &tlsFiles{in("tls.crt"), in("tls.key"), "", tls.VersionTLS12}},
		ops:          listenerConfig{address: &ops},
		echo:         []string{"udp://127.0.0.1:7"},
		allowedHosts: []string{"probed.example.com"},
		certificates: &guard.CertificateConfig{SubjectFrom: guard.DNSName},
		tokens: []guard.Token{
			{Name: "ci", Hash: [32]byte(repeat(0xab)), NotAfter: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)},
			{Name: "deploy-1", Hash: [32]byte(repeat(0x1f))},
		},
		policy: &policyConfig{
			lift: []netip.Prefix{netip.MustParsePrefix("169.254.20.10/32"), netip.MustParsePrefix("::1/128")},
			roles: []policy.Role{{Name: "reader", Subjects: []string{"token:ci", "*"}, Rules: []policy.Rule{
				{
					Name: "web", Networks: []string{"tcp"}, Hosts: []string{"*.example.com"},
					Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")},
					Ports:    []policy.PortRange{{First: 443, Last: 443}, {First: 80, Last: 80}, {First: 8000, Last: 8100}},
					Verbs:    policy.Resolve | policy.Connect | policy.Send,
				},
				{Name: "socket", UnixPaths: []string{"/nowhere/*"}, Verbs: policy.Connect},
			}}},
		},
		audit: in("audit.log"),
	}
	if files := []string{
		in("probed.yaml"), in("tls.crt"), in("tls.key"), in("clients-ca.crt"), in("tls.crt"), in("tls.key"), in("tokens.yaml"), in("tls.crt"),
	}; !slices.Equal(c.watched.files, files) || c.watched.changed() {
		t.Errorf("watched %q, want %q", c.watched.files, files)
	}
	wantIssuer := issuerConfig{caFile: in("tls.crt"), bearerTokenFile: in("token")}
	wantIssuer.Name, wantIssuer.URL, wantIssuer.Audience, wantIssuer.Algorithms = "oidc", "https://login.example.com", "probed", []string{"ES256"}
	want.issuers = []issuerConfig{wantIssuer}
	gotLimits := limitsOf(c.limits, true)
	wantLimits := limitsOf(nil, true)
	wantLimits.Sessions, wantLimits.SessionsPerCaller, wantLimits.SessionBytes = 10, 10, 3<<29
	wantLimits.DialTimeout, wantLimits.DialsPerSecond = 90*time.Second, 0
	if gotLimits != wantLimits {
		t.Errorf("limits %+v, want %+v", gotLimits, wantLimits)
	}
	if delay, timeout := drainOf(c.drain, true); delay != 0 || timeout != 20*time.Second {
		t.Errorf("drain %v, %v", delay, timeout)
	}
	c.limits, c.drain, c.watched = nil, nil, watched{}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("\n got %+v\nwant %+v", c, want)
	}
	for _, files := range []*tlsFiles{c.grpc.tls, c.http.tls} {
		certificate, clients, err := files.load()
		if err != nil || certificate.Leaf.Subject.CommonName != "tls" || (clients == nil) != (files.clientCA == "") {
			t.Errorf("%v, %v, %v", certificate.Leaf, clients, err)
		}
	}
}

func repeat(b byte) []byte {
	all := make([]byte, 32)
	for i := range all {
		all[i] = b
	}
	return all
}

// Whatever a file says, reading it ends, without a panic, with a config or with faults that have a place in it.
func FuzzConfig(f *testing.F) {
	example, err := os.ReadFile("../../deploy/config/example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(example), "", "---\n", "a: b\n---\nc: d", "limits: {sessions: 1e3, session_bytes: 0x10}", "policy: &a\n  roles: *a", "drain:\r\n  delay: 5s\r\n",
		"? [a]\n: b", "policy: {roles: [{rules: [{ports: [443, 80-90], verbs: [connect]}]}]}", "limits: {dial_timeout: {seconds: 1}}", "<<: {audit: {path: -}}",
		"modules:\n  a: &a {prober: tcp, tcp: {query_response: [{expect: \"^a(b)\", send: \"$1 ${1}\", labels: [{name: x, value: $1}]}]}}\n  b: {<<: *a, timeout: 5s}\n  c: *a",
		"modules: {a: {prober: dns, dns: {query_name: a, query_type: A, valid_rcodes: [NOERROR], validate_answer_rrs: {fail_if_matches_regexp: [a]}}}, h: {prober: http, http: {x: [1]}}}",
		"modules: {a: &a {b: *a}}",
		"auth: {tokens: [{expires: 2027-01-01}]}", "audit: !!binary aGk=", "listeners: {grpc: {address: ~}}", "\"\\x85\": 1", "a: |\n  b\n\u2028c",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message := new(configv1.Config)
		d := parseText("f.yaml", data, message)
		for _, fault := range d.faults {
			if fault.message == "" || fault.line < 0 || fault.line > strings.Count(string(data), "\n")+1 && fault.line < math.MaxInt || strings.ContainsAny(fault.String(), "\n\x1b") {
				t.Errorf("%q: %+v", data, fault)
			}
		}
		if len(d.faults) > 0 {
			return
		}
		// What the schema admits, the code that converts reports or takes, and the code that defaults holds to.
		r := &reader{document: d, now: now}
		r.modules(message.GetModules())
		if message.GetPolicy() != nil {
			r.policy(message.GetPolicy())
		}
		r.tokens("auth.tokens", message.GetAuth().GetTokens(), &r.c, make(map[string]string))
		if len(r.all()) == 0 && len(r.c.tokens) != len(message.GetAuth().GetTokens()) {
			t.Errorf("%q: %d tokens", data, len(r.c.tokens))
		}
		for _, reachable := range []bool{false, true} {
			l := limitsOf(message.GetLimits(), reachable)
			if l.Sessions < 0 || l.SessionBytes < 0 || l.DialTimeout <= 0 || l.ExchangeTimeout <= 0 || l.ExchangeTimeout > l.ExchangeTimeoutMax ||
				l.Sessions > 0 && (l.SessionsPerCaller == 0 || l.SessionsPerCaller > l.Sessions) ||
				l.Calls > 0 && (l.CallsPerCaller == 0 || l.CallsPerCaller > l.Calls) {
				t.Errorf("%q: %+v", data, l)
			}
		}
	})
}
