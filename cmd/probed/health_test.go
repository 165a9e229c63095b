package main

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Nobody is asked who they are to watch the health, so there is a most of those who do. A place comes back.
func TestMostWatchers(t *testing.T) {
	t.Parallel()
	p := start(t)
	client := grpc_health_v1.NewHealthClient(p.conn)
	watch := func(ctx context.Context) error {
		stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	const most = 64
	one, leave := context.WithCancel(t.Context())
	if err := watch(one); err != nil {
		t.Fatal(err)
	}
	for range most - 1 {
		if err := watch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := watch(t.Context()); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("Check: %v", err)
	}
	leave()
	for deadline, cancel := context.WithTimeout(t.Context(), patience); ; {
		if err := watch(t.Context()); err == nil {
			cancel()
			return
		}
		if deadline.Err() != nil {
			cancel()
			t.Fatal("the place did not come back")
		}
	}
}
