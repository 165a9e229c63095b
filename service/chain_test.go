package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/policy"
)

// broken is a service whose handlers panic.
type broken struct {
	probev1.UnimplementedNameServiceServer
	probev1.UnimplementedExchangeServiceServer
}

func (broken) LookupService(_ context.Context, request *probev1.LookupServiceRequest) (*probev1.LookupServiceResponse, error) {
	if request.GetName() == "well" {
		return &probev1.LookupServiceResponse{}, nil
	}
	panic("the secret of " + request.GetName())
}

func (broken) Exchange(request *probev1.ExchangeRequest, stream grpc.ServerStreamingServer[probev1.ExchangeResponse]) error {
	if err := stream.Send(&probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Resolved{}}); err != nil {
		return err
	}
	return stream.Send(&probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Sent{Sent: &probev1.Sent{
		Step: uint32(len(request.GetSteps()[0].String())), // there is none
	}}})
}

// A panic costs one call: the caller learns that it failed and under which id, the log has the rest, and the next call
// is none the worse.
func TestPanic(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var observed []string
	w := newWorld(t, func(s *settings) {
		s.trace = func(ctx context.Context, call *Call) (context.Context, func(error)) {
			return ctx, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				observed = append(observed, call.Reason(err))
			}
		}
		s.register = func(server grpc.ServiceRegistrar) {
			probev1.RegisterNameServiceServer(server, broken{})
			probev1.RegisterExchangeServiceServer(server, broken{})
		}
	})
	client := probev1.NewNameServiceClient(w.conn)
	var header metadata.MD
	_, err := client.LookupService(t.Context(), &probev1.LookupServiceRequest{Name: "x"}, grpc.Header(&header))
	unaryID := checkInternal(t, err, header)

	stream, err := probev1.NewExchangeServiceClient(w.conn).Exchange(t.Context(), &probev1.ExchangeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if header, headerErr := stream.Header(); headerErr != nil {
		t.Error(headerErr)
	} else {
		streamID := checkInternal(t, err, header)
		checkPanicLog(t, w, streamID, "index out of range", "chain_test.go")
	}
	checkPanicLog(t, w, unaryID, "the secret of x", "chain_test.go")

	if _, err := client.LookupService(t.Context(), &probev1.LookupServiceRequest{Name: "well"}); err != nil {
		t.Errorf("the next call: %v", err)
	}
	// By REST it is the same.
	response, err := w.rest.client.Get(w.rest.url + "/v1/services/x")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusInternalServerError {
		t.Errorf("%s, %v", response.Status, err)
	}
	checkInternal(t, statusFromJSON(text), metadata.Pairs(RequestIDHeader, response.Header.Get(RequestIDHeader), VantageHeader, response.Header.Get(VantageHeader)))
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(observed, []string{"INTERNAL", "INTERNAL", "OK", "INTERNAL"}) {
		t.Errorf("who observes calls saw %q", observed)
	}
}

// checkInternal holds an error against what a caller may learn of a failure of ours, and returns the request's id.
func checkInternal(t *testing.T, err error, header metadata.MD) (id string) {
	t.Helper()
	const message = "probed failed; its log has the cause under the id of this request"
	if s := status.Convert(err); s.Code() != codes.Internal || s.Message() != message || errorInfo(err) != "ERROR_REASON_INTERNAL" || len(s.Details()) != 2 {
		t.Errorf("%v, %v", err, s.Details())
	}
	id = checkHeader(t, header)
	if told := requestIDIn(err); told != id {
		t.Errorf("the header has the id %q, the error %q", id, told)
	}
	return id
}

// requestIDIn is the id of a request that its error tells.
func requestIDIn(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if request, ok := detail.(*errdetails.RequestInfo); ok {
			return request.GetRequestId()
		}
	}
	return ""
}

// checkHeader holds the header of an answer, and returns the request's id.
func checkHeader(t *testing.T, header metadata.MD) (id string) {
	t.Helper()
	ids, vantages := header.Get(RequestIDHeader), header.Get(VantageHeader)
	if len(ids) != 1 || len(ids[0]) != 16 || !slices.Equal(vantages, []string{"here.test"}) {
		t.Errorf("header %v", header)
		return ""
	}
	return ids[0]
}

func checkPanicLog(t *testing.T, w *world, id, value, stack string) {
	t.Helper()
	for _, line := range w.log.lines(t, "panic") {
		if line["request_id"] == id {
			text, _ := line["value"].(string)
			where, _ := line["stack"].(string)
			if line["level"] != "ERROR" || !strings.Contains(text, value) || !strings.Contains(where, stack) {
				t.Errorf("%v", line)
			}
			return
		}
	}
	t.Errorf("no panic under the id %s: %v", id, w.log.lines(t, "panic"))
}

