package resolve

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
	"probed/service/dial"
)

func TestReasons(t *testing.T) {
	t.Parallel()
	deny := errors.New("no")
	v6alone := nettest.DNSAnswersOne(dns.TypeAAAA, "2001:db8::1")
	for name, tt := range map[string]struct {
		handle func(*nettest.DNSExchange)
		dial   error
		host   string
		reason Reason
		server bool
	}{
		"nxdomain":                  {handle: nettest.DNSRcode(dns.RcodeNameError), reason: NotFound, server: true},
		"no data":                   {handle: nettest.DNSRcode(dns.RcodeSuccess), reason: NoData, server: true},
		"servfail":                  {handle: nettest.DNSRcode(dns.RcodeServerFailure), reason: ServFail, server: true},
		"refused":                   {handle: nettest.DNSRcode(dns.RcodeRefused), reason: Refused, server: true},
		"formerr":                   {handle: nettest.DNSRcode(dns.RcodeFormatError), reason: ServFail, server: true},
		"silence":                   {handle: nettest.DNSSilence, reason: Timeout, server: true},
		"wrong id":                  {handle: nettest.DNSWrongID, reason: Mismatched, server: true},
		"wrong question":            {handle: nettest.DNSWrongQuestion, reason: Mismatched, server: true},
		"short":                     {handle: nettest.DNSShort, reason: Mismatched, server: true},
		"garbage":                   {handle: nettest.DNSGarbage, reason: Malformed, server: true},
		"echo":                      {handle: nettest.DNSEcho, reason: Malformed, server: true},
		"loop":                      {handle: nettest.DNSLoop, reason: Looped, server: true},
		"truncated, then truncated": {handle: nettest.DNSTruncate, reason: NoData, server: true},
		"drip":                      {handle: nettest.DNSDrip(50 * time.Millisecond), reason: Timeout, server: true},
		// The C library gives up, too, when the first of two questions stays unanswered.
		"AAAA alone":  {handle: v6alone, reason: Timeout, server: true},
		"AAAA twice":  {handle: func(x *nettest.DNSExchange) { v6alone(x); v6alone(x) }, reason: Timeout, server: true},
		"hang up":     {handle: nettest.DNSHangUp, reason: Unreachable, server: true},
		"unreachable": {dial: deny, reason: Unreachable, server: true},
		"bad name":    {host: "a b", reason: BadName},
		"empty":       {host: "", reason: BadName},
		"empty label": {host: "a..b", reason: BadName},
		"root":        {host: ".", reason: BadName},
		"long label":  {host: strings.Repeat("a", 64), reason: BadName},
		"bad idna":    {host: "\xff", reason: BadName},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.handle == nil {
				tt.handle = nettest.DNSSilence
			}
			config := Config{Timeout: 600 * time.Millisecond}
			if tt.dial != nil {
				config.DialServer = func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, tt.dial }
			}
			m := newMachine(t, nettest.DNS(t, tt.handle), map[string]string{"resolv.conf": "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"}, config)
			host := tt.host
			if tt.server {
				host = "host.example"
			}
			began := time.Now()
			_, err := m.LookupHost(t.Context(), host, AF_UNSPEC)
			took := time.Since(began)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Reason != tt.reason || (e.Server != "") != tt.server || e.Name != host {
				t.Errorf("%v (server %q), want %v\n%+v", e, e.Server, tt.reason, e.Trace)
			}
			if tt.server && len(e.Trace) < 2 {
				t.Errorf("trace %+v", e.Trace)
			}
			// Without the timeout of the configuration it would take five seconds.
			if took > 4*time.Second || took < e.Duration {
				t.Errorf("took %v and says %v", took, e.Duration)
			}
			if tt.dial != nil && !errors.Is(err, tt.dial) {
				t.Errorf("the cause is lost: %v", err)
			}
		})
	}
}

