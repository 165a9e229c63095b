//go:build system

package exchange

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
	"probed/service/resolve"
)

// mayPing lets our group have ICMP sockets in n.
func mayPing(n *nettest.Netns) { n.Run("sh", "-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range") }

// nftEcho is a chain at a hook, with one rule for echo requests.
func nftEcho(hook, rule string) []string {
	return []string{
		"nft add table inet t",
		"nft add chain inet t c { type filter hook " + hook + " priority 0; }",
		"nft add rule inet t c icmp type echo-request " + rule,
		"nft add rule inet t c icmpv6 type echo-request " + rule,
	}
}

// What a network does to an echo request, and what the outcome makes of it.
func TestPingFaults(t *testing.T) {
	t.Parallel()
	route := func(kind string) []string { return []string{"ip route add " + kind + " 10.9.1.0/24"} }
	const v4, v6, routed = "icmp://10.9.0.2", "icmp://[fd09::2]", "icmp://10.9.1.1"
	for _, tt := range []struct {
		name      string
		near, far []string
		target    string
		reason    Reason
		errno     syscall.Errno
		layer     Layer
		icmp      string // the message, and who sent it
		hint      string // empty: not looked at
	}{
		{"nothing wrong", nil, nil, v4, None, 0, LayerNone, "", ""},
		{"nothing wrong, v6", nil, nil, v6, None, 0, LayerNone, "", ""},
		{"drop", nil, nftEcho("input", "drop"), v4, ConnectTimeout, 0, LayerInternet, "", hintNoReply},
		{"drop, v6", nil, nftEcho("input", "drop"), v6, ConnectTimeout, 0, LayerInternet, "", hintNoReply},
		{"drop the answers", nil, []string{"nft add table inet t", "nft add chain inet t c { type filter hook output priority 0; }",
			"nft add rule inet t c icmp type echo-reply drop"}, v4, ConnectTimeout, 0, LayerInternet, "", hintNoReply},
		{"a host that does not answer", nil, []string{"sysctl -q -w net.ipv4.icmp_echo_ignore_all=1"}, v4, ConnectTimeout, 0, LayerInternet, "", hintNoReply},
		{"drop here", nftEcho("output", "drop"), nil, v4, DeniedLocally, unix.EPERM, LayerInternet, "", reasons[DeniedLocally].hint},
		{"reject: port", nil, nftEcho("input", "reject with icmpx port-unreachable"), v4, ConnectionRefused, unix.ECONNREFUSED, LayerInternet, "10.9.0.2 3/3 port unreachable", hintRejected},
		{"reject: port, v6", nil, nftEcho("input", "reject with icmpx port-unreachable"), v6, ConnectionRefused, unix.ECONNREFUSED, LayerInternet, "fd09::2 1/4 port unreachable", hintRejected},
		{"reject: admin", nil, nftEcho("input", "reject with icmpx admin-prohibited"), v4, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "10.9.0.2 3/13 administratively prohibited", hintRejected},
		{"reject: admin, v6", nil, nftEcho("input", "reject with icmpx admin-prohibited"), v6, HostUnreachable, unix.EACCES, LayerInternet, "fd09::2 1/1 administratively prohibited", hintRejected},
		{"reject: host", nil, nftEcho("input", "reject with icmpx host-unreachable"), v4, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "10.9.0.2 3/1 host unreachable", ""},
		{"blackhole", route("blackhole"), nil, routed, NetworkUnreachable, unix.EINVAL, LayerInternet, "", ""},
		{"prohibit", route("prohibit"), nil, routed, DeniedLocally, unix.EACCES, LayerInternet, "", reasons[DeniedLocally].hint},
		{"unreachable", route("unreachable"), nil, routed, HostUnreachable, unix.EHOSTUNREACH, LayerInternet, "", ""},
		{"no route", nil, nil, routed, NetworkUnreachable, unix.ENETUNREACH, LayerInternet, "", ""},
		{"nobody has the address", nil, nil, "icmp://10.9.0.99", HostUnreachable, unix.EHOSTUNREACH, LayerLink, "10.9.0.1 3/1 host unreachable", hintLink},
		{"nobody has the address, v6", nil, nil, "icmp://[fd09::99]", HostUnreachable, unix.EHOSTUNREACH, LayerLink, "fd09::1 1/3 address unreachable", hintLink},
		{"not our group", nil, nil, v4, DeniedLocally, unix.EACCES, LayerInternet, "", hintPingGroups},
		{"not our group, v6", nil, nil, v6, DeniedLocally, unix.EACCES, LayerInternet, "", hintPingGroups},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			mayPing(p.near)
			if strings.HasPrefix(tt.name, "not our group") {
				p.near.Run("sh", "-c", "echo 1 1 > /proc/sys/net/ipv4/ping_group_range")
			} else {
				run(p.near, tt.near...)
			}
			run(p.far, tt.far...)
			target, err := ParseTarget(tt.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			config := Config{Dial: p.dial, Resolve: hosts(t)}
			if tt.reason == ConnectTimeout {
				config.ConnectTimeout = 300 * time.Millisecond
			}
			phase, by := PhaseConnect, EndedByNone
			if tt.reason == None {
				phase, by = PhaseClose, EndedByLastStep
			}
			r := trial{config: config, request: Request{Target: target}}.run(t)
			r.wants(t, phase, tt.reason, by)
			if r.Errno != int(tt.errno) || r.Layer != tt.layer || len(r.Attempts) != 1 || r.Attempts[0].Errno != r.Errno || r.Attempts[0].Address != target.Host {
				t.Errorf("%s, layer %d, attempts %+v; want %v, layer %d", ErrnoName(r.Errno), r.Layer, r.Attempts, ErrnoName(int(tt.errno)), tt.layer)
			}
			if inWords(r.ICMP) != tt.icmp || inWords(r.Attempts[0].ICMP) != tt.icmp {
				t.Errorf("by %q, attempt by %q, want %q", inWords(r.ICMP), inWords(r.Attempts[0].ICMP), tt.icmp)
			}
			if tt.hint != "" && r.Hint != tt.hint {
				t.Errorf("hint %q, want %q", r.Hint, tt.hint)
			}
			if tt.reason != None {
				return
			}
			want := Socket{resolve.AF_INET, resolve.SOCK_DGRAM, resolve.IPPROTO_ICMP}
			if strings.Contains(target.Host, ":") {
				want = Socket{resolve.AF_INET6, resolve.SOCK_DGRAM, resolve.IPPROTO_ICMPV6}
			}
			if r.Socket != want || r.Remote != target.Host || r.Local == "" || r.Timings.Connect <= 0 {
				t.Errorf("socket %+v from %q to %q, connected in %v", r.Socket, r.Local, r.Remote, r.Timings.Connect)
			}
		})
	}
}

