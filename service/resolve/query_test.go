package resolve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
	"probed/service/dial"
)

func TestQueryDNS(t *testing.T) {
	t.Parallel()
	server := nettest.DNS(t, func(x *nettest.DNSExchange) {
		m := x.Answer()
		switch x.Name {
		case "txt.example.":
			m = x.Answer(`txt.example. 60 IN TXT "a\"b" "\000\027\195\169"`, `txt.example. 60 IN TYPE65280 \# 3 010203`, `txt.example. 61 CH TXT "chaos"`)
			m.AuthenticatedData = true
			ns, _ := dns.NewRR("example. 60 IN NS ns.example.")
			extra, _ := dns.NewRR("ns.example. 60 IN A 192.0.2.1")
			m.Ns, m.Extra = append(m.Ns, ns), append(m.Extra, extra)
			m.SetEdns0(1400, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeProhibited, ExtraText: "no\x1b[31m"})
		case "flags.example.":
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: x.Name, Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{
				fmt.Sprint(x.Query.RecursionDesired, x.Query.AuthenticatedData, x.Query.CheckingDisabled, x.Query.IsEdns0() != nil, x.Query.Question[0].Qclass)}})
			if o := x.Query.IsEdns0(); o != nil {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: m.Answer[0].(*dns.TXT).Hdr, Txt: []string{fmt.Sprint(o.UDPSize(), o.Do())}})
			}
		case "servfail.example.":
			m.Rcode = dns.RcodeServerFailure
		case "badvers.example.":
			m.Rcode = dns.RcodeBadVers
			m.SetEdns0(1232, false)
		case "large.example.":
			nettest.DNSRecords(100)(x)
			return
		case "silent.example.":
			return
		default:
			m.Rcode = dns.RcodeNameError
		}
		x.Send(m)
	})
	m := newMachine(t, server, map[string]string{"resolv.conf": "nameserver 10.0.0.1\n"}, Config{})
	ask := func(q Query) *Response {
		t.Helper()
		got, err := m.QueryDNS(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}

	got := ask(Query{Name: "txt.example", Type: dns.TypeTXT})
	var lines []string
	for _, section := range [][]Record{got.Answers, got.Authority, got.Additional} {
		for _, r := range section {
			lines = append(lines, fmt.Sprint(r.Name, " ", r.TTL, " ", r.Class, " ", r.TypeName, " ", r.Data))
		}
	}
	if want := []string{
		`txt.example. 60 1 TXT "a\"b" "\000\027\195\169"`, `txt.example. 60 1 TYPE65280 \# 3 010203`, `txt.example. 61 3 TXT "chaos"`,
		"example. 60 1 NS ns.example.", "ns.example. 60 1 A 192.0.2.1",
	}; !slices.Equal(lines, want) {
		t.Errorf("records\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if got.RcodeName != "NOERROR" || !got.Flags.Response || !got.Flags.AuthenticData || !got.Flags.RecursionAvailable || got.Flags.Truncated ||
		got.Question != "txt.example." || got.Server != "10.0.0.1:53" || got.Transport != "udp" || got.Size == 0 || got.Duration <= 0 || len(got.Trace) != 1 {
		t.Errorf("%+v", got)
	}
	if e := got.EDNS; e == nil || e.UDPSize != 1400 || !e.DNSSECOK || !slices.Equal(e.ExtendedErrors, []string{`18 Prohibited: no\027[31m`}) {
		t.Errorf("EDNS %+v", e)
	}

	for _, tt := range []struct {
		query Query
		want  []string
	}{
		{Query{}, []string{`"true false false true 1"`, `"1232 false"`}},
		{Query{NoRecursion: true, AuthenticData: true, CheckingDisabled: true, NoEDNS: true, Class: 3}, []string{`"false true true false 3"`}},
		{Query{DNSSEC: true, UDPSize: 100}, []string{`"true false false true 1"`, `"512 true"`}},
		{Query{UDPSize: 65535}, []string{`"true false false true 1"`, `"4096 false"`}},
	} {
		tt.query.Name, tt.query.Type = "flags.example", dns.TypeTXT
		var data []string
		for _, r := range ask(tt.query).Answers {
			data = append(data, r.Data)
		}
		if !slices.Equal(data, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.query, data, tt.want)
		}
	}

	for name, want := range map[string]string{"servfail.example": "SERVFAIL", "nothing.example": "NXDOMAIN", "badvers.example": "BADVERS"} {
		if got := ask(Query{Name: name}); got.RcodeName != want {
			t.Errorf("%s: %s, want %s", name, got.RcodeName, want)
		}
	}

	large := ask(Query{Name: "large.example."})
	if large.Transport != "tcp" || len(large.Answers) != 100 || len(large.Trace) != 2 || !large.Trace[0].Truncated {
		t.Errorf("large: %s, %d answers, %+v", large.Transport, len(large.Answers), large.Trace)
	}
	if cut := ask(Query{Name: "large.example.", IgnoreTruncation: true}); cut.Transport != "udp" || !cut.Flags.Truncated {
		t.Errorf("truncation ignored: %+v", cut)
	}
	if tcp := ask(Query{Name: "large.example.", Transport: "tcp"}); tcp.Transport != "tcp" || len(tcp.Trace) != 1 {
		t.Errorf("tcp: %+v", tcp)
	}

	// A server the caller names goes through the caller's dialer.
	var dialled []string
	chosen := func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		dialled = append(dialled, network+" "+to.String())
		return new(net.Dialer).DialContext(ctx, network, server.Addr.String())
	}
	m.write("hosts", "192.0.2.53 ns.local\n")
	m.current.Store(nil)
	for name, want := range map[string]string{
		"192.0.2.1": "udp 192.0.2.1:53", "192.0.2.1:5353": "udp 192.0.2.1:5353", "@192.0.2.1": "udp 192.0.2.1:53", "2001:db8::1": "udp [2001:db8::1]:53",
		"[2001:db8::1]:99": "udp [2001:db8::1]:99", "[2001:db8::1]": "udp [2001:db8::1]:53", "ns.local": "udp 192.0.2.53:53", "ns.local:54": "udp 192.0.2.53:54",
	} {
		dialled = nil
		if got := ask(Query{Name: "x.example", Server: name, Dial: chosen}); !slices.Equal(dialled, []string{want}) || "udp "+got.Server != want {
			t.Errorf("%s: dialled %q, server %q, want %q", name, dialled, got.Server, want)
		}
	}

	denied := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &dial.DeniedError{Err: errors.New("no")}}
	}
	limited := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &dial.LimitError{Limit: "dials"}}
	}
	for name, tt := range map[string]struct {
		query  Query
		reason Reason
	}{
		"silence":        {Query{Name: "silent.example", Timeout: 300 * time.Millisecond}, Timeout},
		"denied":         {Query{Name: "x.example", Server: "192.0.2.1", Dial: denied}, Denied},
		"limited":        {Query{Name: "x.example", Server: "192.0.2.1", Dial: limited}, Limited},
		"no such server": {Query{Name: "x.example", Server: "nothing.example"}, UnknownServerName},
		"bad server":     {Query{Name: "x.example", Server: "a:b:c"}, UnknownServerName},
		"bad port":       {Query{Name: "x.example", Server: "192.0.2.1:0"}, UnknownServerName},
		"no name":        {Query{}, BadName},
		"bad name":       {Query{Name: "a..b"}, BadName},
		"bad transport":  {Query{Name: "a", Transport: "pigeon"}, BadName},
	} {
		_, err := m.QueryDNS(t.Context(), tt.query)
		var e *Error
		if !errors.As(err, &e) || e.Reason != tt.reason {
			t.Errorf("%s: %v, want %v", name, err, tt.reason)
		}
	}
}

