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
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	probev1 "probed/gen/probe/v1"
)

// maxBody is the most bytes of a request's body: a message of 1 MiB as base64, and room around it.
const maxBody = 2 << 20

//go:embed openapi/probe.swagger.json
var openAPI []byte

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
}

// Gateway serves REST.
type Gateway struct {
	config  Config
	client  probev1.ExchangeServiceClient
	handler http.Handler
}

var (
	// Unset fields are written, so that an answer shows all there is to know.
	marshal = protojson.MarshalOptions{EmitUnpopulated: true}
	// Fields nobody knows are refused, so that a misspelt one is not silently without effect.
	unmarshal = protojson.UnmarshalOptions{DiscardUnknown: false}
)

// New returns a Gateway.
func New(config Config) (*Gateway, error) {
	g := &Gateway{config: config, client: probev1.NewExchangeServiceClient(config.Conn)}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{MarshalOptions: marshal, UnmarshalOptions: unmarshal}),
		runtime.SetQueryParameterParser(strictQuery{}),
		runtime.WithErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			if metadata, ok := runtime.ServerMetadataFromContext(ctx); ok {
				copyHeader(w, metadata.HeaderMD)
			}
			writeError(w, err)
		}),
		runtime.WithRoutingErrorHandler(routingError),
		// No header of a request reaches the service: identity travels in other ways, which no caller can forge.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
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
	} {
		if err := register(context.Background(), mux, config.Conn); err != nil {
			return nil, fmt.Errorf("register REST handlers: %w", err)
		}
	}
	routes := http.NewServeMux()
	routes.Handle("/", mux)
	routes.HandleFunc("POST /v1/exchange", g.exchange)
	routes.HandleFunc("GET /openapi.json", serveOpenAPI)
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeStatus(w, http.StatusForbidden, requestError(codes.PermissionDenied, "a page of another origin may not make this request"))
	}))
	g.handler = sameOrigin.Handler(routes)
	return g, nil
}

// Close lets go of the connection; calls under way fail.
func (g *Gateway) Close() error { return g.config.Conn.Close() }

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.allowedHost(r.Host) {
		writeStatus(w, http.StatusForbidden, requestError(codes.PermissionDenied,
			fmt.Sprintf("this probed does not answer for the host %q: use its address, or allow the name", r.Host)))
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	g.handler.ServeHTTP(w, r)
}

func (g *Gateway) allowedHost(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host == "localhost" || slices.Contains(g.config.AllowedHosts, host)
}

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	// A client that went away needs no document.
	_, _ = w.Write(openAPI)
}
