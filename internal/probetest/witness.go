package probetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// Witness stands between a test and the service it calls, and holds every exchange to the invariants, whatever the test itself
// looks at: a test cannot forget to. Give one to each client that a test makes.
type Witness struct {
	t        testing.TB
	outcomes atomic.Int64 // that callers were told
}

// NewWitness returns one. What it finds wrong is an error of the test.
func NewWitness(t testing.TB) *Witness { return &Witness{t: t} }

type peerKey struct{}

// WithPeer says what the peer of the exchange that ctx is for will have seen, to be compared with what its caller is told.
func WithPeer(ctx context.Context, peer *nettest.Tally) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}

func eventsOf(ctx context.Context) Events {
	peer, _ := ctx.Value(peerKey{}).(*nettest.Tally)
	return Events{Peer: peer}
}

// Outcomes is how many outcomes were told.
func (w *Witness) Outcomes() int { return int(w.outcomes.Load()) }

// GRPC is for a client by gRPC.
func (w *Witness) GRPC() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			err := invoke(ctx, method, request, reply, conn, options...)
			if response, ok := reply.(*probev1.ConnectResponse); ok && err == nil {
				w.connected(response)
			}
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := open(ctx, desc, conn, method, options...)
			if err != nil {
				return nil, err
			}
			return &clientStream{ClientStream: stream, testimony: testimony{witness: w, events: eventsOf(ctx)}}, nil
		}),
	}
}

// Server is for a server by gRPC, where the clients are programs of their own.
func (w *Witness) Server() grpc.ServerOption {
	return grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !info.IsServerStream || !strings.HasPrefix(info.FullMethod, "/probe.v1.ExchangeService/") {
			return handler(server, stream)
		}
		s := &serverStream{ServerStream: stream, testimony: testimony{witness: w}}
		err := handler(server, s)
		s.ended(cmp.Or(err, io.EOF))
		return err
	})
}

// testimony is of one stream. One goroutine may send while another receives.
type testimony struct {
	witness *Witness
	mu      sync.Mutex
	events  Events
}

// asked is given each message of the caller.
func (s *testimony) asked(message any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch message := message.(type) {
	case *probev1.ExchangeRequest:
		s.events.Of(message)
	case *probev1.ConverseRequest:
		s.events.Says(message)
	}
}

// told is given each answer.
func (s *testimony) told(message any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := message.(proto.Message)
	if !ok {
		return
	}
	switch message := m.ProtoReflect().Interface().(type) { // which is a message also of what stands around one
	case *probev1.ConnectResponse:
		s.witness.connected(message)
	case *probev1.ExchangeResponse:
		s.witness.take(&s.events, message)
	}
}

func (s *testimony) ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events.End(s.witness.t, err)
}

func (w *Witness) connected(response *probev1.ConnectResponse) {
	w.t.Helper()
	w.outcomes.Add(1)
	checkOutcome(w.t, response.GetOutcome())
}

func (w *Witness) take(events *Events, event *probev1.ExchangeResponse) {
	w.t.Helper()
	events.Take(w.t, event)
	if event.GetOutcome() != nil {
		w.outcomes.Add(1)
	}
}

type clientStream struct {
	grpc.ClientStream
	testimony
}

func (s *clientStream) SendMsg(message any) error {
	s.asked(message)
	return s.ClientStream.SendMsg(message)
}

func (s *clientStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil {
		s.told(message)
	} else if _, ok := message.(*probev1.ExchangeResponse); ok {
		s.ended(err)
	}
	return err
}

type serverStream struct {
	grpc.ServerStream
	testimony
	gone bool // the caller has
}

func (s *serverStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.asked(message)
	}
	return err
}

// SendMsg looks at what goes to the caller, as long as there is one; and before it goes, since what is sent is lent.
func (s *serverStream) SendMsg(message any) error {
	if !s.gone {
		s.told(message)
	}
	err := s.ServerStream.SendMsg(message)
	if err != nil {
		s.gone = true
		s.ended(err)
	}
	return err
}

// HTTP is for a client by REST. The formats of events are lines of JSON and server-sent events; of raw bytes it is held that
// they end with an outcome in the trailers, or break off.
func (w *Witness) HTTP(next http.RoundTripper) http.RoundTripper { return &witnessedHTTP{w, next} }

