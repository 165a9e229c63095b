//go:build system

package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"probed/internal/nettest"
)

// quickly is how soon a misunderstanding is told, on a machine that may be busy.
const quickly = 2 * time.Second

// Each thing that can be wrong with a peer's TLS, and what is right, from the other end: OpenSSL's own server.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "Test CA"), newAuthority(t, "Another CA")
	good := ca.issue(t, server("probe.test", "*.wild.test"))
	other := ca.issue(t, server("other.test"))
	dated := func(from, to time.Duration) identity {
		template := server("probe.test")
		template.NotBefore, template.NotAfter = time.Now().Add(from), time.Now().Add(to)
		return ca.issue(t, template)
	}
	expired, early := dated(-48*time.Hour, -time.Hour), dated(time.Hour, 48*time.Hour)
	selfSigned := authority{}.issue(t, server("probe.test"))
	nameless := ca.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "probe.test"}})
	middle := ca.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Middle"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	below := middle.issue(t, server("probe.test"))
	client := func(a authority) identity {
		return a.issue(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "client"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
	}
	known, unknown := client(ca), client(stranger)
	caPEM := write(t, openDir(t), "ca.pem", pemOf(ca.certificate))
	demands := []string{"-Verify", "1", "-verify_return_error", "-CAfile", caPEM}
	asks := []string{"-verify", "1", "-CAfile", caPEM}
	old := []string{"-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"}
	trusted := TLSOptions{Roots: pool(ca)}
	with := func(change func(*TLSOptions)) TLSOptions {
		options := trusted
		change(&options)
		return options
	}

	for _, tt := range []struct {
		name    string
		server  identity
		args    []string
		options TLSOptions
		reason  Reason
		says    string                // in the error
		problem string                // the verify error; empty: verified
		unseen  bool                  // the peer breaks off before its certificate is seen
		check   func(*TLSInfo) string // what else is wrong
	}{
		{name: "good", server: good, options: trusted, check: func(i *TLSInfo) string {
			if i.Version != "TLS 1.3" || i.ServerName != "probe.test" || i.KeyExchange == "" || i.ALPN != "" || i.ClientCertificateRequested {
				return "facts"
			}
			return ""
		}},
		{name: "a name of its wildcard", server: good, options: with(func(o *TLSOptions) { o.ServerName = "a.wild.test" })},
		{name: "cipher of TLS 1.3", server: good, args: []string{"-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"}, options: trusted,
			check: func(i *TLSInfo) string {
				return differs(i.Version+" "+i.Cipher, "TLS 1.3 TLS_CHACHA20_POLY1305_SHA256")
			}},
		{name: "cipher of TLS 1.2", server: good, args: []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-groups", "P-384"}, options: trusted,
			check: func(i *TLSInfo) string {
				return differs(i.Version+" "+i.Cipher+" "+i.KeyExchange, "TLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 secp384r1")
			}},
		{name: "key exchange of TLS 1.3", server: good, args: []string{"-groups", "P-384"}, options: trusted,
			check: func(i *TLSInfo) string { return differs(i.KeyExchange, "secp384r1") }},
		{name: "an intermediate is shown", server: below, args: []string{"-cert_chain", middle.certFile}, options: trusted,
			check: func(i *TLSInfo) string {
				if len(i.Chain) != 2 || !i.Chain[1].CA || i.Chain[0].CA {
					return "chain"
				}
				return ""
			}},

		{name: "expired", server: expired, options: trusted, reason: TLSExpired, says: "the certificate expired on ", problem: "the certificate expired on "},
		{name: "not yet valid", server: early, options: trusted, reason: TLSExpired, says: "the certificate is valid from ", problem: "the certificate is valid from "},
		{name: "wrong name", server: other, options: trusted, reason: TLSWrongName, says: "for other.test, not for probe.test", problem: "for other.test, not for probe.test"},
		{name: "no name", server: nameless, options: trusted, reason: TLSWrongName, says: "no name at all", problem: "no name at all"},
		{name: "unknown authority", server: good, options: TLSOptions{Roots: pool(stranger)}, reason: TLSUntrusted, says: "issued by CN=Test CA", problem: "issued by CN=Test CA"},
		{name: "the authorities of this host", server: good, options: TLSOptions{}, reason: TLSUntrusted, says: "issued by CN=Test CA", problem: "issued by CN=Test CA"},
		{name: "an intermediate is missing", server: below, options: trusted, reason: TLSUntrusted, says: "issued by CN=Middle", problem: "issued by CN=Middle"},
		{name: "self-signed", server: selfSigned, options: trusted, reason: TLSUntrusted, says: "signed by itself", problem: "signed by itself"},
		{name: "self-signed, and among those to trust", server: selfSigned, options: TLSOptions{Roots: pool(selfSigned.authority)}},
		{name: "all of it wrong", server: expired, options: TLSOptions{Roots: pool(stranger), ServerName: "third.test"}, reason: TLSExpired,
			says: "for probe.test, not for third.test", problem: "issued by CN=Test CA"},
		{name: "whatever the certificate says", server: expired, options: TLSOptions{Roots: pool(stranger), ServerName: "third.test", SkipVerify: true},
			problem: "for probe.test, not for third.test"},

		{name: "TLS 1.0 at best", server: good, args: old, options: trusted, reason: TLSHandshake, says: "the peer speaks TLS 1.0 at best",
			check: func(i *TLSInfo) string { return differs(i.Version, "TLS 1.0") }},
		{name: "TLS 1.0 accepted", server: good, args: old, options: with(func(o *TLSOptions) { o.MinVersion = tls.VersionTLS10 }),
			check: func(i *TLSInfo) string { return differs(i.Version, "TLS 1.0") }},
		{name: "TLS 1.1 accepted", server: good, args: []string{"-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"}, options: with(func(o *TLSOptions) { o.MinVersion = tls.VersionTLS11 }),
			check: func(i *TLSInfo) string { return differs(i.Version, "TLS 1.1") }},
		{name: "TLS 1.3 at least", server: good, args: []string{"-tls1_2"}, options: with(func(o *TLSOptions) { o.MinVersion = tls.VersionTLS13 }),
			reason: TLSHandshake, says: "TLS 1.2 at best", check: func(i *TLSInfo) string { return differs(i.Version, "TLS 1.2") }},

		{name: "a protocol is agreed on", server: good, args: []string{"-alpn", "h2,http/1.1"}, options: with(func(o *TLSOptions) { o.ALPN = []string{"spdy/3", "http/1.1"} }),
			check: func(i *TLSInfo) string { return differs(i.ALPN, "http/1.1") }},
		{name: "of two the peer's choice", server: good, args: []string{"-alpn", "h2,http/1.1"}, options: with(func(o *TLSOptions) { o.ALPN = []string{"http/1.1", "h2"} }),
			check: func(i *TLSInfo) string { return differs(i.ALPN, "h2") }},
		{name: "no protocol is offered", server: good, args: []string{"-alpn", "h2"}, options: trusted,
			check: func(i *TLSInfo) string { return differs(i.ALPN, "") }},
		{name: "no protocol in common", server: good, args: []string{"-alpn", "h2"}, options: with(func(o *TLSOptions) { o.ALPN = []string{"imap"} }),
			reason: TLSHandshake, says: "no application protocol", unseen: true},

		{name: "by name another certificate", server: good, args: []string{"-servername", "other.test", "-cert2", other.certFile, "-key2", other.keyFile},
			options: with(func(o *TLSOptions) { o.ServerName = "other.test" })},

		{name: "a client certificate is asked for", server: good, args: asks, options: trusted, check: requested},
		{name: "a client certificate is demanded", server: good, args: demands, options: trusted, reason: TLSHandshake,
			says: "it had asked for a client certificate, and none was given", check: requested},
		{name: "a client certificate is demanded, TLS 1.2", server: good, args: append(demands, "-tls1_2"), options: trusted, reason: TLSHandshake,
			says: "it had asked for a client certificate, and none was given", unseen: true, check: requested},
		{name: "a client certificate is given", server: good, args: demands, options: with(func(o *TLSOptions) { o.Certificate = known.client() }), check: requested},
		{name: "a client certificate is given, TLS 1.2", server: good, args: append(demands, "-tls1_2"), options: with(func(o *TLSOptions) { o.Certificate = known.client() }), check: requested},
		{name: "a client certificate is not accepted", server: good, args: demands, options: with(func(o *TLSOptions) { o.Certificate = unknown.client() }),
			reason: TLSHandshake, says: "the peer refused: unknown certificate authority", check: requested},
		{name: "a client certificate is not accepted, TLS 1.2", server: good, args: append(demands, "-tls1_2"), options: with(func(o *TLSOptions) { o.Certificate = unknown.client() }),
			reason: TLSHandshake, says: "the peer refused: unknown certificate authority", unseen: true, check: requested},
		{name: "a client certificate that nobody asks for", server: good, options: with(func(o *TLSOptions) { o.Certificate = known.client() })},
	} {
		for _, begin := range []string{"scheme", "step"} {
			t.Run(tt.name+", by "+begin, func(t *testing.T) {
				t.Parallel()
				address := opensslServer(t, slices.Concat(tt.server.files(), tt.args)...)
				options := tt.options
				request := Request{
					Target: Target{Scheme: "tls", Host: "probe.test", Port: address.Port()}, TLS: &options, Timeout: long,
					Steps: []Step{Send{Data: []byte("hello\n")}, Receive{Delimiter: "\n"}},
				}
				failed := NoStep
				if begin == "step" {
					request.Target.Scheme = "tcp"
					request.Steps = append([]Step{StartTLS{}}, request.Steps...)
					if tt.reason != None {
						failed = 0
					}
				}
				if err := request.Validate(); err != nil {
					t.Fatal(err)
				}
				r := trial{config: Config{Resolve: hosts(t, "127.0.0.1 probe.test")}, request: request}.run(t)
				if tt.reason == None {
					r.wants(t, PhaseClose, None, EndedByDelimiter)
					r.got(t, []byte("olleh\n"))
				} else {
					r.wants(t, PhaseTLS, tt.reason, EndedByNone)
					if r.Layer != LayerApplication || !strings.Contains(r.Error, tt.says) || r.FailedStep != failed || r.took > 10*quickly {
						t.Errorf("layer %d, step %d, after %v: %s; want %s", r.Layer, r.FailedStep, r.took, r.Error, tt.says)
					}
				}
				if r.TLS == nil {
					t.Fatal("no TLS facts")
				}
				// The facts of the certificate are there whatever became of it, unless the peer broke off before it counted.
				if !tt.unseen {
					r.showed(t, tt.server)
					problem := r.TLS.VerifyError
					if r.TLS.Verified != (tt.problem == "") || !strings.Contains(problem, tt.problem) || (problem == "") != (tt.problem == "") {
						t.Errorf("verified %v: %q, want %q", r.TLS.Verified, problem, tt.problem)
					}
				}
				if tt.check != nil {
					if problem := tt.check(r.TLS); problem != "" {
						t.Errorf("%s: %+v", problem, r.TLS)
					}
				}
				told := slices.IndexFunc(r.events, func(event Event) bool { _, ok := event.(TLSInfo); return ok })
				if told < 0 || r.Timings.TLS <= 0 {
					t.Errorf("the event is number %d, and the handshake took %v", told, r.Timings.TLS)
				}
			})
		}
	}
}

