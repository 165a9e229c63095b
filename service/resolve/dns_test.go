package resolve

import (
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
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
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