// What a caller is told has no address of ours in it; the cause has.
func TestErrorTellsNoSource(t *testing.T) {
	t.Parallel()
	closed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	// Each has read what was sent, which else would be a reset on closing.
	after := func(end func(c net.Conn)) string {
		return nettest.TCP(t, func(c net.Conn) {
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				t.Error(err)
			}
			end(c)
		}).String()
	}
	hangUp := after(func(net.Conn) {})
	reset := after(func(c net.Conn) {
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			t.Error(err)
		}
	})
	alert := after(func(c net.Conn) { c.Write([]byte{21, 3, 3, 0, 2, 2, 40}) })
	silent := nettest.DNS(t, nettest.DNSSilence)
	own := &dial.ICMPError{From: netip.MustParseAddr("127.0.0.1"), Own: true, Type: 3, Code: 1, Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}
	for name, tt := range map[string]struct {
		address   string
		err       error
		server    string
		transport string
		want      string
	}{
		"silent":         {address: silent.Addr.String(), want: "timeout (server 10.0.0.1:53): i/o timeout"},
		"silent, by TCP": {address: silent.Addr.String(), transport: "tcp", want: "timeout (server 10.0.0.1:53): i/o timeout"},
		"closed":         {address: closed.LocalAddr().String(), want: "server unreachable (server 10.0.0.1:53): read: connection refused"},
		"hangs up":       {address: hangUp, transport: "tcp", want: "server unreachable (server 10.0.0.1:53): EOF"},
		"resets":         {address: reset, transport: "tls", want: "tls handshake failed (server 10.0.0.1:853): read: connection reset by peer"},
		"alert":          {address: alert, transport: "tls", want: "tls handshake failed (server 10.0.0.1:853): tls handshake: remote error: tls: handshake failure"},
		"its name": {
			server: "ns.example",
			want:   `name server not found: resolve "ns.example": timeout (server 10.0.0.2:53): i/o timeout`,
		},
		"denied": {
			err:  &net.OpError{Op: "dial", Net: "udp", Addr: new(net.UDPAddr), Err: &dial.DeniedError{Err: errors.New("no")}},
			want: "denied by policy (server 10.0.0.1:53): denied: no",
		},
		"no way": {
			err:  &net.OpError{Op: "dial", Net: "udp", Err: own},
			want: "server unreachable (server 10.0.0.1:53): connect: no route to host",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, silent, map[string]string{"resolv.conf": "nameserver 10.0.0.2\n"}, Config{Timeout: 300 * time.Millisecond})
			_, err := m.QueryDNS(t.Context(), Query{
				Name: "a", Server: cmp.Or(tt.server, "10.0.0.1"), Transport: tt.transport, Timeout: 300 * time.Millisecond,
				Dial: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
					if tt.err != nil {
						return nil, tt.err
					}
					return new(net.Dialer).DialContext(ctx, network, tt.address)
				},
			})
			if want := `resolve "a": ` + tt.want; err == nil || err.Error() != want {
				t.Errorf("\n got %v\nwant %s", err, want)
			}
			if _, ok := errors.AsType[*net.OpError](err); !ok && name != "hangs up" {
				t.Errorf("the cause is lost: %#v", err)
			}
		})
	}
}

// Each kind of lookup has the bound that is configured.
func TestConfiguredTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	m := newMachine(t, nettest.DNS(t, nettest.DNSSilence), map[string]string{
		"resolv.conf": "nameserver 10.0.0.1\nnameserver 10.0.0.2\n",
	}, Config{Timeout: timeout})
	for name, look := range map[string]func() error{
		"LookupHost":    func() error { _, err := m.LookupHost(t.Context(), "host", AF_UNSPEC); return err },
		"Addresses":     func() error { _, err := m.Addresses(t.Context(), "host", AF_UNSPEC); return err },
		"LookupAddress": func() error { _, err := m.LookupAddress(t.Context(), netip.MustParseAddr("192.0.2.1")); return err },
		"QueryDNS":      func() error { _, err := m.QueryDNS(t.Context(), Query{Name: "host"}); return err },
		"QueryDNS to a server": func() error {
			_, err := m.QueryDNS(t.Context(), Query{Name: "host", Server: "10.0.0.3"})
			return err
		},
		"QueryDNS to a server with a name": func() error {
			_, err := m.QueryDNS(t.Context(), Query{Name: "host", Server: "ns.example"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			err := look()
			var e *Error
			if took := time.Since(began); !errors.As(err, &e) || took < timeout-50*time.Millisecond || took > timeout+2*time.Second {
				t.Errorf("after %v, with the bound %v: %v", took, timeout, err)
			}
		})
	}
}

// The bound of five seconds holds without any configuration of it.
func TestSilenceEndsInFiveSeconds(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nettest.DNS(t, nettest.DNSSilence), map[string]string{
		"resolv.conf": "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nsearch a b c\n",
	}, Config{})
	began := time.Now()
	_, err := m.LookupHost(t.Context(), "host", AF_UNSPEC)
	var e *Error
	if took := time.Since(began); !errors.As(err, &e) || e.Reason != Timeout || took > 5500*time.Millisecond || took < 4*time.Second {
		t.Fatalf("after %v: %v", took, err)
	}
	asked := map[string]bool{}
	for _, s := range e.Trace {
		asked[s.Server] = true
	}
	if len(asked) != 4 { // the three, and none for the files
		t.Errorf("not every server had its turn: %v", asked)
	}
}

func TestLiesAreOutlived(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		handle func(*nettest.DNSExchange)
		n      int // addresses
		tcp    bool
	}{
		"lies first":     {nettest.DNSLiesThenAnswers, 1, false},
		"large":          {nettest.DNSRecords(100), 200, true},
		"ten thousand":   {nettest.DNSRecords(10000), 6000, true}, // what fits into 64 KiB, of each family
		"a long chain":   {nettest.DNSLongChain(500), 1, true},
		"A alone":        {nettest.DNSAnswersOne(dns.TypeA, "192.0.2.1"), 1, false},
		"one at a time":  {oneAtATime(), 2, false},
		"AAAA servfails": {halfFails(dns.RcodeServerFailure), 1, false},
		"AAAA nxdomain":  {halfFails(dns.RcodeNameError), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := nettest.DNS(t, tt.handle)
			m := newMachine(t, server, map[string]string{"resolv.conf": "nameserver 10.0.0.1\noptions attempts:1\n"}, Config{Timeout: 1500 * time.Millisecond})
			got, err := m.Addresses(t.Context(), "host.example", AF_UNSPEC)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(got.Addresses); n != tt.n && !(tt.n == 6000 && n > 5000) {
				t.Errorf("%d addresses, want %d", n, tt.n)
			}
			if got := server.TCP.Load() > 0; got != tt.tcp {
				t.Errorf("asked over TCP: %v", got)
			}
			for _, a := range got.Addresses {
				if a == netip.MustParseAddr("203.0.113.66") {
					t.Error("believed a lie")
				}
			}
		})
	}
}
