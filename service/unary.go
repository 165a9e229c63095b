package service

import (
	"context"

	"google.golang.org/grpc"
)

// BeforeMessage returns a registrar for a gRPC server that makes the chain run before the message of a unary call is
// read. gRPC reads the whole of it first, and would so hold for anybody what it takes before anybody was asked who they
// are; of a call that streams it reads nothing until the handler asks. On the wire the two are the same.
//
// The chain stands in the handlers themselves: the interceptors of a server do not see a stream of one message each way,
// since gRPC takes it for a unary call. The server has to be one that was made with the chain's ServerOptions.
func BeforeMessage(registrar grpc.ServiceRegistrar, chain Links) grpc.ServiceRegistrar {
	return beforeMessage{registrar, chain}
}

type beforeMessage struct {
	grpc.ServiceRegistrar
	chain Links
}

// RegisterService registers a service whose unary methods are streams of one message each way.
func (r beforeMessage) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	streams := *desc
	streams.Methods, streams.Streams = nil, nil
	for _, method := range desc.Methods {
		fullMethod := "/" + desc.ServiceName + "/" + method.MethodName
		streams.Streams = append(streams.Streams, grpc.StreamDesc{
			StreamName: method.MethodName,
			Handler: func(server any, stream grpc.ServerStream) error {
				info := &grpc.UnaryServerInfo{Server: server, FullMethod: fullMethod}
				_, err := r.chain.before.Unary(stream.Context(), nil, info, func(ctx context.Context, _ any) (any, error) {
					answer, err := method.Handler(server, ctx, decoding{stream}.RecvMsg, r.chain.after.Unary)
					if err != nil {
						return nil, err
					}
					return answer, stream.SendMsg(answer) // in here, where a panic is recovered from
				})
				return err
			},
		})
	}
	streams.Streams = append(streams.Streams, desc.Streams...)
	r.ServiceRegistrar.RegisterService(&streams, implementation)
}
