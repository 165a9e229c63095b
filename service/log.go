package service

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"probed/service/guard"
)

// loggingLink writes one line when a call has ended. It is our own because what a library keeps of a call for its line is
// kept for every session that waits.
func loggingLink(logger *slog.Logger) Interceptors {
	end := func(ctx context.Context, fullMethod string, begin time.Time, err error) {
		level := levelOf(status.Code(err))
		if level == slog.LevelInfo && guard.AccessTo(fullMethod) == guard.Public {
			level = slog.LevelDebug // kubelets and load balancers ask every few seconds
		}
		if !logger.Enabled(ctx, level) {
			return
		}
		r := requestOf(ctx)
		attributes := append(who(ctx),
			slog.String("method", methodName(fullMethod)),
			slog.String("code", codeName(err)),
			slog.String("reason", r.Reason(err)),
			slog.String("via", r.Via),
			slog.Float64("duration_seconds", time.Since(begin).Seconds()), // a unit that those who read logs need not be told
		)
		if err != nil {
			attributes = append(attributes, slog.String("error", err.Error()))
		}
		logger.LogAttrs(ctx, level, "call", attributes...)
	}
	return Interceptors{
		Unary: func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			begin := time.Now()
			answer, err := handler(ctx, request)
			end(ctx, info.FullMethod, begin, err)
			return answer, err
		},
		Stream: func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			begin := time.Now()
			err := handler(server, stream)
			end(stream.Context(), info.FullMethod, begin, err)
			return err
		},
	}
}

// mostMethod is how many bytes are told of the name of a method: one that is not here is a caller's own.
const mostMethod = 100

func methodName(fullMethod string) string {
	name := strings.TrimPrefix(fullMethod, "/")
	return name[:min(len(name), mostMethod)]
}

// who says in the log which call it is, and whose.
func who(ctx context.Context) []slog.Attr {
	attributes := make([]slog.Attr, 0, 11) // all there can be of a call
	r := requestOf(ctx)
	attributes = append(attributes, slog.String("request_id", r.ID))
	if r.TraceID != "" {
		attributes = append(attributes, slog.String("trace_id", r.TraceID), slog.String("span_id", r.SpanID))
	}
	if subject := guard.CallerFrom(ctx).Subject; subject != "" {
		attributes = append(attributes, slog.String("subject", subject))
	}
	if remote := guard.RemoteFrom(ctx); remote != "" {
		attributes = append(attributes, slog.String("remote", remote))
	}
	return attributes
}

// levelOf tells apart what callers bring about (info), what an operator may want to know of (warn), and what is wrong with
// probed (error).
func levelOf(code codes.Code) slog.Level {
	switch code {
	case codes.OK, codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.Unauthenticated, codes.Unimplemented:
		return slog.LevelInfo
	case codes.DeadlineExceeded, codes.PermissionDenied, codes.ResourceExhausted, codes.FailedPrecondition, codes.Aborted,
		codes.OutOfRange, codes.Unavailable:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}