// A request that is lost is sent again, and shows as time.
func TestPingIsRepeated(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	mayPing(p.near)
	run(p.far, nftEcho("input", "numgen inc mod 1000 < 1 drop")...)
	r := trial{config: Config{Dial: p.dial}, request: Request{Target: Target{Scheme: "icmp", Host: "10.9.0.2"}}}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	if connect := r.Timings.Connect; connect < echoInterval || connect > 2*echoInterval {
		t.Errorf("answered after %v, want a little more than %v", connect, echoInterval)
	}
}

// Of two addresses one is silent: the other answers for the name, and both are told when both are asked for.
func TestPingOfTwoAddresses(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	mayPing(p.near)
	run(p.far, "nft add table inet t", "nft add chain inet t c { type filter hook input priority 0; }",
		"nft add rule inet t c icmpv6 type echo-request drop")
	config := Config{
		Dial:           p.dial,
		ConnectTimeout: 500 * time.Millisecond,
		AttemptDelay:   50 * time.Millisecond,
		Resolve: func(context.Context, string, resolve.Family) (*resolve.HostResult, error) {
			return &resolve.HostResult{Addresses: []netip.Addr{netip.MustParseAddr("fd09::2"), netip.MustParseAddr("10.9.0.2")}, Source: "files"}, nil
		},
	}
	r := trial{config: config, request: Request{Target: Target{Scheme: "icmp", Host: "both"}}}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	if len(r.Attempts) != 2 || r.Attempts[0].Reason != Cancelled || r.Remote != "10.9.0.2" {
		t.Errorf("connected to %s: %+v", r.Remote, r.Attempts)
	}
	r = trial{config: config, request: Request{Target: Target{Scheme: "icmp", Host: "both"}, AllAddresses: true}}.run(t)
	r.wants(t, PhaseConnect, ConnectTimeout, EndedByNone)
	if len(r.Attempts) != 2 || r.Attempts[0].Reason != ConnectTimeout || !r.Attempts[1].OK {
		t.Errorf("attempts %+v", r.Attempts)
	}
	// Who has had enough is not held up.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, ErrDrained)
	defer cancel()
	r = trial{config: Config{Dial: p.dial}, ctx: ctx, request: Request{Target: Target{Scheme: "icmp", Host: "fd09::2"}}}.run(t)
	if r.OK || r.took > time.Second {
		t.Errorf("%v after %v", r.Reason, r.took)
	}
}

