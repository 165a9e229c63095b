package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
	"probed/service/resolve"
)

// call makes the call that a message is the request of. A stream is read to its end.
func call(t *testing.T, w *world, request proto.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	method := methodOf(t, request)
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	response := dynamicpb.NewMessage(method.Output())
	if !method.IsStreamingServer() {
		return w.conn.Invoke(ctx, path, request, response)
	}
	stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: method.IsStreamingClient()}, path)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(request), stream.CloseSend()); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(response); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func methodOf(t *testing.T, request proto.Message) protoreflect.MethodDescriptor {
	t.Helper()
	for method := range methods {
		if method.Input().FullName() == request.ProtoReflect().Descriptor().FullName() {
			return method
		}
	}
	t.Fatalf("%T is the request of no RPC", request)
	return nil
}

// methods are the RPCs of the contract.
func methods(yield func(protoreflect.MethodDescriptor) bool) {
	more := true
	protoregistry.GlobalFiles.RangeFilesByPackage("probe.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				if more = yield(service.Methods().Get(j)); !more {
					return false
				}
			}
		}
		return true
	})
}

func long(n int) string { return strings.Repeat("x", n) }

func steps(all ...*probev1.Step) *probev1.ExchangeRequest {
	return &probev1.ExchangeRequest{Target: "127.0.0.1:9", Steps: all}
}

func receive(r *probev1.Receive) *probev1.ExchangeRequest {
	return steps(&probev1.Step{Step: &probev1.Step_Receive{Receive: r}})
}

func secured(options *probev1.TlsOptions) *probev1.ConnectRequest {
	return &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: options}
}

func open(o *probev1.Open) *probev1.ConverseRequest {
	return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: o}}
}

