package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/exchange"
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

// What is lent is encoded as it would be otherwise, is not copied, and is given back when all have let go of it.
func TestCodecOfLentEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := nettest.Data(1 << 20)
	peer := nettest.TCP(t, nettest.ReplyAfter(0, want))
	target, err := exchange.ParseTarget(peer.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, shared := newCodec(), 0
	request := exchange.Request{Target: target, Steps: exchange.DefaultSteps(target, nil, false), Timeout: time.Minute}
	outcome := w.service.exchanges.Run(t.Context(), request, func(event exchange.Event) error {
		message := w.service.eventMessage(event, true)
		sent := lend(message, event)
		encoded, err := c.Marshal(sent)
		if err != nil {
			return err
		}
		defer encoded.Free()
		var got probev1.ExchangeResponse
		if err := c.Unmarshal(encoded, &got); err != nil || !proto.Equal(message, &got) {
			t.Errorf("%v: it came as %v", message, &got)
		}
		if data := message.GetChunk().GetData(); len(data) > 1<<10 {
			shared++
			if len(encoded) != 3 || &encoded[1].ReadOnlyData()[0] != &data[0] {
				t.Errorf("%d bytes were copied", len(data))
			}
		}
		return nil
	})
	if !outcome.OK || shared == 0 {
		t.Errorf("%d chunks, %s", shared, outcome.Error)
	}
}

// rawCodec lets a client send any bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if message, ok := v.(proto.Message); ok {
		data, err := proto.Marshal(message)
		return mem.BufferSlice{mem.SliceBuffer(data)}, err
	}
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if message, ok := v.(proto.Message); ok {
		return proto.Unmarshal(data.Materialize(), message)
	}
	return nil
}

// notAMessage are bytes that no message has, and what is told of them.
var notAMessage = map[string]string{
	"\xff":                 "",              // a tag that does not end
	"\x0a\x7fab":           "",              // a field that ends before its length
	"\x0c":                 "",              // the end of a group that nobody began
	"\x0a\x02\xc3\x28":     "invalid UTF-8", // in the first field, where that is text
	"\x0a\x0a\x0a\x02\xc3": "",              // the same within, and cut
}

// Bytes that are no message are the caller's fault, whichever RPC they are for, and are logged and counted as such.
func TestBytesThatAreNoMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	calls := 0
	for method := range methods {
		path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
		for data := range notAMessage {
			if strings.Contains(data, "\xc3") && path != "/probe.v1.ExchangeService/Connect" {
				continue
			}
			calls++
			stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path, grpc.ForceCodecV2(rawCodec{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(stream.SendMsg([]byte(data)), stream.CloseSend()); err != nil {
				t.Fatal(err)
			}
			err = stream.RecvMsg(new([]byte))
			if status.Code(err) != codes.InvalidArgument || errorInfo(err) != "ERROR_REASON_INVALID_FIELD" ||
				!strings.Contains(err.Error(), string(method.Input().FullName())) || !strings.Contains(err.Error(), notAMessage[data]) {
				t.Errorf("%s %q: %v, reason %q", path, data, err, errorInfo(err))
			}
		}
	}
	lines := w.log.lines(t, "call")
	for _, line := range lines {
		if line["code"] != "INVALID_ARGUMENT" {
			t.Errorf("%v", line)
		}
	}
	if len(lines) != calls {
		t.Errorf("%d lines for %d calls", len(lines), calls)
	}
}

// So are those in the middle of a conversation, which they end.
func TestFrameThatIsNoMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, probev1.ExchangeService_Converse_FullMethodName, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	peer := nettest.TCP(t, nettest.Echo)
	if err := stream.SendMsg(open(&probev1.Open{Target: peer.String()})); err != nil {
		t.Fatal(err)
	}
	event := new(probev1.ExchangeResponse)
	for event.GetConnected() == nil {
		if err := stream.RecvMsg(event); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.SendMsg([]byte("\xff")); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = stream.RecvMsg(event)
	}
	if status.Code(err) != codes.InvalidArgument || errorInfo(err) != "ERROR_REASON_INVALID_FIELD" {
		t.Errorf("%v, reason %q, last event %v", err, errorInfo(err), event)
	}
}
