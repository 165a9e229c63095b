package service

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/policy"
)

// aboutName are the requests of all RPCs that take a name.
func aboutName(name string, server string) map[string]proto.Message {
	return map[string]proto.Message{
		"LookupHost":              &probev1.LookupHostRequest{Host: name, Trace: true},
		"GetAddressInfo":          &probev1.GetAddressInfoRequest{Host: proto.String(name), Flags: []probev1.AddressInfoFlag{probev1.AddressInfoFlag_AI_IDN}},
		"QueryDNS":                &probev1.QueryDNSRequest{Name: name, Type: "A"},
		"QueryDNS, server given":  &probev1.QueryDNSRequest{Name: name, Server: server},
		"QueryDNS, server's name": &probev1.QueryDNSRequest{Name: "open.test", Server: name},
		"Connect":                 &probev1.ConnectRequest{Target: name + ":80"},
		"Connect to all":          &probev1.ConnectRequest{Target: "tls://" + name + ":443", AllAddresses: true},
		"Exchange":                &probev1.ExchangeRequest{Target: name + ":80", Payload: &probev1.ExchangeRequest_Text{Text: "x"}},
		"Converse":                &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: name + ":80"}}},
		"ExplainPolicy":           &probev1.ExplainPolicyRequest{Target: name + ":80"},
	}
}

// Who may not look a name up gets the same answer to the last byte, whatever there is of the name, and nobody is asked.
func TestDenialTellsNothing(t *testing.T) {
	t.Parallel()
	server := nettest.DNS(t, func(x *nettest.DNSExchange) {
		m := x.Answer()
		switch {
		case x.Name == "real.test." && x.Type == dns.TypeA:
			m = x.Answer("real.test. A 127.0.0.1")
		case x.Name == "meta.test." && x.Type == dns.TypeA:
			m = x.Answer("meta.test. A 169.254.169.254")
		case x.Name == "none.test.":
			m.Rcode = dns.RcodeNameError
		case x.Name == "fail.test.":
			m.Rcode = dns.RcodeServerFailure
		case x.Name == "mute.test.":
			return
		}
		x.Send(m)
	})
	rules := &policy.Policy{Loopback: true, Roles: []policy.Role{
		{Name: "some", Subjects: []string{"token:some"}, Rules: []policy.Rule{
			{Name: "open", Hosts: []string{"open.test"}, Verbs: policy.Resolve | policy.Connect | policy.Send | policy.SkipVerify},
			{Name: "net", Prefixes: prefixes("127.0.0.0/8"), Verbs: policy.Connect | policy.Send},
		}},
		{Name: "dialler", Subjects: []string{"token:dialler"}, Rules: []policy.Rule{{Name: "any", Verbs: policy.Connect | policy.Send | policy.SkipVerify}}},
	}}
	w := newWorld(t, withRoles(rules, "some", "dialler", "nobody"), withDNS(server),
		withHosts("127.0.0.1 host.test\n169.254.169.254 link.test\n"))

	for _, name := range []string{"some", "dialler", "nobody"} {
		for _, c := range w.by(name) {
			for rpc := range aboutName("", "") {
				if rpc == "Converse" && c.by == "REST" {
					continue
				}
				const first = "none.test" // which does not exist; all are of one length
				want := c.call(t.Context(), t, aboutName(first, server.Addr.String())[rpc])
				if code := status.Code(want.err); code != codes.PermissionDenied && rpc != "ExplainPolicy" {
					t.Fatalf("%v, %s: %v", c, rpc, want.err)
				}
				for _, other := range []string{"real.test", "meta.test", "fail.test", "mute.test", "data.test", "host.test", "link.test"} {
					got := c.call(t.Context(), t, aboutName(other, server.Addr.String())[rpc])
					if got, want := strings.ReplaceAll(got.text(), other, "NAME"), strings.ReplaceAll(want.text(), first, "NAME"); got != want {
						t.Errorf("%v, %s of %s:\n%s\nand not as of one that does not exist\n%s", c, rpc, other, got, want)
					}
				}
			}
		}
	}
	if n := server.UDP.Load() + server.TCP.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
}

