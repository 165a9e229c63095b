package guard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	chain       [][]byte // itself and those above it, the root left out
}

// newAuthority makes a root, or, under another, an intermediate.
func newAuthority(t *testing.T, above *authority, notAfter time.Time) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{key: newKey(t)}
	signer, key := template, a.key
	if above != nil {
		template.Subject.CommonName = "intermediate authority"
		signer, key = above.certificate, above.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, &a.key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if above != nil {
		a.chain = append([][]byte{der}, above.chain...)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue signs a certificate for TLS clients and servers, valid from an hour ago for two hours unless set otherwise.
func (a *authority) issue(t *testing.T, set func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	set(template)
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, a.chain...), PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func named(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

// handshake speaks TLS over loopback and returns what the server has of the connection.
func handshake(t *testing.T, server *tls.Config, client ...tls.Certificate) *tls.ConnectionState {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		c, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{
			InsecureSkipVerify: true, // the client is not what is tested
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(client) == 0 {
					return &tls.Certificate{}, nil
				}
				return &client[0], nil
			},
		})
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Server(conn, server)
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := c.ConnectionState()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return &state
}

func TestCertificateNames(t *testing.T) {
	t.Parallel()
	root := newAuthority(t, nil, time.Now().Add(time.Hour))
	server := &tls.Config{
		Certificates: []tls.Certificate{root.issue(t, named("localhost"))},
		ClientCAs:    root.pool(),
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	everything := func(c *x509.Certificate) {
		c.URIs = []*url.URL{uri("spiffe://example.org/ns/a/sa/b"), uri("spiffe://example.org/other")}
		c.DNSNames = []string{"prober.example.org", "other.example.org"}
		c.EmailAddresses = []string{"ops@example.org"}
		c.Subject.CommonName = "Prober One"
	}
	tests := map[string]struct {
		from   NameSource
		set    func(*x509.Certificate)
		want   string
		reason string
	}{
		"the first of all":       {FirstName, everything, "mtls:spiffe://example.org/ns/a/sa/b", ""},
		"URI":                    {URIName, everything, "mtls:spiffe://example.org/ns/a/sa/b", ""},
		"DNS":                    {DNSName, everything, "mtls:prober.example.org", ""},
		"mail":                   {EmailName, everything, "mtls:ops@example.org", ""},
		"common name":            {CommonName, everything, "mtls:Prober One", ""},
		"the first is DNS":       {FirstName, named("a.example.org"), "mtls:a.example.org", ""},
		"the first is mail":      {FirstName, func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }, "mtls:a@b", ""},
		"the common is no first": {FirstName, func(c *x509.Certificate) { c.Subject.CommonName = "a" }, "", ReasonSubject},
		"none":                   {FirstName, func(*x509.Certificate) {}, "", ReasonSubject},
		"addresses do not count": {FirstName, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, "", ReasonSubject},
		"another kind":           {URIName, named("a.example.org"), "", ReasonSubject},
		"common, not DNS":        {DNSName, func(c *x509.Certificate) { c.Subject.CommonName = "a" }, "", ReasonSubject},
		"control character":      {CommonName, func(c *x509.Certificate) { c.Subject.CommonName = "a\x1b[2Jb" }, "", ReasonSubject},
		"newline":                {CommonName, func(c *x509.Certificate) { c.Subject.CommonName = "a\nb" }, "", ReasonSubject},
		"turned around":          {CommonName, func(c *x509.Certificate) { c.Subject.CommonName = "a\u202eb" }, "", ReasonSubject},
		"zero width":             {CommonName, func(c *x509.Certificate) { c.Subject.CommonName = "a\u200bb" }, "", ReasonSubject},
		"too long":               {CommonName, func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("a", 513) }, "", ReasonSubject},
		"as long as may be":      {CommonName, func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("a", 512) }, "mtls:" + strings.Repeat("a", 512), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := authenticator(t, Config{Certificates: &CertificateConfig{SubjectFrom: test.from}})
			caller, err := a.Authenticate(t.Context(), Credentials{TLS: handshake(t, server, root.issue(t, test.set))})
			checkReason(t, err, test.reason)
			if want := (Caller{test.want, MethodCertificate, test.want}); test.reason == "" && caller != want {
				t.Errorf("caller %+v, want %+v", caller, want)
			}
		})
	}
}

func TestCertificateIsVerified(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root := newAuthority(t, nil, now.Add(3*time.Hour))
	stranger := newAuthority(t, nil, now.Add(time.Hour))
	brief := newAuthority(t, root, now.Add(30*time.Minute))
	serverCertificate := []tls.Certificate{root.issue(t, named("localhost"))}
	verifying := &tls.Config{Certificates: serverCertificate, ClientCAs: root.pool(), ClientAuth: tls.VerifyClientCertIfGiven}
	trusting := &tls.Config{Certificates: serverCertificate, ClientAuth: tls.RequireAnyClientCert}

	tests := map[string]struct {
		state  *tls.ConnectionState
		at     time.Duration
		reason string
	}{
		"verified":                     {handshake(t, verifying, root.issue(t, named("a"))), 0, ""},
		"no certificate":               {handshake(t, verifying), 0, ReasonNone},
		"no TLS":                       {nil, 0, ReasonNone},
		"shown and not verified":       {handshake(t, trusting, root.issue(t, named("a"))), 0, ReasonCertificate},
		"of a stranger, not verified":  {handshake(t, trusting, stranger.issue(t, named("a"))), 0, ReasonCertificate},
		"expired since the handshake":  {handshake(t, verifying, root.issue(t, named("a"))), 2 * time.Hour, ReasonExpired},
		"the clock went back":          {handshake(t, verifying, root.issue(t, named("a"))), -2 * time.Hour, ReasonNotYetValid},
		"under an intermediate":        {handshake(t, verifying, brief.issue(t, named("a"))), 0, ""},
		"the intermediate has expired": {handshake(t, verifying, brief.issue(t, named("a"))), 45 * time.Minute, ReasonExpired},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := authenticator(t, Config{
				Certificates: &CertificateConfig{},
				Now:          func() time.Time { return now.Add(test.at) },
			})
			caller, err := a.Authenticate(t.Context(), Credentials{TLS: test.state})
			checkReason(t, err, test.reason)
			if test.reason == "" && caller.Subject != "mtls:a" {
				t.Errorf("subject %q, want mtls:a", caller.Subject)
			}
		})
	}
}
