package service

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/ruletest"
)

// What the rules of the contract find is what protovalidate finds.
func TestRulesOfContract(t *testing.T) {
	t.Parallel()
	var requests []proto.Message
	protoregistry.GlobalFiles.RangeFilesByPackage("probe.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				kind, err := protoregistry.GlobalTypes.FindMessageByName(file.Services().Get(i).Methods().Get(j).Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				requests = append(requests, kind.Zero().Interface())
			}
		}
		return true
	})
	if len(requests) < 10 {
		t.Fatalf("%d requests", len(requests))
	}
	for _, request := range requests {
		t.Run(string(request.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			t.Parallel()
			ruletest.Compare(t, contract, 2000, []string{
				"", "a", "example.com", "127.0.0.1", "::1", "fe80::1%lo", "::ffff:192.0.2.1", "1:2:3:4:5:6:7:8", "h2", "http/1.1", "a b",
			}, request)
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, request := range []proto.Message{
		&probev1.LookupPortRequest{Port: 443, Protocol: "tcp"},
		&probev1.LookupHostRequest{Host: "www.example.com"},
		&probev1.ConnectRequest{Target: "example.com:443", Timeout: &durationpb.Duration{Seconds: 5}},
		&probev1.ExchangeRequest{Target: "example.com:443", Steps: []*probev1.Step{
			{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: "hello"}}}},
			{Step: &probev1.Step_Receive{Receive: &probev1.Receive{Delimiter: "\n"}}},
		}},
	} {
		b.Run(string(request.ProtoReflect().Descriptor().Name()), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := checkRequest(request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
