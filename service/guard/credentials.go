package guard

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Credentials are what a request brings to show who sent it.
type Credentials struct {
	// TLS is the state of the connection, its handshake done; nil: not TLS.
	TLS *tls.ConnectionState
	// Authorization is the value of the header of that name (RFC 9110, section 11.6.2); empty: none was sent. Of a header
	// that was sent several times it is the values with ", " between them (RFC 9110, section 5.3), which no authentication
	// understands: one request has one sender.
	Authorization string
	// Remote is the address the connection comes from; zero when it has none, as with a unix socket.
	Remote netip.Addr
}

// What a Caller was identified by: the values of Caller.Method.
const (
	MethodNone        = "none"  // Nobody was asked.
	MethodCertificate = "mtls"  // A client certificate.
	MethodToken       = "token" // A static bearer token.
	MethodOIDC        = "oidc"  // A token of an OpenID Connect issuer.
)

// Anonymous is the subject of callers who were not asked who they are.
const Anonymous = "anonymous"

// Caller is who sent a request.
type Caller struct {
	// Subject is the name that roles are given to: "mtls:NAME", "token:NAME", the issuer's name and the token's subject
	// ("oidc:SUB"), or [Anonymous]. It has no control characters.
	Subject string
	// Method is what the caller was identified by: one of the constants Method….
	Method string
	// Key is whose limits count for the caller: the subject, or, for anonymous callers, the address they come from; of an
	// IPv6 address the first 64 bits, since whoever has one address there has them all.
	Key string
}

// anonymous is the caller of a request without credentials.
func anonymous(remote netip.Addr) Caller {
	caller := Caller{Subject: Anonymous, Method: MethodNone, Key: Anonymous}
	if source := Source(remote); source.IsValid() {
		caller.Key = source.String()
	}
	return caller
}

// Source is where an address counts as coming from: itself, or of an IPv6 address the first 64 bits, since whoever has one
// address there has them all. It is not valid for an address that is not.
func Source(remote netip.Addr) netip.Prefix {
	remote = remote.Unmap().WithZone("")
	bits := remote.BitLen()
	if remote.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(remote, bits).Masked()
}

type credentialsKey struct{}

// WithCredentials returns a context in which the request has these credentials, whatever its connection and its headers
// say. It is for a server that takes requests in other ways than gRPC and hands them on in process.
func WithCredentials(ctx context.Context, c Credentials) context.Context {
	return context.WithValue(ctx, credentialsKey{}, c)
}

// CredentialsFrom returns what WithCredentials put into the context, and whether it did.
func CredentialsFrom(ctx context.Context) (Credentials, bool) {
	c, ok := ctx.Value(credentialsKey{}).(Credentials)
	return c, ok
}

// credentialsOf returns what the request brought: what WithCredentials put there, else what came with the gRPC call.
func credentialsOf(ctx context.Context) Credentials {
	if c, ok := CredentialsFrom(ctx); ok {
		return c
	}
	var c Credentials
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			state := info.State // of its own, or info were made for those who come without TLS as well
			c.TLS = &state
		}
		if from, ok := p.Addr.(interface{ AddrPort() netip.AddrPort }); ok { // TCP; a unix socket has none
			c.Remote = from.AddrPort().Addr().Unmap()
		}
	}
	c.Authorization = strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ", ")
	return c
}

// RemoteFrom returns the address that the request comes from, as text; empty when it has none.
func RemoteFrom(ctx context.Context) string {
	if remote := credentialsOf(ctx).Remote; remote.IsValid() {
		return remote.String()
	}
	return ""
}

// identity is what Identify found: a caller, or why there is none.
type identity struct {
	caller  Caller
	err     error
	counted bool // among the calls under way, see Enter
}

type identityKey struct{}

// WithCaller returns a context of a request that the caller sent. It is for tests, and for a service that runs inside its
// caller's own process.
func WithCaller(ctx context.Context, caller Caller) context.Context {
	return context.WithValue(ctx, identityKey{}, identity{caller: caller})
}

// CallerFrom returns who sent the request; the zero Caller when nobody was asked, or when who sent it is not known.
func CallerFrom(ctx context.Context) Caller {
	id, _ := ctx.Value(identityKey{}).(identity)
	return id.caller
}
