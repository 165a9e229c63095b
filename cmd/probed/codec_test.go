package main

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
)

// A message comes through as it is, whatever its size, and takes a buffer that is not much larger.
func TestCodec(t *testing.T) {
	t.Parallel()
	c := newCodec()
	for _, size := range []int{0, 1, 255, 1 << 10, 4 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20, 3 << 20} {
		sent := &probev1.Chunk{Data: bytes.Repeat([]byte{7}, size), Offset: 5}
		encoded, err := c.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		var got probev1.Chunk
		if err := c.Unmarshal(encoded, &got); err != nil || !proto.Equal(sent, &got) {
			t.Errorf("%d bytes: %v", size, err)
		}
		for _, buffer := range encoded {
			if held := cap(buffer.ReadOnlyData()); size >= 4<<10 && size < 1<<20 && held > 2*size+4<<10 {
				t.Errorf("%d bytes hold %d", size, held)
			}
		}
		encoded.Free()
	}
	if _, err := c.Marshal("text"); err == nil {
		t.Error("what is no message was encoded")
	}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer{0xff}}, new(probev1.Chunk)); err == nil {
		t.Error("what is no message was decoded")
	}
}
