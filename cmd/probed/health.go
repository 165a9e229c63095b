package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// healthService is gRPC's health service, whose watchers can be sent away: a watch is a call that never ends by itself,
// so one client that watches would hold up the end until its last moment.
type healthService struct {
	*health.Server
	over context.Context // ends when watchers are to go
	end  context.CancelFunc
}

func newHealthService() *healthService {
	h := &healthService{Server: health.NewServer()}
	h.over, h.end = context.WithCancel(context.Background())
	return h
}

// Watch tells how it is and each change of that, until the client goes or end is called.
func (h *healthService) Watch(request *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(h.over, cancel)
	defer stop()
	return h.Server.Watch(request, watch{stream, ctx})
}

// watch is a stream with another context.
type watch struct {
	grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]
	ctx context.Context
}

func (w watch) Context() context.Context { return w.ctx }