func requested(i *TLSInfo) string {
	if !i.ClientCertificateRequested {
		return "no client certificate was asked for"
	}
	return ""
}

func differs(got, want string) string {
	if got != want {
		return fmt.Sprintf("%q, want %q", got, want)
	}
	return ""
}

// showed holds what was told of the peer's certificate against what OpenSSL says of its file. (Where a peer has two, it
// is the one that was asked for by name.)
func (r *record) showed(t testing.TB, i identity) {
	t.Helper()
	if len(r.TLS.Chain) == 0 {
		t.Fatal("no certificate was told")
	}
	c := r.TLS.Chain[0]
	if r.TLS.ServerName == "other.test" {
		if !slices.Equal(c.Names, []string{"other.test"}) {
			t.Errorf("the certificate is for %q", c.Names)
		}
		return
	}
	out, err := exec.CommandContext(t.Context(), "openssl", "x509", "-in", i.certFile, "-noout", "-subject", "-issuer", "-nameopt", "RFC2253",
		"-serial", "-fingerprint", "-sha256", "-startdate", "-enddate", "-dateopt", "iso_8601").Output()
	if err != nil {
		t.Fatal(err)
	}
	iso := func(at time.Time) string { return strings.Replace(at.UTC().Format(time.RFC3339), "T", " ", 1) }
	var digest []string
	for pair := range slices.Chunk([]byte(strings.ToUpper(c.SHA256)), 2) {
		digest = append(digest, string(pair))
	}
	got := fmt.Sprintf("subject=%s\nissuer=%s\nserial=%s\nsha256 Fingerprint=%s\nnotBefore=%s\nnotAfter=%s\n",
		c.Subject, c.Issuer, strings.ToUpper(c.SerialNumber), strings.Join(digest, ":"), iso(c.NotBefore), iso(c.NotAfter))
	if got != string(out) {
		t.Errorf("told:\n%s\nOpenSSL:\n%s", got, out)
	}
	if !slices.Equal(c.Names, i.certificate.DNSNames) || c.KeyType != "ECDSA P-256" {
		t.Errorf("for %q, key %s; want %q", c.Names, c.KeyType, i.certificate.DNSNames)
	}
}

