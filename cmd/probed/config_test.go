package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	return readConfigAt(file, now)
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
		file:         in("probed.yaml"),
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
		files: []string{
			in("probed.yaml"), in("tls.crt"), in("tls.key"), in("clients-ca.crt"), in("tls.crt"), in("tls.key"), in("tokens.yaml"), in("tls.crt"),
		},
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
	c.limits, c.drain = nil, nil
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

// All that is wrong is told, each at its place. FILE stands for the file itself.
func TestConfigFaults(t *testing.T) {
	t.Parallel()
	hash := "sha256:" + strings.Repeat("ab", 32)
	tests := []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{`FILE: it is empty`}},
		{"comments alone", "# nothing\n", []string{`FILE: it is empty`}},
		{"a document without anything", "---\n", []string{`FILE: it is empty`}},
		{"a list", "- a\n", []string{`FILE:1:1: keys are expected here, each with a value`}},
		{"not UTF-8", "audit: {path: \xff}\n", []string{`FILE: it is not UTF-8`}},
		{"an odd end of line", "drain: {}\n# a\rudit: {}\n", []string{`FILE:2: there is a character at which lines end for some programs alone; end lines with a newline`}},
		{"a tab", "drain:\n\tdelay: 5s\n", []string{`FILE:2: there is a tab; YAML is indented with spaces`}},
		{"no YAML", "drain: {delay: 5s\n", []string{`FILE:1: did not find expected ',' or '}'`}},
		{"a second document", "drain: {delay: 5s}\n---\ndrain: {}\n", []string{`FILE:2:1: a second document begins; there is one to a file`}},
		{"a key twice", "drain:\n  delay: 5s\n  timeout: 1s\n  delay: 6s\n", []string{`FILE:4:3: drain.delay: the key stands twice; first in line 2`}},
		{"a key in both spellings", "limits:\n  dialTimeout: 5s\n  dial_timeout: 6s\n", []string{`FILE:3:3: limits.dial_timeout: the key stands twice; first in line 2`}},
		{"an unknown key", "policy:\n  rolez: []\n", []string{`FILE:2:3: policy.rolez: there is no such key; there are lift, roles`}},
		{"a key by its number", "1: {}\n", []string{`FILE:1:1: 1: there is no such key; there are listeners, auth, policy, limits, drain, audit`}},
		{"a key without a value", "listeners:\n  grpc:\n    address:\n", []string{`FILE:3:5: listeners.grpc.address: there is no value; leave the key out or give it one`}},
		{"an alias", "listeners:\n  grpc: &a {address: ':1'}\n  ops: *a\n", []string{`FILE:3:8: listeners.ops: aliases are not read: write it out`}},
		{"a mapping for a list", "policy:\n  roles:\n    reader: {}\n", []string{`FILE:3:5: policy.roles: a list is expected here`}},
		{"a list for a word", "audit:\n  path: [a]\n", []string{`FILE:2:9: audit.path: a single value is expected here`}},
		{"a duration without a unit", "limits:\n  dial_timeout: 10\n", []string{`FILE:2:17: limits.dial_timeout: it is a duration, as 250ms, 5s or 1m30s`}},
		{"a negative number", "limits:\n  sessions: -1\n", []string{`FILE:2:13: limits.sessions: it is a whole number; bytes also as 64Ki, 1Mi, 1Gi`}},
		{"numbers out of range", "limits:\n  sessions: 1000001\n  streams_per_connection: 0\n  message_bytes: 1Gi\n  dial_timeout: 0s\n  exchange_timeout_max: 11m\n  conversation_idle: -5s\n", []string{
			`FILE:2:13: limits.sessions: must be less than or equal to 1000000`,
			`FILE:3:27: limits.streams_per_connection: must be greater than or equal to 1 and less than or equal to 100000`,
			`FILE:4:18: limits.message_bytes: must be greater than or equal to 1024 and less than or equal to 67108864`,
			`FILE:5:17: limits.dial_timeout: must be greater than or equal to 0.001s and less than or equal to 600s`,
			`FILE:6:25: limits.exchange_timeout_max: must be greater than or equal to 0.001s and less than or equal to 600s`,
			`FILE:7:22: limits.conversation_idle: must be greater than or equal to 0.001s and less than or equal to 600s`,
		}},
		{"shares of less", "limits:\n  sessions_per_caller: 257\n", []string{`FILE:2:3: limits: sessions_per_caller is more than sessions, which is 256 unless set`}},
		{"a share of more calls", "limits:\n  calls_per_caller: 1025\n", []string{`FILE:2:3: limits: calls_per_caller is more than calls, which is 1024 unless set`}},
		{"shares and times", "limits: {sessions: 5, sessions_per_caller: 6, calls: 5, calls_per_caller: 6, connections: 7, connections_per_address: 8, exchange_timeout: 2s, exchange_timeout_max: 1s}\n", []string{
			`FILE:1:9: limits: sessions_per_caller is more than sessions, which is 256 unless set`,
			`FILE:1:9: limits: calls_per_caller is more than calls, which is 1024 unless set`,
			`FILE:1:9: limits: connections_per_address is more than connections, which is 512 unless set`,
			`FILE:1:9: limits: exchange_timeout is longer than exchange_timeout_max`,
		}},
		{"addresses", "listeners:\n  grpc: {address: 127.0.0.1}\n  http: {address: '::1:80', allowed_hosts: ['a:80']}\n  ops: {address: ':x'}\n  echo: [127.0.0.1:7, 'tcp://']\n", []string{
			`FILE:2:19: listeners.grpc.address: an address is HOST:PORT, as 127.0.0.1:50051, [::1]:50051, or :50051 for every address of this host`,
			`FILE:3:19: listeners.http.address: an address is HOST:PORT, as 127.0.0.1:8080, [::1]:8080, or :8080 for every address of this host`,
			`FILE:3:45: listeners.http.allowed_hosts[0]: an allowed host is a name without a port, as probed.example.com`,
			`FILE:4:18: listeners.ops.address: an address is HOST:PORT, as 127.0.0.1:9464, [::1]:9464, or :9464 for every address of this host`,
			`FILE:5:10: listeners.echo[0]: an echo listener is tcp://HOST:PORT, udp://HOST:PORT or unix://PATH`,
			`FILE:5:23: listeners.echo[1]: "tcp://" is not tcp://HOST:PORT, udp://HOST:PORT or unix://PATH: missing port in address`,
		}},
		{"TLS", "listeners:\n  grpc:\n    tls: {certificate_file: tls.crt}\n  http:\n    tls:\n", []string{
			`FILE:3:10: listeners.grpc.tls.key_file: value is required`,
			`FILE:5:9: listeners.http.tls.certificate_file: value is required`,
			`FILE:5:9: listeners.http.tls.key_file: value is required`,
		}},
		{"files of TLS", `
listeners:
  grpc:
    tls:
      certificate_file: tls.crt
      key_file: other.key
      client_ca_file: empty.crt
      minimum_version: "1.1"
  http:
    tls:
      certificate_file: broken.crt
      key_file: tls.key
auth: {certificates: {subject_from: cn}}
`, []string{
			`FILE:6:17: listeners.grpc.tls.key_file: DIR/other.key: it is not the key of the certificate in DIR/tls.crt`,
			`FILE:7:23: listeners.grpc.tls.client_ca_file: DIR/empty.crt: there is no certificate in PEM in it`,
			`FILE:8:24: listeners.grpc.tls.minimum_version: the oldest version is "1.2" or "1.3"`,
			`FILE:11:25: listeners.http.tls.certificate_file: DIR/broken.crt: certificate 1: x509: malformed certificate`,
			`FILE:13:37: auth.certificates.subject_from: the name stands in "uri", "dns", "email" or "common-name", or "first" of these`,
		}},
		{"files of TLS that are not there", `
listeners:
  grpc: {tls: {certificate_file: none.crt, key_file: tls.key, client_ca_file: tls.crt}}
  http: {tls: {certificate_file: tls.crt, key_file: .}}
  ops: {}
`, []string{
			`FILE:3:34: listeners.grpc.tls.certificate_file: DIR/none.crt: no such file or directory`,
			`FILE:3:79: listeners.grpc.tls.client_ca_file: it is for auth.certificates, which is not there: no caller would be asked for a certificate`,
			`FILE:4:53: listeners.http.tls.key_file: DIR: it is a directory`,
		}},
		{"no key", "listeners: {grpc: {tls: {certificate_file: tls.crt, key_file: tls.crt}}}\n", []string{
			`FILE:1:63: listeners.grpc.tls.key_file: DIR/tls.crt: it is no private key in PEM`,
		}},
		{"tokens", `
auth:
  tokens:
    - {name: ci, sha256: ` + hash + `}
    - {name: cd, sha256: sha256:` + strings.Repeat("AB", 32) + `}
    - {sha256: probed_secret, expires: tomorrow}
  tokens_file: bad-tokens.yaml
`, []string{
			`FILE:5:26: auth.tokens[1].sha256: "` + hash + `" stands twice, first as auth.tokens[0].sha256 in line 4`,
			`FILE:6:7: auth.tokens[2].name: a token has a name of letters, digits, '.', '_' and '-', at most 128`,
			`FILE:6:16: auth.tokens[2].sha256: a token stands here as sha256: and 64 hexadecimal digits; probed new-token makes one`,
			`FILE:6:40: auth.tokens[2].expires: it is a time, as 2027-01-31T00:00:00Z (RFC 3339)`,
			`DIR/bad-tokens.yaml:2:11: tokens[0].name: a token has a name of letters, digits, '.', '_' and '-', at most 128`,
		}},
		{"a file of tokens that is not there", "auth: {tokens_file: none.yaml}\n", []string{`DIR/none.yaml: no such file or directory`}},
		{"issuers", `
auth:
  issuers:
    - {url: "http://login.example.com", audience: probed}
    - {url: "https://login.example.com", ca_file: none.crt, bearer_token_file: two-words, algorithms: [HS256]}
    - {url: "https://login.example.com", audience: a, name: mtls, bearer_token_file: none}
`, []string{
			`FILE:4:13: auth.issuers[0].url: an issuer has a url that begins with https://`,
			`FILE:5:7: auth.issuers[1].audience: value is required`,
			`FILE:5:7: auth.issuers[1].name: "oidc" stands twice, first as auth.issuers[0].name in line 4`,
			`FILE:5:51: auth.issuers[1].ca_file: DIR/none.crt: no such file or directory`,
			`FILE:5:80: auth.issuers[1].bearer_token_file: DIR/two-words: it is not a token alone`,
			`FILE:5:104: auth.issuers[1].algorithms[0]: an algorithm is one of RS256 RS384 RS512 ES256 ES384 ES512 PS256 PS384 PS512 EdDSA`,
			`FILE:6:61: auth.issuers[2].name: mtls, token and anonymous are what other callers are called by`,
			`FILE:6:86: auth.issuers[2].bearer_token_file: DIR/none: no such file or directory`,
		}},
		{"a policy", `
policy:
  lift: [169.254.0.0/16]
  roles:
    - name: a
      subjects: [ci, "token:ci "]
      rules:
        - name: r
          networks: [sctp]
          hosts: ["*.*", 10.0.0.1]
          cidrs: [10.0.0.1/8, fe80::1%eth0, x]
          ports: [80-70, 65536, http, ""]
          verbs: [read]
        - name: r
    - name: a
      subjects: []
`, []string{
			`FILE:3:10: policy.lift[0]: one address is lifted at a time, as 169.254.20.10/32 or fd00::1/128`,
			`FILE:6:18: policy.roles[0].subjects[0]: "ci": it is no subject: mtls:NAME, token:NAME, ISSUER:SUB or anonymous, with * for any run of characters`,
			`FILE:6:22: policy.roles[0].subjects[1]: "token:ci ": there is a space at its beginning or end`,
			`FILE:9:22: policy.roles[0].rules[0].networks[0]: a network is one of tcp tcp4 tcp6 udp udp4 udp6 unix unixgram unixpacket`,
			`FILE:10:19: policy.roles[0].rules[0].hosts[0]: "*.*": a * is all of the pattern, or its first label, as in *.example.com`,
			`FILE:10:26: policy.roles[0].rules[0].hosts[1]: "10.0.0.1": it ends like an address; addresses and prefixes belong under cidrs`,
			`FILE:11:19: policy.roles[0].rules[0].cidrs[0]: addresses are a prefix without a bit behind its length, as 10.0.0.0/8 or fd00::/8, or a single address`,
			`FILE:11:31: policy.roles[0].rules[0].cidrs[1]: "fe80::1%eth0": an address has no zone here`,
			`FILE:11:45: policy.roles[0].rules[0].cidrs[2]: addresses are a prefix without a bit behind its length, as 10.0.0.0/8 or fd00::/8, or a single address`,
			`FILE:12:19: policy.roles[0].rules[0].ports[0]: the range "80-70" ends before it begins`,
			`FILE:12:26: policy.roles[0].rules[0].ports[1]: there is no port 65536: the last is 65535`,
			`FILE:12:33: policy.roles[0].rules[0].ports[2]: "http" is no port: give a number (80) or a range (8000-8100)`,
			`FILE:12:39: policy.roles[0].rules[0].ports[3]: "" is no port: give a number (80) or a range (8000-8100)`,
			`FILE:13:19: policy.roles[0].rules[0].verbs[0]: a verb is one of resolve connect send skip-verify`,
			`FILE:14:11: policy.roles[0].rules[1].verbs: must contain at least 1 item(s)`,
			`FILE:14:17: policy.roles[0].rules[1].name: "r" stands twice, first as policy.roles[0].rules[0].name in line 8`,
			`FILE:15:7: policy.roles[1].rules: must contain at least 1 item(s)`,
			`FILE:15:13: policy.roles[1].name: "a" stands twice, first as policy.roles[0].name in line 5`,
			`FILE:16:17: policy.roles[1].subjects: must contain at least 1 item(s)`,
		}},
		{"paths", `
policy:
  roles:
    - name: a
      subjects: ["*"]
      rules:
        - {name: r, unix_paths: ["@x", x/y, /a//b, /a/*b], verbs: [connect]}
        - {name: s, unix_paths: [/run/x], ports: [80], verbs: [connect]}
`, []string{
			`FILE:7:34: policy.roles[0].rules[0].unix_paths[0]: "@x": abstract sockets have no permissions, and are never reached`,
			`FILE:7:40: policy.roles[0].rules[0].unix_paths[1]: "x/y": it is an absolute path, or DIR/* for every socket directly in DIR`,
			`FILE:7:45: policy.roles[0].rules[0].unix_paths[2]: "/a//b": the path is /a/b`,
			`FILE:7:52: policy.roles[0].rules[0].unix_paths[3]: "/a/*b": a * is all of the name behind the last slash`,
			`FILE:8:11: policy.roles[0].rules[1]: a rule with unix_paths has no hosts, cidrs or ports: it would match nothing`,
		}},
		{"audit", "audit: {}\ndrain: {delay: -1s, timeout: 2h}\n", []string{
			`FILE:1:8: audit.path: value is required`,
			`FILE:2:16: drain.delay: must be greater than or equal to 0s and less than or equal to 600s`,
			`FILE:2:30: drain.timeout: must be greater than or equal to 0s and less than or equal to 3600s`,
		}},
		{"a key that drives terminals", `"\e[2J": 1` + "\n", []string{`FILE:1:1: ` + "\ufffd" + `[2J: there is no such key; there are listeners, auth, policy, limits, drain, audit`}},
	}
	dirs := configDir(t)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dirs, fmt.Sprintf("%d.yaml", i))
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readConfigAt(file, now)
			if _, ok := errors.AsType[*configError](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			got := strings.ReplaceAll(strings.ReplaceAll(err.Error(), file, "FILE"), dirs, "DIR")
			if want := strings.Join(test.want, "\n"); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// The first faults are enough.
func TestConfigWithManyFaults(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("listeners:\n  echo: ["+strings.Repeat("[],", 20_000)+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := readConfig(file)
	if err == nil {
		t.Fatal("there are faults")
	}
	lines := strings.Split(err.Error(), "\n")
	if want := file + ": there is more; these come first"; len(lines) != mostFaults+1 || lines[mostFaults] != want {
		t.Errorf("%d lines, the last %s, want %d, %s", len(lines), lines[len(lines)-1], mostFaults+1, want)
	}
}

// What is no file of a few pages is not read.
func TestConfigIsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("# x\n", maxDocument/4)+"#"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		dir:                     "it is a directory",
		big:                     "it is larger than 1048576 bytes",
		filepath.Join(dir, "x"): "no such file or directory",
		"/dev/zero":             "it is no regular file",
		pipe:                    "it is no regular file", // and nobody waits for a writer
	} {
		if _, err := readConfig(file); err == nil || err.Error() != file+": "+want {
			t.Errorf("%v, want %s: %s", err, file, want)
		}
	}
}