// Each rule that stands in the contract, broken: INVALID_ARGUMENT, with the field.
func TestContractRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	expect := func(e *probev1.Expect) *probev1.ExchangeRequest {
		return steps(&probev1.Step{Step: &probev1.Step_Expect{Expect: e}})
	}
	tests := []struct {
		request proto.Message
		rule    string // what has the rule: a field or a message of the contract
		field   string // what the error blames
	}{
		{&probev1.LookupServiceRequest{}, "LookupServiceRequest.name", "name"},
		{&probev1.LookupServiceRequest{Name: long(256)}, "LookupServiceRequest.name", "name"},
		{&probev1.LookupServiceRequest{Name: "ssh", Protocol: long(65)}, "LookupServiceRequest.protocol", "protocol"},
		{&probev1.LookupPortRequest{Port: 65536}, "LookupPortRequest.port", "port"},
		{&probev1.LookupPortRequest{Port: math.MaxUint32}, "LookupPortRequest.port", "port"},
		{&probev1.LookupPortRequest{Protocol: long(65)}, "LookupPortRequest.protocol", "protocol"},
		{&probev1.ListServicesRequest{Protocol: long(65)}, "ListServicesRequest.protocol", "protocol"},
		{&probev1.ListServicesRequest{PortClass: 4}, "ListServicesRequest.port_class", "port_class"},
		{&probev1.ListServicesRequest{PortClass: -1}, "ListServicesRequest.port_class", "port_class"},
		{&probev1.ListServicesRequest{PageSize: -1}, "ListServicesRequest.page_size", "page_size"},
		{&probev1.ListServicesRequest{PageSize: 1001}, "ListServicesRequest.page_size", "page_size"},
		{&probev1.ListServicesRequest{PageToken: long(8193)}, "ListServicesRequest.page_token", "page_token"},
		{&probev1.LookupProtocolRequest{}, "LookupProtocolRequest.protocol", "protocol"},
		{&probev1.LookupProtocolRequest{Protocol: long(256)}, "LookupProtocolRequest.protocol", "protocol"},
		{&probev1.ListConstantsRequest{Prefix: long(65)}, "ListConstantsRequest.prefix", "prefix"},
		{&probev1.LookupHostRequest{Host: long(1025)}, "LookupHostRequest.host", "host"},
		{&probev1.LookupHostRequest{Host: "x", Family: probev1.AddressFamily_AF_UNIX}, "LookupHostRequest.family", "family"},
		{&probev1.LookupHostRequest{Host: "x", Family: 99}, "LookupHostRequest.family", "family"},
		{&probev1.LookupAddressRequest{}, "LookupAddressRequest.address", "address"},
		{&probev1.LookupAddressRequest{Address: long(256)}, "LookupAddressRequest.address", "address"},
		{&probev1.GetAddressInfoRequest{Host: proto.String(long(1025))}, "GetAddressInfoRequest.host", "host"},
		{&probev1.GetAddressInfoRequest{Service: proto.String(long(256))}, "GetAddressInfoRequest.service", "service"},
		{&probev1.GetAddressInfoRequest{Flags: make([]probev1.AddressInfoFlag, 33)}, "GetAddressInfoRequest.flags", "flags"},
		{&probev1.GetNameInfoRequest{}, "GetNameInfoRequest.address", "address"},
		{&probev1.GetNameInfoRequest{Address: long(256)}, "GetNameInfoRequest.address", "address"},
		{&probev1.GetNameInfoRequest{Address: "::1", Port: 65536}, "GetNameInfoRequest.port", "port"},
		{&probev1.GetNameInfoRequest{Address: "::1", Flags: make([]probev1.NameInfoFlag, 33)}, "GetNameInfoRequest.flags", "flags"},
		{&probev1.QueryDNSRequest{}, "QueryDNSRequest.name", "name"},
		{&probev1.QueryDNSRequest{Name: long(1025)}, "QueryDNSRequest.name", "name"},
		{&probev1.QueryDNSRequest{Name: "x", Type: long(33)}, "QueryDNSRequest.type", "type"},
		{&probev1.QueryDNSRequest{Name: "x", Server: long(1025)}, "QueryDNSRequest.server", "server"},
		{&probev1.QueryDNSRequest{Name: "x", Transport: 4}, "QueryDNSRequest.transport", "transport"},
		{&probev1.ConnectRequest{Target: long(4097)}, "ConnectRequest.target", "target"},
		{&probev1.ConnectRequest{Target: "a:1", Timeout: &durationpb.Duration{}}, "ConnectRequest.timeout", "timeout"},
		{&probev1.ConnectRequest{Target: "a:1", Timeout: durationpb.New(-time.Second)}, "ConnectRequest.timeout", "timeout"},
		{&probev1.ConnectRequest{Target: "a:1", Timeout: durationpb.New(10*time.Minute + 1)}, "ConnectRequest.timeout", "timeout"},
		{&probev1.ConnectRequest{Target: "a:1", Timeout: &durationpb.Duration{Seconds: math.MaxInt64}}, "ConnectRequest.timeout", "timeout"},
		{&probev1.ConnectRequest{Target: "a:1", Timeout: &durationpb.Duration{Seconds: math.MinInt64, Nanos: math.MinInt32}}, "ConnectRequest.timeout", "timeout"},
		{&probev1.ExplainPolicyRequest{Target: long(4097)}, "ExplainPolicyRequest.target", "target"},
		{&probev1.ExplainPolicyRequest{}, "ExplainPolicyRequest.target", "target"},
		{&probev1.ExchangeRequest{Target: long(4097)}, "ExchangeRequest.target", "target"},
		{&probev1.ExchangeRequest{Target: "a:1", Payload: &probev1.ExchangeRequest_Data{Data: make([]byte, 1<<20+1)}}, "ExchangeRequest.data", "data"},
		{&probev1.ExchangeRequest{Target: "a:1", Payload: &probev1.ExchangeRequest_Text{Text: long(1<<20 + 1)}}, "ExchangeRequest.text", "text"},
		{steps(slices.Repeat([]*probev1.Step{{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}}, 257)...), "ExchangeRequest.steps", "steps"},
		{&probev1.ExchangeRequest{Target: "a:1", BufferSize: -1}, "ExchangeRequest.buffer_size", "buffer_size"},
		{&probev1.ExchangeRequest{Target: "a:1", BufferSize: 1<<20 + 1}, "ExchangeRequest.buffer_size", "buffer_size"},
		{&probev1.ExchangeRequest{Target: "a:1", Timeout: &durationpb.Duration{}}, "ExchangeRequest.timeout", "timeout"},
		{&probev1.ExchangeRequest{Target: "a:1", Timeout: durationpb.New(11 * time.Minute)}, "ExchangeRequest.timeout", "timeout"},
		{steps(&probev1.Step{}), "Step.step", "steps[0].step"},
		{steps(&probev1.Step{Step: &probev1.Step_HalfClose{}}, &probev1.Step{}), "Step.step", "steps[1].step"},
		{steps(&probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Data{Data: make([]byte, 1<<20+1)}}}}), "Send.data", "steps[0].send.data"},
		{steps(&probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: long(1<<20 + 1)}}}}), "Send.text", "steps[0].send.text"},
		{expect(&probev1.Expect{}), "Expect.pattern", "steps[0].expect.pattern"},
		{expect(&probev1.Expect{Pattern: &probev1.Expect_Data{}}), "Expect.data", "steps[0].expect.data"},
		{expect(&probev1.Expect{Pattern: &probev1.Expect_Data{Data: make([]byte, 65537)}}), "Expect.data", "steps[0].expect.data"},
		{expect(&probev1.Expect{Pattern: &probev1.Expect_Text{}}), "Expect.text", "steps[0].expect.text"},
		{expect(&probev1.Expect{Pattern: &probev1.Expect_Text{Text: long(65537)}}), "Expect.text", "steps[0].expect.text"},
		{expect(&probev1.Expect{Pattern: &probev1.Expect_Regex{}}), "Expect.regex", "steps[0].expect.regex"},
		{expect(&probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: long(4097)}}), "Expect.regex", "steps[0].expect.regex"},
		{steps(&probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{ServerName: "a b"}}}), "StartTls.server_name", "steps[0].start_tls.server_name"},
		{steps(&probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{ServerName: long(256)}}}), "StartTls.server_name", "steps[0].start_tls.server_name"},
		{secured(&probev1.TlsOptions{ServerName: long(256)}), "TlsOptions.server_name", "tls.server_name"},
		{secured(&probev1.TlsOptions{ServerName: "a\r\nflush_all"}), "TlsOptions.server_name", "tls.server_name"},
		{secured(&probev1.TlsOptions{Alpn: []string{"\r\nflush_all\r\n"}}), "TlsOptions.alpn", "tls.alpn[0]"},
		{secured(&probev1.TlsOptions{Alpn: slices.Repeat([]string{"h2"}, 33)}), "TlsOptions.alpn", "tls.alpn"},
		{secured(&probev1.TlsOptions{Alpn: []string{"h2", ""}}), "TlsOptions.alpn", "tls.alpn[1]"},
		{secured(&probev1.TlsOptions{Alpn: []string{long(256)}}), "TlsOptions.alpn", "tls.alpn[0]"},
		{secured(&probev1.TlsOptions{MinVersion: 768}), "TlsOptions.min_version", "tls.min_version"},
		{secured(&probev1.TlsOptions{MaxVersion: 768}), "TlsOptions.max_version", "tls.max_version"},
		{secured(&probev1.TlsOptions{CaBundle: long(1<<20 + 1)}), "TlsOptions.ca_bundle", "tls.ca_bundle"},
		{secured(&probev1.TlsOptions{Certificate: long(1<<16 + 1)}), "TlsOptions.certificate", "tls.certificate"},
		{secured(&probev1.TlsOptions{PrivateKey: long(1<<16 + 1)}), "TlsOptions.private_key", "tls.private_key"},
		{&probev1.ConnectRequest{Target: "a:1", Family: 1}, "ConnectRequest.family", "family"},
		{&probev1.ConnectRequest{Target: "a:1", PreferredFamily: 1}, "ConnectRequest.preferred_family", "preferred_family"},
		{&probev1.ConnectRequest{Target: "a:1", Source: "a"}, "ConnectRequest.source", "source"},
		{&probev1.ConnectRequest{Target: "a:1", Interface: long(16)}, "ConnectRequest.interface", "interface"},
		{&probev1.ExchangeRequest{Target: "a:1", Family: 1}, "ExchangeRequest.family", "family"},
		{&probev1.ExchangeRequest{Target: "a:1", PreferredFamily: 1}, "ExchangeRequest.preferred_family", "preferred_family"},
		{&probev1.ExchangeRequest{Target: "a:1", Source: "a"}, "ExchangeRequest.source", "source"},
		{&probev1.ExchangeRequest{Target: "a:1", Interface: long(16)}, "ExchangeRequest.interface", "interface"},
		{&probev1.ConverseRequest{}, "ConverseRequest.frame", "frame"},
		{&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: make([]byte, 1<<20+1)}}, "ConverseRequest.data", "data"},
		{open(&probev1.Open{Target: long(4097)}), "Open.target", "open.target"},
		{open(&probev1.Open{Timeout: &durationpb.Duration{}}), "Open.timeout", "open.timeout"},
		{open(&probev1.Open{Timeout: durationpb.New(11 * time.Minute)}), "Open.timeout", "open.timeout"},
		{open(&probev1.Open{Idle: &durationpb.Duration{}}), "Open.idle", "open.idle"},
		{open(&probev1.Open{Idle: durationpb.New(11 * time.Minute)}), "Open.idle", "open.idle"},
		{open(&probev1.Open{BufferSize: -1}), "Open.buffer_size", "open.buffer_size"},
		{open(&probev1.Open{BufferSize: 1<<20 + 1}), "Open.buffer_size", "open.buffer_size"},
		{open(&probev1.Open{Family: 1}), "Open.family", "open.family"},
		{open(&probev1.Open{PreferredFamily: 1}), "Open.preferred_family", "open.preferred_family"},
		{open(&probev1.Open{Source: "a"}), "Open.source", "open.source"},
		{open(&probev1.Open{Interface: long(16)}), "Open.interface", "open.interface"},
		{receive(&probev1.Receive{Length: -1}), "Receive.length", "steps[0].receive.length"},
		{receive(&probev1.Receive{Length: 1<<40 + 1}), "Receive.length", "steps[0].receive.length"},
		{receive(&probev1.Receive{Delimiter: long(1025)}), "Receive.delimiter", "steps[0].receive.delimiter"},
		{receive(&probev1.Receive{Idle: &durationpb.Duration{}}), "Receive.idle", "steps[0].receive.idle"},
		{receive(&probev1.Receive{Idle: durationpb.New(-1)}), "Receive.idle", "steps[0].receive.idle"},
		{receive(&probev1.Receive{Idle: durationpb.New(601 * time.Second)}), "Receive.idle", "steps[0].receive.idle"},
		{receive(&probev1.Receive{MaxBytes: -1}), "Receive.max_bytes", "steps[0].receive.max_bytes"},
		{receive(&probev1.Receive{MaxBytes: 1<<40 + 1}), "Receive.max_bytes", "steps[0].receive.max_bytes"},
		{receive(&probev1.Receive{LengthPrefix: 5}), "Receive.length_prefix", "steps[0].receive.length_prefix"},
		{receive(&probev1.Receive{Length: 1, Delimiter: "x"}), "Receive", "steps[0].receive"},
		{receive(&probev1.Receive{Length: 1, MaxBytes: 1}), "Receive", "steps[0].receive"},
		{receive(&probev1.Receive{Count: 1, Length: 1}), "Receive", "steps[0].receive"},
		{receive(&probev1.Receive{Count: 1, Delimiter: "x"}), "Receive", "steps[0].receive"},
		// Several at once are all told.
		{&probev1.ListServicesRequest{Protocol: long(65), PageSize: -1}, "ListServicesRequest.page_size", "protocol page_size"},
	}
	broken := map[string]bool{}
	for _, tt := range tests {
		broken[tt.rule] = true
		err := call(t, w, tt.request)
		if status.Code(err) != codes.InvalidArgument || errorInfo(err) != "ERROR_REASON_INVALID_FIELD" || violations(err) != tt.field {
			t.Errorf("%s: %v, reason %s, field %q; want INVALID_ARGUMENT for %q", tt.rule, err, errorInfo(err), violations(err), tt.field)
		}
		for field := range strings.SplitSeq(tt.field, " ") {
			if !strings.Contains(status.Convert(err).Message(), jsonPath(field)) {
				t.Errorf("%s: the message does not name the field as JSON has it: %v", tt.rule, err)
			}
		}
	}
	for rule := range rules {
		if !broken[rule] {
			t.Errorf("%s has a rule in the contract that this test does not break", rule)
		}
	}
}

