package main

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec encodes messages as gRPC's own does, into buffers that fit. gRPC's pool has none between 32 KiB and 1 MiB, so an
// answer of 64 KiB held 1 MiB as long as its caller did not read it, and a session holds several.
type codec struct{ pool mem.BufferPool }

func newCodec() codec {
	return codec{mem.NewTieredBufferPool(256, 1<<10, 4<<10, 9<<10, 17<<10, 33<<10, 65<<10, 129<<10, 257<<10, 513<<10, 1<<20+aroundMessage)}
}

// Name is that of gRPC's own.
func (codec) Name() string { return "proto" }

// Marshal encodes a message.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
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
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	buffer := data.MaterializeToBuffer(c.pool)
	defer buffer.Free()
	return proto.Unmarshal(buffer.ReadOnlyData(), message)
}