// What people copy from has no warning, whatever the files are that it names.
func TestShownConfigsCarryNoWarning(t *testing.T) {
	t.Parallel()
	for file, fence := range map[string]string{"../../README.md": "```yaml\n", "../../deploy/k8s/overlays/shared/probed.yaml": ""} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if fence != "" {
			_, text, _ = strings.Cut(text, fence)
			text, _, _ = strings.Cut(text, "```")
		}
		message := new(configv1.Config)
		d := parseDocument(file, []byte(text), message)
		if len(d.faults) > 0 || len(message.GetPolicy().GetRoles()) == 0 {
			t.Fatalf("%s: %v in %s", file, d.faults, message)
		}
		r := newReader(d, now)
		r.config(message)
		for _, warning := range r.c.warnings {
			t.Error(warning)
		}
	}
}

func TestConfigWarnings(t *testing.T) {
	t.Parallel()
	dir := configDir(t)
	c, err := readText(t, dir, `
listeners:
  http: {tls: {certificate_file: old.crt, key_file: old.key}}
auth:
  tokens: [{name: ci, sha256: "sha256:`+strings.Repeat("ab", 32)+`", expires: 2026-11-01T00:00:00Z}]
policy:
  roles:
    - name: a
      subjects: [mtls:x, token:ci, token:cd, "token:*", oidc:x, anonymous, "*"]
      rules:
        - {name: all, verbs: [connect]}
        - {name: zero, cidrs: ["::/0"], verbs: [connect]}
        - {name: named, hosts: [a.example.com], verbs: [connect]}
        - {name: useless, cidrs: [10.0.0.0/8], verbs: [resolve, send]}
        - {name: names, verbs: [resolve]}
        - {name: sockets, networks: [unix], verbs: [connect]}
        - {name: right, hosts: [a.example.com], cidrs: [10.0.0.0/8], verbs: [connect]}
        - {name: within, cidrs: [10.0.0.0/8], ports: [443], verbs: [resolve, connect]}
        - {name: some, hosts: [a.example.com], verbs: [resolve]}
        - {name: path, unix_paths: [/run/x], verbs: [resolve, connect]}
    - name: b
      subjects: [token:ci]
      rules:
        - {name: addresses, cidrs: [10.0.0.0/8], verbs: [resolve]}
        - {name: names, hosts: ["*"], verbs: [resolve]}
    - name: c
      subjects: [token:ci]
      rules:
        - {name: lookups, verbs: [resolve]}
        - {name: anything, hosts: ["*"], cidrs: [10.0.0.0/8], verbs: [connect]}
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.warnings {
		got = append(got, strings.ReplaceAll(w.String(), dir+"/", ""))
	}
	const anyName = `resolve without hosts: every name may be looked up, and cidrs and ports do not narrow that; give it hosts, ["*"] if every name is meant`
	want := []string{
		`probed.yaml:3:34: listeners.http.tls.certificate_file: old.crt: the certificate of "CN=old" expired on 2026-11-22T12:00:00Z`,
		`probed.yaml:5:115: auth.tokens[0].expires: the token ci has expired`,
		`probed.yaml:9:18: policy.roles[0].subjects[0]: nobody is mtls:x: auth.certificates is not there`,
		`probed.yaml:9:36: policy.roles[0].subjects[2]: nobody is token:cd: there is no token of that name`,
		`probed.yaml:9:57: policy.roles[0].subjects[4]: nobody is oidc:x: there is no issuer of the name oidc`,
		`probed.yaml:9:65: policy.roles[0].subjects[5]: callers are asked who they are, so nobody is anonymous`,
		`probed.yaml:11:11: policy.roles[0].rules[0]: it admits every address that is not denied for good`,
		`probed.yaml:12:11: policy.roles[0].rules[1]: it admits every address that is not denied for good`,
		`probed.yaml:13:11: policy.roles[0].rules[2]: it admits whatever address these names lead to, which is for who answers for them to say: bound it with cidrs`,
		`probed.yaml:14:55: policy.roles[0].rules[3].verbs: ` + anyName,
		`probed.yaml:14:55: policy.roles[0].rules[3].verbs: send without connect grants nothing more`,
		`probed.yaml:15:32: policy.roles[0].rules[4].verbs: ` + anyName,
		`probed.yaml:16:11: policy.roles[0].rules[5]: it matches nothing: there are no unix_paths in it`,
		`probed.yaml:18:68: policy.roles[0].rules[7].verbs: ` + anyName,
		`probed.yaml:29:34: policy.roles[2].rules[0].verbs: ` + anyName,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c, err := readText(t, dir, "auth: {}\npolicy: {}\n"); err != nil || len(c.warnings) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
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
		"auth: {tokens: [{expires: 2027-01-01}]}", "audit: !!binary aGk=", "listeners: {grpc: {address: ~}}", "\"\\x85\": 1", "a: |\n  b\n\u2028c",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message := new(configv1.Config)
		d := parseDocument("f.yaml", data, message)
		for _, fault := range d.faults {
			if fault.message == "" || fault.line < 0 || fault.line > strings.Count(string(data), "\n")+1 && fault.line < math.MaxInt || strings.ContainsAny(fault.String(), "\n\x1b") {
				t.Errorf("%q: %+v", data, fault)
			}
		}
		if len(d.faults) > 0 {
			return
		}
		// What the schema admits, the code that converts reports or takes, and the code that defaults holds to.
		r := newReader(d, now)
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
