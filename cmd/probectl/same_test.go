package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// TestEssence: what differs although it means the same does not count, and all else does.
func TestEssence(t *testing.T) {
	t.Parallel()
	type host = probev1.LookupHostResponse
	took := func(ms int) *durationpb.Duration { return durationpb.New(time.Duration(ms) * time.Millisecond) }
	step := func(server string, ms int, rcode string) *probev1.TraceStep {
		return &probev1.TraceStep{Name: "db.", Server: server, Duration: took(ms), Rcode: rcode}
	}
	refused := func(change func(*probev1.Outcome)) *probev1.Outcome {
		o := &probev1.Outcome{
			Reason: probev1.Reason_REASON_CONNECTION_REFUSED, Local: "10.0.0.1:1", Remote: "10.0.0.9:80",
			Timings: &probev1.Timings{Total: took(1)}, TcpInfo: &probev1.TcpInfo{Rtt: took(1)}, Vantage: &probev1.Vantage{Pod: "a"},
			Route: &probev1.NetworkRoute{Source: "10.0.0.1"}, Icmp: &probev1.IcmpError{From: "10.0.0.1", Type: 3},
			Attempts: []*probev1.Attempt{{Address: "10.0.0.9:80", Local: "10.0.0.1:1", Duration: took(1)}},
		}
		change(o)
		return o
	}
	for _, test := range []struct {
		name string
		a, b proto.Message
		same bool
	}{
		{"times", &host{Addresses: []string{"1"}, Duration: took(1)}, &host{Addresses: []string{"1"}, Duration: took(2)}, true},
		{"order", &host{Addresses: []string{"1", "2"}}, &host{Addresses: []string{"2", "1"}}, true},
		{"another", &host{Addresses: []string{"1", "2"}}, &host{Addresses: []string{"1", "3"}}, false},
		{"one more", &host{Addresses: []string{"1"}}, &host{Addresses: []string{"1", "1"}}, false},
		{"source", &host{Source: "dns"}, &host{Source: "files"}, false},
		{"trace", &host{Trace: []*probev1.TraceStep{step("a", 1, "NOERROR"), step("a", 2, "NXDOMAIN")}},
			&host{Trace: []*probev1.TraceStep{step("b", 3, "NXDOMAIN"), step("b", 4, "NOERROR")}}, true},
		{"trace that differs", &host{Trace: []*probev1.TraceStep{step("a", 1, "NOERROR")}}, &host{Trace: []*probev1.TraceStep{step("a", 1, "NXDOMAIN")}}, false},
		{"what a cache counts down", &probev1.QueryDNSResponse{Answers: []*probev1.DNSRecord{{Data: "1", Ttl: 30}}},
			&probev1.QueryDNSResponse{Answers: []*probev1.DNSRecord{{Data: "1", Ttl: 29}}}, true},
		{"data", &probev1.QueryDNSResponse{Answers: []*probev1.DNSRecord{{Data: "1"}}}, &probev1.QueryDNSResponse{Answers: []*probev1.DNSRecord{{Data: "2"}}}, false},
		{"another place", refused(func(*probev1.Outcome) {}), refused(func(o *probev1.Outcome) {
			o.Local, o.Attempts[0].Local, o.Route.Source, o.Icmp.From = "10.0.1.1:2", "10.0.1.1:2", "10.0.1.1", "10.0.1.1"
			o.Vantage.Pod, o.Timings.Total, o.TcpInfo.Rtt, o.Attempts[0].Duration = "b", took(5), took(5), took(5)
		}), true},
		{"another reason", refused(func(*probev1.Outcome) {}), refused(func(o *probev1.Outcome) { o.Reason = probev1.Reason_REASON_CONNECT_TIMEOUT }), false},
		{"another message", refused(func(*probev1.Outcome) {}), refused(func(o *probev1.Outcome) { o.Icmp.Type = 11 }), false},
		{"another peer", refused(func(*probev1.Outcome) {}), refused(func(o *probev1.Outcome) { o.Remote = "10.0.0.8:80" }), false},
	} {
		before := proto.Clone(test.a)
		if same := essence(test.a) == essence(test.b); same != test.same {
			t.Errorf("%s: the same: %v", test.name, same)
		}
		if !proto.Equal(test.a, before) {
			t.Errorf("%s: the answer was changed", test.name)
		}
	}
}
