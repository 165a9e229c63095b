package service

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Names of the headers every answer carries, by gRPC and by REST.
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

// ChainConfig is what the links of the chain need.
type ChainConfig struct {
	Logger  *slog.Logger
	Metrics Interceptors
	Vantage Vantage
}

// Chain is what happens around every call, the outermost first. The order is the meaning, so each line gives its reason.
func Chain(config ChainConfig) ([]grpc.ServerOption, error) {
	validation, err := validationLink()
	if err != nil {
		return nil, err
	}
	links := []Interceptors{
		headerLink(config.Vantage),  // first, so that everything after it, the log above all, knows the request's id
		config.Metrics,              // outside of all that refuses, so that refusals are counted
		loggingLink(config.Logger),  // outside of what refuses and of what panics, so that both are written down
		recoveryLink(config.Logger), // outside of everything that handles a message, so that a panic costs one call
		validation,                  // last, so that handlers see nothing but valid requests
	}
	var unary []grpc.UnaryServerInterceptor
	var stream []grpc.StreamServerInterceptor
	for _, link := range links {
		if link.Unary != nil {
			unary = append(unary, link.Unary)
		}
		if link.Stream != nil {
			stream = append(stream, link.Stream)
		}
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(stream...)}, nil
}

// headerLink gives each request an id, and each answer its headers.
func headerLink(vantage Vantage) Interceptors {
	// A host may have any bytes in its name, a header printable ASCII alone.
	where := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, vantage.String())
	begin := func(ctx context.Context) (context.Context, metadata.MD) {
		id := fmt.Sprintf("%016x", rand.Uint64()) // names a line in a log; it guards nothing
		ctx = logging.InjectFields(ctx, logging.Fields{"request_id", id})
		return ctx, metadata.Pairs(RequestIDHeader, id, VantageHeader, where)
	}
	return Interceptors{
		Unary: func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, header := begin(ctx)
			if err := grpc.SetHeader(ctx, header); err != nil {
				return nil, statusOf(err)
			}
			return handler(ctx, request)
		},
		Stream: func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, header := begin(stream.Context())
			if err := stream.SetHeader(header); err != nil {
				return statusOf(err)
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
		if err := validator.Validate(message); err != nil {
			return statusOf(err)
		}
		return nil
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
