// Package gateway is the REST side of probed: HTTP and JSON in, gRPC on a connection within the process out. So every
// call passes the same interceptors as one that came by gRPC, and no rule has to be told twice.
//
// Lookups go through the handlers that grpc-gateway generates. Exchange streams, in three formats to choose from by
// Accept, and has a handler of its own. Every error, in every format, is the JSON of one google.rpc.Status as long as
// nothing else has been sent.
//
// A [Gateway] is an http.Handler. It is to be closed when its server has ended.
package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	probev1 "probed/gen/probe/v1"
	"probed/service/blackbox"
)

// DefaultMaxBody is the most bytes of a request's body where nothing else is configured: a message of 1 MiB as base64,
// and room around it.
const DefaultMaxBody = 2 << 20

// DefaultPatience is how long a client may take to send a request's body, and again to read an answer, where nothing else is
// configured.
const DefaultPatience = 30 * time.Second

// Config is what a Gateway is made of.
type Config struct {
	// Conn leads to the gRPC server. The gateway closes it.
	Conn interface {
		grpc.ClientConnInterface
		io.Closer
	}
	// AllowedHosts are the names that requests may come in under, besides localhost and any IP address: a page of
	// another origin that has its own name point here (DNS rebinding) comes in under that name.
	AllowedHosts []string
	// Enter returns the context of the calls that are made for a request, which says who is calling; leave is called when
	// the request is done with. When ok is false the calls will be refused, so that nothing more of the request is read.
	// Nil: the context is that of the request. No header of a request reaches a call in another way.
	Enter func(*http.Request) (ctx context.Context, leave func(), ok bool)
	// Admits tells, of the context of Enter, whether its caller may call the method of that full name at all, for what is told
	// before there is a call. When it is false that call will be refused. Nil: everybody may.
	Admits func(ctx context.Context, fullMethod string) bool
	// Answered is called of each answer that is not that of a call, with the context of Enter, or that of the request when it
	// was refused before. Nil: nobody is told.
	Answered func(context.Context, Answer)
	// RequestID makes the id of such an answer. Required with Answered.
	RequestID func() string
	// MaxBody is the most bytes of a request's body; 0: DefaultMaxBody.
	MaxBody int64
	// Patience is how long a client may take to send the body of a request, and again to read its answer; for the answer of
	// an exchange there is as long as it may take, and a little. 0: DefaultPatience.
	Patience time.Duration
	// ExchangeTimeout is that of an exchange whose request sets none; 0: a minute, as the contract says.
	ExchangeTimeout time.Duration
	// ExchangeTimeoutMax is the longest that a request may ask for; 0: what the contract says.
	ExchangeTimeoutMax time.Duration
	// Modules are what Prometheus may ask for by GET /probe, at this moment; nil, and of none of them: there is no /probe.
	Modules func() blackbox.Modules
}

// Gateway serves REST.
type Gateway struct {
	config       Config
	client       probev1.ExchangeServiceClient
	allowedHosts []string
	handler      http.Handler
	origins      *http.CrossOriginProtection
}

var (
	// Unset fields are written, so that an answer shows all there is to know.
	marshal = protojson.MarshalOptions{EmitUnpopulated: true}
	// Fields nobody knows are refused, so that a misspelt one is not silently without effect.
	unmarshal = protojson.UnmarshalOptions{DiscardUnknown: false}
)

// New returns a Gateway.
func New(config Config) (*Gateway, error) {
	conn := bareConn{config.Conn}
	config.MaxBody = cmp.Or(config.MaxBody, DefaultMaxBody)
	config.Patience = cmp.Or(config.Patience, DefaultPatience)
	config.ExchangeTimeout = cmp.Or(config.ExchangeTimeout, time.Minute)
	if config.Enter == nil {
		config.Enter = func(r *http.Request) (context.Context, func(), bool) { return r.Context(), func() {}, true }
	}
	if config.Admits == nil {
		config.Admits = func(context.Context, string) bool { return true }
	}
	enter := config.Enter
	config.Enter = func(r *http.Request) (context.Context, func(), bool) {
		ctx, leave, ok := enter(r)
		answerOf(ctx).entered = ctx
		return ctx, leave, ok
	}
	g := &Gateway{config: config, origins: http.NewCrossOriginProtection(), client: probev1.NewExchangeServiceClient(conn)}
	for _, name := range config.AllowedHosts {
		g.allowedHosts = append(g.allowedHosts, canonicalHost(name))
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{&runtime.JSONPb{MarshalOptions: marshal, UnmarshalOptions: unmarshal}}),
		runtime.WithMiddlewares(notePattern, checkQuery),
		runtime.WithErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			if metadata, ok := runtime.ServerMetadataFromContext(ctx); ok {
				copyHeader(w, metadata.HeaderMD)
			}
			writeError(w, err)
		}),
		runtime.WithRoutingErrorHandler(routingError),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		// A slash that is part of a name is written %2F, as in 0%2F25.2.0.192.in-addr.arpa (RFC 2317).
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
		// A form that claims to be a GET, and a method that a header changes, are ways around rules about methods.
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, grpc.ClientConnInterface) error{
		func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return probev1.RegisterNameServiceHandlerClient(ctx, mux, probev1.NewNameServiceClient(conn))
		},
		func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return probev1.RegisterResolverServiceHandlerClient(ctx, mux, probev1.NewResolverServiceClient(conn))
		},
		func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return probev1.RegisterExchangeServiceHandlerClient(ctx, mux, probev1.NewExchangeServiceClient(conn))
		},
		func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return probev1.RegisterPolicyServiceHandlerClient(ctx, mux, probev1.NewPolicyServiceClient(conn))
		},
		// Of two handlers for a path the mux takes the one that came last.
		func(_ context.Context, mux *runtime.ServeMux, _ grpc.ClientConnInterface) error {
			return mux.HandlePath(http.MethodPost, "/v1/exchange", g.exchange)
		},
		func(_ context.Context, mux *runtime.ServeMux, _ grpc.ClientConnInterface) error {
			return registerFiles(mux)
		},
	} {
		if err := register(context.Background(), mux, conn); err != nil {
			return nil, fmt.Errorf("register REST handlers: %w", err)
		}
	}
	g.handler = g.bareRequests(mux)
	return g, nil
}

