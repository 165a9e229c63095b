package service

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/policy"
)

// Names of the headers that answers carry, by gRPC and by REST.
const (
	// RequestIDHeader is the id under which the log has the request.
	RequestIDHeader = "probe-request-id"
	// VantageHeader is where the answer was given from, for a person to read.
	VantageHeader = "probe-vantage"
)

// Interceptors is one link of the chain: the same idea for both kinds of call. Either may be nil.
type Interceptors struct {
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
}

// Links is the whole chain.
type Links struct {
	before  Interceptors // does not look at messages
	after   Interceptors // does
	unknown Interceptors // around calls of what is not here
}

// all is the chain as one link.
func (l Links) all() Interceptors { return joined(l.before, l.after) }

// ServerOptions are the chain, the codec whose failures it tells, and others, as a gRPC server takes them.
func (l Links) ServerOptions(others ...grpc.ServerOption) []grpc.ServerOption {
	all := l.all()
	return append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.InTapHandle(hangUpTap),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.UnaryInterceptor(all.Unary),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if server == nil { // nothing is called: its name, which could be any, is none to count calls by
				return l.unknown.Stream(server, stream, info, handler)
			}
			return all.Stream(server, decoding{stream}, info, handler)
		}),
	}, others...)
}

// unknownMethod answers calls of what is not here. gRPC does so itself, but for the details of the error.
func unknownMethod(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return statusOf(&unknownMethodError{method})
}

// ChainConfig is what the links of the chain need.
type ChainConfig struct {
	Logger  *slog.Logger
	Metrics Interceptors
	Vantage Vantage
	// Authenticator returns what finds out now who calls; nil: nobody is asked, and Policy is not either.
	Authenticator func() *guard.Authenticator
	// Policy returns what holds now about who may call what.
	Policy func() *policy.Policy
	// Limiter bounds the calls of each caller; nil: nothing does.
	Limiter *guard.Limiter
	// Limited is called when a call is refused because a limit is reached, with its name; may be nil.
	Limited func(limit string)
	// Trace is called when a call that is admitted begins, and returns the context of its handler, and what is called when it
	// has ended. Those who watch its health are left out. Nil: nobody observes calls.
	//
	// Who is refused is not observed, for what an observer does costs something, and another program as well.
	Trace func(ctx context.Context, call *Call) (_ context.Context, ended func(error))
	// Unauthenticated is called when a call is refused because it is not known who calls, with the reason, from a closed
	// set; may be nil.
	Unauthenticated func(reason string)
}

// Chain is what happens around every call. The order, the outermost first, is the meaning, so each line gives its reason.
func Chain(config ChainConfig) (Links, error) {
	identify, admit := guardLinks(config)
	before := joined(
		requestIDLink(),             // first, so that everything after it, the log above all, knows the request's id
		config.Metrics,              // outside of all that refuses, so that refusals are counted
		identify,                    // before the log, which tells who called; it refuses nobody yet
		loggingLink(config.Logger),  // outside of what refuses and of what panics, so that both are written down
		recoveryLink(config.Logger), // outside of everything that handles a message, so that a panic costs one call
		admit,                       // before anything of the request is looked at
		vantageLink(config),         // after it, since not everybody is to know where this is
		traceLink(config.Trace),     // after it, since strangers are not to load whom traces are sent to
	)
	return Links{
		before:  before,
		after:   validationLink(), // last, so that handlers see nothing but valid requests
		unknown: joined(requestIDLink(), identify, loggingLink(config.Logger)),
	}, nil
}

// joined makes one link of several, the outermost first.
func joined(links ...Interceptors) Interceptors {
	all := Interceptors{
		Unary: func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, request)
		},
		Stream: func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(server, stream)
		},
	}
	for _, link := range slices.Backward(links) {
		inner := all
		if link.Unary != nil {
			all.Unary = func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				return link.Unary(ctx, request, info, func(ctx context.Context, request any) (any, error) {
					return inner.Unary(ctx, request, info, handler)
				})
			}
		}
		if link.Stream != nil {
			all.Stream = func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				return link.Stream(server, stream, info, func(server any, stream grpc.ServerStream) error {
					return inner.Stream(server, stream, info, handler)
				})
			}
		}
	}
	return all
}

// around is a link that gives handlers another context, or refuses the call; end, if it is not nil, is called when the
// handler has returned.
func around(begin func(ctx context.Context, fullMethod string) (_ context.Context, end func(), err error)) Interceptors {
	return Interceptors{
		Unary: func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, end, err := begin(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			if end != nil {
				defer end()
			}
			return handler(ctx, request)
		},
		Stream: func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, end, err := begin(stream.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			if end != nil {
				defer end()
			}
			return handler(server, &streamWithContext{stream, ctx})
		},
	}
}

