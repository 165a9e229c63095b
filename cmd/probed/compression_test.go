package main

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // a client that takes it
	"google.golang.org/grpc/stats"

	probev1 "probed/gen/probe/v1"
)

// answers notes how the answers of a server came.
type answers struct {
	mu          sync.Mutex
	compression []string
	bytes, wire int
}

func (*answers) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*answers) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*answers) HandleConn(context.Context, stats.ConnStats)                       {}

func (a *answers) HandleRPC(_ context.Context, s stats.RPCStats) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := s.(type) {
	case *stats.InHeader:
		a.compression = append(a.compression, s.Compression)
	case *stats.InPayload:
		a.bytes += s.Length
		a.wire += s.CompressedLength
	}
}

// A client that could read compressed answers has not asked for them: time is what a probe is asked about.
func TestNoCompression(t *testing.T) {
	t.Parallel()
	p := start(t)
	var seen answers
	conn, err := grpc.NewClient(p.addresses["grpc"], append(p.witness.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(&seen))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	services, err := probev1.NewNameServiceClient(conn).ListServices(t.Context(), &probev1.ListServicesRequest{PageSize: 1000})
	if err != nil || len(services.GetServices()) < 100 {
		t.Fatalf("%d services, %v", len(services.GetServices()), err)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if len(seen.compression) != 1 || seen.compression[0] != "" || seen.bytes < 1000 || seen.wire != seen.bytes {
		t.Errorf("compression %q: %d bytes came for %d", seen.compression, seen.wire, seen.bytes)
	}
}
