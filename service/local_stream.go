package service

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"probed/service/exchange"
)

// localStream is a call that streams on a LocalConn. Each direction holds one message, so that one side can prepare the
// next while the other takes it; who sends more has to wait.
type localStream struct {
	localTransport
	client, server      context.Context
	options             []grpc.CallOption
	requests, responses chan proto.Message
	halfClosed          bool             // requests is closed; the caller's alone
	held                *exchange.Buffer // what the last response lies in; the caller's alone
	done                chan struct{}    // closed when the handler has returned
	err                 error            // the status it ended with; to be read when done
}

// localServerStream is a localStream as its handler has it.
type localServerStream struct{ *localStream }

func (s localServerStream) Context() context.Context { return s.server }

func (s localServerStream) SetTrailer(md metadata.MD) { _ = s.localTransport.SetTrailer(md) }

func (s localServerStream) SendMsg(message any) error {
	s.sendHeader()
	var response proto.Message
	event, lent := message.(lentEvent)
	if lent {
		response = event
		event.buffer.Hold()
	} else {
		response = proto.Clone(message.(proto.Message)) //nolint:forcetypeassert // of generated code
	}
	select {
	case s.responses <- response:
		return nil
	case <-s.server.Done():
		if lent {
			event.buffer.Release()
		}
		return status.FromContextError(s.server.Err()).Err()
	}
}

func (s localServerStream) RecvMsg(message any) error {
	select {
	case request, ok := <-s.requests:
		if !ok {
			return io.EOF
		}
		move(message, request)
		return nil
	case <-s.server.Done():
		return status.FromContextError(s.server.Err()).Err()
	}
}

// localClientStream is a localStream as its caller has it. The bytes in a response may be lent, and are then valid until the
// next RecvMsg. Those of a stream that is not read to its end are not given back, since nobody knows who looks at them still:
// they are garbage with it.
type localClientStream struct{ *localStream }

func (s localClientStream) Context() context.Context { return s.client }

func (s localClientStream) Header() (metadata.MD, error) {
	select {
	case <-s.headerSent:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.header, nil
	case <-s.client.Done():
		return nil, status.FromContextError(s.client.Err()).Err()
	}
}

func (s localClientStream) Trailer() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trailer
}

func (s localClientStream) CloseSend() error {
	if !s.halfClosed {
		s.halfClosed = true
		close(s.requests)
	}
	return nil
}

func (s localClientStream) SendMsg(message any) error {
	if s.halfClosed {
		return status.Error(codes.Internal, "SendMsg called after CloseSend")
	}
	request := proto.Clone(message.(proto.Message)) //nolint:forcetypeassert // of generated code
	// Whoever has a single message to send takes io.EOF for a failure, and never comes to RecvMsg.
	select {
	case s.requests <- request:
		return nil
	default:
	}
	select {
	case s.requests <- request:
		return nil
	case <-s.done:
		return io.EOF // RecvMsg has the status
	case <-s.client.Done():
		return status.FromContextError(s.client.Err()).Err()
	}
}

func (s localClientStream) RecvMsg(message any) error {
	s.held.Release()
	s.held = nil
	select {
	case response := <-s.responses:
		s.take(message, response)
		return nil
	case <-s.done:
	case <-s.client.Done():
		return status.FromContextError(s.client.Err()).Err()
	}
	select {
	case response := <-s.responses: // the last, put there before the handler returned
		s.take(message, response)
		return nil
	default:
	}
	s.tell(s.options)
	if s.err == nil {
		return io.EOF
	}
	return s.err
}

// take gives message what response has.
func (s localClientStream) take(message any, response proto.Message) {
	if event, ok := response.(lentEvent); ok {
		s.held, response = event.buffer, event.ExchangeResponse
	}
	move(message, response)
}

// move gives to what from has, sharing its bytes: nobody else has from.
func move(to any, from proto.Message) {
	message := to.(proto.Message) //nolint:forcetypeassert // of generated code
	proto.Reset(message)
	target := message.ProtoReflect()
	from.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		target.Set(field, value)
		return true
	})
}
