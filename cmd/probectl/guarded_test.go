package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/service"
	"probed/service/guard"
	"probed/service/policy"
	"probed/service/resolve"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.certificate, a.key = issue(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue makes a certificate, signed by a, or by itself. It is valid for an hour unless it says otherwise.
func issue(t *testing.T, a *authority, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if a == nil {
		a = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// pair is a certificate for a name, of a server or a client, ready for use.
func (a *authority) pair(t *testing.T, name string, expired bool) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if expired {
		template.NotBefore, template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	certificate, key := issue(t, a, template)
	return tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// guardedWorld is a probed that asks who calls, and what leads to it.
type guardedWorld struct {
	variables map[string]string
	files     map[string][]byte
}

// newGuardedWorld starts it: with TLS, whose certificate is for probed.test, and on PLAIN without.
func newGuardedWorld(t *testing.T, echo netip.AddrPort) guardedWorld {
	t.Helper()
	own, other := newAuthority(t), newAuthority(t)
	w := guardedWorld{variables: map[string]string{}, files: map[string][]byte{
		"own-ca.pem": own.pem(), "other-ca.pem": other.pem(), "both-ca.pem": append(other.pem(), own.pem()...),
		"empty": nil, "big": make([]byte, 100_000),
	}}
	for name, pair := range map[string]tls.Certificate{"ops": own.pair(t, "ops", false), "stranger": other.pair(t, "ops", false)} {
		w.files[name+".pem"], w.files[name+"-key.pem"] = pemFiles(t, pair)
	}
	token, hash := guard.NewToken()
	guest, guestHash := guard.NewToken()
	old, oldHash := guard.NewToken()
	w.files["token"], w.files["guest"], w.files["old"] = []byte(token+"\n"), []byte(guest+"\r\n"), []byte(old)
	w.variables["TOKEN"], w.variables["ALL_TOKENS"] = token, strings.Join([]string{token, guest, old}, "|")
	tokens := []guard.Token{{Name: "ci"}, {Name: "guest"}, {Name: "old", NotAfter: time.Now().Add(-time.Hour)}}
	for i, hash := range []string{hash, guestHash, oldHash} {
		var err error
		if tokens[i].Hash, err = guard.ParseTokenHash(hash); err != nil {
			t.Fatal(err)
		}
	}
	authenticator, err := guard.NewAuthenticator(guard.Config{Certificates: &guard.CertificateConfig{}, Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(authenticator.Close)

	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	rules := &policy.Policy{Loopback: true, Roles: []policy.Role{
		{Name: "dev", Subjects: []string{"token:ci"}, Rules: []policy.Rule{
			{Name: "names", Hosts: []string{"*.shop.test"}, Verbs: policy.Resolve},
			{Name: "echo", Prefixes: loopback, Ports: []policy.PortRange{{First: echo.Port(), Last: echo.Port()}}, Verbs: policy.Connect | policy.Send},
		}},
		{Name: "web", Subjects: []string{"token:c*"}, Rules: []policy.Rule{
			{Name: "http", Ports: []policy.PortRange{{First: 80, Last: 80}}, Verbs: policy.Connect},
		}},
		{Name: "admin", Subjects: []string{"mtls:ops"}, Rules: []policy.Rule{
			{Name: "all", Verbs: policy.Resolve | policy.Connect | policy.Send | policy.SkipVerify},
		}},
	}}
	nameServer := nettest.UDP(t, answerDNS)
	config := service.Config{
		Policy: func() *policy.Policy { return rules },
		Resolve: resolve.Config{
			ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), Nsswitch: filepath.Join(t.TempDir(), "nsswitch.conf"),
			Getenv:   func(string) string { return "" },
			Hostname: func() (string, error) { return "guarded", nil },
			DialServer: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, network, nameServer.String())
			},
		},
		Hooks: service.Hooks{Lookup: func(_ context.Context, kind, _ string, _ time.Duration) {
			if kind == "protocol" {
				panic("this one fails")
			}
		}},
	}
	for file, text := range map[string]string{config.Resolve.ResolvConf: "nameserver 192.0.2.53\nsearch shop.test\n", config.Resolve.Nsswitch: "hosts: dns\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	chain, err := service.Chain(service.ChainConfig{
		Logger: slog.New(slog.DiscardHandler), Vantage: service.Vantage{Hostname: "guarded"}, Policy: config.Policy,
		Authenticator: func() *guard.Authenticator { return authenticator },
	})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(transport credentials.TransportCredentials) string {
		server := grpc.NewServer(chain.ServerOptions(probetest.NewWitness(t).Server(), grpc.Creds(transport), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(64<<10))...)
		service.New(config).Register(server)
		return serveOn(t, server)
	}
	secure := func(pair tls.Certificate, ask tls.ClientAuthType) string {
		clients := x509.NewCertPool()
		clients.AddCert(own.certificate)
		return listen(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: ask, MinVersion: tls.VersionTLS12}))
	}
	w.variables["GUARDED"] = secure(own.pair(t, "probed.test", false), tls.VerifyClientCertIfGiven)
	w.variables["STRICT"] = secure(own.pair(t, "probed.test", false), tls.RequireAndVerifyClientCert)
	w.variables["EXPIRED"] = secure(own.pair(t, "probed.test", true), tls.NoClientCert)
	w.variables["PLAIN"] = listen(insecure.NewCredentials())
	return w
}

