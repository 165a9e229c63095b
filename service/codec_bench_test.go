package service

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// A chunk whose bytes are lent to the connection, and one whose bytes are copied: what lending them saves, by size.
func BenchmarkMarshalChunk(b *testing.B) {
	codec := newCodec()
	for _, size := range []int{256, 4 << 10, 64 << 10, 256 << 10, 1 << 20} {
		event := &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{
			Data: make([]byte, size), Offset: 12345678, Elapsed: durationpb.New(time.Second),
		}}}
		for _, way := range []struct {
			name    string
			message proto.Message
		}{{"lent", lentEvent{ExchangeResponse: event}}, {"copied", event}} {
			b.Run(fmt.Sprintf("%s/%d", way.name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					data, err := codec.Marshal(way.message)
					if err != nil {
						b.Fatal(err)
					}
					data.Free()
				}
			})
		}
	}
}