// Close lets go of the connection; calls under way fail.
func (g *Gateway) Close() error { return g.config.Conn.Close() }

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := &boundedAnswer{ResponseWriter: w, patience: g.config.Patience}
	if g.config.Answered != nil {
		answer.newID, answer.entered = g.config.RequestID, r.Context()
		r = r.WithContext(context.WithValue(r.Context(), answerKey{}, answer))
		defer g.tell(answer, r, time.Now())
	}
	defer answer.crashed()
	w = answer
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !g.allowedHost(r.Host) {
		writeStatus(w, http.StatusForbidden, requestError(codes.PermissionDenied,
			fmt.Sprintf("this probed does not answer for the host %q: use its address, or allow the name", r.Host)))
		return
	}
	if !isFile(r) && !g.sameOrigin(r) {
		writeStatus(w, http.StatusForbidden, requestError(codes.PermissionDenied, "a page of another origin may not make this request"))
		return
	}
	if modules := g.modules(); len(modules) > 0 && r.URL.Path == probePath {
		g.probe(w, r, modules)
		return
	}
	g.handler.ServeHTTP(w, r)
}

// sameOrigin tells whether no page of another origin has made the request. A GET from there is refused as well, which
// [http.CrossOriginProtection] lets pass: here one looks names up, and a page needs no answer to carry something out of a
// network in the names.
func (g *Gateway) sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return false
	}
	asPost := &http.Request{Method: http.MethodPost, Host: r.Host, Header: r.Header, URL: r.URL}
	return g.origins.Check(asPost) == nil
}

// bareRequests passes requests on without the headers by which the mux would let callers set deadlines and identities
// (Grpc-Timeout, Authorization, X-Forwarded-For), with a context that says who is calling, and with the whole of the body.
// Of those whose calls will be refused it reads no body, so that nobody can make it hold one. HEAD becomes GET: what writes
// the answer leaves the body out.
func (g *Gateway) bareRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, leave, ok := g.config.Enter(r)
		defer leave()
		bare := r.WithContext(ctx) // a copy
		bare.Header = http.Header{"Accept": r.Header.Values("Accept"), "If-None-Match": r.Header.Values("If-None-Match")}
		switch {
		case r.ContentLength == 0:
		case !ok:
			w.Header().Set("Connection", "close") // what is left of the body is not waited for
			bare.Body = io.NopCloser(strings.NewReader("{}"))
		default:
			body, err := readWhole(w, r, g.config.MaxBody, g.config.Patience)
			if err != nil {
				writeError(w, err)
				return
			}
			bare.Body = io.NopCloser(bytes.NewReader(body))
		}
		if r.Method == http.MethodHead {
			bare.Method = http.MethodGet
		}
		next.ServeHTTP(w, bare)
	})
}

// readWhole reads the body of a request, bounded in size and time: one that never comes would hold its connection.
func readWhole(w http.ResponseWriter, r *http.Request, maxBody int64, patience time.Duration) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return nil, status.Error(codes.InvalidArgument, "the body did not come within "+patience.String())
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); err != nil && !ok {
		err = status.Error(codes.InvalidArgument, "the body cannot be read: "+err.Error())
	}
	if err != nil {
		return nil, err
	}
	// From here on reading tells that the client has gone, whenever that is.
	return body, control.SetReadDeadline(time.Time{})
}

// bareConn makes calls with no metadata: whatever the mux makes of a request's headers and addresses stays here.
// Identity travels in other ways, which no caller can forge.
type bareConn struct{ grpc.ClientConnInterface }

func (c bareConn) Invoke(ctx context.Context, method string, request, response any, options ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(metadata.NewOutgoingContext(ctx, nil), method, request, response, options...)
}

func (c bareConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(metadata.NewOutgoingContext(ctx, nil), desc, method, options...)
}

func (g *Gateway) allowedHost(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	host = canonicalHost(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host == "localhost" || slices.Contains(g.allowedHosts, host)
}

// canonicalHost is a name as it is compared: names have no case, and a dot at the end changes nothing.
func canonicalHost(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }
