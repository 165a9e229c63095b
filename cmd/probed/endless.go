package main

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"probed/service"
)

// endless are the calls that their callers alone end, who watch the health, or ask for reflection one thing after the other:
// each would hold up the end of probed until its last moment.
type endless struct {
	over context.Context // ends when they are hung up on
	end  context.CancelFunc
}

func newEndless() *endless {
	e := &endless{}
	e.over, e.end = context.WithCancel(context.Background())
	return e
}

// in is a registrar for services whose streams are such calls.
func (e *endless) in(registrar grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	return endlessRegistrar{registrar, e.over}
}

type endlessRegistrar struct {
	grpc.ServiceRegistrar
	over context.Context
}

func (r endlessRegistrar) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	ending := *desc
	ending.Streams = slices.Clone(desc.Streams)
	for i := range ending.Streams {
		handler := ending.Streams[i].Handler
		ending.Streams[i].Handler = func(server any, stream grpc.ServerStream) error {
			stop := context.AfterFunc(r.over, func() { service.HangUp(stream.Context()) })
			defer stop()
			return handler(server, stream)
		}
	}
	r.ServiceRegistrar.RegisterService(&ending, implementation)
}
