package service

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/service/schema"
)

// contract has the rules that stand on the fields of requests.
var contract = schema.New(schema.Expressions{Messages: map[string]func(proto.Message) bool{
	"receive.length_or_delimiter": schema.Of(func(r *probev1.Receive) bool { return r.GetLength() <= 0 || r.GetDelimiter() == "" }),
	"receive.length_or_max_bytes": schema.Of(func(r *probev1.Receive) bool { return r.GetLength() <= 0 || r.GetMaxBytes() <= 0 }),
	"receive.count_or_length": schema.Of(func(r *probev1.Receive) bool {
		return r.GetCount() <= 0 || r.GetLength() <= 0 && r.GetDelimiter() == ""
	}),
}})

// validationLink holds every request against the rules that stand in the contract.
func validationLink() Interceptors {
	return Interceptors{
		Unary: func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := checkRequest(request); err != nil {
				return nil, err
			}
			return handler(ctx, request)
		},
		Stream: func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(server, checkedStream{stream})
		},
	}
}

func checkRequest(request any) error {
	message, ok := request.(proto.Message)
	if !ok {
		return nil
	}
	return statusOf(contract.Check(message))
}

// checkedStream checks each message that comes in.
type checkedStream struct{ grpc.ServerStream }

func (s checkedStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	return checkRequest(message)
}
