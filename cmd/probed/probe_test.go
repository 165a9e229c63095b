package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	configv1 "probed/gen/probe/config/v1"
	"probed/internal/nettest"
)

const probeModules = `
modules:
  tcp: {prober: tcp, timeout: 5s}
  ask: {prober: tcp, timeout: 5s, tcp: {query_response: [{send: hello}, {expect: hello}]}}
  any: {prober: tcp, timeout: 5s, tcp: {tls: true, tls_config: {insecure_skip_verify: true}}}
  dns: {prober: dns, timeout: 5s, dns: {query_name: a.test}}
  missing: {prober: tcp, tcp: {tls: true, tls_config: {ca_file: /nowhere/secret.pem}}}
`

// probe asks as Prometheus does. The text is that of an error, or of the series.
func (s *secured) probe(t *testing.T, w who, module, target string) (code int, text string) {
	t.Helper()
	reply, text, err := s.rest(t.Context(), s.client(t, w), w, http.MethodGet, "/probe?"+url.Values{"module": {module}, "target": {target}}.Encode(), "")
	if err != nil {
		return 0, ""
	}
	if reply.StatusCode == http.StatusUnauthorized && reply.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("WWW-Authenticate %q", reply.Header.Get("WWW-Authenticate"))
	}
	return reply.StatusCode, text
}