// Every answer has the request's id and the vantage, also those that refuse; the ids differ.
func TestHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := map[string]bool{}
	names := probev1.NewNameServiceClient(w.conn)
	for _, name := range []string{"ssh", "nosuch", ""} { // found, not found, invalid
		var header metadata.MD
		_, _ = names.LookupService(t.Context(), &probev1.LookupServiceRequest{Name: name}, grpc.Header(&header))
		seen[checkHeader(t, header)] = true
	}
	peer := nettest.TCP(t, nettest.Echo)
	for _, request := range []*probev1.ExchangeRequest{{Target: peer.String()}, {Target: "169.254.169.254:80"}, {Target: "?"}, {BufferSize: -1}} {
		stream, err := probev1.NewExchangeServiceClient(w.conn).Exchange(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		header, err := stream.Header()
		if err != nil {
			t.Fatal(err)
		}
		seen[checkHeader(t, header)] = true
		for err == nil {
			_, err = stream.Recv()
		}
	}
	if len(seen) != 7 {
		t.Errorf("%d ids in 7 calls", len(seen))
	}
}

// A host may be called anything: the headers say what can be said, and the messages too.
func TestHeadersOfAnyVantage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) {
		s.Vantage = Vantage{Hostname: "b\u00fccher\xff\r\nx: y", Node: "n\xfe", Version: "v\x00"}
	})
	var header metadata.MD
	_, err := probev1.NewNameServiceClient(w.conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}, grpc.Header(&header))
	if want := []string{"b?cher???x: y on n?"}; err != nil || !slices.Equal(header.Get(VantageHeader), want) {
		t.Errorf("%v, %q", err, header.Get(VantageHeader))
	}
	peer := nettest.TCP(t, nettest.Echo)
	for by, c := range w.transports() {
		all, err := events(t, c, &probev1.ExchangeRequest{Target: peer.String()})
		if err != nil || len(all) == 0 {
			t.Errorf("%s: %v", by, err)
			continue
		}
		if vantage := all[len(all)-1].GetOutcome().GetVantage(); vantage.GetHostname() != "b\u00fccher\uFFFD\r\nx: y" || vantage.GetNode() != "n\uFFFD" {
			t.Errorf("%s: %v", by, vantage)
		}
	}
	if err := call(t, w, &probev1.DescribeVantageRequest{}); err != nil {
		t.Error(err)
	}
}

