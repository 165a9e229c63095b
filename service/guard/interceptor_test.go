package guard

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"probed/service/policy"
)

const lookup = "/probe.v1.NameService/LookupPort"

// serve runs a gRPC server on loopback that hands what Identify made of each call to seen.
func serve(t *testing.T, a *Authenticator, seen func(context.Context), transport credentials.TransportCredentials) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(transport), grpc.UnaryInterceptor(
		func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx = a.Identify(ctx)
			seen(ctx)
			if err := Admit(ctx, nil, info.FullMethod); err != nil {
				return nil, status.Error(codes.Unauthenticated, err.Error())
			}
			return handler(ctx, request)
		}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// call makes a call with metadata, and returns the context that its handler had.
func call(t *testing.T, address string, seen <-chan context.Context, transport credentials.TransportCredentials, md metadata.MD) context.Context {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(transport))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), 10*time.Second)
	defer cancel()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatalf("a method for everybody: %v", err)
	}
	return <-seen
}

func TestIdentifyGRPC(t *testing.T) {
	t.Parallel()
	root := newAuthority(t, nil, time.Now().Add(time.Hour))
	a := authenticator(t, Config{
		Certificates: &CertificateConfig{},
		Tokens:       []Token{{Name: "alice", Hash: sha256.Sum256([]byte("x"))}},
	})
	seen := make(chan context.Context, 1)
	tell := func(ctx context.Context) { seen <- ctx }
	secure := serve(t, a, tell, credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{root.issue(t, named("localhost"))},
		ClientCAs:    root.pool(), ClientAuth: tls.VerifyClientCertIfGiven,
	}))
	plain := serve(t, a, tell, insecure.NewCredentials())
	withTLS := func(certificates ...tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: root.pool(), ServerName: "localhost", Certificates: certificates})
	}
	certified := withTLS(root.issue(t, named("host.example.org")))

	tests := []struct {
		name      string
		address   string
		transport credentials.TransportCredentials
		metadata  []string
		subject   string
		reason    string
	}{
		{"nothing", plain, insecure.NewCredentials(), nil, "", ReasonNone},
		{"token", plain, insecure.NewCredentials(), []string{"authorization", "Bearer x"}, "token:alice", ""},
		{"token, capital letters", plain, insecure.NewCredentials(), []string{"Authorization", "bearer x"}, "token:alice", ""},
		{"the same token twice", plain, insecure.NewCredentials(), []string{"authorization", "Bearer x", "authorization", "Bearer x"}, "", ReasonMalformed},
		{"an empty one and a token", plain, insecure.NewCredentials(), []string{"authorization", "", "authorization", "Bearer x"}, "", ReasonMalformed},
		{"an empty one", plain, insecure.NewCredentials(), []string{"authorization", ""}, "", ReasonNone},
		{"another header", plain, insecure.NewCredentials(), []string{
			"grpcgateway-authorization", "Bearer x", "proxy-authorization", "Bearer x", "x-forwarded-user", "alice",
			"x-forwarded-client-cert", "URI=spiffe://a", "probe-subject", "alice", "authorization-bin", "Bearer x",
		}, "", ReasonNone},
		{"TLS alone", secure, withTLS(), nil, "", ReasonNone},
		{"token over TLS", secure, withTLS(), []string{"authorization", "Bearer x"}, "token:alice", ""},
		{"certificate", secure, certified, nil, "mtls:host.example.org", ""},
		{"certificate and token", secure, certified, []string{"authorization", "Bearer x"}, "token:alice", ""},
		{"certificate and bad token", secure, certified, []string{"authorization", "Bearer y"}, "", ReasonUnknown},
	}
	for _, test := range tests { // one after the other: seen is one for all
		ctx := call(t, test.address, seen, test.transport, metadata.Pairs(test.metadata...))
		t.Log(test.name)
		if got := CallerFrom(ctx).Subject; got != test.subject {
			t.Errorf("%s: subject %q, want %q", test.name, got, test.subject)
		}
		err := Admit(ctx, &policy.Policy{Open: true}, lookup)
		checkReason(t, err, test.reason)
		if got := credentialsOf(ctx).Remote; got != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%s: the call comes from %v", test.name, got)
		}
	}
}

