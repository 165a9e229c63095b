package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// What is asked again, and what never is.
//
// A probe (Connect, Exchange, Converse) is asked once: what comes of it is the answer, whatever it is, and a second one
// would be another probe. A look-up is asked again only when the server itself says when to come again (RetryInfo), which
// it does of limits and before it has done anything.
//
// gRPC asks again by itself in one case, and it cannot be told not to: when the server says by HTTP/2 that it has not
// begun a call (REFUSED_STREAM, or GOAWAY before it), which then goes to a new connection. It holds for probes too, since
// none has been made.

// leastWait is what lies between two attempts at least, and more each time.
const leastWait = 100 * time.Millisecond

// again asks a question once more when the server says when, within --retry-max-time.
func (t *tool) again(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	begin := time.Now()
	for least := leastWait; ; least += leastWait {
		err := invoke(ctx, method, request, reply, conn, options...)
		wait, told := comeAgain(err)
		wait = max(wait, least)
		if !told || isProbe(method) || t.retryMaxTime <= 0 || wait > t.retryMaxTime-time.Since(begin) {
			return err
		}
		t.stderr.line("note: the server says: %s; asking again in %v", status.Convert(err).Message(), wait.Round(10*time.Millisecond))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// isProbe tells whether a method opens connections.
func isProbe(method string) bool {
	return strings.HasPrefix(method, "/"+probev1.ExchangeService_ServiceDesc.ServiceName+"/")
}

// comeAgain is when the server says to ask again, if it does.
func comeAgain(err error) (after time.Duration, told bool) {
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted && s.Code() != codes.Unavailable {
		return 0, false
	}
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// attempts tells of each attempt at a call, those that gRPC makes by itself too.
type attempts struct{ stderr *printer }

// attemptKey is of the method in a call's context, and nowhereKey of whether it goes nowhere, and asks nothing.
type (
	attemptKey struct{}
	nowhereKey struct{}
)

// TagRPC names the call of an attempt.
func (attempts) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, attemptKey{}, info.FullMethodName)
}

// HandleRPC tells of the begin of an attempt.
func (a attempts) HandleRPC(ctx context.Context, event stats.RPCStats) {
	begin, ok := event.(*stats.Begin)
	if !ok || ctx.Value(nowhereKey{}) != nil {
		return
	}
	method, _ := ctx.Value(attemptKey{}).(string)
	if begin.IsTransparentRetryAttempt {
		a.stderr.line("asking %s once more: the server says that it had not begun it", method)
	} else {
		a.stderr.line("asking %s", method)
	}
}

// TagConn does nothing: connections are told of by what asks over them.
func (attempts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (attempts) HandleConn(context.Context, stats.ConnStats) {}
