package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	probev1 "probed/gen/probe/v1"
)

// A server's log, and proxies before it, can tell probectl from other clients, and one version from another.
func TestUserAgent(t *testing.T) {
	t.Parallel()
	agents := make(chan []string, 1)
	server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnaryInterceptor(func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		agents <- metadata.ValueFromIncomingContext(ctx, "user-agent")
		return &probev1.LookupPortResponse{Port: 80}, nil
	}))
	probev1.RegisterNameServiceServer(server, probev1.UnimplementedNameServiceServer{})
	if code, _, stderr := runHere(t.Context(), "--server", serveOn(t, server), "port", "80"); code != 0 {
		t.Fatalf("%d: %s", code, stderr)
	}
	if got := <-agents; len(got) != 1 || !strings.HasPrefix(got[0], "probectl/"+buildVersion()+" grpc-go/") {
		t.Errorf("user-agent %q", got)
	}
}