// Each message sent is the payload of an echo request, each that comes that of a reply.
func TestEchoes(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	mayPing(p.near)
	for _, host := range []string{"10.9.0.2", "fd09::2"} {
		target := Target{Scheme: "icmp", Host: host}
		for _, size := range []int{0, 1, 1472, 1473, 65507} {
			t.Run(fmt.Sprint(host, " ", size), func(t *testing.T) {
				data := nettest.Data(size)
				r := trial{config: Config{Dial: p.dial}, request: Request{Target: target, Steps: DefaultSteps(target, data, false)}}.run(t)
				r.wants(t, PhaseClose, None, EndedByCount)
				r.got(t, data)
				chunk := r.events[len(r.events)-2].(Chunk)
				if want := (Datagram{Peer: host, Length: size}); *chunk.Datagram != want || r.BytesSent != uint64(size) || r.Remote != host {
					t.Errorf("%+v, sent %d to %s; want %+v", *chunk.Datagram, r.BytesSent, r.Remote, want)
				}
			})
		}
		ask := func(steps ...Step) *record {
			return trial{config: Config{Dial: p.dial}, request: Request{Target: target, Steps: steps}}.run(t)
		}
		r := ask(Send{Data: []byte("a")}, Send{Data: []byte("bc")}, Send{}, Receive{Count: 3})
		r.wants(t, PhaseClose, None, EndedByCount)
		r.got(t, []byte("abc"))
		r = ask(Send{Data: []byte("hello")}, Receive{Count: 2, Idle: 100 * time.Millisecond})
		r.wants(t, PhaseClose, None, EndedByIdle)
		r = ask(Send{Data: []byte("hello")}, Receive{MaxBytes: 3})
		r.wants(t, PhaseClose, None, EndedByMaxBytes)
		r.got(t, []byte("hel"))
		if r.lost != 2 {
			t.Errorf("%d bytes cut off, want 2", r.lost)
		}
		r = ask(Receive{Idle: 50 * time.Millisecond})
		r.wants(t, PhaseReceive, ReceiveTimeout, EndedByNone)
		if r.Hint != hintNoReply || r.Layer != LayerInternet {
			t.Errorf("layer %d, hint %q", r.Layer, r.Hint)
		}
		r = ask(Send{Data: make([]byte, 65536)})
		r.wants(t, PhaseSend, MessageTooLarge, EndedByNone)
		cut := trial{config: Config{Dial: p.dial}, request: Request{Target: target, BufferSize: 2, Steps: DefaultSteps(target, []byte("hello"), false)}}.run(t)
		cut.wants(t, PhaseClose, None, EndedByCount)
		cut.got(t, []byte("he"))
	}
}

// impostor is the far end, in place of its kernel, which is told to be silent: it answers what replies makes of a
// request's sequence number and payload.
func impostor(t *testing.T, p *pair, replies func(sequence uint16, payload []byte, send func(from string, kind, code byte, sequence uint16, payload []byte))) {
	t.Helper()
	p.far.Run("sysctl", "-q", "-w", "net.ipv4.icmp_echo_ignore_all=1")
	p.far.Do(func() {
		other, err := net.ListenPacket("ip4:icmp", "10.9.0.3")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
		nettest.ListenPacket(t, "ip4:icmp", "10.9.0.2", func(pc net.PacketConn, from net.Addr, request []byte) {
			if len(request) < echoHeader || request[0] != icmpEchoRequest {
				return
			}
			replies(binary.BigEndian.Uint16(request[6:]), request[echoHeader:], func(by string, kind, code byte, sequence uint16, payload []byte) {
				packet := append([]byte{kind, code, 0, 0, request[4], request[5], byte(sequence >> 8), byte(sequence)}, payload...)
				binary.BigEndian.PutUint16(packet[2:], checksum(packet))
				sender := pc
				if by == "10.9.0.3" {
					sender = other
				}
				_, _ = sender.WriteTo(packet, from)
			})
		})
	})
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Who is not the peer, and what is no reply to us, does not count, however much of it comes.
func TestStrayReplies(t *testing.T) {
	t.Parallel()
	const far, other = "10.9.0.2", "10.9.0.3"
	type send = func(from string, kind, code byte, sequence uint16, payload []byte)
	for _, tt := range []struct {
		name    string
		replies func(uint16, []byte, send)
		ping    Reason // of a connect
		got     string // by an exchange that asks for two replies to "ab", and waits a while for each
	}{
		{"a reply", func(n uint16, data []byte, s send) { s(far, 0, 0, n, data) }, None, "ab"},
		{"twice", func(n uint16, data []byte, s send) { s(far, 0, 0, n, data); s(far, 0, 0, n, data) }, None, "abab"},
		{"changed", func(n uint16, data []byte, s send) { s(far, 0, 0, n, bytes.ToUpper(data)) }, ConnectTimeout, "AB"},
		{"shortened", func(n uint16, data []byte, s send) { s(far, 0, 0, n, data[:1]) }, ConnectTimeout, "a"},
		{"of another host", func(n uint16, data []byte, s send) { s(other, 0, 0, n, data) }, ConnectTimeout, ""},
		{"to nothing", func(n uint16, data []byte, s send) { s(far, 0, 0, n+1, data); s(far, 0, 0, 0, data) }, ConnectTimeout, ""},
		{"of an odd code", func(n uint16, data []byte, s send) { s(far, 0, 1, n, data) }, ConnectTimeout, ""},
		{"behind strays", func(n uint16, data []byte, s send) {
			for range 2*mostStrays - 1 {
				s(other, 0, 0, n, data)
			}
			s(far, 0, 0, n, data)
		}, None, "ab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			mayPing(p.near)
			impostor(t, p, tt.replies)
			target := Target{Scheme: "icmp", Host: far}
			r := trial{config: Config{Dial: p.dial, ConnectTimeout: 300 * time.Millisecond}, request: Request{Target: target}}.run(t)
			phase, by := PhaseConnect, EndedByNone
			if tt.ping == None {
				phase, by = PhaseClose, EndedByLastStep
			}
			r.wants(t, phase, tt.ping, by)
			steps := []Step{Send{Data: []byte("ab")}, Receive{Count: 2, Idle: 300 * time.Millisecond}}
			r = trial{config: Config{Dial: p.dial}, request: Request{Target: target, Steps: steps}}.run(t)
			r.got(t, []byte(tt.got))
		})
	}
}

