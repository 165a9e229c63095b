package exchange

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/dial"
)

// What the policy is told of a request: the name, and whether bytes of the caller's will follow.
func TestPolicyIsToldTheRequest(t *testing.T) {
	t.Parallel()
	datagram, stream := nettest.UDP(t, nettest.EchoPacket), nettest.TCP(t, nettest.Echo)
	socket := nettest.Unix(t, "unix", nettest.Echo)
	tcp := Target{Scheme: "tcp", Host: "127.0.0.1", Port: stream.Port()}
	udp := Target{Scheme: "udp", Host: "127.0.0.1", Port: datagram.Port()}
	named := func(host string) Target { return Target{Scheme: "tcp", Host: host, Port: stream.Port()} }
	insecure := &TLSOptions{SkipVerify: true}
	for _, tt := range []struct {
		name    string
		request Request
		want    dial.Destination
	}{
		{"no steps", Request{Target: tcp}, dial.Destination{}},
		{"nothing sent", Request{Target: tcp, Steps: []Step{HalfClose{}, Receive{}}}, dial.Destination{}},
		{"data", Request{Target: tcp, Steps: []Step{Receive{Idle: 1}, Send{Data: []byte("x")}}}, dial.Destination{Send: true}},
		{"a template", Request{Target: tcp, Steps: []Step{Send{Data: []byte("$1"), Expand: true}}}, dial.Destination{Send: true}},
		{"no data", Request{Target: tcp, Steps: []Step{Send{}, HalfClose{}, Receive{}}}, dial.Destination{}},
		{"default steps", Request{Target: tcp, Steps: DefaultSteps(tcp, nil, false)}, dial.Destination{}},
		{"an empty datagram", Request{Target: udp, Steps: DefaultSteps(udp, nil, false)}, dial.Destination{Send: true}},
		{"no datagram", Request{Target: udp}, dial.Destination{}},
		{"STARTTLS", Request{Target: tcp, Steps: []Step{StartTLS{}}, TLS: insecure, Timeout: time.Second}, dial.Destination{SkipVerify: true}},
		{"all addresses", Request{Target: named("x"), AllAddresses: true}, dial.Destination{Host: "x"}},
		{"a name", Request{Target: named("X")}, dial.Destination{Host: "X"}},
		{"an address in its old form", Request{Target: named("127.1")}, dial.Destination{}},
		{"an address as a number", Request{Target: named("0x7f000001")}, dial.Destination{}},
		{"a unix socket", Request{Target: Target{Scheme: "unix", Path: socket}, Steps: []Step{Send{Data: []byte("x")}}}, dial.Destination{Send: true}},
	} {
		var asked atomic.Pointer[dial.Destination]
		policy := func(_ context.Context, to dial.Destination) error {
			asked.Store(&to)
			return nil
		}
		trial{config: Config{Resolve: hosts(t, "127.0.0.1 x"), Dial: dialer(policy)}, request: tt.request}.run(t)
		got := asked.Load()
		if got == nil {
			t.Errorf("%s: the policy was not asked", tt.name)
			continue
		}
		if got.Host != tt.want.Host || got.Send != tt.want.Send || got.SkipVerify != tt.want.SkipVerify {
			t.Errorf("%s: the policy was asked %+v, want %+v", tt.name, *got, tt.want)
		}
	}
}

// In a conversation anything may be sent.
func TestConversationSends(t *testing.T) {
	t.Parallel()
	address := nettest.TCP(t, nettest.Echo)
	var asked dial.Destination
	x := New(Config{Resolve: hosts(t), Dial: dialer(func(_ context.Context, to dial.Destination) error {
		asked = to
		return errNo
	})})
	_, err := x.Converse(t.Context(), Conversation{
		Request: Request{Target: Target{Scheme: "tcp", Host: "127.0.0.1", Port: address.Port()}},
		Next:    func() (Step, error) { return Close{}, nil },
	}, nil)
	if err != nil || !asked.Send {
		t.Errorf("%v; the policy was asked %+v, want Send", err, asked)
	}
}

// notNow is a policy that denies some addresses, and says of others that there are too many dials now.
func notNow(limit *dial.LimitError, limited, denied string) dial.Policy {
	return func(_ context.Context, to dial.Destination) error {
		switch address := to.Address.Addr().String(); {
		case to.Path != "" || strings.Contains(limited, address):
			return fmt.Errorf("caller: %w", limit)
		case strings.Contains(denied, address):
			return errNo
		}
		return nil
	}
}