// What a server that takes requests in other ways says of one is not overridden by what the request says.
func TestWithCredentials(t *testing.T) {
	t.Parallel()
	a := authenticator(t, Config{
		Tokens: []Token{
			{Name: "alice", Hash: sha256.Sum256([]byte("x"))},
			{Name: "bob", Hash: sha256.Sum256([]byte("y"))},
		},
		Anonymous: true,
	})
	forged := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer x"))
	remote := netip.MustParseAddr("192.0.2.1")

	ctx := a.Identify(WithCredentials(forged, Credentials{Authorization: "Bearer y"}))
	if got := CallerFrom(ctx).Subject; got != "token:bob" {
		t.Errorf("subject %q, want token:bob", got)
	}
	ctx = a.Identify(WithCredentials(forged, Credentials{Remote: remote}))
	if got := CallerFrom(ctx); got != (Caller{Anonymous, MethodNone, "192.0.2.1/32"}) {
		t.Errorf("caller %+v, want anonymous", got)
	}
	if got, ok := CredentialsFrom(ctx); !ok || got.Remote != remote {
		t.Errorf("credentials %+v, %v", got, ok)
	}
	if got, ok := CredentialsFrom(forged); ok {
		t.Errorf("credentials %+v, want none", got)
	}
	// Nor is a caller kept that was there before.
	ctx = a.Identify(WithCaller(WithCredentials(forged, Credentials{Authorization: "Bearer z"}), Caller{Subject: "token:root"}))
	if got := CallerFrom(ctx); got != (Caller{}) {
		t.Errorf("caller %+v, want none", got)
	}
	checkReason(t, Admit(ctx, &policy.Policy{Open: true}, lookup), ReasonUnknown)
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	open := &policy.Policy{Open: true}
	alice := WithCaller(t.Context(), Caller{Subject: "token:both", Method: MethodToken, Key: "token:both"})

	if err := Admit(alice, open, lookup); err != nil {
		t.Error(err)
	}
	if err := Admit(alice, rolePolicy(), lookup); err != nil {
		t.Error(err)
	}
	if _, forbidden := errors.AsType[*ForbiddenError](Admit(alice, &policy.Policy{}, lookup)); !forbidden {
		t.Error("allowed without a role")
	}
	if _, forbidden := errors.AsType[*ForbiddenError](Admit(alice, open, "/probe.v1.NameService/Unknown")); !forbidden {
		t.Error("a method that is not in the table is allowed")
	}
	// Who was never asked is nobody, under an open policy too.
	checkReason(t, Admit(t.Context(), open, lookup), ReasonNone)
	checkReason(t, Admit(t.Context(), nil, "/grpc.health.v1.Health/Check"), "")
	if got := CallerFrom(t.Context()); got != (Caller{}) {
		t.Errorf("caller %+v of a request without one", got)
	}
}

func TestIdentifyRecovers(t *testing.T) {
	t.Parallel()
	a := authenticator(t, Config{Certificates: &CertificateConfig{}})
	a.now = func() time.Time { panic("boo") }
	ctx := a.Identify(WithCredentials(t.Context(), Credentials{}))
	err := Admit(ctx, &policy.Policy{Open: true}, lookup)
	e, panicked := errors.AsType[*PanicError](err)
	if !panicked || e.Value != "boo" || !strings.Contains(string(e.Stack), "TestIdentifyRecovers") || !strings.HasPrefix(e.Error(), "panic: boo\n") {
		t.Errorf("error %#v", err)
	}
	if err := Admit(ctx, nil, "/grpc.health.v1.Health/Check"); err != nil {
		t.Errorf("a method for everybody: %v", err)
	}
}
