package main

import (
	"context"
	"regexp"

	"google.golang.org/grpc/metadata"
)

// inTrace returns a context whose calls are part of the trace that this process was started in, if TRACEPARENT names one, as CI
// systems and tools that trace commands have it (W3C's Trace Context). What is no traceparent is not sent.
func inTrace(ctx context.Context, getenv func(string) string) context.Context {
	traceparent := getenv("TRACEPARENT")
	if ok, _ := regexp.MatchString(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`, traceparent); !ok { // the pattern is good
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent)
}