// elsewhere is a connection to another machine, as far as its address goes.
type elsewhere struct {
	net.Conn
	remote net.Addr
}

func (c elsewhere) RemoteAddr() net.Addr { return c.remote }

// TestTokenStaysOnLoopback: whatever name the server was called by, it is the address at the other end that counts, and
// nothing was written to it before.
func TestTokenStaysOnLoopback(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		remote string
		flags  []string
		sent   bool
	}{
		{"127.0.0.1:50051", nil, true},
		{"127.8.9.10:50051", nil, true},
		{"[::1]:50051", nil, true},
		{"[::ffff:127.0.0.1]:50051", nil, true},
		{"192.0.2.1:50051", nil, false},
		{"[2001:db8::1]:50051", nil, false},
		{"[fe80::1%25eth0]:50051", nil, false},
		{"0.0.0.0:50051", nil, false},
		{"[::ffff:192.0.2.1]:50051", nil, false},
		{"192.0.2.1:50051", []string{"--token-over-plaintext"}, true},
	} {
		g := parseGuarded(t, map[string]string{"PROBECTL_TOKEN": "secret"}, test.flags...)
		transport, _, err := g.options("", "")
		if err != nil {
			t.Fatal(err)
		}
		address, err := netip.ParseAddrPort(strings.ReplaceAll(test.remote, "%25", "%"))
		if err != nil {
			t.Fatal(err)
		}
		// A nil connection: whoever used it would panic.
		conn, _, err := transport.ClientHandshake(t.Context(), "localhost", elsewhere{remote: net.TCPAddrFromAddrPort(address)})
		if sent := err == nil; sent != test.sent || (conn != nil) != test.sent {
			t.Errorf("%s %v: %v, want sent: %v", test.remote, test.flags, err, test.sent)
		}
		if test.sent {
			continue
		}
		failure := transport.failure(door{name: "probed.test:50051"}, errors.New("some text"))
		if failure.code != exitUsage || failure.text != "the token is not sent to probed.test:50051 without TLS, since that is not loopback" ||
			!strings.Contains(failure.advice, "--server-tls") || !strings.Contains(failure.advice, "--token-over-plaintext") {
			t.Errorf("%d, %s, %s", failure.code, failure.text, failure.advice)
		}
	}
}

