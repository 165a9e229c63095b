package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"

	probev1 "probed/gen/probe/v1"
)

// readerPatience is how long callers get to take what is left of their events when the time of their exchange is over.
// Package gateway gives those by REST as long.
const readerPatience = 10 * time.Second

// hangUpKey is the key, in the context of a call over the network, of what ends it.
type hangUpKey struct{}

// hangUpTap lets the service hang up on a call. A handler that waits in Send, for a caller who takes nothing, is woken by
// nothing but the end of the stream's own context, which is made here. What has one answer sends it and is done.
func hangUpTap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if oneAnswer[info.FullMethodName] {
		return ctx, nil
	}
	ctx, hangUp := context.WithCancel(ctx)
	return context.WithValue(ctx, hangUpKey{}, hangUp), nil
}

// oneAnswer are the methods of the contract that do not stream.
var oneAnswer = func() map[string]bool {
	names := make(map[string]bool)
	for _, service := range []grpc.ServiceDesc{
		probev1.NameService_ServiceDesc, probev1.ResolverService_ServiceDesc, probev1.ExchangeService_ServiceDesc, probev1.PolicyService_ServiceDesc,
	} {
		for _, method := range service.Methods {
			names["/"+service.ServiceName+"/"+method.MethodName] = true
		}
	}
	return names
}()

// HangUp ends the call of ctx, which came over the network, from this side, whatever it waits for. To its caller it is
// cancelled. One within the process is its caller's alone to end, and one with a single answer ends by itself.
func HangUp(ctx context.Context) {
	if hangUp, ok := ctx.Value(hangUpKey{}).(context.CancelFunc); ok {
		hangUp()
	}
}

// hangUpAfter hangs up on the call of ctx when d is over, unless it is stopped.
func hangUpAfter(ctx context.Context, d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() { HangUp(ctx) })
}
