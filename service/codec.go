package service

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// codec encodes messages as gRPC's own does, and differs from it three times.
//
// It encodes into buffers that fit. gRPC's pool has none between 32 KiB and 1 MiB, so an answer of 64 KiB held 1 MiB as long
// as its caller did not read it, and a session holds several.
//
// It does not copy the bytes of a chunk: see [lentEvent].
//
// And it leaves to others what happens with bytes that are no message: see [incoming].
type codec struct{ pool mem.BufferPool }

func newCodec() codec {
	return codec{mem.NewTieredBufferPool(256, 1<<10, 4<<10, 9<<10, 17<<10, 33<<10, 65<<10, 129<<10, 257<<10, 513<<10, 1<<20+64<<10)}
}

// Name is that of gRPC's own.
func (codec) Name() string { return "proto" }

// Marshal encodes a message.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if event, ok := v.(lentEvent); ok {
		if data, err := marshalLent(event); data != nil || err != nil {
			return data, err
		}
	}
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	size := proto.Size(message)
	options := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size) {
		data, err := options.Marshal(message)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(data)}, nil
	}
	buffer := c.pool.Get(size)
	if _, err := options.MarshalAppend((*buffer)[:0], message); err != nil {
		c.pool.Put(buffer)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buffer, c.pool)}, nil
}

// Unmarshal decodes one.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *incoming:
		v.problem = c.Unmarshal(data, v.message)
		return nil
	case proto.Message:
		buffer := data.MaterializeToBuffer(c.pool)
		defer buffer.Free()
		return proto.Unmarshal(buffer.ReadOnlyData(), v)
	}
	return fmt.Errorf("%T is no message", v)
}

// incoming is a message to be received, and what was wrong with its bytes. When a codec fails, gRPC answers at once, and
// says INTERNAL, although it is the caller who erred; so this one does not fail.
type incoming struct {
	message proto.Message
	problem error
}

// decoding is a server's stream whose messages are decoded by a codec: what cannot be is the caller's fault.
type decoding struct{ grpc.ServerStream }

func (s decoding) RecvMsg(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return s.ServerStream.RecvMsg(m)
	}
	in := &incoming{message: message}
	if err := s.ServerStream.RecvMsg(in); err != nil {
		return err
	}
	if in.problem != nil {
		return statusOf(&encodingError{message.ProtoReflect().Descriptor().FullName(), in.problem})
	}
	return nil
}

// encodingError is bytes that are no message of their kind.
type encodingError struct {
	kind  protoreflect.FullName
	cause error
}

func (e *encodingError) Error() string {
	// The library puts one of two spaces behind its name, so that nobody relies on its texts.
	cause := strings.TrimLeft(strings.TrimPrefix(e.cause.Error(), "proto:"), " \u00a0")
	return fmt.Sprintf("the message is no %s: %s", e.kind, cause)
}

func (e *encodingError) Unwrap() error { return e.cause }