// nginx speaks TLS, to HTTP/1.1 and to HTTP/2.
func TestNginxTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	i := ca.issue(t, server("probe.test"))
	address := nginx(t, "server { listen PORT ssl http2; ssl_certificate "+i.certFile+"; ssl_certificate_key "+i.keyFile+"; }")
	for _, tt := range []struct {
		offer []string
		alpn  string
		want  string
	}{
		{nil, "", "HTTP/1.1 200 OK\r\n"},
		{[]string{"http/1.1"}, "http/1.1", "HTTP/1.1 200 OK\r\n"},
		// HTTP/2 is not spoken by hand: it begins with its settings, and calls what comes in HTTP/1.1 an error.
		{[]string{"h2", "http/1.1"}, "h2", "\x00\x00"},
	} {
		t.Run(fmt.Sprint(tt.offer), func(t *testing.T) {
			t.Parallel()
			target := Target{Scheme: "tls", Host: "127.0.0.1", Port: address.Port()}
			r := trial{request: Request{
				Target: target, TLS: &TLSOptions{Roots: pool(ca), ServerName: "probe.test", ALPN: tt.offer},
				Steps: DefaultSteps(target, []byte("GET / HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n"), true),
			}}.run(t)
			r.wants(t, PhaseClose, None, EndedByPeerClosed)
			if r.TLS.ALPN != tt.alpn || !r.TLS.Verified || !strings.HasPrefix(string(r.data), tt.want) {
				t.Errorf("ALPN %q, verified %v, %.80q; want %q, %q", r.TLS.ALPN, r.TLS.Verified, r.data, tt.alpn, tt.want)
			}
		})
	}
}