// A probe needs what a call to its target needs. That the caller may not is told as an error, of which no alert says that the
// target is down; nor does who may connect to nothing learn which modules there are, and nobody where their files are.
func TestProbeMatrix(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.put(t, map[string]string{"probed.yaml": s.config(securedPolicy, probeModules)})
	s.start(t)
	echo, refused := nettest.TCP(t, nettest.Echo).String(), nettest.Refused(t).String()
	strangers := newAuthority(t)
	jwt := func(change map[string]any) who { return bearer(s.issuer.token(t, "all", change)) }
	const (
		up, down = "probe_success 1\n", "probe_success 0\n"
		notOpen  = `reason="CONNECTION_REFUSED"`
		denied   = "the policy of this probed does not let this caller"
	)
	for _, test := range []struct {
		caller         string
		who            who
		module, target string
		code           int // 0: no connection
		text           string
	}{
		{"none", who{}, "tcp", echo, 401, ""},
		{"none", who{}, "nosuch", echo, 401, ""},
		{"none", who{}, "tcp", "", 401, ""},
		{"malformed", who{authorization: "Basic YTpi"}, "tcp", echo, 401, ""},
		{"unknown token", token("stranger"), "tcp", echo, 401, ""},
		{"expired token", token("late"), "tcp", echo, 401, ""},
		{"expired JWT", jwt(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), "tcp", echo, 401, ""},
		{"JWT for somebody else", jwt(map[string]any{"aud": "another"}), "tcp", echo, 401, ""},
		{"untrusted certificate", strangers.caller(t, "all", time.Now().Add(time.Hour)), "tcp", echo, 0, ""},
		{"no role", token("nobody"), "tcp", echo, 403, "it needs a role that grants connect"},
		{"no role", token("nobody"), "ask", echo, 403, "it needs a role that grants connect"},
		{"resolve alone", token("resolver"), "tcp", echo, 403, "it needs a role that grants connect"},
		{"no role", token("nobody"), "nosuch", echo, 403, "it needs a role that grants connect"},
		{"no role", token("nobody"), "missing", echo, 403, "it needs a role that grants connect"},
		{"no role", token("nobody"), "tcp", "", 403, "it needs a role that grants connect"},
		{"resolve alone", token("resolver"), "nosuch", echo, 403, "it needs a role that grants connect"},
		{"connect alone", token("connector"), "tcp", echo, 200, up},
		{"connect alone", token("connector"), "tcp", refused, 200, notOpen},
		{"connect alone", token("connector"), "ask", echo, 403, denied},
		{"connect alone", token("connector"), "dns", refused, 403, denied},
		{"connect alone", token("connector"), "any", echo, 403, denied},
		{"connect alone", token("connector"), "tcp", "nothing.invalid:1", 403, denied},
		{"allowed", token("all"), "tcp", echo, 200, up},
		{"allowed", token("all"), "ask", echo, 200, up},
		{"allowed", token("all"), "tcp", refused, 200, down},
		{"allowed", token("all"), "tcp", "192.0.2.1:1", 403, denied},
		{"allowed", token("all"), "tcp", "169.254.169.254:80", 403, denied},
		{"allowed", token("all"), "tcp", s.addresses["ops"], 403, denied},
		{"allowed", token("all"), "tcp", "other.invalid:1", 403, denied},
		{"allowed", token("all"), "nosuch", echo, 400, `unknown module "nosuch"`},
		{"allowed", token("all"), "missing", echo, 500, `the module "missing" cannot be used; the log`},
		{"allowed by JWT", jwt(nil), "ask", echo, 200, up},
		{"allowed by certificate", s.clients.caller(t, "all", time.Now().Add(time.Hour)), "ask", echo, 200, up},
	} {
		code, text := s.probe(t, test.who, test.module, test.target)
		if code != test.code || !strings.Contains(text, test.text) || (code != 200 && strings.Contains(text, "probe_success")) || strings.Contains(text, "/nowhere") {
			t.Errorf("%s: %s of %q: %d %s, want %d %s", test.caller, test.module, test.target, code, text, test.code, test.text)
		}
	}
	// It is in the audit log as what it is.
	log, err := os.ReadFile(s.auditPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"subject":"token:connector"`, "tcp://" + echo, `"CONNECTION_REFUSED"`} {
		if !strings.Contains(string(log), part) {
			t.Errorf("%s is not in the audit log", part)
		}
	}
}

// There is a /probe as long as there are modules, which come and go with the file; a file of a module that was missing too.
func TestProbeComesAndGoes(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.start(t)
	echo := nettest.TCP(t, nettest.Echo).String()
	await := func(module string, want int, text string) {
		t.Helper()
		var code int
		var got string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if code, got = s.probe(t, token("all"), module, echo); code == want && strings.Contains(got, text) {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
		t.Fatalf("%s: %d %s, want %d %s", module, code, got, want, text)
	}
	await("tcp", 404, "there is no /probe")
	s.put(t, map[string]string{"probed.yaml": s.config(securedPolicy, probeModules, "  late: {prober: tcp, tcp: {tls: true, tls_config: {ca_file: late.pem}}}\n")})
	s.signals <- syscall.SIGHUP
	await("tcp", 200, "probe_success 1")
	await("late", 500, "cannot be used")
	s.put(t, map[string]string{"late.pem": s.servers.pem()})
	s.signals <- syscall.SIGHUP
	await("late", 200, "TLS_NOT_SPOKEN")
	s.put(t, map[string]string{"probed.yaml": s.config()})
	s.signals <- syscall.SIGHUP
	await("tcp", 404, "there is no /probe")
}

// An answer says under which id the log has its call, be it an error; and where it is given from, to those who may know.
func TestProbeHeaders(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.put(t, map[string]string{"probed.yaml": s.config(securedPolicy, probeModules)})
	s.start(t)
	echo, refused := nettest.TCP(t, nettest.Echo).String(), nettest.Refused(t).String()
	for _, test := range []struct {
		who            who
		module, target string
		code           int
	}{
		{token("all"), "tcp", echo, 200},
		{token("all"), "ask", echo, 200},
		{token("all"), "ask", refused, 200},
		{token("all"), "tcp", "192.0.2.1:1", 403},
		{token("all"), "ask", "192.0.2.1:1", 403},
		{token("nobody"), "tcp", echo, 403},
		{who{}, "tcp", echo, 401},
	} {
		query := url.Values{"module": {test.module}, "target": {test.target}}.Encode()
		reply, text, err := s.rest(t.Context(), s.client(t, test.who), test.who, http.MethodGet, "/probe?"+query, "")
		if err != nil || reply.StatusCode != test.code {
			t.Fatalf("%s: %v, %v, %s", query, err, reply, text)
		}
		id := reply.Header.Get("Probe-Request-Id")
		if len(id) != 16 || (reply.Header.Get("Probe-Vantage") != "") != (test.code == 200 || test.who == token("all")) {
			t.Errorf("%s: %v", query, reply.Header)
		}
	}
}

// Limits are those of every caller.
func TestProbeLimits(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.put(t, map[string]string{"probed.yaml": s.config(securedPolicy, probeModules, "limits: {targets_per_minute: 1}\n")})
	s.start(t)
	for i, want := range []int{200, 429} {
		target := nettest.TCP(t, nettest.Echo).String()
		reply, text, err := s.rest(t.Context(), s.client(t, token("all")), token("all"), http.MethodGet, "/probe?module=tcp&target="+target, "")
		if err != nil || reply.StatusCode != want || (want == 429) != (reply.Header.Get("Retry-After") != "") {
			t.Errorf("target %d: %v, %v, %s; want %d", i, reply, err, text, want)
		}
	}
	for method, want := range map[string]int{http.MethodPost: 405, http.MethodHead: 400} {
		reply, text, err := s.rest(t.Context(), s.client(t, token("all")), token("all"), method, "/probe", "")
		if err != nil || reply.StatusCode != want || (method == http.MethodHead && text != "") {
			t.Errorf("%s: %v, %v, %s; want %d", method, reply, err, text, want)
		}
	}
}

// Aliases and merge keys stand for what they do elsewhere.
func TestAliasesOfModules(t *testing.T) {
	t.Parallel()
	c, err := readText(t, t.TempDir(), `
modules:
  a: &a
    prober: tcp
    timeout: 5s
    tcp: &tls {tls: true}
  b: {<<: *a, timeout: 6s}
  c: *a
  d: {prober: tcp, tcp: {<<: [*tls, {tls: false, preferred_ip_protocol: ip4}]}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Duration{"a": 5 * time.Second, "b": 6 * time.Second, "c": 5 * time.Second, "d": 119500 * time.Millisecond} {
		if got, err := c.modules[name].Timeout("", 0); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

// What blackbox_exporter reads, that is true or nothing, is read as it reads it; in what is probed's own it is not.
func TestModulesAsTheyAre(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := readText(t, dir, `
modules:
  a:
    prober: tcp
    timeout: ~
    tcp: &tcp
      source_ip_address: ~
      preferred_ip_protocol: null
      ip_protocol_fallback:
      tls: True
      query_response:
      tls_config: {insecure_skip_verify: yes, ca_file: ~, min_version: ~}
  b: {prober: tcp, tcp: {<<: *tcp, tls: ~}, dns: ~, http: ~}
  c: {prober: dns, dns: {query_name: a, recursion_desired: off, valid_rcodes: ~}}
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.modules) != 3 {
		t.Errorf("%v", c.modules)
	}
	var read configv1.Config
	d := readDocument([]string{filepath.Join(dir, "probed.yaml")}, os.Getenv, &read)
	a, b := read.GetModules()["a"].GetTcp(), read.GetModules()["b"].GetTcp()
	if !a.GetTls() || !a.GetTlsConfig().GetInsecureSkipVerify() || a.IpProtocolFallback != nil || b.GetTls() || read.GetModules()["c"].GetDns().RecursionDesired == nil ||
		read.GetModules()["c"].GetDns().GetRecursionDesired() || read.GetModules()["a"].Timeout != nil {
		t.Errorf("%v, %v", &read, d.faults)
	}
	for text, want := range map[string]string{
		"modules: {a: {prober: tcp, tcp: {tls: maybe}}}":                 "it is true or false",
		"modules: {a: {prober: tcp, tcp: {tls: [true]}}}":                "expected here",
		"modules: {a: {prober: tcp, tcp: {tsl: ~}}}":                     "there is no such key",
		"modules: {a: {prober: tcp, tcp: {tls: ~, tls: ~}}}":             "the key stands twice",
		"modules: {a: {prober: tcp}}\ntracing: ~":                        "there is no such key",
		"modules: {a: {prober: tcp}}\nauth: {tokens_file: ~}":            "there is no value",
		"modules: {a: {prober: tcp}}\nauth: {tokens_file_optional: yes}": "it is true or false",
		"auth: {tokens_file: ~}\nmodules: {a: {prober: tcp}}":            "there is no value",
	} {
		if _, err := readText(t, dir, text+"\n"); want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// What is wrong with modules is told at its place, and of what may be there is no word.
func TestConfigOfModules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"a: {prober: tcp}": "",
		"a: {prober: http, http: {whatever: [1, {b: c}]}}":                                                "",
		"a: &a {prober: tcp, timeout: 5s}\n  b: *a\n  c: {<<: *a, timeout: 6s}\n  d: {<<: [*a], tcp: {}}": "",
		"a: &a {prober: tcp, x: *a}":                                                                      "its aliases stand for more than 100000 values",
		"a: {prober: tcp, timeout: 1d}":                                                                   `:2:29: modules["a"].timeout: it is a duration`,
		"a: {prober: ftp}":                                                                                `:2:15: modules["a"].prober: it is one of dns, grpc, http, icmp, tcp, unix, websocket`,
		"a: {}":                                                                                           `modules["a"].prober: it is one of`,
		"a:":                                                                                              `modules["a"].prober: it is one of`,
		"a: []":                                                                                           `modules["a"]: keys are expected here`,
		"a: {prober: tcp, tpc: {}}":                                                                       `modules["a"].tpc: there is no such key`,
		"a: {prober: tcp}\n  a: {prober: tcp}":                                                            `:3:3: modules["a"]: it stands in`,
		"a.b: {prober: dns}":                                                                              `modules["a.b"].dns.query_name: it is required`,
		"a: {prober: dns, dns: {query_name: a, query_type: X}}":                                        `:2:53: modules["a"].dns.query_type: there is no type "X"`,
		"a: {prober: dns, dns: {query_name: a, query_class: X, valid_rcodes: [Y]}}":                    `modules["a"].dns.valid_rcodes[0]: there is no code "Y"`,
		"a: {prober: dns, dns: {query_name: a, dns_over_tls: true}}":                                   `it goes with transport_protocol tcp`,
		"a: {prober: dns, dns: {query_name: a, validate_answer_rrs: {fail_if_matches_regexp: ['(']}}}": `validate_answer_rrs.fail_if_matches_regexp[0]: error parsing`,
		"a: {prober: tcp, tcp: {preferred_ip_protocol: ip5}}":                                          `tcp.preferred_ip_protocol: it is ip4 or ip6`,
		"a: {prober: tcp, tcp: {source_ip_address: x}}":                                                `tcp.source_ip_address: it is no address`,
		"a: {prober: tcp, tcp: {query_response: [{}, {expect: '('}]}}":                                 `:2:56: modules["a"].tcp.query_response[1].expect: error parsing`,
		`a: {prober: tcp, tcp: {query_response: [{expect: '\w{500}'}]}}`:                               `250 are the most; what is repeated`,
		"a: {prober: tcp, tcp: {query_response: [{expect: a, expect_bytes: b}]}}":                      `exclude each other`,
		"a: {prober: tcp, tcp: {query_response: [{expect: a, labels: [{name: 1a}]}]}}":                 `labels[0].name: it is no name of a label`,
		"a: {prober: tcp, tcp: {query_response: [{expect: a, send: '$${0} ${0}'}]}}":                   `send: behind expect a literal`,
		"a: {prober: tcp, tcp: {query_response: [{send: !!binary '*'}]}}":                              `it is base64 that !!binary begins`,
		"a: {prober: tcp, tcp: {tls: true, query_response: [{starttls: true}]}}":                       `starttls: TLS is spoken already`,
		"a: {prober: tcp, tcp: {tls: true, tls_config: {min_version: TLS14}}}":                         `min_version: it is one of TLS10`,
		"a: {prober: tcp, tcp: {tls: true, tls_config: {max_version: TLS11}}}":                         `max_version: it is below`,
		"a: {prober: tcp, tcp: {tls: true, tls_config: {ca: nonsense}}}":                               `tls_config.ca: there is no certificate`,
		"a: {prober: tcp, tcp: {tls: true, tls_config: {cert_file: x}}}":                               `tls_config: a client's certificate goes with its key`,
		"a: {prober: tcp, tcp: {tls: true, tls_config: {server_name: 'a b'}}}":                         `server_name: it is no name`,
		"a: {prober: tcp, timeout: -1s}":                                                               `timeout: it is less than nothing`,
	} {
		_, err := readText(t, dir, "modules:\n  "+text+"\n")
		if got := fmt.Sprint(err); (want == "") != (err == nil) || !strings.Contains(got, want) && want != "" {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