func TestLimitOfThePolicy(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	limit := &dial.LimitError{Limit: "50 dials a second", RetryAfter: 20 * time.Millisecond}
	limited := nettest.TCP(t, func(net.Conn) { conns.Add(1) })
	both := []string{"127.0.0.1 x", "127.0.0.2 x"}
	lone := nettest.TCP(t, func(net.Conn) { conns.Add(1) })
	beside(t, limited.Port(), nettest.Echo)
	for _, tt := range []struct {
		name    string
		host    string
		port    uint16
		policy  dial.Policy
		all     bool
		phase   Phase
		reason  Reason
		tried   map[string]Reason
		refused bool // by a limit alone
	}{
		{"the only one", "127.0.0.1", limited.Port(), notNow(limit, "127.0.0.1", ""), false,
			PhasePolicy, LimitReached, map[string]Reason{"127.0.0.1": LimitReached}, true},
		{"each", "x", limited.Port(), notNow(limit, "127.0.0.1 127.0.0.2", ""), false,
			PhasePolicy, LimitReached, map[string]Reason{"127.0.0.1": LimitReached, "127.0.0.2": LimitReached}, true},
		{"each of all", "x", limited.Port(), notNow(limit, "127.0.0.1 127.0.0.2", ""), true,
			PhasePolicy, LimitReached, map[string]Reason{"127.0.0.1": LimitReached, "127.0.0.2": LimitReached}, true},
		{"the one that is not denied", "x", limited.Port(), notNow(limit, "127.0.0.1", "127.0.0.2"), false,
			PhasePolicy, LimitReached, map[string]Reason{"127.0.0.1": LimitReached, "127.0.0.2": PolicyDenied}, true},
		{"one, and another connects", "x", limited.Port(), notNow(limit, "127.0.0.1", ""), false,
			PhaseClose, None, map[string]Reason{"127.0.0.1": LimitReached, "127.0.0.2": None}, false},
		{"one, and another is refused", "x", lone.Port(), notNow(limit, "127.0.0.1", ""), false,
			PhaseConnect, ConnectionRefused, map[string]Reason{"127.0.0.1": LimitReached, "127.0.0.2": ConnectionRefused}, false},
		{"one of all", "x", limited.Port(), notNow(limit, "127.0.0.1", ""), true,
			PhasePolicy, LimitReached, map[string]Reason{"127.0.0.1": LimitReached, "127.0.0.2": None}, false},
	} {
		t.Run(tt.name, func(t *testing.T) { //nolint:paralleltest // the connections are counted below
			r := trial{
				config:  Config{Resolve: hosts(t, both...), Dial: dialer(tt.policy)},
				request: Request{Target: Target{Scheme: "tcp", Host: tt.host, Port: tt.port}, AllAddresses: tt.all},
			}.run(t)
			by := EndedByNone
			if tt.reason == None {
				by = EndedByLastStep
			}
			r.wants(t, tt.phase, tt.reason, by)
			if got := r.reasonsOf(); fmt.Sprint(got) != fmt.Sprint(tt.tried) {
				t.Errorf("attempts %v, want %v", got, tt.tried)
			}
			for _, a := range r.Attempts {
				if a.Reason == LimitReached && (a.Phase != PhasePolicy || a.Error != limit.Error()) {
					t.Errorf("attempt %+v", a)
				}
			}
			if (r.Limit == limit) != tt.refused || (r.Limit != nil) != tt.refused || (len(r.events) == 0) != tt.refused {
				t.Errorf("limit %v, %d events; want neither event nor anything but the limit: %t", r.Limit, len(r.events), tt.refused)
			}
			if tt.reason == LimitReached && r.Hint != hintDials {
				t.Errorf("hint %q", r.Hint)
			}
		})
	}
	socket := nettest.Unix(t, "unix", func(net.Conn) { conns.Add(1) })
	r := trial{config: Config{Dial: dialer(notNow(limit, "", ""))}, request: Request{Target: Target{Scheme: "unix", Path: socket}}}.run(t)
	r.wants(t, PhasePolicy, LimitReached, EndedByNone)
	if r.Limit != limit {
		t.Errorf("limit %v, want %v", r.Limit, limit)
	}
	if conns.Load() != 0 {
		t.Errorf("%d connections", conns.Load())
	}
}

// Of a limit the caller learns no address when none was admitted, whatever comes after.
func TestLimitKeepsAddresses(t *testing.T) {
	t.Parallel()
	first := true
	limit := &dial.LimitError{Limit: "300 targets a minute"}
	r := trial{
		config: Config{Resolve: hosts(t, "10.9.8.7 x", "10.9.8.6 x"), Dial: func(_ context.Context, request dial.Request) (net.Conn, error) {
			if first {
				first = false
				return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(request.Address), Err: limit}
			}
			return nil, context.DeadlineExceeded
		}},
		request: Request{Target: Target{Scheme: "tcp", Host: "x", Port: 80}},
	}.run(t)
	r.wants(t, PhasePolicy, LimitReached, EndedByNone)
	if r.Limit != limit || len(r.events) != 0 || r.Attempts[0].address.Addr() != netip.MustParseAddr("10.9.8.7") {
		t.Errorf("limit %v, events %v, attempts %v", r.Limit, r.events, r.Attempts)
	}
}
