package service

import (
	"fmt"
	"net"
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

// knowingServer knows name.test and the name of an address.
func knowingServer(t *testing.T) *nettest.DNSServer {
	t.Helper()
	return nettest.DNS(t, func(x *nettest.DNSExchange) {
		switch {
		case x.Name == "name.test." && x.Type == dns.TypeA:
			x.Send(x.Answer("name.test. A 127.0.0.1"))
		case x.Name == "name.test.":
			x.Send(x.Answer())
		case x.Type == dns.TypePTR:
			x.Send(x.Answer(x.Name + " PTR name.test."))
		default:
			m := x.Answer()
			m.Rcode = dns.RcodeNameError
			x.Send(m)
		}
	})
}

// What each set of verbs admits, whatever the call: who lacks one of those it needs is denied, and neither is anybody
// dialled nor any name server asked.
func TestVerbs(t *testing.T) {
	t.Parallel()
	const (
		resolve, connect, send, skip = policy.Resolve, policy.Connect, policy.Send, policy.SkipVerify
		all                          = resolve | connect | send | skip
	)
	var plain, secured nettest.Tally
	tcp := nettest.TCP(t, plain.Count(nettest.HalfCloseThenRead([]byte("hi")))).Port()
	tlsPort := tlsSink(t, &secured).Port()
	ask, chosen := knowingServer(t), knowingServer(t)

	step := func(steps ...any) (all []*probev1.Step) {
		for _, s := range steps {
			switch s := s.(type) {
			case string:
				all = append(all, &probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: s}}}})
			case *probev1.Receive:
				all = append(all, &probev1.Step{Step: &probev1.Step_Receive{Receive: s}})
			case *probev1.StartTls:
				all = append(all, &probev1.Step{Step: &probev1.Step_StartTls{StartTls: s}})
			}
		}
		return all
	}
	target := func(format string, port uint16) string { return fmt.Sprintf(format, port) }
	address, named := target("127.0.0.1:%d", tcp), target("name.test:%d", tcp)
	skipping := &probev1.TlsOptions{InsecureSkipVerify: true}
	calls := []struct {
		name    string
		request proto.Message
		needs   policy.Verbs
		asks    bool // a name server
	}{
		{"LookupHost", &probev1.LookupHostRequest{Host: "name.test"}, resolve, true},
		{"LookupHost of an address", &probev1.LookupHostRequest{Host: "192.0.2.7"}, resolve, false},
		{"LookupAddress", &probev1.LookupAddressRequest{Address: "192.0.2.7"}, resolve, true},
		{"GetAddressInfo", &probev1.GetAddressInfoRequest{Host: proto.String("name.test")}, resolve, true},
		{"GetNameInfo", &probev1.GetNameInfoRequest{Address: "192.0.2.7"}, resolve, true},
		{"QueryDNS", &probev1.QueryDNSRequest{Name: "name.test", Type: "A"}, resolve, true},
		{"QueryDNS, server by address", &probev1.QueryDNSRequest{Name: "name.test", Server: chosen.Addr.String()}, resolve | connect | send, true},
		{"QueryDNS, server by name", &probev1.QueryDNSRequest{Name: "name.test", Server: target("name.test:%d", chosen.Addr.Port())}, resolve | connect | send, true},
		{"QueryDNS by TCP", &probev1.QueryDNSRequest{Name: "name.test", Server: chosen.Addr.String(), Transport: probev1.DNSTransport_DNS_TRANSPORT_TCP}, resolve | connect | send, true},
		{"Connect", &probev1.ConnectRequest{Target: address}, connect, false},
		{"Connect to a name", &probev1.ConnectRequest{Target: named}, connect | resolve, true},
		{"Connect to all addresses", &probev1.ConnectRequest{Target: address, AllAddresses: true}, connect, false},
		{"Exchange with data", &probev1.ExchangeRequest{Target: address, Payload: &probev1.ExchangeRequest_Text{Text: "hello"}}, connect | send, false},
		{"Exchange without data", &probev1.ExchangeRequest{Target: address}, connect, false},
		{"Exchange that receives", &probev1.ExchangeRequest{Target: address, Steps: step(&probev1.Receive{})}, connect, false},
		{"Exchange that sends last", &probev1.ExchangeRequest{Target: address, Steps: step(&probev1.Receive{}, "late")}, connect | send, false},
		{"Exchange with a name", &probev1.ExchangeRequest{Target: named, Steps: step("hello")}, connect | send | resolve, true},
		{"Exchange of an empty datagram", &probev1.ExchangeRequest{Target: "udp://" + chosen.Addr.String(), Steps: step("")}, connect | send, false},
		{"Converse", &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: address}}}, connect | send, false},
		{"tls", &probev1.ConnectRequest{Target: target("tls://127.0.0.1:%d", tlsPort)}, connect, false},
		{"tls unverified", &probev1.ConnectRequest{Target: target("tls://127.0.0.1:%d", tlsPort), Tls: skipping}, connect | skip, false},
		{"tls unverified, all addresses", &probev1.ConnectRequest{Target: target("tls://127.0.0.1:%d", tlsPort), Tls: skipping, AllAddresses: true}, connect | skip, false},
		{"startTls", &probev1.ExchangeRequest{Target: target("127.0.0.1:%d", tlsPort), Steps: step(&probev1.StartTls{})}, connect, false},
		{"startTls unverified", &probev1.ExchangeRequest{Target: target("127.0.0.1:%d", tlsPort), Tls: skipping, Steps: step(&probev1.StartTls{})}, connect | skip, false},
		{"startTls unverified, then data", &probev1.ExchangeRequest{Target: target("127.0.0.1:%d", tlsPort), Tls: skipping, Steps: step(&probev1.StartTls{}, "x")}, connect | skip | send, false},
		{"Converse unverified", &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target("tls://127.0.0.1:%d", tlsPort), Tls: skipping}}}, connect | send | skip, false},
	}

	rules := &policy.Policy{Loopback: true}
	var names []string
	role := func(name string, each ...policy.Verbs) {
		names = append(names, name)
		r := policy.Role{Name: "r", Subjects: []string{"token:" + name}}
		for i, verbs := range each {
			r.Rules = append(r.Rules, policy.Rule{Name: fmt.Sprint(i), Verbs: verbs})
		}
		rules.Roles = append(rules.Roles, r)
	}
	for verbs := range all + 1 {
		role(fmt.Sprintf("v%d", verbs), verbs)
	}
	role("stranger")                           // in a role without rules
	role("apart", resolve, connect, send|skip) // verbs of several rules are not added up
	names = append(names, "nobody")            // in no role
	w := newWorld(t, withRoles(rules, names...), withDNS(ask))

	asked := func() int64 { return ask.UDP.Load() + ask.TCP.Load() + chosen.UDP.Load() + chosen.TCP.Load() }
	dialled := func() int64 { return plain.Conns.Load() + secured.Conns.Load() }
	admittedDials := int64(0)
	for i, name := range names {
		for _, c := range w.by(name) {
			for _, call := range calls {
				if _, converses := call.request.(*probev1.ConverseRequest); converses && c.by == "REST" {
					continue
				}
				admitted := i <= int(all) && policy.Verbs(i)&call.needs == call.needs
				if name == "apart" { // where the lookup is one decision and the connection another
					admitted = call.needs == resolve || call.needs == connect || call.needs == connect|resolve
				}
				before := asked()
				a := c.call(t.Context(), t, call.request)
				if !admitted {
					if status.Code(a.err) != codes.PermissionDenied || len(a.messages) != 0 || !strings.HasSuffix(errorInfo(a.err), "_DENIED") {
						t.Errorf("%v, %s: %v, %v", c, call.name, a.err, a.messages)
					}
					// Who may look a name up, and not connect to it, may have looked it up.
					mayLook := call.asks && (i <= int(all) && policy.Verbs(i)&(resolve|connect) == resolve|connect || name == "apart") ||
						strings.Contains(call.name, "server by name") && (policy.Verbs(i)&resolve != 0 || name == "apart")
					if n := asked(); n != before && !mayLook {
						t.Errorf("%v, %s: %d queries", c, call.name, n-before)
					}
					continue
				}
				if a.err != nil {
					t.Errorf("%v, %s: %v", c, call.name, a.err)
					continue
				}
				if n := asked(); call.asks && n == before {
					t.Errorf("%v, %s: nobody was asked", c, call.name)
				}
				if o := a.outcome(); o != nil {
					verified := strings.HasPrefix(call.name, "tls") || strings.HasPrefix(call.name, "startTls")
					if verified = verified && !strings.Contains(call.name, "unverified"); o.GetOk() == verified || verified && o.GetReason() != probev1.Reason_REASON_TLS_UNTRUSTED {
						t.Errorf("%v, %s: %v", c, call.name, o)
					}
					if !strings.Contains(call.name, "datagram") {
						admittedDials++
					}
				}
			}
		}
	}
	// Connections are accepted in the order in which they came: when these are, all are that were before.
	for _, port := range []uint16{tcp, tlsPort} {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", target("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		admittedDials++
	}
	soon(t, "the last connections", func() bool { return dialled() >= admittedDials })
	if n := dialled(); n != admittedDials {
		t.Errorf("%d connections, %d were admitted", n, admittedDials)
	}
}