// To speak TLS to who does not is told for what it is, and soon, whatever the peer makes of it.
func TestTLSToPlain(t *testing.T) {
	t.Parallel()
	i := newAuthority(t, "Test CA").issue(t, server("probe.test"))
	for _, tt := range []struct {
		name   string
		start  func(t *testing.T) netip.AddrPort
		reason Reason
		says   string
	}{
		{"nginx", func(t *testing.T) netip.AddrPort { return nginx(t, "server { listen PORT; }") }, TLSNotSpoken, `"HTTP/1.1 400 Bad Request`},
		{"sshd", func(t *testing.T) netip.AddrPort { return sshd(t) }, TLSNotSpoken, `"SSH-2.0-`},
		{"exim", func(t *testing.T) netip.AddrPort { return exim(t, i, false) }, TLSNotSpoken, `"220 probe.test ESMTP Exim`},
		{"dovecot", func(t *testing.T) netip.AddrPort { return dovecot(t, i) }, TLSNotSpoken, `"* OK `},
		{"echo", func(t *testing.T) netip.AddrPort { return nettest.TCP(t, nettest.Echo) }, TLSNotSpoken, `"\x16\x03\x01`},
		{"a peer that closes", func(t *testing.T) netip.AddrPort {
			return nettest.TCP(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 64<<10)) })
		}, TLSNotSpoken, "the peer closed without a word"},
		{"a peer that resets", func(t *testing.T) netip.AddrPort { return nettest.TCP(t, nettest.Reset(1)) }, ConnectionReset, "reset"},
		// It waits for the end of a line, and looks for it no further than the first NUL: who says nothing is given a while.
		{"redis", func(t *testing.T) netip.AddrPort { return redis(t) }, TLSNotSpoken, "said nothing for 3s"},
	} {
		for _, scheme := range []string{"tls", "tcp"} {
			t.Run(tt.name+", "+scheme, func(t *testing.T) {
				t.Parallel()
				target := ipTarget(scheme, tt.start(t))
				request := Request{Target: target, TLS: &TLSOptions{ServerName: "probe.test"}, Timeout: long}
				if scheme == "tcp" {
					request.Steps = []Step{StartTLS{}}
				}
				r := trial{request: request}.run(t)
				r.wants(t, PhaseTLS, tt.reason, EndedByNone)
				if !strings.Contains(r.Error, tt.says) || r.TLS.Version != "" || len(r.TLS.Chain) > 0 {
					t.Errorf("%s, want %s; %+v", r.Error, tt.says, r.TLS)
				}
				if r.took > helloPatience+quickly {
					t.Errorf("it took %v", r.took)
				}
			})
		}
	}
}