// TestAlerts: a certificate is spoken of only where it may be one that the server complains about.
func TestAlerts(t *testing.T) {
	t.Parallel()
	const perhaps = "Perhaps it does not trust the authority of --server-cert, or that certificate has expired."
	const name = "If it asks for a certificate of yours, name it with --server-cert and --server-key."
	for _, test := range []struct {
		certificate  bool
		err          error
		text         string
		want, advice string
	}{
		{false, nil, "error reading server preface: remote error: tls: certificate required", "what is there refused the TLS handshake: certificate required", name},
		{true, nil, "error reading server preface: remote error: tls: bad certificate", "what is there refused the TLS handshake: bad certificate", perhaps},
		{true, nil, "remote error: tls: access denied", "what is there refused the TLS handshake: access denied", perhaps},
		{true, nil, "write: broken pipe", "what is there hung up after the TLS handshake", perhaps},
		{false, nil, "error reading server preface: EOF", "what is there hung up after the TLS handshake", name},
		{true, errors.New("x"), "authentication handshake failed: remote error: tls: handshake failure", "what is there refused the TLS handshake: handshake failure", ""},
		{false, errors.New("x"), "authentication handshake failed: remote error: tls: no application protocol",
			"what is there speaks TLS, but not gRPC", "Is that the port of its gRPC listener?"},
		{false, io.EOF, "authentication handshake failed: EOF", "what is there hung up in the TLS handshake", "Perhaps it does not speak TLS: then leave --server-tls out."},
	} {
		transport := &transport{tls: true, certificate: test.certificate, log: &handshakes{tried: true, err: test.err}}
		got := transport.failure(door{name: "probed.test:50051"}, errors.New(test.text))
		if got.code != exitFailed || got.text != "no probed answers at probed.test:50051: "+test.want || got.advice != test.advice {
			t.Errorf("%s: %d, %s, %s", test.text, got.code, got.text, got.advice)
		}
	}
}

// TestTokenIsHeldByTLS: with TLS gRPC itself sees to it.
func TestTokenIsHeldByTLS(t *testing.T) {
	t.Parallel()
	for secure, want := range map[bool]error{
		true:  errors.New("grpc: the credentials require transport level security (use grpc.WithTransportCredentials() to set)"),
		false: nil,
	} {
		conn, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithPerRPCCredentials(bearer{"secret", secure}))
		if (err == nil) != (want == nil) || err != nil && err.Error() != want.Error() {
			t.Errorf("secure %v: %v", secure, err)
		}
		if conn != nil {
			_ = conn.Close()
		}
	}
}

// parseGuarded is what flags and an environment come to.
func parseGuarded(t *testing.T, environment map[string]string, args ...string) *guarded {
	t.Helper()
	tool := &tool{stdout: newPrinter(&strings.Builder{}), stderr: newPrinter(&strings.Builder{})}
	root := newRootCommand(tool, func(name string) string { return environment[name] })
	if err := root.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return tool.guarded
}

