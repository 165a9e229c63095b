package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// secured is a probed that asks who calls, and what there is around it: authorities, an OpenID Connect issuer, and a
// directory of files like a volume of Kubernetes, in which each name is a link through ..data.
type secured struct {
	dir              string
	servers, clients *authority
	issuer           *tokenIssuer
	volumes          int
	auditPath        string // of the log that every one keeps
	*program
}

// The callers that every secured probed knows, by the role they have.
const securedPolicy = `
policy:
  lift: [127.0.0.1/32]
  roles:
    - name: all
      subjects: ["token:all", "oidc:all", "mtls:all"]
      rules:
        - {name: names, hosts: [nothing.invalid], verbs: [resolve]}
        - {name: loopback, cidrs: [127.0.0.0/8], verbs: [connect, send]}
    - name: resolver
      subjects: ["token:resolver"]
      rules: [{name: names, hosts: [nothing.invalid], verbs: [resolve]}]
    - name: connector
      subjects: ["token:connector"]
      rules: [{name: loopback, cidrs: [127.0.0.0/8], verbs: [connect]}]
    - name: operator
      subjects: ["token:operator"]
      operations: [channelz]
`

// newSecured makes the files; nothing runs yet.
func newSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{dir: t.TempDir(), servers: newAuthority(t), clients: newAuthority(t), issuer: newTokenIssuer(t)}
	s.auditPath = s.path(auditName)
	certificate, key := s.servers.issue(t, "probed", time.Now().Add(time.Hour))
	s.put(t, map[string]string{
		"tls.crt": certificate, "tls.key": key, "clients.crt": s.clients.pem(), "issuer.crt": s.issuer.pem(),
		"tokens.yaml": tokensFile("all", "resolver", "connector", "operator", "nobody") +
			tokenEntry("late", time.Now().Add(-time.Minute)),
		"probed.yaml": s.config(),
	})
	return s
}

// config is a configuration in which callers are known by any of the three ways.
func (s *secured) config(more ...string) string {
	const files = "tls: {certificate_file: tls.crt, key_file: tls.key, client_ca_file: clients.crt}"
	text := "listeners:\n  grpc: {" + files + "}\n  http: {" + files + ", allowed_hosts: [probed.test]}\n" +
		"auth:\n  certificates: {}\n  tokens_file: tokens.yaml\n" +
		"  issuers: [{url: '" + s.issuer.URL + "', audience: probed, ca_file: issuer.crt}]\n" +
		"audit: {path: '" + s.auditPath + "'}\n"
	if len(more) == 0 {
		more = []string{securedPolicy}
	}
	return text + strings.Join(more, "")
}

// start runs probed with the files.
func (s *secured) start(t *testing.T, args ...string) *secured {
	t.Helper()
	s.program = start(t, append([]string{"--config=" + s.path("probed.yaml")}, args...)...)
	return s
}

func (s *secured) path(name string) string { return filepath.Join(s.dir, name) }

