package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/service/policy"
)

// received is what the chunks of an exchange or a conversation hold together, and its outcome. Of what is true of every one
// the world's witness has seen to.
func received(t testing.TB, all []*probev1.ExchangeResponse) (data []byte, outcome *probev1.Outcome) {
	t.Helper()
	for _, event := range all {
		data = append(data, event.GetChunk().GetData()...)
		outcome = event.GetOutcome()
	}
	if outcome.GetVantage().GetHostname() != "here.test" {
		t.Fatalf("of %d events the last is no outcome of here: %v", len(all), outcome)
	}
	return data, outcome
}

// The lecture's trap, by both ways: a reply that is an exact multiple of the buffer, one more, one less, none, and one
// that dribbles, all come back whole. What the peer saw is compared.
func TestReplies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) {
		s.Policy = policy.AllowAll
	})
	request := []byte("GET / HTTP/1.0\r\n\r\n")
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, 65536, 3_000_001} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			reply := nettest.Data(size)
			peers := map[string]func(*nettest.Tally) string{
				"tcp": func(y *nettest.Tally) string {
					return "tcp://" + nettest.TCP(t, y.Count(nettest.Reply(reply))).String()
				},
			}
			if size <= 65536 {
				peers["tcp6"] = func(y *nettest.Tally) string {
					return "tcp6://" + nettest.TCP6(t, y.Count(nettest.Reply(reply))).String()
				}
				peers["unix"] = func(y *nettest.Tally) string {
					return "unix://" + nettest.Unix(t, "unix", y.Count(nettest.Reply(reply)))
				}
			}
			if size > 0 && size <= 8192 {
				peers["dribble"] = func(y *nettest.Tally) string {
					return nettest.TCP(t, y.Count(nettest.Drip(reply, size/7+1, 3*time.Millisecond))).String()
				}
			}
			for name, peer := range peers {
				for by, c := range w.transports() {
					for _, buffer := range []int32{0, 4096} {
						tally := &nettest.Tally{}
						all, err := eventsOf(probetest.WithPeer(t.Context(), tally), t, c, &probev1.ExchangeRequest{
							Target: peer(tally), Payload: &probev1.ExchangeRequest_Data{Data: request}, BufferSize: buffer,
						})
						if err != nil {
							t.Fatalf("%s by %s: %v", name, by, err)
						}
						data, outcome := received(t, all)
						if !bytes.Equal(data, reply) || !outcome.GetOk() || outcome.GetEndedBy() != probev1.EndedBy_ENDED_BY_PEER_CLOSED || outcome.GetBytesSent() != uint64(len(request)) {
							t.Errorf("%s by %s: %d of %d bytes: %v", name, by, len(data), size, outcome)
						}
						if conns := tally.Conns.Load(); conns != 1 {
							t.Errorf("%s by %s: %d connections", name, by, conns)
						}
					}
				}
			}
		})
	}
}