// Each call is one line when it has ended, with its id, its code and, of a failure of ours, the cause that the caller is
// not told. What was sent and received is in none.
func TestLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) {
		s.Resolve.Hostname = func() (string, error) { return "", errors.New("open /etc/secret: permission denied") }
	})
	var header metadata.MD
	_, err := probev1.NewResolverServiceClient(w.conn).GetHostname(t.Context(), &probev1.GetHostnameRequest{}, grpc.Header(&header))
	failed := checkInternal(t, err, header)

	peer := nettest.TCP(t, nettest.Reply([]byte("the answer of the peer")))
	if _, err := events(t, grpcTransport{w.conn}, &probev1.ExchangeRequest{Target: peer.String(), Payload: &probev1.ExchangeRequest_Text{Text: "the words of the caller"}}); err != nil {
		t.Fatal(err)
	}
	_ = call(t, w, &probev1.LookupPortRequest{Port: 70000})
	closed := nettest.Refused(t).String()
	for _, by := range []string{"gRPC", "REST"} {
		if _, err := events(t, w.transports()[by], &probev1.ExchangeRequest{Target: closed}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := probev1.NewExchangeServiceClient(w.conn).Connect(t.Context(), &probev1.ConnectRequest{Target: "nosuch.test:1"}); err != nil {
		t.Fatal(err)
	}

	lines := w.log.lines(t, "call")
	want := []struct{ method, code, reason, via string }{
		{"probe.v1.ResolverService/GetHostname", "INTERNAL", "INTERNAL", "grpc"},
		{"probe.v1.ExchangeService/Exchange", "OK", "OK", "grpc"},
		{"probe.v1.NameService/LookupPort", "INVALID_ARGUMENT", "INVALID_FIELD", "grpc"},
		{"probe.v1.ExchangeService/Exchange", "OK", "CONNECTION_REFUSED", "grpc"},
		{"probe.v1.ExchangeService/Exchange", "OK", "CONNECTION_REFUSED", "rest"},
		{"probe.v1.ExchangeService/Connect", "OK", "NAME_NOT_FOUND", "grpc"},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, want := range want {
		line := lines[i]
		if line["method"] != want.method || line["code"] != want.code || line["reason"] != want.reason || line["via"] != want.via || line["request_id"] == "" {
			t.Errorf("%v, want %v", line, want)
		}
		if seconds, ok := line["duration_seconds"].(float64); !ok || seconds <= 0 || seconds > 60 {
			t.Errorf("took %v s", line["duration_seconds"])
		}
		if line["trace_id"] != nil {
			t.Errorf("a trace, which nobody keeps: %v", line)
		}
	}
	if cause, _ := lines[0]["error"].(string); lines[0]["request_id"] != failed || !strings.Contains(cause, "/etc/secret") {
		t.Errorf("%v", lines[0])
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if log := w.log.text.String(); strings.Contains(log, "the answer") || strings.Contains(log, "the words") {
		t.Errorf("payload in the log: %s", log)
	}
}

// Who observes calls sees those that are admitted, each with its outcome, from both sides of the handler; the log has the
// trace.
func TestTraceLink(t *testing.T) {
	t.Parallel()
	type traced struct{}
	var mu sync.Mutex
	var ended []string
	w := newWorld(t, func(s *settings) {
		s.Hooks.Lookup = func(ctx context.Context, _, _ string, _ time.Duration) {
			if ctx.Value(traced{}) == nil {
				t.Error("the handler has not the context of the trace")
			}
		}
		s.trace = func(ctx context.Context, call *Call) (context.Context, func(error)) {
			traceparent := metadata.ValueFromIncomingContext(ctx, "traceparent")
			if authorization := metadata.ValueFromIncomingContext(ctx, "authorization"); call.Via == "rest" && authorization != nil {
				t.Errorf("of a call by REST: %v", authorization)
			}
			call.TraceID, call.SpanID = "5ca1ab1e", "c0ffee"
			return context.WithValue(ctx, traced{}, true), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, strings.Join([]string{call.Via, call.Method, call.Target, call.Reason(err), strings.Join(traceparent, "+")}, " "))
			}
		}
	})
	closed := nettest.Refused(t).String()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-1-2-01")
	if _, err := probev1.NewExchangeServiceClient(w.conn).Connect(ctx, &probev1.ConnectRequest{Target: closed}); err != nil {
		t.Fatal(err)
	}
	// What the context of a local call says of a trace arrives, and metadata does not.
	local := WithTraceContext(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer x", "traceparent", "forged"), "00-3-4-01", "")
	if _, err := probev1.NewNameServiceClient(w.local).LookupPort(local, &probev1.LookupPortRequest{Port: 22}); err != nil {
		t.Fatal(err)
	}
	if _, err := probev1.NewNameServiceClient(w.local).LookupService(WithTraceContext(t.Context(), "", "a=b"), &probev1.LookupServiceRequest{Name: "nosuch"}); err == nil {
		t.Error("there is no such service")
	}
	want := []string{
		"grpc /probe.v1.ExchangeService/Connect " + closed + " CONNECTION_REFUSED 00-1-2-01",
		"rest /probe.v1.NameService/LookupPort  OK 00-3-4-01",
		"rest /probe.v1.NameService/LookupService  SERVICE_NOT_FOUND ",
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(ended, want) {
		t.Errorf("%q\nwant %q", ended, want)
	}
	for _, line := range w.log.lines(t, "call") {
		if line["trace_id"] != "5ca1ab1e" || line["span_id"] != "c0ffee" {
			t.Errorf("%v", line)
		}
	}
}

// What refuses is inside of what counts.
func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	var counted []codes.Code
	w := newWorld(t, func(s *settings) {
		s.metrics.Unary = func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			response, err := handler(ctx, request)
			counted = append(counted, status.Code(err))
			return response, err
		}
		s.metrics.Stream = func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			err := handler(server, stream)
			counted = append(counted, status.Code(err))
			return err
		}
	})
	_ = call(t, w, &probev1.LookupPortRequest{Port: 70000})
	_ = call(t, w, &probev1.ExchangeRequest{BufferSize: -1})
	if !slices.Equal(counted, []codes.Code{codes.InvalidArgument, codes.InvalidArgument}) {
		t.Errorf("%v", counted)
	}
}