// TestWantsTLS: what names something of TLS means TLS, and a flag counts more than the environment.
func TestWantsTLS(t *testing.T) {
	t.Parallel()
	type env = map[string]string
	for _, test := range []struct {
		environment env
		args        string
		want        bool
		wantErr     string
	}{
		{nil, "", false, ""},
		{nil, "--server-tls", true, ""},
		{nil, "--server-ca f", true, ""},
		{nil, "--server-cert f", true, ""},
		{nil, "--server-key f", true, ""},
		{nil, "--server-name n", true, ""},
		{nil, "--token-file f", false, ""},
		{env{"PROBECTL_SERVER_CA": "f"}, "", true, ""},
		{env{"PROBECTL_SERVER_CERT": "f"}, "", true, ""},
		{env{"PROBECTL_SERVER_KEY": "f"}, "", true, ""},
		{env{"PROBECTL_SERVER_NAME": "n"}, "", true, ""},
		{env{"PROBECTL_SERVER_TLS": "true"}, "", true, ""},
		{env{"PROBECTL_SERVER_TLS": "1"}, "", true, ""},
		{env{"PROBECTL_SERVER_TLS": "false"}, "", false, ""},
		{env{"PROBECTL_SERVER_TLS": "true"}, "--server-tls=false", false, ""},
		{env{"PROBECTL_SERVER_TLS": "perhaps"}, "", false, "PROBECTL_SERVER_TLS: it is one of true, false"},
		{env{"PROBECTL_SERVER_CA": "f"}, "--server-tls=false", false, ""},
		{env{"PROBECTL_SERVER_CA": "f"}, "--server-ca=", false, ""},
		{nil, "--server-tls=false --server-ca f", false, "--server-tls=false does not go with --server-ca, which is about TLS"},
	} {
		got, err := parseGuarded(t, test.environment, strings.Fields(test.args)...).wantsTLS()
		if text := errorText(err); got != test.want || text != test.wantErr {
			t.Errorf("%v %s: %v, %s", test.environment, test.args, got, text)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestBearerToken: which of the places a token can stand in counts, and what is none.
func TestBearerToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := file("a", "secret-a\n"), file("b", "secret-b")
	const alone = " which are letters, digits, -._~+/ and = at the end"
	type env = map[string]string
	for _, test := range []struct {
		environment   env
		flag          string
		want, wantErr string
	}{
		{nil, "", "", ""},
		{nil, a, "secret-a", ""},
		{nil, b, "secret-b", ""},
		{nil, file("crlf", "secret\r\n"), "secret", ""},
		{nil, file("padded", "eyJ.c2Vj_cm-V0~+/==\n"), "eyJ.c2Vj_cm-V0~+/==", ""},
		{nil, file("longest", strings.Repeat("s", mostToken)+"\r\n"), strings.Repeat("s", mostToken), ""},
		{env{"PROBECTL_TOKEN": "secret"}, "", "secret", ""},
		{env{"PROBECTL_TOKEN_FILE": a}, "", "secret-a", ""},
		{env{"PROBECTL_TOKEN": "secret", "PROBECTL_TOKEN_FILE": a}, b, "secret-b", ""},
		{env{"PROBECTL_TOKEN": "secret"}, "=", "", ""}, // --token-file=

		{env{"PROBECTL_TOKEN": "secret", "PROBECTL_TOKEN_FILE": a}, "", "", "PROBECTL_TOKEN and PROBECTL_TOKEN_FILE are both set: unset the one that is not meant"},
		{env{"PROBECTL_TOKEN": "sec ret"}, "", "", "PROBECTL_TOKEN: it is not a token alone: byte 4 is none that tokens have," + alone},
		{env{"PROBECTL_TOKEN": "\n"}, "", "", "PROBECTL_TOKEN: it is empty"},
		{env{"PROBECTL_TOKEN_FILE": "-"}, "", "", "PROBECTL_TOKEN_FILE: a token is not read from standard input: name a file"},
		{nil, "-", "", "--token-file: a token is not read from standard input: name a file"},
		{nil, dir + "/nonesuch", "", "--token-file: open DIR/nonesuch: no such file or directory"},
		{nil, dir, "", "--token-file: read DIR: is a directory"},
		{nil, file("empty", ""), "", "--token-file: DIR/empty is empty"},
		{nil, file("blank", " \t\n"), "", "--token-file: DIR/blank is empty"},
		{nil, file("padding", "==\n"), "", "--token-file: DIR/padding is empty"},
		{nil, file("header", "Bearer secret\n"), "", "--token-file: DIR/header is not a token alone: byte 7 is none that tokens have," + alone},
		{nil, file("lines", "secret\nsecret\n"), "", "--token-file: DIR/lines is not a token alone: byte 7 is none that tokens have," + alone},
		{nil, file("control", "sec\x1bret\n"), "", "--token-file: DIR/control is not a token alone: byte 4 is none that tokens have," + alone},
		{nil, file("bytes", "\xef\xbb\xbfsecret\n"), "", "--token-file: DIR/bytes is not a token alone: byte 1 is none that tokens have," + alone},
		{nil, file("long", strings.Repeat("s", mostToken+1)), "", "--token-file: DIR/long is longer than 16 KiB, which no token is"},
		{nil, "/dev/zero", "", "--token-file: /dev/zero is longer than 16 KiB, which no token is"},
	} {
		var args []string
		switch test.flag {
		case "":
		case "=":
			args = []string{"--token-file="}
		default:
			args = []string{"--token-file", test.flag}
		}
		got, err := parseGuarded(t, test.environment, args...).bearerToken()
		text := strings.ReplaceAll(errorText(err), dir, "DIR")
		if got != test.want || text != test.wantErr {
			t.Errorf("%v %s: %q, %s, want %s", test.environment, test.flag, got, text, test.wantErr)
		}
		if strings.Contains(text, "secret") || strings.Contains(text, "sec ") {
			t.Errorf("the error tells the token: %s", text)
		}
	}
}