// The same the other way round: to speak plain text to who wants TLS is told at once, and for what it is where the peer
// gives a sign of it.
func TestPlainToTLS(t *testing.T) {
	t.Parallel()
	i := newAuthority(t, "Test CA").issue(t, server("probe.test"))
	openssl := func(t *testing.T) netip.AddrPort { return opensslServer(t, i.files()...) }
	web := func(t *testing.T) netip.AddrPort {
		return nginx(t, "server { listen PORT ssl; ssl_certificate "+i.certFile+"; ssl_certificate_key "+i.keyFile+"; }")
	}
	mail := func(t *testing.T) netip.AddrPort { return exim(t, i, true) }
	const get, hello = "GET / HTTP/1.1\r\nHost: probe.test\r\n\r\n", "EHLO probe.test\r\n"
	for _, tt := range []struct {
		name   string
		start  func(t *testing.T) netip.AddrPort
		words  string
		reason Reason
		says   string
	}{
		{"a page that says so, nginx", web, get, TLSNotSpoken, `it answered "HTTP/1.1 400 Bad Request`},
		{"a page that says so, Go", goWeb, get, TLSNotSpoken, `it answered "HTTP/1.0 400 Bad Request`},
		{"an alert, GnuTLS", mail, hello, TLSNotSpoken, `it answered "\x15\x03`},
		{"an alert, GnuTLS", mail, get, TLSNotSpoken, `it answered "\x15\x03`},
		// A port that closes without a word may as well mean something else.
		{"no word, OpenSSL", openssl, hello, PeerClosedEarly, "the peer closed"},
		{"no word, OpenSSL", openssl, get, PeerClosedEarly, "the peer closed"},
	} {
		for kind, rest := range map[string][]Step{
			"to the end":  {Receive{}},
			"half-closed": {HalfClose{}, Receive{}},
			"length":      {Receive{Length: 1 << 20}},
			"expect":      {Expect{Literal: []byte("HTTP/1.1 200 OK")}},
		} {
			t.Run(fmt.Sprintf("%s, %.4s, %s", tt.name, tt.words, kind), func(t *testing.T) {
				t.Parallel()
				r := trial{request: Request{Target: ipTarget("tcp", tt.start(t)), Steps: append([]Step{Send{Data: []byte(tt.words)}}, rest...), Timeout: long}}.run(t)
				if tt.reason == PeerClosedEarly && (kind == "to the end" || kind == "half-closed") {
					r.wants(t, PhaseClose, None, EndedByPeerClosed) // which is what was waited for
				} else {
					r.wants(t, PhaseReceive, tt.reason, EndedByNone)
					if !strings.Contains(r.Error, tt.says) || r.Layer != LayerApplication || (r.Hint == hintHungUp) != (tt.reason == PeerClosedEarly) {
						t.Errorf("layer %d: %s (%s); want %s", r.Layer, r.Error, r.Hint, tt.says)
					}
				}
				if r.took > quickly {
					t.Errorf("it took %v", r.took)
				}
			})
		}
	}
}

// goWeb is a web server of Go's own, with TLS.
func goWeb(t *testing.T) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort()
}