// A conversation is echoed message by message.
func TestConverseByEcho(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	mayPing(p.near)
	steps := []Step{Send{Data: []byte("one")}, Send{Data: []byte("two")}}
	var got []string
	both := make(chan struct{})
	x := New(Config{Dial: p.dial, Resolve: hosts(t)})
	outcome, err := x.Converse(t.Context(), Conversation{
		Request: Request{Target: Target{Scheme: "icmp", Host: "10.9.0.2"}},
		Next: func() (Step, error) {
			if len(steps) == 0 {
				<-both
				return Close{}, nil
			}
			step := steps[0]
			steps = steps[1:]
			return step, nil
		},
	}, func(event Event) error {
		if chunk, ok := event.(Chunk); ok {
			if got = append(got, string(chunk.Data)); len(got) == 2 {
				close(both)
			}
		}
		return nil
	})
	if err != nil || !outcome.OK || outcome.BytesSent != 6 || fmt.Sprint(got) != "[one two]" {
		t.Errorf("%+v, %v, got %q", outcome, err, got)
	}
}

// A router that forwards a packet and says that there is a shorter way has not refused it.
func TestPingIsRedirected(t *testing.T) {
	t.Parallel()
	near, router, far, wire := nettest.Namespace(t), nettest.Namespace(t), nettest.Namespace(t), nettest.Namespace(t)
	wire.Run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
	wire.Run("ip", "link", "set", "br0", "up")
	for _, host := range []struct {
		*nettest.Netns
		address string
	}{{near, "10.9.0.1/24"}, {router, "10.9.0.254/24"}, {far, "10.9.0.2/24"}} {
		_, port := nettest.Link(host.Netns, []netip.Prefix{netip.MustParsePrefix(host.address)}, wire, nil)
		wire.Run("ip", "link", "set", port, "master", "br0")
	}
	mayPing(near)
	router.Run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=1")
	near.Run("sysctl", "-q", "-w", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.veth0.accept_redirects=0")
	near.Run("ip", "route", "add", "10.9.0.2/32", "via", "10.9.0.254")
	near.Run("nft", "add table inet t")
	near.Run("nft", "add chain inet t c { type filter hook input priority 0; }")
	near.Run("nft", "add rule inet t c icmp type redirect counter")
	in := func(ctx context.Context, request dial.Request) (c net.Conn, err error) {
		near.Do(func() { c, err = dialer(admitAll)(ctx, request) })
		return c, err
	}
	target := Target{Scheme: "icmp", Host: "10.9.0.2"}
	for range 3 { // kernels ration redirects
		r := trial{config: Config{Dial: in}, request: Request{Target: target}}.run(t)
		r.wants(t, PhaseClose, None, EndedByLastStep)
		steps := []Step{Send{Data: []byte("a")}, Receive{Count: 1}, Send{Data: []byte("b")}, Receive{Count: 1}}
		r = trial{config: Config{Dial: in}, request: Request{Target: target, Steps: steps}}.run(t)
		r.wants(t, PhaseClose, None, EndedByCount)
		r.got(t, []byte("ab"))
	}
	near.Run("sh", "-c", "nft list ruleset | grep -q 'redirect counter packets [1-9]'")
}
