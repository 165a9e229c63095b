package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/service/policy"
)

type conversation = grpc.BidiStreamingClient[probev1.ConverseRequest, probev1.ExchangeResponse]

// converse begins a conversation with these frames, and with more of them than the server may ever take.
func converse(ctx context.Context, t testing.TB, w *world, frames ...*probev1.ConverseRequest) conversation {
	t.Helper()
	stream, err := probev1.NewExchangeServiceClient(w.conn).Converse(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range frames {
		if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	return stream
}

func data(text string) *probev1.ConverseRequest {
	return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: []byte(text)}}
}

func halfClose() *probev1.ConverseRequest {
	return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_HalfClose{HalfClose: &probev1.HalfClose{}}}
}

func closing() *probev1.ConverseRequest {
	return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Close{Close: &probev1.Close{}}}
}

func startTLS() *probev1.ConverseRequest {
	return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_StartTls{StartTls: &probev1.StartTls{}}}
}

// hear receives to the end.
func hear(stream conversation) (all []*probev1.ExchangeResponse, err error) {
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, event)
	}
}

func TestConverse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		name   string
		peer   func(net.Conn)
		frames []*probev1.ConverseRequest
		end    bool // the frames end
		ok     bool
		by     probev1.EndedBy
		reason probev1.Reason
		data   string
		sent   uint64
	}{
		{name: "to the end", peer: nettest.Echo, frames: []*probev1.ConverseRequest{data("one "), data("two"), halfClose()}, ok: true, by: probev1.EndedBy_ENDED_BY_PEER_CLOSED, data: "one two", sent: 7},
		{name: "the frames end", peer: nettest.Reply([]byte("bye")), frames: []*probev1.ConverseRequest{halfClose()}, end: true, ok: true, by: probev1.EndedBy_ENDED_BY_PEER_CLOSED, data: "bye"},
		{name: "closed by us", peer: nettest.Silent, frames: []*probev1.ConverseRequest{data("x"), closing()}, ok: true, by: probev1.EndedBy_ENDED_BY_LAST_STEP, sent: 1},
		{name: "reset", peer: nettest.Reset(1), frames: []*probev1.ConverseRequest{data("x")}, reason: probev1.Reason_REASON_CONNECTION_RESET, sent: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var tally nettest.Tally
			target := nettest.TCP(t, tally.Count(tt.peer)).String()
			stream := converse(probetest.WithPeer(t.Context(), &tally), t, w, append([]*probev1.ConverseRequest{open(&probev1.Open{Target: target})}, tt.frames...)...)
			if tt.end {
				if err := stream.CloseSend(); err != nil {
					t.Fatal(err)
				}
			}
			all, err := hear(stream)
			if err != nil {
				t.Fatal(err)
			}
			got, o := received(t, all)
			if string(got) != tt.data || o.GetOk() != tt.ok || o.GetEndedBy() != tt.by || o.GetReason() != tt.reason || o.GetBytesSent() != tt.sent {
				t.Errorf("%q came: %v", got, o)
			}
		})
	}
}

func TestConverseRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	silent := nettest.TCP(t, nettest.Silent).String()
	here := open(&probev1.Open{Target: silent})
	for _, tt := range []struct {
		name   string
		frames []*probev1.ConverseRequest
		field  string
	}{
		{"nothing at all", nil, "open"},
		{"not open", []*probev1.ConverseRequest{data("x")}, "open"},
		{"open twice", []*probev1.ConverseRequest{here, here}, "open"},
		{"no target", []*probev1.ConverseRequest{open(&probev1.Open{})}, "open.target"},
		{"data behind a half-close", []*probev1.ConverseRequest{here, halfClose(), data("x")}, "send"},
		{"TLS behind a half-close", []*probev1.ConverseRequest{here, halfClose(), startTLS()}, "start_tls"},
		{"half-close of datagrams", []*probev1.ConverseRequest{open(&probev1.Open{Target: "udp://127.0.0.1:9"}), halfClose()}, "half_close"},
		{"TLS over datagrams", []*probev1.ConverseRequest{open(&probev1.Open{Target: "udp://127.0.0.1:9", Tls: &probev1.TlsOptions{}})}, "open.tls"},
		{"an empty frame", []*probev1.ConverseRequest{here, {}}, "frame"},
		{"too large a frame", []*probev1.ConverseRequest{here, data(long(1<<20 + 1))}, "data"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stream := converse(t.Context(), t, w, tt.frames...)
			if len(tt.frames) == 0 {
				if err := stream.CloseSend(); err != nil {
					t.Fatal(err)
				}
			}
			all, err := hear(stream)
			if status.Code(err) != codes.InvalidArgument || errorInfo(err) == "" || violations(err) != tt.field {
				t.Errorf("%v, field %q, want %q", err, violations(err), tt.field)
			}
			for _, event := range all {
				if event.GetOutcome() != nil {
					t.Error("an outcome beside the error")
				}
			}
		})
	}
}

func TestConverseDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) { s.Policy = func() *policy.Policy { return &policy.Policy{Open: true} } })
	all, err := hear(converse(t.Context(), t, w, open(&probev1.Open{Target: nettest.TCP(t, nettest.Echo).String()}), data("x")))
	if status.Code(err) != codes.PermissionDenied || errorInfo(err) != "ERROR_REASON_POLICY_DENIED" || len(all) != 0 {
		t.Errorf("%v, %d events", err, len(all))
	}
}

func TestConverseDrained(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stream := converse(t.Context(), t, w, open(&probev1.Open{Target: nettest.TCP(t, nettest.Silent).String()}))
	var all []*probev1.ExchangeResponse
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, event); event.GetConnected() != nil {
			w.service.Drain()
		}
	}
	if _, o := received(t, all); o.GetReason() != probev1.Reason_REASON_DRAINED {
		t.Errorf("%v", o)
	}
}

func TestConverseIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all, err := hear(converse(t.Context(), t, w, open(&probev1.Open{
		Target: nettest.TCP(t, nettest.Silent).String(), Idle: durationpb.New(50 * time.Millisecond),
	})))
	if err != nil {
		t.Fatal(err)
	}
	if _, o := received(t, all); !o.GetOk() || o.GetEndedBy() != probev1.EndedBy_ENDED_BY_IDLE {
		t.Errorf("%v", o)
	}
}

// The peer learns soon that the caller has gone, whatever the caller was about.
func TestConverseCallerVanishes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, peer := range map[string]func(net.Conn){"silent": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "flooding": nettest.Flood(1 << 40), "not reading": nettest.NeverRead} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gone := make(chan struct{})
			target := nettest.TCP(t, func(c net.Conn) {
				defer close(gone)
				peer(c)
			}).String()
			ctx, cancel := context.WithCancel(t.Context())
			stream := converse(ctx, t, w, open(&probev1.Open{Target: target}), data(long(1<<20)))
			for {
				event, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if event.GetConnected() != nil {
					break
				}
			}
			cancel()
			if name == "not reading" { // it never learns
				return
			}
			select {
			case <-gone:
			case <-time.After(5 * time.Second):
				t.Error("the connection is open still")
			}
		})
	}
}

// Much both ways at the same time: nothing is queued, nothing is lost, nobody waits for the other.
func TestConverseBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const frames, size = 256, 64 << 10
	var tally nettest.Tally
	stream := converse(probetest.WithPeer(t.Context(), &tally), t, w, open(&probev1.Open{Target: nettest.TCP(t, tally.Count(nettest.Echo)).String()}))
	block := nettest.Data(size)
	failed := make(chan error, 1)
	go func() {
		for range frames {
			if err := stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: block}}); err != nil {
				failed <- err
				return
			}
		}
		failed <- stream.Send(halfClose())
	}()
	all, err := hear(stream)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	got, o := received(t, all)
	if !o.GetOk() || !bytes.Equal(got, bytes.Repeat(block, frames)) {
		t.Errorf("%d bytes came: %v", len(got), o)
	}
}
