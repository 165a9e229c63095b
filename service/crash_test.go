package service

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/promise"
	"probed/service/exchange"
	"probed/service/policy"
)

// trap panics at the point that it is set for, once.
type trap struct{ point atomic.Value }

func (tr *trap) at(point string) {
	if tr.point.CompareAndSwap(point, "") {
		panic("a bug at " + point)
	}
}

// of is at for one who is not the bystander, whose hooks may still be called when it has heard its echo.
func (tr *trap) of(point, scheme string) {
	if scheme != bystanders {
		tr.at(point)
	}
}

// bystanders is the scheme of the bystander's target.
const bystanders = "tcp4"

// trappedStream panics when the second frame of a conversation has come, which is in the goroutine that waits for it.
type trappedStream struct {
	grpc.ServerStream
	trap   *trap
	frames int
}

func (s *trappedStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if s.frames++; s.frames == 2 {
		s.trap.at("frame")
	}
	return err
}

// A panic, in whatever goroutine of a call, costs that call: its caller gets INTERNAL with the id under which the log has
// it, in the header and in the trailer. The connection is closed, and others go on.
func TestCrashes(t *testing.T) {
	t.Parallel()
	var open atomic.Int64
	peer := nettest.TCP(t, func(c net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		nettest.Echo(c)
	}).String()
	bystander := bystanders + "://" + nettest.TCP(t, nettest.Echo).String()
	dns := knowingServer(t)
	trap := &trap{}
	trap.point.Store("")
	w := newWorld(t, withDNS(dns), withRoles(&policy.Policy{Loopback: true, Open: true}, "a"), func(s *settings) {
		dial := s.Resolve.DialServer
		s.Resolve.DialServer = func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			trap.at("resolver")
			return dial(ctx, network, server)
		}
		s.Hooks.Decided = func(policy.Decision) { trap.at("policy") }
		s.Hooks.Lookup = func(context.Context, string, string, time.Duration) { trap.at("lookup") }
		s.ExchangeHooks = &exchange.Hooks{
			SessionStart: func(string) { trap.at("start") },
			SessionEnd:   func(string, *exchange.Outcome) { trap.at("end") },
			Dialled:      func(context.Context, string, exchange.Reason, time.Duration) { trap.at("dialled") },
			Sent:         func(scheme string, _ int) { trap.of("sent", scheme) },
			Received:     func(scheme string, _ int) { trap.of("received", scheme) },
		}
		s.metrics.Stream = func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(server, &trappedStream{ServerStream: stream, trap: trap})
		}
	})
	// Somebody who talks all the while.
	other := conversationOf(t, w, "a", &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: bystander}}})
	talk := func() {
		t.Helper()
		if err := other.Send(data("well?")); err != nil {
			t.Fatal(err)
		}
		for heard := ""; heard != "well?"; {
			event, err := other.Recv()
			if err != nil {
				t.Fatalf("the bystander: %v", err)
			}
			heard += string(event.GetChunk().GetData())
		}
	}
	talk()

	injected := 0
	connect, all := &probev1.ConnectRequest{Target: peer}, &probev1.ConnectRequest{Target: peer, AllAddresses: true}
	text := &probev1.ExchangeRequest{Target: peer, Payload: &probev1.ExchangeRequest_Text{Text: "x"}}
	converse := &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: peer}}}
	named := &probev1.ExchangeRequest{Target: "name.test:80"}
	chosen := &probev1.QueryDNSRequest{Name: "name.test", Server: dns.Addr.String()}
	for _, test := range []struct {
		point    string
		requests []proto.Message
	}{
		{"policy", []proto.Message{connect, all, text, converse, chosen}},
		{"dialled", []proto.Message{connect, all, text, converse}},
		{"start", []proto.Message{connect, text, converse}},
		{"end", []proto.Message{connect, text, converse}},
		{"sent", []proto.Message{text}},
		{"received", []proto.Message{text}},
		{"frame", []proto.Message{converse}},
		{"resolver", []proto.Message{
			named, &probev1.LookupHostRequest{Host: "name.test"}, &probev1.LookupAddressRequest{Address: "192.0.2.7"},
			&probev1.GetAddressInfoRequest{Host: proto.String("name.test")}, &probev1.GetNameInfoRequest{Address: "192.0.2.7"},
			&probev1.QueryDNSRequest{Name: "name.test", Type: "A"}, &probev1.ExplainPolicyRequest{Target: "name.test:80"},
		}},
		{"lookup", []proto.Message{&probev1.LookupHostRequest{Host: "name.test"}, chosen}},
	} {
		for _, request := range test.requests {
			for _, c := range w.by("a") {
				if request == proto.Message(converse) && c.by == "REST" {
					continue
				}
				trap.point.Store(test.point)
				injected++
				a := c.call(t.Context(), t, request)
				if trap.point.Load() != "" {
					t.Errorf("%T at %s by %s: %v, and nothing happened", request, test.point, c.by, a.err)
					continue
				}
				id := checkInternal(t, a.err, metadata.Pairs(RequestIDHeader, a.id(), VantageHeader, first(a.header[VantageHeader])))
				_, streams := request.(*probev1.ExchangeRequest)
				streams = streams || request == proto.Message(converse)
				if trailer := first(a.header["trailer "+RequestIDHeader]); c.by == "gRPC" && streams && trailer != id {
					t.Errorf("%T at %s: the trailer has the id %q, the header %q", request, test.point, trailer, id)
				}
				checkPanicLog(t, w, id, "a bug at "+test.point, "panic(")
				soon(t, "the connection closed", func() bool { return open.Load() == 0 })
				talk()
				if a := c.call(t.Context(), t, text); a.err != nil || !a.outcome().GetOk() {
					t.Errorf("the next call: %v, %v", a.err, a.outcome())
				}
			}
		}
	}
	// The sender of a conversation is a goroutine of its own, too.
	trap.point.Store("sent")
	stream := conversationOf(t, w, "a", converse, data("x"))
	_, err := hear(stream)
	header, _ := stream.Header()
	id := checkInternal(t, err, header)
	if trailer := stream.Trailer().Get(RequestIDHeader); len(trailer) != 1 || trailer[0] != id {
		t.Errorf("the trailer has %v, the header %s", trailer, id)
	}
	talk()
	if err := other.CloseSend(); err != nil {
		t.Error(err)
	}
	promise.CrashContainment.Reached(t, "%d panics, in handlers and all that they start, by gRPC and REST: each INTERNAL with the id of its request and no stack; a conversation beside them unharmed",
		injected+1)
}

