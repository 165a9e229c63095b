package main

import (
	"context"
	"net"
	"net/http"
	"strings"

	"probed/service"
	"probed/service/dial"
	"probed/service/guard"
	"probed/service/resolve"
	"probed/service/roots"
	"probed/service/tracing"
)

// openTracing begins the traces that the environment asks for, if it asks for any.
func (s *server) openTracing(vantage service.Vantage) (err error) {
	resolver := resolve.New(resolve.Config{})
	// As for an issuer of tokens: where the collector is, the operator says, so no policy is asked.
	dialer := dial.Dialer{Policy: func(context.Context, dial.Destination) error { return nil }}
	s.tracing, err = tracing.Open(tracing.Config{
		Getenv: s.getenv,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialName(ctx, resolver, &dialer, network, address)
		},
		HostRoots: roots.Load,
		Vantage:   vantage,
		// Where strangers reach it, only those go on with their trace who are somebody.
		Trusted: func(ctx context.Context) bool {
			subject := guard.CallerFrom(ctx).Subject
			return s.listeners.reachable == 0 || subject != "" && subject != guard.Anonymous
		},
		Log:  s.log,
		Lost: s.counts.SpansLost,
	})
	return err
}

// traceContextOf is ctx with what a REST request says of the trace that it is part of, for the calls that are made for it.
func (s *server) traceContextOf(ctx context.Context, r *http.Request) context.Context {
	if s.tracing == nil {
		return ctx
	}
	return service.WithTraceContext(ctx, r.Header.Get("Traceparent"), strings.Join(r.Header.Values("Tracestate"), ","))
}
