package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
	"probed/service/dial"
)

// machine is a resolver with files of its own whose servers all are one
// server of the test.
type machine struct {
	t   testing.TB
	dir string
	*Resolver
}

func newMachine(t testing.TB, server *nettest.DNSServer, files map[string]string, config Config) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	path := func(name string) string { return filepath.Join(m.dir, name) }
	config.ResolvConf, config.Hosts, config.Nsswitch = path("resolv.conf"), path("hosts"), path("nsswitch.conf")
	config.GaiConf, config.HostConf = path("gai.conf"), path("host.conf")
	config.Getenv = func(string) string { return "" }
	config.Hostname = func() (string, error) { return "probe-host", nil }
	if server != nil && config.DialServer == nil {
		config.DialServer = func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Addr.String())
		}
	}
	for name, contents := range files {
		m.write(name, contents)
	}
	m.Resolver = New(config)
	return m
}

func (m *machine) write(name, contents string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(contents), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// zone answers from a table of "name type": records; what is not there does not
// exist, unless the name is there with another type.
func zone(records map[string][]string) func(*nettest.DNSExchange) {
	return func(x *nettest.DNSExchange) {
		name := strings.ToLower(x.Name)
		if answer, ok := records[name+" "+dns.TypeToString[x.Type]]; ok {
			x.Send(x.Answer(answer...))
			return
		}
		m := x.Answer()
		m.Rcode = dns.RcodeNameError
		for key := range records {
			if strings.HasPrefix(key, name+" ") {
				m.Rcode = dns.RcodeSuccess
			}
		}
		x.Send(m)
	}
}

func addrs(s ...string) []netip.Addr {
	var list []netip.Addr
	for _, a := range s {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func TestTraceOfTheSearchList(t *testing.T) {
	t.Parallel()
	server := nettest.DNS(t, zone(map[string][]string{
		"www.b.test. A":    {"www.b.test. 60 IN CNAME real.test.", "real.test. 60 IN A 192.0.2.1"},
		"www.b.test. AAAA": {"www.b.test. 60 IN CNAME real.test.", "real.test. 60 IN AAAA 2001:db8::1"},
		"far.test. A":      {"far.test. 60 IN A 192.0.2.2"},
	}))
	m := newMachine(t, server, map[string]string{
		"resolv.conf":   "nameserver 10.0.0.1\nsearch a.test b.test c.test\noptions ndots:5\n",
		"hosts":         "127.0.0.1 localhost\n",
		"nsswitch.conf": "hosts: files mdns4_minimal dns\n",
	}, Config{})

	got, err := m.LookupHost(t.Context(), "www", AF_UNSPEC)
	if err != nil {
		t.Fatal(err)
	}
	if got.CanonicalName != "real.test" || !slices.Equal(got.Aliases, []string{"www.b.test"}) || got.Source != "dns" ||
		!slices.Equal(got.Addresses, addrs("192.0.2.1", "2001:db8::1")) {
		t.Errorf("result %+v", got)
	}
	if want := []string{"4 queries; the full name www.b.test. would need 2"}; !slices.Equal(got.Notes, want) {
		t.Errorf("notes %q, want %q", got.Notes, want)
	}
	var lines []string
	for _, s := range got.Trace {
		lines = append(lines, fmt.Sprintf("%s %s %s %s %s %s %v %v skipped=%v", s.Source, s.Name, s.Type, s.Server, s.Transport, s.Rcode, s.Answers, s.Reason, s.Skipped))
	}
	want := []string{
		"files www     [] name not found skipped=false",
		"mdns4_minimal www     [] none skipped=true",
		"dns www.a.test. A 10.0.0.1:53 udp NXDOMAIN [] name not found skipped=false",
		"dns www.a.test. AAAA 10.0.0.1:53 udp NXDOMAIN [] name not found skipped=false",
		"dns www.b.test. A 10.0.0.1:53 udp NOERROR [CNAME real.test. 192.0.2.1] none skipped=false",
		"dns www.b.test. AAAA 10.0.0.1:53 udp NOERROR [CNAME real.test. 2001:db8::1] none skipped=false",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("trace\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}

	got, err = m.LookupHost(t.Context(), "far.test", AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"4 queries; a trailing dot would need 1"}; !slices.Equal(got.Notes, want) {
		t.Errorf("notes %q, want %q", got.Notes, want)
	}
	got, err = m.LookupHost(t.Context(), "far.test.", AF_INET)
	if err != nil || len(got.Notes) != 0 || len(got.Trace) != 3 {
		t.Errorf("with a trailing dot: %+v, %v", got, err)
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	deny := errors.New("no")
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
		"wrong id":                  {handle: nettest.DNSWrongID, reason: Timeout, server: true},
		"wrong question":            {handle: nettest.DNSWrongQuestion, reason: Timeout, server: true},
		"short":                     {handle: nettest.DNSShort, reason: Timeout, server: true},
		"garbage":                   {handle: nettest.DNSGarbage, reason: Malformed, server: true},
		"echo":                      {handle: nettest.DNSEcho, reason: Malformed, server: true},
		"loop":                      {handle: nettest.DNSLoop, reason: Malformed, server: true},
		"truncated, then truncated": {handle: nettest.DNSTruncate, reason: NoData, server: true},
		"drip":                      {handle: nettest.DNSDrip(50 * time.Millisecond), reason: Timeout, server: true},
		// The C library gives up, too, when the first of two questions stays unanswered.
		"AAAA alone":  {handle: nettest.DNSAnswersOne(dns.TypeAAAA, "2001:db8::1"), reason: Timeout, server: true},
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

// oneAtATime is a server that forgets the first of two questions that come
// close together, as some do.
func oneAtATime() func(*nettest.DNSExchange) {
	var mu sync.Mutex
	var last time.Time
	return func(x *nettest.DNSExchange) {
		mu.Lock()
		busy := time.Since(last) < 100*time.Millisecond
		last = time.Now()
		mu.Unlock()
		if busy {
			return
		}
		x.Wait(100 * time.Millisecond)
		nettest.DNSRecords(1)(x)
	}
}

func halfFails(rcode int) func(*nettest.DNSExchange) {
	return func(x *nettest.DNSExchange) {
		if x.Type == dns.TypeA {
			x.Send(x.Answer(x.Name + " 60 IN A 192.0.2.1"))
			return
		}
		nettest.DNSRcode(rcode)(x)
	}
}

func TestOptionsReachTheWire(t *testing.T) {
	t.Parallel()
	type seen struct {
		transport string
		edns, ad  bool
		types     string
	}
	for name, tt := range map[string]struct {
		options string
		want    seen
	}{
		"none":    {"", seen{"udp", false, false, "A AAAA"}},
		"edns0":   {"edns0", seen{"udp", true, false, "A AAAA"}},
		"use-vc":  {"use-vc", seen{"tcp", false, false, "A AAAA"}},
		"ad":      {"trust-ad", seen{"udp", false, true, "A AAAA"}},
		"no-aaaa": {"no-aaaa", seen{"udp", false, false, "A"}},
		"single":  {"single-request", seen{"udp", false, false, "A AAAA"}},
		"reopen":  {"single-request-reopen", seen{"udp", false, false, "A AAAA"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var got seen
			server := nettest.DNS(t, func(x *nettest.DNSExchange) {
				mu.Lock()
				got.transport, got.ad = x.Transport, x.Query.AuthenticatedData
				got.edns = x.Query.IsEdns0() != nil
				got.types = strings.TrimSpace(got.types + " " + dns.TypeToString[x.Type])
				if o := x.Query.IsEdns0(); o != nil && o.UDPSize() != 1232 {
					t.Errorf("EDNS size %d", o.UDPSize())
				}
				mu.Unlock()
				nettest.DNSRecords(1)(x)
			})
			m := newMachine(t, server, map[string]string{"resolv.conf": "nameserver 10.0.0.1\noptions " + tt.options + "\n"}, Config{})
			if _, err := m.LookupHost(t.Context(), "host.example", AF_UNSPEC); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			types := strings.Fields(got.types)
			slices.Sort(types)
			got.types = strings.Join(types, " ")
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nettest.DNS(t, nettest.DNSRecords(1)), map[string]string{
		"resolv.conf": "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\noptions rotate\n",
	}, Config{})
	servers := map[string]int{}
	for range 9 {
		got, err := m.LookupHost(t.Context(), "host.example", AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		servers[got.Trace[len(got.Trace)-1].Server]++
	}
	if len(servers) != 3 || servers["10.0.0.1:53"] != 3 || servers["10.0.0.2:53"] != 3 {
		t.Errorf("servers %v", servers)
	}
}

func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	asked := make(chan bool, 10)
	m := newMachine(t, nettest.DNS(t, func(*nettest.DNSExchange) { asked <- true }), map[string]string{"resolv.conf": "nameserver 10.0.0.1\n"}, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	began := time.Now()
	_, err := m.LookupHost(ctx, "host.example", AF_UNSPEC)
	var e *Error
	if !errors.As(err, &e) || e.Reason != Cancelled || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nettest.DNS(t, nettest.DNSRcode(dns.RcodeNameError)), map[string]string{
		"resolv.conf": "nameserver 10.0.0.1\n", "hosts": "192.0.2.1 host\n",
	}, Config{})
	for i := range 5 {
		want := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		m.write("hosts", fmt.Sprintf("%s host\n", want))
		server := fmt.Sprintf("10.0.0.%d:53", i+1)
		m.write("resolv.conf", fmt.Sprintf("nameserver 10.0.0.%d\n", i+1))
		for began := time.Now(); ; {
			got, err := m.LookupHost(t.Context(), "host", AF_UNSPEC)
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.LookupHost(t.Context(), "other", AF_UNSPEC)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatal(err)
			}
			if got.Addresses[0] == want && e.Server == server {
				break
			}
			if time.Since(began) > time.Second {
				t.Fatalf("still %v and %s, want %v and %s", got.Addresses, e.Server, want, server)
			}
		}
	}
}

func TestManyCallers(t *testing.T) {
	nettest.CheckFDs(t)
	server := nettest.DNS(t, nettest.DNSRecords(2))
	m := newMachine(t, server, map[string]string{"resolv.conf": "nameserver 10.0.0.1\nsearch a.test\n"}, Config{})
	const each = 200
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range each {
				got, err := m.Addresses(t.Context(), "host.example", AF_UNSPEC)
				if err != nil || len(got.Addresses) != 4 {
					t.Errorf("%+v, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestAddressesAreOrdered(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil, map[string]string{
		"hosts": "198.51.100.1 host\n127.0.0.1 host\n::1 host\n127.0.0.1 host\n",
	}, Config{})
	got, err := m.Addresses(t.Context(), "host", AF_UNSPEC)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Addresses) != 3 || got.Addresses[0] != netip.IPv6Loopback() && got.Addresses[0] != loopback4 {
		t.Errorf("addresses %v", got.Addresses)
	}
}

func TestLocalhostNeverLeaves(t *testing.T) {
	t.Parallel()
	server := nettest.DNS(t, nettest.DNSRecords(1))
	m := newMachine(t, server, map[string]string{"resolv.conf": "nameserver 10.0.0.1\nsearch a.test\n", "nsswitch.conf": "hosts: dns files\n"}, Config{})
	for _, name := range []string{"localhost", "LOCALHOST", "localhost.", "a.localhost", "b.A.Localhost.", "localhost.localdomain"} {
		got, err := m.LookupHost(t.Context(), name, AF_UNSPEC)
		if err != nil || !slices.Equal(got.Addresses, addrs("127.0.0.1", "::1")) || got.Source != "localhost" || got.CanonicalName != unrooted(name) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		got, err = m.LookupHost(t.Context(), name, AF_INET6)
		if err != nil || !slices.Equal(got.Addresses, addrs("::1")) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	m.write("hosts", "127.0.0.9 localhost\n")
	m.current.Store(nil)
	got, err := m.LookupHost(t.Context(), "localhost.", AF_UNSPEC)
	if err != nil || !slices.Equal(got.Addresses, addrs("127.0.0.9")) || got.Source != "files" {
		t.Errorf("from the file: %+v, %v", got, err)
	}
	if n := server.UDP.Load() + server.TCP.Load(); n != 0 {
		t.Errorf("%d queries left the machine", n)
	}
}

func TestIDNA(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nettest.DNS(t, zone(map[string][]string{
		"xn--bcher-kva.example. A": {"xn--bcher-kva.example. 60 IN A 192.0.2.1"},
	})), map[string]string{"resolv.conf": "nameserver 10.0.0.1\n", "hosts": "192.0.2.2 Ünïcode\n"}, Config{})
	got, err := m.LookupHost(t.Context(), "Bücher.example", AF_INET)
	if err != nil || got.CanonicalName != "xn--bcher-kva.example" || !slices.Equal(got.Addresses, addrs("192.0.2.1")) {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = m.LookupHost(t.Context(), "Ünïcode", AF_INET)
	if err != nil || !slices.Equal(got.Addresses, addrs("192.0.2.2")) {
		t.Errorf("from the file: %+v, %v", got, err)
	}
}

func TestLookupAddress(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nettest.DNS(t, zone(map[string][]string{
		"1.2.0.192.in-addr.arpa. PTR": {"1.2.0.192.in-addr.arpa. 60 IN PTR a.example.", "1.2.0.192.in-addr.arpa. 60 IN PTR b.example."},
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR": {
			"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR six.example."},
		"9.2.0.192.in-addr.arpa. TXT": {"9.2.0.192.in-addr.arpa. 60 IN TXT x"},
	})), map[string]string{"resolv.conf": "nameserver 10.0.0.1\n", "hosts": "192.0.2.5 five cinq\n"}, Config{})
	for addr, want := range map[string]struct {
		name    string
		aliases []string
		reason  Reason
	}{
		"192.0.2.1":        {name: "a.example", aliases: []string{"b.example"}},
		"::ffff:192.0.2.1": {name: "a.example", aliases: []string{"b.example"}},
		"2001:db8::1":      {name: "six.example"},
		"192.0.2.5":        {name: "five", aliases: []string{"cinq"}},
		"192.0.2.9":        {reason: NoData},
		"192.0.2.8":        {reason: NotFound},
	} {
		ip := netip.MustParseAddr(addr)
		got, err := m.LookupAddress(t.Context(), ip)
		if want.reason != ReasonNone {
			var e *Error
			if !errors.As(err, &e) || e.Reason != want.reason {
				t.Errorf("%s: %v", addr, err)
			}
			continue
		}
		if err != nil || got.CanonicalName != want.name || !slices.Equal(got.Aliases, want.aliases) || !slices.Equal(got.Addresses, []netip.Addr{ip}) {
			t.Errorf("%s: %+v, %v", addr, got, err)
		}
	}
}

func TestLiterals(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil, nil, Config{})
	for host, want := range map[string]string{
		"127.1": "127.0.0.1", "0x7f.1": "127.0.0.1", "::1": "::1", "fe80::1%1": "fe80::1%" + zoneName(1), "192.0.2.1": "192.0.2.1", "::ffff:1.2.3.4": "::ffff:1.2.3.4",
	} {
		got, err := m.LookupHost(t.Context(), host, AF_UNSPEC)
		if err != nil || got.Source != "literal" || got.CanonicalName != host || !slices.Equal(got.Addresses, addrs(want)) {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	var e *Error
	if _, err := m.LookupHost(t.Context(), "::1", AF_INET); !errors.As(err, &e) || e.Reason != NoData {
		t.Errorf("the other family: %v", err)
	}
}
