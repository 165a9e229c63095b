package exchange

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"probed/service/dial"
)

// What each message means, by who sent it: the host that was meant, somebody on the way, or this host itself.
func TestICMP(t *testing.T) {
	t.Parallel()
	const peer, router, self = "192.0.2.9", "192.0.2.254", "192.0.2.1"
	const peer6, router6, self6 = "2001:db8::9", "fe80::254%eth0", "2001:db8::1"
	for _, tt := range []struct {
		from       string
		kind, code uint8
		errno      syscall.Errno
		meaning    string
		reason     Reason
		layer      Layer
		hint       string
	}{
		{router, 3, 0, unix.ENETUNREACH, "network unreachable", NetworkUnreachable, LayerInternet, hintNoRouteThere},
		{self, 3, 0, unix.ENETUNREACH, "network unreachable", NetworkUnreachable, LayerInternet, hintRejectedHere},
		{router, 3, 1, unix.EHOSTUNREACH, "host unreachable", HostUnreachable, LayerInternet, ""},
		{peer, 3, 1, unix.EHOSTUNREACH, "host unreachable", HostUnreachable, LayerInternet, ""},
		{self, 3, 1, unix.EHOSTUNREACH, "host unreachable", HostUnreachable, LayerLink, hintLink},
		{peer, 3, 2, unix.ENOPROTOOPT, "protocol unreachable", HostUnreachable, LayerNone, ""},
		{peer, 3, 3, unix.ECONNREFUSED, "port unreachable", ConnectionRefused, LayerTransport, ""},
		{router, 3, 3, unix.ECONNREFUSED, "port unreachable", ConnectionRefused, LayerTransport, hintRefusedOnTheWay},
		{self, 3, 3, unix.ECONNREFUSED, "port unreachable", ConnectionRefused, LayerTransport, hintRefusedHere},
		{router, 3, 4, unix.EMSGSIZE, "fragmentation needed", MessageTooLarge, LayerNone, ""},
		{router, 3, 5, unix.EOPNOTSUPP, "source route failed", HostUnreachable, LayerNone, ""},
		{router, 3, 6, unix.ENETUNREACH, "network unknown", NetworkUnreachable, LayerInternet, hintNoRouteThere},
		{router, 3, 7, unix.EHOSTDOWN, "host unknown", HostUnreachable, LayerNone, ""},
		{router, 3, 8, unix.ENONET, "source host isolated", HostUnreachable, LayerInternet, ""},
		{router, 3, 9, unix.ENETUNREACH, "network administratively prohibited", HostUnreachable, LayerInternet, hintRejected},
		{router, 3, 10, unix.EHOSTUNREACH, "host administratively prohibited", HostUnreachable, LayerInternet, hintRejected},
		{router, 3, 11, unix.ENETUNREACH, "network unreachable for the type of service", NetworkUnreachable, LayerInternet, hintNoRouteThere},
		{router, 3, 12, unix.EHOSTUNREACH, "host unreachable for the type of service", HostUnreachable, LayerNone, ""},
		{peer, 3, 13, unix.EHOSTUNREACH, "administratively prohibited", HostUnreachable, LayerInternet, hintRejected},
		{self, 3, 13, unix.EHOSTUNREACH, "administratively prohibited", DeniedLocally, LayerInternet, hintRejectedHere},
		{router, 3, 99, unix.EHOSTUNREACH, "type 3 code 99", HostUnreachable, LayerNone, ""},
		{router, 11, 0, unix.EHOSTUNREACH, "time to live exceeded", HostUnreachable, LayerInternet, hintLoop},
		{peer, 11, 1, unix.EHOSTUNREACH, "fragment reassembly time exceeded", HostUnreachable, LayerNone, ""},
		{router, 12, 0, unix.EPROTO, "parameter problem", HostUnreachable, LayerNone, ""},

		{router6, 1, 0, unix.ENETUNREACH, "no route to destination", NetworkUnreachable, LayerInternet, hintNoRouteThere},
		{router6, 1, 1, unix.EACCES, "administratively prohibited", HostUnreachable, LayerInternet, hintRejected},
		{self6, 1, 1, unix.EACCES, "administratively prohibited", DeniedLocally, LayerInternet, hintRejectedHere},
		{router6, 1, 2, unix.EHOSTUNREACH, "beyond scope of source address", HostUnreachable, LayerNone, ""},
		{router6, 1, 3, unix.EHOSTUNREACH, "address unreachable", HostUnreachable, LayerInternet, ""},
		{self6, 1, 3, unix.EHOSTUNREACH, "address unreachable", HostUnreachable, LayerLink, hintLink},
		{peer6, 1, 4, unix.ECONNREFUSED, "port unreachable", ConnectionRefused, LayerTransport, ""},
		{router6, 1, 4, unix.ECONNREFUSED, "port unreachable", ConnectionRefused, LayerTransport, hintRefusedOnTheWay},
		{router6, 1, 5, unix.EACCES, "source address failed ingress or egress policy", HostUnreachable, LayerInternet, hintRejected},
		{router6, 1, 6, unix.EACCES, "reject route to destination", HostUnreachable, LayerInternet, hintRejected},
		{router6, 2, 0, unix.EMSGSIZE, "packet too big", MessageTooLarge, LayerNone, ""},
		{router6, 3, 0, unix.EHOSTUNREACH, "hop limit exceeded", HostUnreachable, LayerInternet, hintLoop},
		{router6, 4, 1, unix.EPROTO, "unrecognized next header", HostUnreachable, LayerNone, ""},
		{router6, 9, 9, unix.EPROTO, "type 9 code 9", HostUnreachable, LayerNone, ""},
	} {
		t.Run(fmt.Sprintf("%d %d from %s", tt.kind, tt.code, tt.from), func(t *testing.T) {
			t.Parallel()
			from := netip.MustParseAddr(tt.from)
			to := netip.AddrPortFrom(netip.MustParseAddr(peer), 80)
			if from.Is6() {
				to = netip.AddrPortFrom(netip.MustParseAddr(peer6), 80)
			}
			err := &net.OpError{Op: "dial", Addr: net.TCPAddrFromAddrPort(to), Err: &dial.ICMPError{
				From: from, Own: tt.from == self || tt.from == self6, Type: tt.kind, Code: tt.code, V6: from.Is6(),
				Err: os.NewSyscallError("connect", tt.errno),
			}}
			i := icmpOf(err)
			if i == nil {
				t.Fatal("no message")
			}
			if i.From != from || i.Type != tt.kind || i.Code != tt.code || i.Meaning != tt.meaning {
				t.Errorf("%+v, want %q", *i, tt.meaning)
			}
			told, _, _ := fromErrno(err)
			reason, layer, hint := i.judge(told)
			if reason != tt.reason || layer != tt.layer || hint != tt.hint {
				t.Errorf("%v, layer %d, hint %q; want %v, layer %d, hint %q", reason, layer, hint, tt.reason, tt.layer, tt.hint)
			}
		})
	}
	for _, err := range []error{nil, os.ErrDeadlineExceeded, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", unix.ECONNREFUSED)}} {
		if i := icmpOf(err); i != nil {
			t.Errorf("%v: %+v", err, *i)
		}
	}
}

// A message of this host about itself is one of the peer.
func TestICMPOfThisHostAboutItself(t *testing.T) {
	t.Parallel()
	loopback := netip.MustParseAddr("127.0.0.1")
	i := icmpOf(&net.OpError{Op: "dial", Addr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, Err: &dial.ICMPError{From: loopback, Own: true, Type: 3, Code: 3}})
	if i == nil || i.sender != senderPeer {
		t.Errorf("%+v", i)
	}
}

// The hints are sentences, each its own.
func TestICMPHints(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, hint := range []string{hintLink, hintRejected, hintRejectedHere, hintRefusedOnTheWay, hintRefusedHere, hintNoRouteThere, hintLoop} {
		if len(hint) < 20 || !strings.HasSuffix(hint, ".") || seen[hint] {
			t.Errorf("hint %q", hint)
		}
		seen[hint] = true
	}
}