// Each kind of target, what its socket was, and what the outcome says of it; by both ways.
func TestTargets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withHosts("127.0.0.1 here.test\n::1 here6.test\n"), func(s *settings) {
		s.Policy = policy.AllowAll
	})
	const (
		inet, inet6, unix    = probev1.AddressFamily_AF_INET, probev1.AddressFamily_AF_INET6, probev1.AddressFamily_AF_UNIX
		stream, dgram, seq   = probev1.SocketType_SOCK_STREAM, probev1.SocketType_SOCK_DGRAM, probev1.SocketType_SOCK_SEQPACKET
		tcp, udp, noProtocol = probev1.IpProtocol_IPPROTO_TCP, probev1.IpProtocol_IPPROTO_UDP, probev1.IpProtocol_IPPROTO_IP
	)
	tcp4, tcp6 := nettest.TCP(t, nettest.Echo), nettest.TCP6(t, nettest.Echo)
	udp4, udp6 := nettest.UDP(t, nettest.EchoPacket), nettest.UDP6(t, nettest.EchoPacket)
	unixStream, unixSeq, unixDgram := nettest.Unix(t, "unix", nettest.Echo), nettest.Unix(t, "unixpacket", nettest.Echo), nettest.Unixgram(t, nettest.EchoPacket)
	byName := func(name string, a netip.AddrPort) string { return fmt.Sprintf("%s:%d", name, a.Port()) }
	for _, tt := range []struct {
		target, remote string
		family         probev1.AddressFamily
		kind           probev1.SocketType
		protocol       probev1.IpProtocol
		source         string // of the resolved event; empty: there is none
		ended          probev1.EndedBy
	}{
		{tcp4.String(), tcp4.String(), inet, stream, tcp, "literal", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{"tcp4://" + tcp4.String(), tcp4.String(), inet, stream, tcp, "literal", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{"tcp6://" + tcp6.String(), tcp6.String(), inet6, stream, tcp, "literal", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{byName("here.test", tcp4), tcp4.String(), inet, stream, tcp, "files", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{byName("here6.test", tcp6), tcp6.String(), inet6, stream, tcp, "files", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{"udp://" + udp4.String(), udp4.String(), inet, dgram, udp, "literal", probev1.EndedBy_ENDED_BY_COUNT},
		{"udp6://" + byName("here6.test", udp6), udp6.String(), inet6, dgram, udp, "files", probev1.EndedBy_ENDED_BY_COUNT},
		{"unix://" + unixStream, unixStream, unix, stream, noProtocol, "", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{"unixpacket://" + unixSeq, unixSeq, unix, seq, noProtocol, "", probev1.EndedBy_ENDED_BY_PEER_CLOSED},
		{"unixgram://" + unixDgram, unixDgram, unix, dgram, noProtocol, "", probev1.EndedBy_ENDED_BY_COUNT},
	} {
		for by, c := range w.transports() {
			t.Run(tt.target+" "+by, func(t *testing.T) {
				t.Parallel()
				all, err := events(t, c, &probev1.ExchangeRequest{Target: tt.target, Payload: &probev1.ExchangeRequest_Text{Text: "grüß"}})
				if err != nil {
					t.Fatal(err)
				}
				data, outcome := received(t, all)
				if string(data) != "grüß" || !outcome.GetOk() || outcome.GetEndedBy() != tt.ended {
					t.Errorf("%q, %v", data, outcome)
				}
				if outcome.GetRemote() != tt.remote || outcome.GetFamily() != tt.family || outcome.GetType() != tt.kind || outcome.GetProtocol() != tt.protocol {
					t.Errorf("%v", outcome)
				}
				if (outcome.TcpInfo != nil) != (tt.protocol == tcp) || (outcome.BytesAcknowledged != nil) != (tt.protocol == tcp) {
					t.Errorf("what TCP tells: %v", outcome)
				}
				if source := all[0].GetResolved().GetSource(); source != tt.source {
					t.Errorf("resolved by %q, want %q", source, tt.source)
				}
				connected, err := c.connect(t.Context(), &probev1.ConnectRequest{Target: tt.target})
				if err != nil || !connected.GetOk() || connected.GetEndedBy() != probev1.EndedBy_ENDED_BY_LAST_STEP || connected.GetRemote() != tt.remote ||
					connected.GetFamily() != tt.family || len(connected.GetAttempts()) != 1 {
					t.Errorf("connect: %v, %v", connected, err)
				}
			})
		}
	}
}

// A service in a target is one that the tables know, be it IANA's alone.
func TestServiceInTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Echo)
	w.write(t, "services", fmt.Sprintf("here %d/tcp\n", peer.Port()))
	outcome, err := grpcTransport{w.conn}.connect(t.Context(), &probev1.ConnectRequest{Target: "127.0.0.1:here"})
	if err != nil || outcome.GetRemote() != peer.String() {
		t.Errorf("%v, %v", outcome, err)
	}
	// Of the registry alone: nobody is asked whether it listens, the address says which port it was.
	outcome, err = grpcTransport{w.conn}.connect(t.Context(), &probev1.ConnectRequest{Target: "127.0.0.1:opcua-tcp"})
	if err != nil || outcome.GetAttempts()[0].GetAddress() != "127.0.0.1:4840" {
		t.Errorf("%v, %v", outcome, err)
	}
}

// A target that cannot be reached is an answer.
func TestUnreachableIsAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) { s.Policy = policy.AllowAll })
	dir := nettest.SocketDir(t)
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, target string
		phase        probev1.Phase
		layer        probev1.Layer
		reason       probev1.Reason
		errno        string
	}{
		{"refused", nettest.Refused(t).String(), probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECTION_REFUSED, "ECONNREFUSED"},
		{"dropped", nettest.Backlog(t).String(), probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECT_TIMEOUT, ""},
		{"no such name", "nosuch.test:80", probev1.Phase_PHASE_RESOLVE, probev1.Layer_LAYER_APPLICATION, probev1.Reason_REASON_NAME_NOT_FOUND, ""},
		{"no such family", "tcp6://127.0.0.1:80", probev1.Phase_PHASE_RESOLVE, probev1.Layer_LAYER_APPLICATION, probev1.Reason_REASON_NAME_HAS_NO_ADDRESS, ""},
		{"no such socket", "unix://" + dir + "/none", probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_SOCKET_NOT_FOUND, "ENOENT"},
		{"no socket", "unix://" + plain, probev1.Phase_PHASE_CONNECT, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_SOCKET_NOT_FOUND, "ENOTSOCK"},
		{"reset", nettest.TCP(t, nettest.Reset(1)).String(), probev1.Phase_PHASE_RECEIVE, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECTION_RESET, "ECONNRESET"},
		{"silent", nettest.TCP(t, nettest.Silent).String(), probev1.Phase_PHASE_RECEIVE, probev1.Layer_LAYER_APPLICATION, probev1.Reason_REASON_RECEIVE_TIMEOUT, ""},
		{"UDP refused", "udp://" + nettest.RefusedUDP(t).String(), probev1.Phase_PHASE_RECEIVE, probev1.Layer_LAYER_TRANSPORT, probev1.Reason_REASON_CONNECTION_REFUSED, "ECONNREFUSED"},
	} {
		for by, c := range w.transports() {
			t.Run(tt.name+" "+by, func(t *testing.T) {
				t.Parallel()
				all, err := events(t, c, &probev1.ExchangeRequest{
					Target: tt.target, Payload: &probev1.ExchangeRequest_Text{Text: "x"}, Timeout: durationpb.New(time.Second),
					HoldOpen: true, // a reset could come before the half-close, and be found by it
				})
				if err != nil {
					t.Fatal(err)
				}
				_, outcome := received(t, all)
				if outcome.GetOk() || outcome.GetPhase() != tt.phase || outcome.GetLayer() != tt.layer || outcome.GetReason() != tt.reason || outcome.GetErrnoName() != tt.errno {
					t.Errorf("%v", outcome)
				}
			})
		}
	}
}

