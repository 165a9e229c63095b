package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

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

// ServerOptions are the link, and others, as a gRPC server takes them.
func (i Interceptors) ServerOptions(others ...grpc.ServerOption) []grpc.ServerOption {
	return append([]grpc.ServerOption{grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream)}, others...)
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
}

// Chain is what happens around every call, as one link. The order, the outermost first, is the meaning, so each line
// gives its reason.
func Chain(config ChainConfig) (Interceptors, error) {
	validation, err := validationLink()
	if err != nil {
		return Interceptors{}, err
	}
	identify, admit := guardLinks(config)
	return joined(
		requestIDLink(),             // first, so that everything after it, the log above all, knows the request's id
		config.Metrics,              // outside of all that refuses, so that refusals are counted
		identify,                    // before the log, which tells who called; it refuses nobody yet
		loggingLink(config.Logger),  // outside of what refuses and of what panics, so that both are written down
		recoveryLink(config.Logger), // outside of everything that handles a message, so that a panic costs one call
		admit,                       // before anything of the request is looked at
		vantageLink(config),         // after it, since not everybody is to know where this is
		validation,                  // last, so that handlers see nothing but valid requests
	), nil
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

// withContext is a link that gives handlers another context, or refuses the call.
func withContext(change func(ctx context.Context, fullMethod string) (context.Context, error)) Interceptors {
	return Interceptors{
		Unary: func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, err := change(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			return handler(ctx, request)
		},
		Stream: func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, err := change(stream.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			return handler(server, &streamWithContext{stream, ctx})
		},
	}
}

// streamWithContext is a stream whose handler sees another context.
type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

// requestIDLink gives each request an id.
func requestIDLink() Interceptors {
	return withContext(func(ctx context.Context, _ string) (context.Context, error) {
		id := fmt.Sprintf("%016x", rand.Uint64()) // names a line in a log; it guards nothing
		ctx = context.WithValue(ctx, requestIDKey{}, id)
		ctx = logging.InjectFields(ctx, logging.Fields{"request_id", id})
		// The trailer has the id as well, for those who see nothing but how a stream ended.
		header := metadata.Pairs(RequestIDHeader, id)
		return ctx, statusOf(errors.Join(grpc.SetHeader(ctx, header), grpc.SetTrailer(ctx, header)))
	})
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
		if config.Authenticator != nil && guard.CallerFrom(ctx).Subject == "" {
			return ctx, nil
		}
		return ctx, statusOf(grpc.SetHeader(ctx, metadata.Pairs(VantageHeader, where)))
	})
}

// requestIDKey is the key of a request's id in its context.
type requestIDKey struct{}

// requestID is the id of the request that ctx belongs to.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// guardLinks are the two links that ask who calls: one finds out, and refuses nobody; the other refuses.
func guardLinks(config ChainConfig) (identify, admit Interceptors) {
	if config.Authenticator == nil {
		return Interceptors{}, Interceptors{}
	}
	identify = withContext(func(ctx context.Context, _ string) (context.Context, error) {
		ctx = config.Authenticator().Identify(ctx)
		return logging.InjectFields(ctx, logging.Fields{"subject", guard.CallerFrom(ctx).Subject}), nil
	})
	admit = withContext(func(ctx context.Context, fullMethod string) (context.Context, error) {
		return ctx, statusOf(guard.Admit(ctx, config.Policy(), fullMethod))
	})
	return identify, admit
}

// loggingLink writes a line when a call has ended.
func loggingLink(logger *slog.Logger) Interceptors {
	log := logging.LoggerFunc(func(ctx context.Context, level logging.Level, message string, fields ...any) {
		logger.Log(ctx, slog.Level(level), message, fields...)
	})
	options := []logging.Option{logging.WithLogOnEvents(logging.FinishCall)}
	return Interceptors{
		Unary:  logging.UnaryServerInterceptor(log, options...),
		Stream: logging.StreamServerInterceptor(log, options...),
	}
}

// recoveryLink turns a panic of a handler into INTERNAL.
func recoveryLink(logger *slog.Logger) Interceptors {
	option := recovery.WithRecoveryHandlerContext(func(ctx context.Context, value any) error {
		logger.ErrorContext(ctx, "panic", append(logging.ExtractFields(ctx), "value", value, "stack", string(debug.Stack()))...)
		return statusOf(fmt.Errorf("panic: %v", value))
	})
	return Interceptors{
		Unary:  recovery.UnaryServerInterceptor(option),
		Stream: recovery.StreamServerInterceptor(option),
	}
}

// validationLink holds every request against the rules that stand in the contract.
func validationLink() (Interceptors, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return Interceptors{}, fmt.Errorf("the contract's rules: %w", err)
	}
	check := func(request any) error {
		message, ok := request.(proto.Message)
		if !ok {
			return nil
		}
		return statusOf(validator.Validate(message))
	}
	return Interceptors{
		Unary: func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := check(request); err != nil {
				return nil, err
			}
			return handler(ctx, request)
		},
		Stream: func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(server, &checkedStream{stream, check})
		},
	}, nil
}

// checkedStream checks each message that comes in.
type checkedStream struct {
	grpc.ServerStream
	check func(any) error
}

func (s *checkedStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	return s.check(message)
}
