package exchange

import (
	"bytes"
	"context"
	"math"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"probed/service/dial"
	"probed/service/resolve"
)

func TestEchoRequest(t *testing.T) {
	t.Parallel()
	for family, want := range map[resolve.Family]string{resolve.AF_INET: "\x08\x00\x00\x00\x00\x00\x01\x02ab", resolve.AF_INET6: "\x80\x00\x00\x00\x00\x00\x01\x02ab"} {
		if got := echoRequest(family, 0x102, []byte("ab")); string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestParseEchoReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		family   resolve.Family
		packet   string
		sequence uint16
		payload  string
		ok       bool
	}{
		{"reply", resolve.AF_INET, "\x00\x00ccii\x01\x02ab", 0x102, "ab", true},
		{"reply, v6", resolve.AF_INET6, "\x81\x00ccii\x01\x02ab", 0x102, "ab", true},
		{"empty", resolve.AF_INET, "\x00\x00ccii\x00\x01", 1, "", true},
		{"short", resolve.AF_INET, "\x00\x00ccii\x00", 0, "", false},
		{"nothing", resolve.AF_INET, "", 0, "", false},
		{"a request", resolve.AF_INET, "\x08\x00ccii\x00\x01ab", 0, "", false},
		{"of the other family", resolve.AF_INET6, "\x00\x00ccii\x00\x01ab", 0, "", false},
		{"an odd code", resolve.AF_INET, "\x00\x01ccii\x00\x01ab", 0, "", false},
	} {
		sequence, payload, ok := parseEchoReply(tt.family, []byte(tt.packet))
		if sequence != tt.sequence || string(payload) != tt.payload || ok != tt.ok {
			t.Errorf("%s: %d, %q, %v", tt.name, sequence, payload, ok)
		}
	}
}

// A reply is ours when it is the peer's and has the number of a request that was sent.
func TestWhoseReply(t *testing.T) {
	t.Parallel()
	mine, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, tt := range []struct {
		name     string
		sent     uint32
		sequence string
		from     netip.Addr
		want     bool
	}{
		{"the first", 1, "\x00\x01", mine, true},
		{"an earlier one", 9, "\x00\x01", mine, true},
		{"one not sent", 1, "\x00\x02", mine, false},
		{"nothing sent", 0, "\x00\x01", mine, false},
		{"number 0", 9, "\x00\x00", mine, false},
		{"the last", math.MaxUint16, "\xff\xff", mine, true},
		{"begun again", math.MaxUint16 + 1, "\x00\x00", mine, true},
		{"another host's", 1, "\x00\x01", other, false},
		{"another family's", 1, "\x00\x01", netip.IPv6Unspecified(), false},
		{"nobody's", 1, "\x00\x01", netip.Addr{}, false},
	} {
		c := &conn{Conn: addressed{}, socket: Socket{Family: resolve.AF_INET}}
		c.requests.Store(tt.sent)
		if payload, ours := c.payload([]byte("\x00\x00ccii"+tt.sequence+"ab"), tt.from); ours != tt.want || string(payload) != "ab" {
			t.Errorf("%s: %q, %v", tt.name, payload, ours)
		}
	}
}

// addressed is a connection that knows where it leads, and no more.
type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.IPAddr{IP: net.IPv4(192, 0, 2, 1)} }

func FuzzParseEchoReply(f *testing.F) {
	for _, packet := range []string{"\x00\x00ccii\x01\x02ab", "\x81\x00ccii\x01\x02", "\x00\x00ccii\x01", ""} {
		f.Add([]byte(packet), true)
		f.Add([]byte(packet), false)
	}
	f.Fuzz(func(t *testing.T, packet []byte, v6 bool) {
		family, answers := resolve.AF_INET, byte(8)
		if v6 {
			family = resolve.AF_INET6
		}
		sequence, payload, ok := parseEchoReply(family, packet)
		if !ok {
			if sequence != 0 || payload != nil {
				t.Errorf("%d and %q of what is no reply", sequence, payload)
			}
			return
		}
		// A reply differs from its request in its type, and in what the kernel fills in.
		again := echoRequest(family, sequence, payload)
		if v6 {
			answers = 128
		}
		if again[0] != answers || !bytes.Equal(again[6:], packet[6:]) || packet[1] != 0 {
			t.Errorf("%q is the reply to %q", packet, again)
		}
	})
}

// Where the kernel gives us no ICMP socket, the outcome says which setting that is.
func TestNoPermissionToPing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		call  string
		errno syscall.Errno
		hint  string
	}{
		{"socket", unix.EACCES, hintPingGroups},
		{"socket", unix.EPERM, hintPingGroups},
		{"socket", unix.EPROTONOSUPPORT, hintPingGroups},
		{"connect", unix.EACCES, reasons[DeniedLocally].hint}, // a prohibit route
	} {
		config := Config{Dial: func(_ context.Context, r dial.Request) (net.Conn, error) {
			r.Admitted()
			return nil, &net.OpError{Op: "dial", Net: r.Network, Addr: &net.IPAddr{IP: r.Address.Addr().AsSlice()}, Err: os.NewSyscallError(tt.call, tt.errno)}
		}}
		for _, steps := range [][]Step{nil, {Send{}, Receive{Count: 1}}} {
			r := trial{config: config, request: Request{Target: Target{Scheme: "icmp", Host: "127.0.0.1"}, Steps: steps}}.run(t)
			r.wants(t, PhaseConnect, DeniedLocally, EndedByNone)
			if r.Errno != int(tt.errno) || r.Hint != tt.hint || bytes.Contains([]byte(r.Error), []byte("net.ipv4.ping_group_range")) != (tt.hint == hintPingGroups) {
				t.Errorf("%s: %v: %s, %s", tt.call, tt.errno, r.Error, r.Hint)
			}
			if a := r.Attempts[0]; a.Address != "127.0.0.1" || a.address != netip.MustParseAddrPort("127.0.0.1:0") {
				t.Errorf("attempt %+v", a)
			}
		}
	}
}

// The address of a Service answers no echo, and its node says so as it says that a Service has no endpoints.
func TestEchoRefusedOnTheWay(t *testing.T) {
	t.Parallel()
	refused := &failure{reason: ConnectionRefused, hint: hintRefusedOnTheWay}
	for scheme, want := range map[string]string{"icmp": hintEchoRefused, "icmp4": hintEchoRefused, "icmp6": hintEchoRefused, "tcp": hintRefusedOnTheWay} {
		if got := hint(refused, Target{Scheme: scheme, Host: "10.96.0.1"}); got != want {
			t.Errorf("%s: %q", scheme, got)
		}
	}
}
