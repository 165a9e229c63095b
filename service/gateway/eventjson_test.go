package gateway

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// Events are the JSON they would be otherwise, whatever the size and the bytes of a chunk.
func TestWriteEvent(t *testing.T) {
	t.Parallel()
	events := []*probev1.ExchangeResponse{
		{Event: &probev1.ExchangeResponse_PeerClosed{PeerClosed: &probev1.PeerClosed{}}},
		{Event: &probev1.ExchangeResponse_Outcome{Outcome: &probev1.Outcome{Error: `"data":""`}}},
		{},
	}
	for _, size := range []int{0, 1, 2, 3, 4, plain - 1, plain, plain + 1, 2 * plain, 5*plain + 2, 1 << 20} {
		for _, datagram := range []*probev1.Datagram{nil, {Peer: `"data":""`, Truncated: true, Length: 7}} {
			events = append(events, &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{
				Data: nettest.Data(size), Offset: 1 << 60, Elapsed: durationpb.New(time.Second), Datagram: datagram,
			}}})
		}
	}
	for _, event := range events {
		var text bytes.Buffer
		if err := writeEvent(&text, event); err != nil {
			t.Fatal(err)
		}
		var got probev1.ExchangeResponse
		if err := protojson.Unmarshal(text.Bytes(), &got); err != nil || !proto.Equal(event, &got) {
			t.Errorf("%.200s: %v, of %.200v", text.String(), err, event)
		}
		// Nothing is left out that others would not leave out.
		if want, err := marshal.Marshal(event); err != nil || len(unspaced(want)) != len(unspaced(text.Bytes())) {
			t.Errorf("%.200s, want %.200s, %v", text.String(), want, err)
		}
	}
}

func unspaced(text []byte) []byte { return bytes.ReplaceAll(text, []byte(" "), nil) }

// A client that has gone ends it, wherever that happens.
func TestWriteEventFails(t *testing.T) {
	t.Parallel()
	event := &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{Data: nettest.Data(3 * plain)}}}
	for room := range 5 {
		if err := writeEvent(&full{room}, event); !errors.Is(err, errFull) {
			t.Errorf("after %d writes: %v", room, err)
		}
	}
}

var errFull = errors.New("full")

// full takes so many writes.
type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room--; f.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}