// The sender of a datagram is told, be its name no UTF-8.
func TestDatagramPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *settings) { s.Policy = policy.AllowAll })
	dir := nettest.SocketDir(t)
	// A socket keeps the name it was bound to when its file gets another.
	nettest.ListenPacket(t, "unixgram", filepath.Join(dir, "bound\xff"), nettest.EchoPacket)
	path := filepath.Join(dir, "renamed")
	if err := os.Rename(filepath.Join(dir, "bound\xff"), path); err != nil {
		t.Fatal(err)
	}
	all, err := events(t, grpcTransport{w.conn}, &probev1.ExchangeRequest{
		Target: "unixgram://" + path, BufferSize: 3, Payload: &probev1.ExchangeRequest_Text{Text: "hello"},
	})
	if err != nil {
		t.Fatal(err)
	}
	data, _ := received(t, all)
	for _, event := range all {
		if d := event.GetChunk().GetDatagram(); event.GetChunk() != nil && (d.GetPeer() != dir+"/bound\uFFFD" || !d.GetTruncated() || d.GetLength() != 5) {
			t.Errorf("%v", event)
		}
	}
	if string(data) != "hel" {
		t.Errorf("%q", data)
	}
}

// What no address of is admitted is PERMISSION_DENIED, without events and without a socket.
func TestDenied(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(nettest.Echo))
	socket := nettest.Unix(t, "unix", tally.Count(nettest.Echo))
	// As off loopback: nothing of this machine may be reached.
	w := newWorld(t, withHosts("127.0.0.1 here.test both.test\n::1 both.test\n169.254.169.254 cloud.test\n"), func(s *settings) {
		s.Policy = func() *policy.Policy { return &policy.Policy{Open: true} }
	})
	mapped := fmt.Sprintf("[::ffff:127.0.0.1]:%d", peer.Port())
	for _, target := range []string{
		peer.String(), fmt.Sprintf("tcp4://127.1:%d", peer.Port()), mapped, fmt.Sprintf("0.0.0.0:%d", peer.Port()), fmt.Sprintf("here.test:%d", peer.Port()),
		fmt.Sprintf("both.test:%d", peer.Port()), fmt.Sprintf("localhost:%d", peer.Port()), "cloud.test:80", "169.254.169.254:80",
		"[fd00:ec2::254]:80", "[64:ff9b::7f00:1]:80", "udp://224.0.0.1:9", "udp://" + peer.String(), "unix://" + socket, "unix://@abstract",
		"unix:///no/such/path", "unixgram://" + socket,
	} {
		for by, c := range w.transports() {
			all, err := events(t, c, &probev1.ExchangeRequest{Target: target})
			if status.Code(err) != codes.PermissionDenied || errorInfo(err) != "ERROR_REASON_POLICY_DENIED" || len(all) != 0 {
				t.Errorf("%s by %s: %v, %d events", target, by, err, len(all))
			}
			// No word of what the name resolved to.
			if message := status.Convert(err).Message(); strings.Contains(target, ".test") && strings.Contains(message, "127.") {
				t.Errorf("%s: %s", target, message)
			}
			if outcome, err := c.connect(t.Context(), &probev1.ConnectRequest{Target: target}); status.Code(err) != codes.PermissionDenied || outcome != nil {
				t.Errorf("connect %s by %s: %v, %v", target, by, outcome, err)
			}
		}
	}
	if n := tally.Conns.Load(); n != 0 {
		t.Errorf("%d connections came through", n)
	}
}