// unspeakable is an answer that cannot be encoded, nor copied, without a panic.
type unspeakable struct{ *probev1.LookupPortResponse }

func (unspeakable) ProtoReflect() protoreflect.Message { panic("a bug at the answer") }

// So does one at the answer itself, when the handler has returned.
func TestCrashAtTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) {
		s.register = func(r grpc.ServiceRegistrar) {
			desc := probev1.NameService_ServiceDesc
			desc.Methods = []grpc.MethodDesc{{MethodName: "LookupPort", Handler: func(server any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
				request := &probev1.LookupPortRequest{}
				if err := decode(request); err != nil {
					return nil, err
				}
				info := &grpc.UnaryServerInfo{Server: server, FullMethod: probev1.NameService_LookupPort_FullMethodName}
				return interceptor(ctx, request, info, func(context.Context, any) (any, error) { return unspeakable{}, nil })
			}}}
			r.RegisterService(&desc, probev1.UnimplementedNameServiceServer{})
		}
	})
	for _, c := range w.by("a") {
		a := c.call(t.Context(), t, &probev1.LookupPortRequest{Port: 22})
		id := checkInternal(t, a.err, metadata.Pairs(RequestIDHeader, a.id(), VantageHeader, first(a.header[VantageHeader])))
		checkPanicLog(t, w, id, "a bug at the answer", "panic(")
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