// A name is held against patterns in the form in which it is asked, whichever way it is written. What has no such form is
// matched by * alone.
func TestInternationalNames(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(nettest.CloseAtOnce))
	answers := func(x *nettest.DNSExchange) {
		switch {
		case strings.EqualFold(x.Name, "xn--bcher-kva.test.") && x.Type == dns.TypeA:
			x.Send(x.Answer("xn--bcher-kva.test. A 127.0.0.1"))
		case strings.EqualFold(x.Name, "xn--bcher-kva.test."):
			x.Send(x.Answer())
		default:
			m := x.Answer()
			m.Rcode = dns.RcodeNameError
			x.Send(m)
		}
	}
	server, chosen := nettest.DNS(t, answers), nettest.DNS(t, answers)
	all := policy.Resolve | policy.Connect | policy.Send
	rules := &policy.Policy{Loopback: true, Roles: []policy.Role{
		{Name: "books", Subjects: []string{"token:books"}, Rules: []policy.Rule{{Name: "one", Hosts: []string{"xn--bcher-kva.test"}, Verbs: all}}},
		{Name: "star", Subjects: []string{"token:star"}, Rules: []policy.Rule{{Name: "any", Hosts: []string{"*"}, Verbs: all}}},
	}}
	w := newWorld(t, withRoles(rules, "books", "star"), withDNS(server))

	for _, c := range append(w.by("books"), w.by("star")...) {
		requests := func(name string) []proto.Message {
			return []proto.Message{
				&probev1.LookupHostRequest{Host: name},
				&probev1.GetAddressInfoRequest{Host: proto.String(name), Flags: []probev1.AddressInfoFlag{probev1.AddressInfoFlag_AI_IDN}},
				&probev1.QueryDNSRequest{Name: name, Type: "A"},
				&probev1.QueryDNSRequest{Name: name, Server: fmt.Sprintf("%s:%d", name, chosen.Addr.Port())},
				&probev1.ConnectRequest{Target: fmt.Sprintf("%s:%d", name, peer.Port())},
			}
		}
		for _, name := range []string{"bücher.test", "BÜCHER.test", "bu\u0308cher.test", "bücher\u3002test", "ｂücher.test", "xn--bcher-kva.test", "XN--BCHER-KVA.Test"} {
			for _, request := range requests(name) {
				a := c.call(t.Context(), t, request)
				if a.err != nil {
					t.Errorf("%v, %T of %q: %v", c, request, name, a.err)
				}
				if o := a.outcome(); o != nil && !o.GetOk() {
					t.Errorf("%v, %q: %v", c, name, o)
				}
			}
			a := c.call(t.Context(), t, &probev1.ExplainPolicyRequest{Target: name + ":80"})
			if a.err != nil {
				t.Fatal(a.err)
			}
			explained := a.messages[0].(*probev1.ExplainPolicyResponse)
			if !explained.GetResolve().GetAllowed() || len(explained.GetAddresses()) != 1 || !explained.GetAddresses()[0].GetDecisions()[0].GetAllowed() {
				t.Errorf("%v, %q: %v", c, name, explained)
			}
		}
		// No other name, and none that cannot be encoded.
		for _, name := range []string{"bücher.example", "büche.test", "bücher\\.test", "bücher..test", "\u0308.test", "xn--bcher-kva\\.test"} {
			for _, request := range requests(name) {
				denied := status.Code(c.call(t.Context(), t, request).err) == codes.PermissionDenied
				if denied != (c.name == "books") {
					t.Errorf("%v, %T of %q: denied is %v", c, request, name, denied)
				}
			}
		}
		// getaddrinfo encodes nothing unless it is told to: what it asks is another name.
		raw := c.call(t.Context(), t, &probev1.GetAddressInfoRequest{Host: proto.String("bücher.test")})
		if denied := status.Code(raw.err) == codes.PermissionDenied; denied != (c.name == "books") {
			t.Errorf("%v: %v", c, raw.err)
		}
	}
}

// What is an address needs no lookup, so nobody's leave; what only looks like one is a name, which does. Either way nobody
// is asked for who may look up nothing like it.
func TestWhatLooksLikeAnAddress(t *testing.T) {
	t.Parallel()
	server := nettest.DNS(t, func(x *nettest.DNSExchange) { x.Send(x.Answer()) })
	rules := &policy.Policy{Loopback: true, Roles: []policy.Role{{Name: "r", Subjects: []string{"*"}, Rules: []policy.Rule{
		{Name: "names", Hosts: []string{"open.test"}, Verbs: policy.Resolve},
		{Name: "local", Prefixes: prefixes("127.0.0.0/8"), Verbs: policy.Connect},
	}}}}
	w := newWorld(t, withRoles(rules, "a"), withDNS(server))
	c := w.by("a")[0]
	for _, host := range []string{
		"127.0.0.1", "127.1", "127.1.", "0x7f.1", "0x7f.1.", "017700000001", "2130706433", "4294967296", "127.0.0.1.", "127.0.0.256", "1.2.3.4.5",
		"127.0.0.1 ", " 127.0.0.1", "127.0.0.1 x", "127.0.0.1\n", "１２７.0.0.1", "127。0。0。1", "٣.1", "0x", "0xg", "08", "1..2", ".", "",
		"::1", "::1.", "[::1]", "::1%lo", "::1%nosuch", "fe80::1%lo", "fe80::1%", "fe80::1%nosuch", "fe80::1%1", "::ffff:127.0.0.1", "::127.0.0.1", "1::2::3", "::g", ":",
	} {
		requests := []proto.Message{
			&probev1.LookupHostRequest{Host: host}, &probev1.ExplainPolicyRequest{Target: host + ":80"}, &probev1.ConnectRequest{Target: host + ":1"},
			&probev1.QueryDNSRequest{Name: "open.test", Server: host},
		}
		for _, family := range []probev1.AddressFamily{0, probev1.AddressFamily_AF_INET, probev1.AddressFamily_AF_INET6} {
			for _, flags := range [][]probev1.AddressInfoFlag{nil, {probev1.AddressInfoFlag_AI_CANONNAME}, {probev1.AddressInfoFlag_AI_IDN}, {probev1.AddressInfoFlag_AI_V4MAPPED, probev1.AddressInfoFlag_AI_ALL}} {
				requests = append(requests, &probev1.GetAddressInfoRequest{Host: proto.String(host), Family: family, Flags: flags})
			}
		}
		for _, request := range requests {
			a := c.call(t.Context(), t, request)
			// An empty server is those that are configured.
			if query, ok := request.(*probev1.QueryDNSRequest); ok && query.GetServer() == "" {
				server.UDP.Store(0)
			}
			if n := server.UDP.Swap(0) + server.TCP.Swap(0); n != 0 {
				t.Errorf("%T of %q: %d queries, %v", request, host, n, a.err)
			}
		}
	}
}
