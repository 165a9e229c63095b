package service

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
)

// lentEvent is an event whose bytes, those of its chunk, lie in memory that the engine has lent. It is sent like any
// message. Whoever keeps the bytes for longer than SendMsg takes holds the memory: so they go from the target's socket to
// the caller's without being copied, and count for the exchange as long as they wait to be taken.
type lentEvent struct {
	*probev1.ExchangeResponse
	buffer *exchange.Buffer
}

// lend makes the message of an event one that is lent, if there are bytes in it.
func lend(message *probev1.ExchangeResponse, event exchange.Event) proto.Message {
	if chunk, ok := event.(exchange.Chunk); ok {
		return lentEvent{message, chunk.Buffer}
	}
	return message
}

// marshalLent encodes an event around the bytes of its chunk, which stay where they are. It returns nothing when they are
// better copied, being few.
func marshalLent(event lentEvent) (mem.BufferSlice, error) {
	chunk := event.GetChunk()
	data := chunk.GetData()
	if mem.IsBelowBufferPoolingThreshold(len(data)) {
		return nil, nil
	}
	// The other fields go behind the bytes, as any order will do (the encoding of Protocol Buffers, "field order").
	chunk.Data = nil
	others, err := proto.Marshal(chunk)
	chunk.Data = data
	if err != nil {
		return nil, err
	}
	field := protowire.AppendTag(nil, chunkDataField, protowire.BytesType)
	field = protowire.AppendVarint(field, uint64(len(data)))
	head := protowire.AppendTag(make([]byte, 0, 32), eventChunkField, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(field)+len(data)+len(others)))
	head = append(head, field...)
	event.buffer.Hold()
	return mem.BufferSlice{mem.SliceBuffer(head), mem.NewBuffer(&data, returning{event.buffer}), mem.SliceBuffer(others)}, nil
}

// The numbers of the fields in the contract.
var (
	eventChunkField = (&probev1.ExchangeResponse{}).ProtoReflect().Descriptor().Fields().ByName("chunk").Number()
	chunkDataField  = (&probev1.Chunk{}).ProtoReflect().Descriptor().Fields().ByName("data").Number()
)

// returning is a pool for one buffer, which goes back to who lent it.
type returning struct{ buffer *exchange.Buffer }

// Get is not asked of it.
func (returning) Get(length int) *[]byte {
	data := make([]byte, length)
	return &data
}

// Put is called when nobody looks at the bytes any more.
func (r returning) Put(*[]byte) { r.buffer.Release() }