// When some addresses are admitted and others are not, the attempts say which.
func TestDeniedInPart(t *testing.T) {
	t.Parallel()
	peer := nettest.TCP(t, nettest.Reply([]byte("hello")))
	w := newWorld(t, withHosts("169.254.169.254 mixed.test\n127.0.0.1 mixed.test\n"))
	for by, c := range w.transports() {
		all, err := events(t, c, &probev1.ExchangeRequest{Target: fmt.Sprintf("mixed.test:%d", peer.Port())})
		if err != nil {
			t.Fatalf("%s: %v", by, err)
		}
		data, outcome := received(t, all)
		if string(data) != "hello" || !outcome.GetOk() {
			t.Errorf("%s: %q, %v", by, data, outcome)
		}
		denied := slices.IndexFunc(outcome.GetAttempts(), func(a *probev1.Attempt) bool {
			return a.GetReason() == probev1.Reason_REASON_POLICY_DENIED && strings.HasPrefix(a.GetAddress(), "169.254.169.254:") && !a.GetOk()
		})
		// The order of the two is that of RFC 6724; a connection that came first leaves nothing to deny.
		if first := outcome.GetAttempts()[0]; denied < 0 && !first.GetOk() {
			t.Errorf("%s: %v", by, outcome.GetAttempts())
		}
	}
	// With nobody behind the admitted one, both are told, and the refusal is the reason.
	refused := nettest.Refused(t)
	all, err := events(t, grpcTransport{w.conn}, &probev1.ExchangeRequest{Target: fmt.Sprintf("mixed.test:%d", refused.Port())})
	if err != nil {
		t.Fatal(err)
	}
	_, outcome := received(t, all)
	reasons := map[probev1.Reason]int{}
	for _, attempt := range outcome.GetAttempts() {
		reasons[attempt.GetReason()]++
	}
	if reasons[probev1.Reason_REASON_POLICY_DENIED] != 1 || reasons[probev1.Reason_REASON_CONNECTION_REFUSED] != 1 || outcome.GetReason() != probev1.Reason_REASON_CONNECTION_REFUSED {
		t.Errorf("%v", outcome)
	}
}