type witnessedHTTP struct {
	witness *Witness
	next    http.RoundTripper
}

// CloseIdleConnections is what http.Client asks for.
func (h *witnessedHTTP) CloseIdleConnections() {
	if c, ok := h.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (h *witnessedHTTP) RoundTrip(request *http.Request) (*http.Response, error) {
	events := eventsOf(request.Context())
	if request.URL.Path == "/v1/exchange" && request.GetBody != nil {
		if body, err := request.GetBody(); err == nil {
			text, _ := io.ReadAll(body)
			asked := &probev1.ExchangeRequest{}
			if protojson.Unmarshal(text, asked) == nil { // what is no request is refused
				events.Of(asked)
			}
		}
	}
	response, err := h.next.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK || request.Method != http.MethodPost {
		return response, err
	}
	body := &witnessedBody{ReadCloser: response.Body, witness: h.witness, response: response, events: events}
	switch request.URL.Path {
	case "/v1/connect":
		body.kind = "connect"
	case "/v1/exchange":
		body.kind = response.Header.Get("Content-Type")
	default:
		return response, nil
	}
	response.Body = body
	return response, nil
}

// witnessedBody is what REST answers, looked at as it is read.
type witnessedBody struct {
	io.ReadCloser
	witness  *Witness
	response *http.Response
	kind     string // "connect" or the media type of the events
	text     []byte // which is not a whole line yet; of a Connect all
	event    string // what the next data is of, in server-sent events
	events   Events
	over     bool
}

func (b *witnessedBody) Read(into []byte) (int, error) {
	n, err := b.ReadCloser.Read(into)
	switch b.kind {
	case "application/octet-stream":
	case "connect":
		b.text = append(b.text, into[:n]...)
	default:
		b.text = append(b.text, into[:n]...)
		for {
			line, rest, whole := bytes.Cut(b.text, []byte("\n"))
			if !whole {
				break
			}
			b.line(line)
			b.text = rest
		}
	}
	if err != nil && !b.over {
		b.over = true
		b.end(err)
	}
	return n, err
}

// line looks at a line of JSON, or at one of a server-sent event, whose first says what it is and whose second has it.
func (b *witnessedBody) line(line []byte) {
	t := b.witness.t
	t.Helper()
	var text []byte
	var failed, found bool
	if b.kind == "text/event-stream" {
		if kind, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			b.event = string(kind)
		}
		text, found = bytes.CutPrefix(line, []byte("data: "))
		failed = b.event == "error"
	} else {
		line = bytes.TrimSuffix(line, []byte("}"))
		if text, found = bytes.CutPrefix(line, []byte(`{"result":`)); !found {
			text, failed = bytes.CutPrefix(line, []byte(`{"error":`))
		}
		if !found && !failed {
			t.Errorf("neither an event nor an error: %q", line)
		}
	}
	switch event := (&probev1.ExchangeResponse{}); {
	case failed && len(text) > 0:
		b.events.End(t, fmt.Errorf("it failed: %s", text))
	case found:
		if err := protojson.Unmarshal(text, event); err != nil {
			t.Errorf("%v: %q", err, text)
			return
		}
		b.witness.take(&b.events, event)
	}
}

// end is told how the body ended.
func (b *witnessedBody) end(err error) {
	t := b.witness.t
	t.Helper()
	whole := errors.Is(err, io.EOF)
	switch b.kind {
	case "application/octet-stream":
		if reason := b.response.Trailer.Get("Probe-Reason"); whole && (b.response.Trailer.Get("Probe-Ok") != "true" || reason != "REASON_UNSPECIFIED") {
			t.Errorf("the bytes end as if all were well, with %q in the trailers", reason)
		}
	case "connect":
		response := &probev1.ConnectResponse{}
		if !whole {
			return
		}
		if err := protojson.Unmarshal(b.text, response); err != nil {
			t.Errorf("%v: %q", err, b.text)
			return
		}
		b.witness.connected(response)
	default:
		if whole && len(b.text) > 0 {
			t.Errorf("the events end amid %q", b.text)
		}
		b.events.End(t, err)
	}
}