// withContext is a link that gives handlers another context, or refuses the call.
func withContext(change func(ctx context.Context, fullMethod string) (context.Context, error)) Interceptors {
	return around(func(ctx context.Context, fullMethod string) (context.Context, func(), error) {
		ctx, err := change(ctx, fullMethod)
		return ctx, nil, err
	})
}

// streamWithContext is a stream whose handler sees another context.
type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

// NewRequestID returns the id of a request.
func NewRequestID() string {
	var random [8]byte
	binary.BigEndian.PutUint64(random[:], rand.Uint64()) // names a line in a log; it guards nothing
	return hex.EncodeToString(random[:])
}

// requestIDLink gives each request an id, which its answer carries, be it a refusal: vantageLink puts it into the header, since
// to set a header twice costs twice, and what ends before that, this link. The trailer of a stream has it as well, for those
// who see nothing but how it ended, and the details of an error, for those who see nothing but that.
func requestIDLink() Interceptors {
	begin := func(ctx context.Context) (context.Context, *request) {
		r := &request{Call: Call{ID: NewRequestID(), Via: "grpc"}}
		if isLocal(ctx) {
			r.Via = "rest"
		}
		return context.WithValue(ctx, requestKey{}, r), r
	}
	return Interceptors{
		Unary: func(ctx context.Context, message any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, r := begin(ctx)
			answer, err := handler(ctx, message)
			return answer, complete(cmp.Or(err, r.tell(ctx)), r.ID)
		},
		Stream: func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, r := begin(stream.Context())
			if err := grpc.SetTrailer(ctx, metadata.MD{RequestIDHeader: {r.ID}}); err != nil {
				return statusOf(err)
			}
			err := handler(server, &streamWithContext{stream, ctx})
			return complete(cmp.Or(err, r.tell(ctx)), r.ID)
		},
	}
}

// vantageLink tells callers where the answer is given from: those who are somebody, where that is asked.
func vantageLink(config ChainConfig) Interceptors {
	// A host may have any bytes in its name, a header printable ASCII alone.
	where := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, config.Vantage.String())
	return withContext(func(ctx context.Context, _ string) (context.Context, error) {
		r := requestOf(ctx)
		if config.Authenticator == nil || guard.CallerFrom(ctx).Subject != "" {
			r.vantage = where
		}
		return ctx, statusOf(r.tell(ctx))
	})
}

// Call is what is known of a call. It is filled in as the call proceeds, by its handler's goroutine alone.
type Call struct {
	// ID is the one that its answer and the log have, see RequestIDHeader.
	ID string
	// Method is its full name, "/package.Service/Method".
	Method string
	// Via is how it came: "grpc", or "rest" when it came by a LocalConn.
	Via string
	// Target is what it is to reach, as the caller wrote it; empty when it opens no connection.
	Target string
	// Outcome is that of a Connect, Exchange or Converse that has ended; nil before, of other calls, and when there is none.
	Outcome *exchange.Outcome
	// TraceID and SpanID are filled in by ChainConfig.Trace, hexadecimal; empty: it is in no trace. Sampled says that the trace
	// is kept, and so can be found.
	TraceID, SpanID string
	Sampled         bool
}

// SampledTrace returns the id of the trace that the call of ctx is recorded in; empty when it is in none.
func SampledTrace(ctx context.Context) string {
	if r, ok := ctx.Value(requestKey{}).(*request); ok && r.Sampled {
		return r.TraceID
	}
	return ""
}

// Reason says in a word what came of a call that ended with err: OK, the reason of an outcome that is not ok, or that of the
// error, as "POLICY_DENIED"; of an error without one its code.
func (c *Call) Reason(err error) string {
	if err == nil && c.Outcome != nil && c.Outcome.Reason != exchange.None {
		return c.Outcome.Reason.String()
	}
	reason := reasonOf(err)
	if reason == probev1.ErrorReason_ERROR_REASON_UNSPECIFIED.String() {
		return codeName(err)
	}
	return strings.TrimPrefix(reason, "ERROR_REASON_")
}

// Code is the name of the status code of a call that ended with err, as "PERMISSION_DENIED".
func (*Call) Code(err error) string { return codeName(err) }

// request is what the chain knows of one.
type request struct {
	Call
	vantage string // from which it is answered; empty: the caller is not to know
	told    bool   // whether the header has both
}

// tell puts into the header what the caller is told, once.
func (r *request) tell(ctx context.Context) error {
	if r.told {
		return nil
	}
	r.told = true
	header := metadata.MD{RequestIDHeader: {r.ID}}
	if r.vantage != "" {
		header[VantageHeader] = []string{r.vantage}
	}
	return grpc.SetHeader(ctx, header)
}

// requestKey is the key of a request in its context.
type requestKey struct{}