// put changes files as Kubernetes does: a directory with all of them takes the place of the one before, by a link.
func (s *secured) put(t *testing.T, files map[string]string) {
	t.Helper()
	all := map[string]string{}
	before, err := os.ReadDir(s.path("..data"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, entry := range before {
		text, err := os.ReadFile(filepath.Join(s.dir, "..data", entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[entry.Name()] = string(text)
	}
	maps.Copy(all, files)
	s.volumes++
	volume := fmt.Sprintf("..volume-%d", s.volumes)
	if err := os.Mkdir(s.path(volume), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(s.dir, volume, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link(t, volume, s.path("..data"))
	for name := range all {
		link(t, "..data/"+name, s.path(name))
	}
}

// link puts a symbolic link in the place of what is there.
func link(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		t.Fatal(err)
	}
}

// The token of a caller is its name behind a word; a real one is random.
func secret(name string) string { return "probed_test-token-of-" + name }

func tokensFile(names ...string) string {
	text := "tokens:\n"
	for _, name := range names {
		text += tokenEntry(name, time.Time{})
	}
	return text
}

func tokenEntry(name string, until time.Time) string {
	text := fmt.Sprintf("  - {name: %s, sha256: 'sha256:%x'", name, sha256.Sum256([]byte(secret(name))))
	if !until.IsZero() {
		text += ", expires: " + until.UTC().Format(time.RFC3339Nano)
	}
	return text + "}\n"
}

// who is what a caller shows.
type who struct {
	authorization string           // the header; empty: none
	certificate   *tls.Certificate // nil: none
}

func token(name string) who { return who{authorization: "Bearer " + secret(name)} }

func bearer(token string) who { return who{authorization: "Bearer " + token} }

// tls is how a client speaks that trusts the servers, and shows its certificate whatever the server would like to see.
func (s *secured) tls(w who) *tls.Config {
	config := &tls.Config{RootCAs: s.servers.pool(), ServerName: "probed.test", MinVersion: tls.VersionTLS12}
	if w.certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return w.certificate, nil }
	}
	return config
}

// connect is a connection for gRPC.
func (s *secured) connect(t *testing.T, w who) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(s.addresses["grpc"], append(s.witness.GRPC(), grpc.WithTransportCredentials(credentials.NewTLS(s.tls(w))))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// as is the context of a call that shows an Authorization header.
func (w who) as(ctx context.Context) context.Context {
	if w.authorization == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", w.authorization)
}

// client is one for REST. Its connections end with the test.
func (s *secured) client(t *testing.T, w who) *http.Client {
	t.Helper()
	client := &http.Client{Transport: s.witness.HTTP(&http.Transport{TLSClientConfig: s.tls(w)}), Timeout: patience}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// rest asks by REST, and returns the answer with its body.
func (s *secured) rest(ctx context.Context, client *http.Client, w who, method, path, body string) (got *reply, text string, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "https://"+s.addresses["http"]+path, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	if w.authorization != "" {
		request.Header.Set("Authorization", w.authorization)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", err
	}
	return replyOf(response)
}

// reply is an answer whose body has been read.
type reply struct {
	Status     string
	StatusCode int
	Header     http.Header
}

// replyOf reads the body.
func replyOf(response *http.Response) (*reply, string, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, "", err
	}
	return &reply{response.Status, response.StatusCode, response.Header}, string(body), nil
}

// reasonIn is the reason in a status that came as JSON; empty when there is none.
func reasonIn(text string) string {
	var s struct {
		Details []struct {
			Reason string `json:"reason"`
		} `json:"details"`
	}
	if json.Unmarshal([]byte(text), &s) != nil || len(s.Details) == 0 {
		return ""
	}
	return s.Details[0].Reason
}

// reasonOf is the reason in a status that came by gRPC; empty when there is none.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// authority signs certificates of servers and of callers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "authority of " + t.Name()}, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.certificate, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
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

func serial(t *testing.T) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// issue signs a certificate and its key, in PEM: for the server when the name is probed, else for a caller.
func (a *authority) issue(t *testing.T, name string, until time.Time) (certificate, key string) {
	t.Helper()
	private := newKey(t)
	template := &x509.Certificate{
		SerialNumber: serial(t), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if name == "probed" {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.DNSNames, template.IPAddresses = []string{"probed.test"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
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

// caller is who shows a certificate of that name.
func (a *authority) caller(t *testing.T, name string, until time.Time) who {
	t.Helper()
	pair, err := tls.X509KeyPair(asBytes(a.issue(t, name, until)))
	if err != nil {
		t.Fatal(err)
	}
	return who{certificate: &pair}
}

func asBytes(a, b string) (x, y []byte) { return []byte(a), []byte(b) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// tokenIssuer is an OpenID Connect issuer on loopback.
type tokenIssuer struct {
	*httptest.Server
	signer jose.Signer
}

func newTokenIssuer(t *testing.T) *tokenIssuer {
	t.Helper()
	key := newKey(t)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := &tokenIssuer{signer: signer}
	mux := http.NewServeMux()
	answer := func(path string, value func() any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(value()) })
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"}
	})
	answer("/keys", func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}}
	})
	i.Server = httptest.NewUnstartedServer(mux)
	i.Config.ErrorLog = log.New(io.Discard, "", 0)
	i.StartTLS()
	t.Cleanup(i.Close)
	return i
}

func (i *tokenIssuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
}

// token is one of a caller, with what is changed about it.
func (i *tokenIssuer) token(t *testing.T, subject string, change map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": i.URL, "aud": "probed", "sub": subject, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, change)
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := i.signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sorted are the keys of a map in order, so that a test says the same each time.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// file is one with that text, in a directory of its own.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "probed.yaml")
	if !strings.Contains(text, "audit:") {
		text += "audit: {path: " + auditName + "}\n"
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