// The listeners of probed itself are denied, by whatever name.
func TestOwnListenersDenied(t *testing.T) {
	t.Parallel()
	own := nettest.TCP(t, nettest.Echo)
	wildcard := nettest.Listen(t, "tcp", "[::]:0", nettest.Echo)
	_, wildcardPort, _ := net.SplitHostPort(wildcard.String())
	any6 := netip.AddrPortFrom(netip.IPv6Unspecified(), netip.MustParseAddrPort("[::]:"+wildcardPort).Port())
	var decisions []policy.Decision
	w := newWorld(t, withHosts("127.0.0.1 here.test\n"), func(s *settings) {
		rules := &policy.Policy{Loopback: true, Open: true, Listeners: []netip.AddrPort{own, any6}}
		s.Policy = func() *policy.Policy { return rules }
		s.Hooks.Decided = func(d policy.Decision) {
			if !d.Allowed { // looking up the name is allowed
				decisions = append(decisions, d)
			}
		}
	})
	for _, target := range []string{
		own.String(), fmt.Sprintf("here.test:%d", own.Port()), fmt.Sprintf("[::ffff:127.0.0.1]:%d", own.Port()), fmt.Sprintf("0.0.0.0:%d", own.Port()),
		"127.0.0.1:" + wildcardPort, "127.3.4.5:" + wildcardPort, "[::1]:" + wildcardPort, "udp://127.0.0.1:" + wildcardPort,
	} {
		decisions = nil
		_, err := events(t, grpcTransport{w.conn}, &probev1.ExchangeRequest{Target: target})
		if status.Code(err) != codes.PermissionDenied || len(decisions) != 1 || decisions[0].Rule != policy.RuleDenyOwnListener {
			t.Errorf("%s: %v, decided %v", target, err, decisions)
		}
	}
	// A name server of the caller's choice is a dial as any other.
	decisions = nil
	err := call(t, w, &probev1.QueryDNSRequest{Name: "x.test", Server: own.String(), Transport: probev1.DNSTransport_DNS_TRANSPORT_TCP})
	if status.Code(err) != codes.PermissionDenied || errorInfo(err) != "ERROR_REASON_POLICY_DENIED" || len(decisions) != 1 {
		t.Errorf("%v, decided %v", err, decisions)
	}
}

// Draining ends exchanges with their last event, whatever they are doing, and those that come later at once.
func TestDrain(t *testing.T) {
	t.Parallel()
	for by := range (&world{}).transports() {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.transports()[by]
			talking := nettest.TCP(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, "hello")
				nettest.Silent(conn)
			})
			silent := nettest.TCP(t, nettest.NeverRead)
			type end struct {
				all []*probev1.ExchangeResponse
				err error
			}
			begun, ended := make(chan struct{}, 3), make(chan end, 3)
			for _, request := range []*probev1.ExchangeRequest{
				{Target: talking.String()},
				{Target: silent.String(), Payload: &probev1.ExchangeRequest_Data{Data: make([]byte, 1<<20)}, Timeout: durationpb.New(time.Minute)},
				{Target: silent.String(), Steps: []*probev1.Step{{Step: &probev1.Step_Receive{Receive: &probev1.Receive{Idle: durationpb.New(time.Minute)}}}}},
			} {
				go func() {
					var e end
					e.err = c.exchange(t.Context(), request, func(event *probev1.ExchangeResponse) {
						e.all = append(e.all, event)
						if event.GetConnected() != nil {
							begun <- struct{}{}
						}
					})
					ended <- e
				}()
			}
			for range 3 {
				<-begun
			}
			start := time.Now()
			w.service.Drain()
			w.service.Drain() // twice is as good as once
			for range 3 {
				e := <-ended
				if e.err != nil {
					t.Fatal(e.err)
				}
				_, outcome := received(t, e.all)
				if outcome.GetReason() != probev1.Reason_REASON_DRAINED || outcome.GetOk() {
					t.Errorf("%v", outcome)
				}
			}
			all, err := events(t, c, &probev1.ExchangeRequest{Target: talking.String()})
			if err != nil {
				t.Fatal(err)
			}
			if _, outcome := received(t, all); outcome.GetReason() != probev1.Reason_REASON_DRAINED {
				t.Errorf("afterwards: %v", outcome)
			}
			outcome, err := c.connect(t.Context(), &probev1.ConnectRequest{Target: talking.String()})
			if err != nil || outcome.GetReason() != probev1.Reason_REASON_DRAINED {
				t.Errorf("afterwards: %v, %v", outcome, err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			// Lookups go on.
			if err := call(t, w, &probev1.LookupServiceRequest{Name: "ssh"}); err != nil {
				t.Error(err)
			}
		})
	}
}

// The caller's deadline ends an exchange as the request's own would.
func TestCallersDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var last *probev1.ExchangeResponse
	err := grpcTransport{w.conn}.exchange(ctx, &probev1.ExchangeRequest{Target: peer.String()}, func(event *probev1.ExchangeResponse) { last = event })
	// Whose deadline passes first, the client's or the server's, is a matter of microseconds.
	if err == nil && last.GetOutcome().GetReason() == probev1.Reason_REASON_RECEIVE_TIMEOUT {
		return
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v, %v", last, err)
	}
}