// requestOf is the one that ctx belongs to.
func requestOf(ctx context.Context) *request {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r
	}
	return &request{}
}

// requestID is the id of the request that ctx belongs to.
func requestID(ctx context.Context) string { return requestOf(ctx).ID }

// errPanicked is what a call ended with that has not returned.
var errPanicked error = &internalError{errors.New("panic")}

// traceLink tells who observes calls of each.
func traceLink(trace func(context.Context, *Call) (context.Context, func(error))) Interceptors {
	if trace == nil {
		return Interceptors{}
	}
	begin := func(ctx context.Context, fullMethod string) (context.Context, func(error)) {
		call := &requestOf(ctx).Call
		call.Method = fullMethod
		return trace(ctx, call)
	}
	return Interceptors{
		Unary: func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
			if guard.AccessTo(info.FullMethod) == guard.Public {
				return handler(ctx, message)
			}
			ctx, ended := begin(ctx, info.FullMethod)
			err = errPanicked
			defer func() { ended(err) }()
			answer, err = handler(ctx, message)
			return answer, err
		},
		Stream: func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			if guard.AccessTo(info.FullMethod) == guard.Public {
				return handler(server, stream)
			}
			ctx, ended := begin(stream.Context(), info.FullMethod)
			err = errPanicked
			defer func() { ended(err) }()
			err = handler(server, &streamWithContext{stream, ctx})
			return err
		},
	}
}

// mostPublic is how many calls of one method may be under way at a time that nobody has to be somebody for. What they need
// is little, and those who have credentials must not want for it. Of each method, since some watch the health for as long as
// they like, and others who ask for it once, as a load balancer does that finds no place to watch, must not find it taken.
const mostPublic = 64

// guardLinks are the two links that ask who calls: one finds out, and refuses nobody; the other refuses.
func guardLinks(config ChainConfig) (identify, admit Interceptors) {
	if config.Authenticator == nil {
		return Interceptors{}, Interceptors{}
	}
	identify = withContext(func(ctx context.Context, _ string) (context.Context, error) {
		if !guard.Identified(ctx) { // by Enter
			ctx = config.Authenticator().Identify(ctx)
		}
		return ctx, nil
	})
	public := guard.NewLimiter(guard.Limits{CallsPerCaller: mostPublic})
	admit = around(func(ctx context.Context, fullMethod string) (context.Context, func(), error) {
		if guard.AccessTo(fullMethod) == guard.Public {
			end, err := public.Call(fullMethod)
			if limit, ok := errors.AsType[*guard.LimitError](err); ok {
				limit.Limit = guard.LimitPublicCalls
			}
			config.limited(err)
			return ctx, end, statusOf(err)
		}
		if err := guard.Admit(ctx, config.Policy(), fullMethod); err != nil {
			config.limited(err)
			if stranger, ok := errors.AsType[*guard.UnauthenticatedError](err); ok && config.Unauthenticated != nil {
				config.Unauthenticated(stranger.Reason)
			}
			return ctx, nil, statusOf(err)
		}
		end, err := guard.Count(ctx, config.Limiter)
		config.limited(err)
		return ctx, end, statusOf(err)
	})
	return identify, admit
}

// Enter is what the chain does first with a call, for a server that has to know it before there is one: it finds out who
// sends a request with these credentials, and counts the call until leave is called. When ok is false the chain will
// refuse the call that is made with ctx, whatever it is, so nothing more of the request needs to be read.
func (config *ChainConfig) Enter(ctx context.Context) (entered context.Context, leave func(), ok bool) {
	if config.Authenticator == nil {
		return ctx, func() {}, true
	}
	return guard.Enter(ctx, config.Authenticator(), config.Limiter)
}

// Admits tells whether the chain lets the caller of a context of [ChainConfig.Enter] call the method of that full name at all,
// for a server that would tell them something before there is a call.
func (config *ChainConfig) Admits(ctx context.Context, fullMethod string) bool {
	return config.Authenticator == nil || guard.Admit(ctx, config.Policy(), fullMethod) == nil
}

func (config *ChainConfig) limited(err error) {
	if limit, ok := errors.AsType[*guard.LimitError](err); ok && config.Limited != nil {
		config.Limited(limit.Limit)
	}
}

// recoveryLink turns a panic of a handler into INTERNAL.
func recoveryLink(logger *slog.Logger) Interceptors {
	option := recovery.WithRecoveryHandlerContext(func(ctx context.Context, value any) error {
		logger.LogAttrs(ctx, slog.LevelError, "panic", append(who(ctx), slog.Any("value", value), slog.String("stack", string(debug.Stack())))...)
		return statusOf(fmt.Errorf("panic: %v", value))
	})
	return Interceptors{
		Unary:  recovery.UnaryServerInterceptor(option),
		Stream: recovery.StreamServerInterceptor(option),
	}
}