// rules are the fields, oneofs and messages of the contract that have rules.
func rules(yield func(string) bool) {
	protoregistry.GlobalFiles.RangeFilesByPackage("probe.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			message := file.Messages().Get(i)
			if proto.HasExtension(message.Options(), validate.E_Message) && !yield(string(message.Name())) {
				return false
			}
			for j := range message.Fields().Len() {
				field := message.Fields().Get(j)
				if proto.HasExtension(field.Options(), validate.E_Field) && !yield(string(message.Name()+"."+field.Name())) {
					return false
				}
			}
			for j := range message.Oneofs().Len() {
				oneof := message.Oneofs().Get(j)
				if proto.HasExtension(oneof.Options(), validate.E_Oneof) && !yield(string(message.Name()+"."+oneof.Name())) {
					return false
				}
			}
		}
		return true
	})
}

// What no rule of the contract can say, the handlers do.
func TestHandlerRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exchangeOf := func(target string, r *probev1.Receive) *probev1.ExchangeRequest {
		request := receive(r)
		request.Target = target
		return request
	}
	halfClose := &probev1.Step{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}
	for _, tt := range []struct {
		name    string
		request proto.Message
		code    codes.Code
		reason  string
		field   string
	}{
		{"page token, no base64", &probev1.ListServicesRequest{PageToken: "***"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "page_token"},
		{"page token, no JSON", &probev1.ListServicesRequest{PageToken: "AAAA"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "page_token"},
		{"page token, the beginning", &probev1.ListServicesRequest{PageToken: "e30"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "page_token"},
		{"record type", &probev1.QueryDNSRequest{Name: "x", Type: "QUUX"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "type"},
		{"record type over 65535", &probev1.QueryDNSRequest{Name: "x", Type: "TYPE65536"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "type"},
		{"address", &probev1.LookupAddressRequest{Address: "localhost"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "address"},
		{"address with port", &probev1.LookupAddressRequest{Address: "127.0.0.1:80"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "address"},
		{"address of getnameinfo", &probev1.GetNameInfoRequest{Address: "1.2.3"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "address"},
		{"family", &probev1.GetAddressInfoRequest{Host: proto.String("x"), Family: probev1.AddressFamily_AF_PACKET}, codes.InvalidArgument, "EAI_FAMILY", ""},
		{"unknown family", &probev1.GetAddressInfoRequest{Host: proto.String("x"), Family: 12345}, codes.InvalidArgument, "EAI_FAMILY", ""},
		{"negative family", &probev1.GetAddressInfoRequest{Host: proto.String("x"), Family: -2}, codes.InvalidArgument, "EAI_FAMILY", ""},
		{"socket type", &probev1.GetAddressInfoRequest{Host: proto.String("127.0.0.1"), Type: 77}, codes.InvalidArgument, "EAI_SOCKTYPE", ""},
		{"flags", &probev1.GetAddressInfoRequest{Host: proto.String("x"), Flags: []probev1.AddressInfoFlag{1 << 20}}, codes.InvalidArgument, "EAI_BADFLAGS", ""},
		{"flags of getnameinfo", &probev1.GetNameInfoRequest{Address: "::1", Flags: []probev1.NameInfoFlag{1 << 20}}, codes.InvalidArgument, "EAI_BADFLAGS", ""},
		{"service", &probev1.GetAddressInfoRequest{Host: proto.String("127.0.0.1"), Service: proto.String("nosuch")}, codes.InvalidArgument, "EAI_SERVICE", ""},
		{"neither host nor service", &probev1.GetAddressInfoRequest{}, codes.NotFound, "EAI_NONAME", ""},
		{"no target", &probev1.ConnectRequest{}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET", "target"},
		{"scheme", &probev1.ConnectRequest{Target: "http://127.0.0.1:80"}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET", "target"},
		{"port", &probev1.ExchangeRequest{Target: "127.0.0.1:70000"}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET", "target"},
		{"no port", &probev1.ExchangeRequest{Target: "127.0.0.1"}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET", "target"},
		{"service of a target", &probev1.ExchangeRequest{Target: "127.0.0.1:nosuch"}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET", "target"},
		{"relative path", &probev1.ExchangeRequest{Target: "unix://x.sock"}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET", "target"},
		{"text beside steps", &probev1.ExchangeRequest{Target: "127.0.0.1:9", Payload: &probev1.ExchangeRequest_Text{}, Steps: []*probev1.Step{halfClose}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "text"},
		{"data beside steps", &probev1.ExchangeRequest{Target: "127.0.0.1:9", Payload: &probev1.ExchangeRequest_Data{}, Steps: []*probev1.Step{halfClose}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "data"},
		{"hold open beside steps", &probev1.ExchangeRequest{Target: "127.0.0.1:9", HoldOpen: true, Steps: []*probev1.Step{halfClose}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "hold_open"},
		{"half-close of datagrams", &probev1.ExchangeRequest{Target: "udp://127.0.0.1:9", Steps: []*probev1.Step{halfClose}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "steps[0].half_close"},
		{"length of datagrams", exchangeOf("udp://127.0.0.1:9", &probev1.Receive{Length: 1}), codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "steps[0].receive.length"},
		{"delimiter in datagrams", exchangeOf("unixgram:///x", &probev1.Receive{Delimiter: "x"}), codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "steps[0].receive.delimiter"},
		{"count on a stream", exchangeOf("tcp://127.0.0.1:9", &probev1.Receive{Count: 1}), codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "steps[0].receive.count"},
		{"an expression that is none", steps(halfClose, &probev1.Step{Step: &probev1.Step_Expect{Expect: &probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: "("}}}}), codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "steps[1].expect.regex"},
		{"TLS behind a half-close", steps(halfClose, &probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{}}}), codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "steps[1].start_tls"},
		{"TLS options without TLS", &probev1.ConnectRequest{Target: "127.0.0.1:9", Tls: &probev1.TlsOptions{}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls"},
		{"no authority", &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: &probev1.TlsOptions{CaBundle: "x"}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls.ca_bundle"},
		{"a certificate without its key", &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: &probev1.TlsOptions{Certificate: "x"}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls.private_key"},
		{"a key without its certificate", &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: &probev1.TlsOptions{PrivateKey: "x"}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls.certificate"},
		{"a key behind a passphrase", &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: &probev1.TlsOptions{Certificate: "x", PrivateKey: "-----BEGIN ENCRYPTED PRIVATE KEY-----"}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls.private_key"},
		{"a certificate that is none", &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: &probev1.TlsOptions{Certificate: "x", PrivateKey: "x"}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls.certificate"},
		{"a source that is none", &probev1.ConnectRequest{Target: "127.0.0.1:9", Source: "eth0"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "source"},
		{"a family that is none to choose", &probev1.ConnectRequest{Target: "127.0.0.1:9", Family: probev1.AddressFamily_AF_UNIX}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "family"},
		{"the first of all addresses", &probev1.ConnectRequest{Target: "127.0.0.1:9", AllAddresses: true, FirstAddressOnly: true}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "first_address_only"},
		{"no version of TLS", &probev1.ConnectRequest{Target: "tls://127.0.0.1:9", Tls: &probev1.TlsOptions{MaxVersion: probev1.TlsVersion_TLS_VERSION_1_1}}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "tls.max_version"},
		{"the other family", &probev1.ConnectRequest{Target: "127.0.0.1:9", Family: probev1.AddressFamily_AF_INET6}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD", "family"},
		{"no such service", &probev1.LookupServiceRequest{Name: "nosuch"}, codes.NotFound, "ERROR_REASON_SERVICE_NOT_FOUND", ""},
		{"no such protocol", &probev1.LookupProtocolRequest{Protocol: "nosuch"}, codes.NotFound, "ERROR_REASON_PROTOCOL_NOT_FOUND", ""},
		{"no such host", &probev1.LookupHostRequest{Host: "nosuch.test"}, codes.NotFound, "ERROR_REASON_NAME_NOT_FOUND", ""},
		{"no host at all", &probev1.LookupHostRequest{}, codes.NotFound, "ERROR_REASON_NAME_NOT_FOUND", ""},
		{"no such address", &probev1.LookupAddressRequest{Address: "192.0.2.1"}, codes.NotFound, "ERROR_REASON_NAME_NOT_FOUND", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := call(t, w, tt.request)
			if status.Code(err) != tt.code || errorInfo(err) != tt.reason || violations(err) != tt.field {
				t.Errorf("%v, reason %s, field %q; want %v, %s, %q", err, errorInfo(err), violations(err), tt.code, tt.reason, tt.field)
			}
			if tt.field != "" && !strings.HasPrefix(status.Convert(err).Message(), jsonPath(tt.field)) {
				t.Errorf("the message does not name the field as JSON has it: %v", err)
			}
		})
	}
}

// Each error of an engine or a handler, and the status it becomes.
func TestStatusOf(t *testing.T) {
	t.Parallel()
	lookup := func(reason resolve.Reason) error { return &resolve.Error{Name: "x.test", Reason: reason} }
	addressInfo := func(code resolve.EAI) error { return &resolve.GAIError{Code: code} }
	for _, tt := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{&fieldError{field: "a_b", problem: "is wrong"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD"},
		{&exchange.TargetError{Reason: "is wrong"}, codes.InvalidArgument, "ERROR_REASON_INVALID_TARGET"},
		{&exchange.StepError{Step: 1, Field: "receive.max_bytes", Reason: "is wrong"}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD"},
		{&notFoundError{reason: probev1.ErrorReason_ERROR_REASON_SERVICE_NOT_FOUND}, codes.NotFound, "ERROR_REASON_SERVICE_NOT_FOUND"},
		{&notFoundError{reason: probev1.ErrorReason_ERROR_REASON_PROTOCOL_NOT_FOUND}, codes.NotFound, "ERROR_REASON_PROTOCOL_NOT_FOUND"},
		{&deniedError{target: "tcp://x:1"}, codes.PermissionDenied, "ERROR_REASON_POLICY_DENIED"},
		{addressInfo(resolve.EAI_BADFLAGS), codes.InvalidArgument, "EAI_BADFLAGS"},
		{addressInfo(resolve.EAI_NONAME), codes.NotFound, "EAI_NONAME"},
		{addressInfo(resolve.EAI_AGAIN), codes.Unavailable, "EAI_AGAIN"},
		{addressInfo(resolve.EAI_FAIL), codes.Internal, "EAI_FAIL"},
		{addressInfo(resolve.EAI_NODATA), codes.NotFound, "EAI_NODATA"},
		{addressInfo(resolve.EAI_FAMILY), codes.InvalidArgument, "EAI_FAMILY"},
		{addressInfo(resolve.EAI_SOCKTYPE), codes.InvalidArgument, "EAI_SOCKTYPE"},
		{addressInfo(resolve.EAI_SERVICE), codes.InvalidArgument, "EAI_SERVICE"},
		{addressInfo(resolve.EAI_ADDRFAMILY), codes.NotFound, "EAI_ADDRFAMILY"},
		{addressInfo(resolve.EAI_MEMORY), codes.Internal, "EAI_MEMORY"},
		{addressInfo(resolve.EAI_SYSTEM), codes.Internal, "EAI_SYSTEM"},
		{addressInfo(resolve.EAI_OVERFLOW), codes.Internal, "EAI_OVERFLOW"},
		{addressInfo(resolve.EAI_IDN_ENCODE), codes.InvalidArgument, "EAI_IDN_ENCODE"},
		{lookup(resolve.NotFound), codes.NotFound, "ERROR_REASON_NAME_NOT_FOUND"},
		{lookup(resolve.BadName), codes.NotFound, "ERROR_REASON_NAME_NOT_FOUND"},
		{lookup(resolve.NoData), codes.NotFound, "ERROR_REASON_NAME_HAS_NO_ADDRESS"},
		{lookup(resolve.ServFail), codes.Unavailable, "ERROR_REASON_DNS_SERVER_FAILURE"},
		{lookup(resolve.Refused), codes.Unavailable, "ERROR_REASON_DNS_REFUSED"},
		{lookup(resolve.Timeout), codes.Unavailable, "ERROR_REASON_DNS_TIMEOUT"},
		{lookup(resolve.Unreachable), codes.Unavailable, "ERROR_REASON_DNS_UNREACHABLE"},
		{lookup(resolve.Malformed), codes.Unavailable, "ERROR_REASON_DNS_MALFORMED"},
		{lookup(resolve.Mismatched), codes.Unavailable, "ERROR_REASON_DNS_MISMATCHED"},
		{lookup(resolve.Looped), codes.Unavailable, "ERROR_REASON_DNS_LOOPED"},
		{lookup(resolve.HandshakeFailed), codes.Unavailable, "ERROR_REASON_DNS_HANDSHAKE"},
		{lookup(resolve.UnknownServerName), codes.Unavailable, "ERROR_REASON_DNS_SERVER_UNKNOWN"},
		{lookup(resolve.NotConfigured), codes.Unavailable, "ERROR_REASON_RESOLVER_NOT_CONFIGURED"},
		{lookup(resolve.Denied), codes.PermissionDenied, "ERROR_REASON_POLICY_DENIED"},
		{lookup(resolve.Cancelled), codes.Canceled, "ERROR_REASON_CANCELLED"},
		{lookup(resolve.ReasonNone), codes.Internal, "ERROR_REASON_INTERNAL"},
		{&encodingError{"probe.v1.ConnectRequest", errors.New("proto: cut off")}, codes.InvalidArgument, "ERROR_REASON_INVALID_FIELD"},
		{context.Canceled, codes.Canceled, "ERROR_REASON_CANCELLED"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "ERROR_REASON_CANCELLED"},
		{errors.New("open /etc/secret: no such file"), codes.Internal, "ERROR_REASON_INTERNAL"},
	} {
		for _, err := range []error{tt.err, fmt.Errorf("wrapped: %w", tt.err)} {
			got := statusOf(err)
			if status.Code(got) != tt.code || errorInfo(got) != tt.reason || status.Convert(got).Message() == "" {
				t.Errorf("%T %v: %v, reason %s; want %v, %s", tt.err, err, got, errorInfo(got), tt.code, tt.reason)
			}
			if reasonOf(got) != tt.reason {
				t.Errorf("%v: counted as %s", err, reasonOf(got))
			}
			// A reason is one of the contract.
			_, ours := probev1.ErrorReason_value[tt.reason]
			_, theirs := probev1.AddressInfoError_value[tt.reason]
			if !ours && !theirs {
				t.Errorf("%s is no reason of the contract", tt.reason)
			}
		}
	}
	if reasonOf(nil) != "OK" {
		t.Errorf("no error is counted as %s", reasonOf(nil))
	}
}

// A lookup that failed keeps its trace.
func TestResolutionFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, request := range []proto.Message{
		&probev1.LookupHostRequest{Host: "nosuch.test"},
		&probev1.GetAddressInfoRequest{Host: proto.String("nosuch.test")},
	} {
		err := call(t, w, request)
		var failure *probev1.ResolutionFailure
		for _, detail := range status.Convert(err).Details() {
			if d, ok := detail.(*probev1.ResolutionFailure); ok {
				failure = d
			}
		}
		if failure.GetReason() != errorInfo(err) || len(failure.GetTrace()) == 0 || failure.GetDuration().AsDuration() <= 0 {
			t.Errorf("%T: %v", request, failure)
			continue
		}
		if step := failure.GetTrace()[0]; step.GetSource() != "files" || step.GetName() != "nosuch.test" || step.GetError() != "name not found" {
			t.Errorf("%T: %v", request, step)
		}
	}
}

// Whatever a request is, what is wrong with it is the caller's to mend, and told.
func FuzzExchangeRequest(f *testing.F) {
	halfClose := &probev1.Step{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}
	for _, request := range []*probev1.ExchangeRequest{
		{}, {Target: "127.0.0.1:9"}, {Target: "unix:///x", Steps: []*probev1.Step{halfClose}}, {Target: "udp://[::1%25lo]:domain", Steps: []*probev1.Step{halfClose}},
		{Target: "a:1", HoldOpen: true, BufferSize: -1, Timeout: &durationpb.Duration{Seconds: math.MaxInt64, Nanos: -1}},
		receive(&probev1.Receive{Length: 5, Delimiter: "x", Idle: &durationpb.Duration{Nanos: math.MinInt32}, Count: 1, MaxBytes: -1}),
	} {
		message, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
	}
	link := validationLink()
	server := &exchangeServer{Service: New(Config{})}
	f.Fuzz(func(t *testing.T, data []byte) {
		message := &probev1.ExchangeRequest{}
		if proto.Unmarshal(data, message) != nil {
			return // it would not come this far
		}
		_, err := link.Unary(t.Context(), message, nil, func(context.Context, any) (any, error) {
			_, err := server.exchangeRequest(message)
			if err != nil {
				err = statusOf(err)
			}
			return nil, err
		})
		if err == nil {
			return
		}
		if code := status.Code(err); code != codes.InvalidArgument && code != codes.Unimplemented || errorInfo(err) == "" || violations(err) == "" {
			t.Errorf("%v, reason %q, field %q: %v", err, errorInfo(err), violations(err), message)
		}
	})
}
