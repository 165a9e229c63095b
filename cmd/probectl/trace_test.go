package main

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"probed/service"
)

// The trace that probectl was started in goes on at the server; what is none is not told.
func TestTraceparent(t *testing.T) {
	t.Parallel()
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for traceparent, want := range map[string][]string{good: {good}, "": nil, good + "\n": nil, "x": nil, strings.ToUpper(good): nil} {
		var told []string
		chain, err := service.Chain(service.ChainConfig{
			Logger: slog.New(slog.DiscardHandler),
			Trace: func(ctx context.Context, _ *service.Call) (context.Context, func(error)) {
				told = metadata.ValueFromIncomingContext(ctx, "traceparent")
				return ctx, func(error) {}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(chain.ServerOptions()...)
		service.New(service.Config{}).Register(server)
		code := run(t.Context(), "probectl", []string{"port", "22", "--server", serveOn(t, server)}, strings.NewReader(""), io.Discard, io.Discard,
			func(name string) string { return map[string]string{"TRACEPARENT": traceparent}[name] })
		if code != 0 || !slices.Equal(told, want) {
			t.Errorf("TRACEPARENT %q: exit code %d, told %q", traceparent, code, told)
		}
	}
}