// TestDNSOverTLS asks a server behind TLS, RFC 7858.
func TestDNSOverTLS(t *testing.T) {
	t.Parallel()
	backend := nettest.DNS(t, nettest.DNSRecords(3))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, DNSNames: []string{"dot.local"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	serverConfig := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"dot"}}
	front := nettest.TCP(t, func(c net.Conn) {
		s := tls.Server(c, serverConfig)
		if s.Handshake() != nil {
			return
		}
		b, err := net.Dial("tcp", backend.Addr.String())
		if err != nil {
			return
		}
		defer b.Close()
		done := make(chan bool)
		go func() { io.Copy(b, s); b.Close(); close(done) }()
		io.Copy(s, b)
		c.Close()
		<-done
	})
	var asked string
	to := func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
		asked = server.String()
		return new(net.Dialer).DialContext(ctx, network, front.String())
	}
	m := newMachine(t, nil, map[string]string{"hosts": "192.0.2.1 dot.local\n192.0.2.1 other.local\n"}, Config{})
	for _, server := range []string{"192.0.2.1", "dot.local"} {
		got, err := m.QueryDNS(t.Context(), Query{Name: "a.example", Server: server, Transport: "tls", Dial: to, TLS: &tls.Config{RootCAs: roots}})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Answers) != 3 || got.Transport != "tls" || asked != "192.0.2.1:853" || got.TLS == nil || got.TLS.NegotiatedProtocol != "dot" {
			t.Errorf("%s: %+v", server, got)
		}
	}
	for _, q := range []Query{
		{Server: "other.local", TLS: &tls.Config{RootCAs: roots}}, // not the name in the certificate
		{Server: "dot.local"}, // not a root of this machine
	} {
		q.Name, q.Transport, q.Dial = "a.example", "tls", to
		_, err := m.QueryDNS(t.Context(), q)
		var e *Error
		if !errors.As(err, &e) || e.Reason != HandshakeFailed {
			t.Errorf("%s: %v", q.Server, err)
		}
	}
}

func TestParseType(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]uint16{"A": 1, "aaaa": 28, "28": 28, "TYPE65280": 65280, "type1": 1, "ANY": 255, "HTTPS": 65} {
		if got, ok := ParseType(s); !ok || got != want {
			t.Errorf("%s: %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "0", "TYPE0", "65536", "NOPE", "-1", "TYPE", "None"} {
		if got, ok := ParseType(s); ok {
			t.Errorf("%q is type %d", s, got)
		}
	}
	if TypeName(28) != "AAAA" || TypeName(65280) != "TYPE65280" {
		t.Error("TypeName")
	}
}