// The hook learns of each lookup its kind and its reason.
func TestLookupHook(t *testing.T) {
	t.Parallel()
	var told []string
	w := newWorld(t, func(s *settings) {
		s.Hooks.Lookup = nil
	})
	w.service.hooks.Lookup = func(_ context.Context, kind, reason string, _ time.Duration) { told = append(told, kind+" "+reason) }
	for _, request := range []proto.Message{
		&probev1.LookupServiceRequest{Name: "ssh"}, &probev1.LookupServiceRequest{Name: "nosuch"}, &probev1.LookupPortRequest{Port: 1},
		&probev1.ListServicesRequest{}, &probev1.ListServicesRequest{PageToken: "x"}, &probev1.LookupProtocolRequest{Protocol: "6"},
		&probev1.ListConstantsRequest{}, &probev1.GetHostnameRequest{}, &probev1.DescribeVantageRequest{},
		&probev1.LookupHostRequest{Host: "here.test"}, &probev1.LookupHostRequest{Host: "nosuch.test"}, &probev1.LookupAddressRequest{Address: "127.0.0.1"},
		&probev1.GetAddressInfoRequest{Host: proto.String("nosuch.test")}, &probev1.GetNameInfoRequest{Address: "127.0.0.1", Port: 80},
		&probev1.QueryDNSRequest{Name: "x", Type: "QUUX"},
	} {
		_ = call(t, w, request)
	}
	want := []string{
		"service OK", "service ERROR_REASON_SERVICE_NOT_FOUND", "port OK", "services OK", "services ERROR_REASON_INVALID_FIELD", "protocol OK",
		"constants OK", "hostname OK", "vantage OK", "host OK", "host ERROR_REASON_NAME_NOT_FOUND", "address OK", "addrinfo EAI_NONAME", "nameinfo OK",
		"dns ERROR_REASON_INVALID_FIELD",
	}
	if !slices.Equal(told, want) {
		t.Errorf("%q\nwant %q", told, want)
	}
}

// A connection within the process is one like any other, and closing it ends what runs on it and leaves nothing behind.
// It runs alone, because goroutines belong to the process.
func TestLocal(t *testing.T) {
	peer := nettest.TCP(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	before := goleak.IgnoreCurrent()
	chain, err := Chain(ChainConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	service := New(Config{Policy: func() *policy.Policy { return &policy.Policy{Loopback: true, Open: true} }})
	ask := func(conn grpc.ClientConnInterface) error {
		var header metadata.MD
		_, err := probev1.NewNameServiceClient(conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}, grpc.Header(&header))
		if err == nil && len(header.Get(RequestIDHeader)) != 1 {
			t.Errorf("the chain did not run: %v", header)
		}
		return err
	}
	first, second := Local(chain, service.Register), Local(chain, service.Register)
	if err := errors.Join(ask(first), ask(second)); err != nil {
		t.Error(err)
	}
	stream, err := probev1.NewExchangeServiceClient(first).Exchange(t.Context(), &probev1.ExchangeRequest{
		Target: peer.String(), Payload: &probev1.ExchangeRequest_Text{Text: "x"}, HoldOpen: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	for event, err := stream.Recv(); event.GetSent() == nil; event, err = stream.Recv() {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a call that was under way: %v", err)
	}
	if err := ask(first); status.Code(err) != codes.Unavailable {
		t.Errorf("after Close: %v", err)
	}
	if err := ask(second); err != nil {
		t.Errorf("the other: %v", err)
	}
	_ = first.Close() // twice is as good as once
	_ = second.Close()
	goleak.VerifyNone(t, before)
}

// The zero Config answers from tables and denies all else.
func TestZeroConfig(t *testing.T) {
	t.Parallel()
	chain, err := Chain(ChainConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	conn := Local(chain, New(Config{}).Register)
	t.Cleanup(func() { _ = conn.Close() })
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(nettest.Echo))
	_, err = probev1.NewExchangeServiceClient(conn).Connect(t.Context(), &probev1.ConnectRequest{Target: peer.String()})
	if status.Code(err) != codes.PermissionDenied || tally.Conns.Load() != 0 {
		t.Errorf("%v, %d connections", err, tally.Conns.Load())
	}
	_, err = probev1.NewResolverServiceClient(conn).LookupHost(t.Context(), &probev1.LookupHostRequest{Host: "localhost"})
	if status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	if _, err := probev1.NewNameServiceClient(conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
		t.Error(err)
	}
}

func TestVantageString(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]Vantage{
		"":                         {},
		"web":                      {Hostname: "web", Version: "v1"},
		"web-7d9f in shop on node": {Hostname: "web", Pod: "web-7d9f", Namespace: "shop", Node: "node"},
		"web on node":              {Hostname: "web", Node: "node"},
	} {
		if got := v.String(); got != want {
			t.Errorf("%+v: %q, want %q", v, got, want)
		}
	}
}
