package exchange

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/resolve"
)

// provenBy names for each reason a test in which an exchange over real sockets fails for it.
var provenBy = map[Reason]struct {
	constant, test string
}{
	NameNotFound:       {"NameNotFound", "TestNamesOverTheWire"},
	NameHasNoAddress:   {"NameHasNoAddress", "TestNamesOverTheWire"},
	DNSTimeout:         {"DNSTimeout", "TestNamesOverTheWire"},
	DNSFailure:         {"DNSFailure", "TestNamesOverTheWire"},
	PolicyDenied:       {"PolicyDenied", "TestPolicyDeniesAll"},
	ConnectionRefused:  {"ConnectionRefused", "TestRouterFaults"},
	ConnectTimeout:     {"ConnectTimeout", "TestRouterFaults"},
	HostUnreachable:    {"HostUnreachable", "TestRouterFaults"},
	NetworkUnreachable: {"NetworkUnreachable", "TestRouterFaults"},
	DeniedLocally:      {"DeniedLocally", "TestNetworkFaults"},
	AddressUnavailable: {"AddressUnavailable", "TestNoLocalAddress"},
	TLSExpired:         {"TLSExpired", "TestOpenSSL"},
	TLSUntrusted:       {"TLSUntrusted", "TestOpenSSL"},
	TLSWrongName:       {"TLSWrongName", "TestOpenSSL"},
	TLSNotSpoken:       {"TLSNotSpoken", "TestTLSToPlain"},
	TLSHandshake:       {"TLSHandshake", "TestOpenSSL"},
	ExpectFailed:       {"ExpectFailed", "TestExpectFails"},
	ConnectionReset:    {"ConnectionReset", "TestFaultsRepeat"},
	BrokenPipe:         {"BrokenPipe", "TestLastWords"},
	ReceiveTimeout:     {"ReceiveTimeout", "TestFaultsRepeat"},
	LimitReached:       {"LimitReached", "TestExpectGroupsAreBounded"},
	Cancelled:          {"Cancelled", "TestEndFromOutside"},
	Drained:            {"Drained", "TestEndFromOutside"},
	SendTimeout:        {"SendTimeout", "TestFaultsRepeat"},
	PeerClosedEarly:    {"PeerClosedEarly", "TestFaultsRepeat"},
	SocketNotFound:     {"SocketNotFound", "TestUnixFailures"},
	WrongSocketType:    {"WrongSocketType", "TestUnixFailures"},
	MessageTooLarge:    {"MessageTooLarge", "TestMessageTooLarge"},
}

// No reason is there that nothing reaches, but for Internal: what reached it would be a bug.
func TestEveryReasonIsProven(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	mentions := make(map[string]map[string]bool) // of the file that a test stands in
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		words := make(map[string]bool)
		ast.Inspect(file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				words[id.Name] = true
			}
			return true
		})
		for _, declared := range file.Decls {
			if f, ok := declared.(*ast.FuncDecl); ok {
				mentions[f.Name.Name] = words
			}
		}
	}
	for reason := None + 1; int(reason) < len(reasons); reason++ {
		proof, ok := provenBy[reason]
		switch {
		case reason == Internal:
		case !ok:
			t.Errorf("nothing is said to reach %v", reason)
		case !mentions[proof.test][proof.constant]:
			t.Errorf("%v: there is no %s that speaks of %s", reason, proof.test, proof.constant)
		}
	}
}

// What name servers do to a lookup.
func TestNamesOverTheWire(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		server func(*nettest.DNSExchange)
		want   Reason
	}{
		{"no such name", nettest.DNSRcode(dns.RcodeNameError), NameNotFound},
		{"no address", nettest.DNSRcode(dns.RcodeSuccess), NameHasNoAddress},
		{"silence", nettest.DNSSilence, DNSTimeout},
		{"failure", nettest.DNSRcode(dns.RcodeServerFailure), DNSFailure},
		{"refused", nettest.DNSRcode(dns.RcodeRefused), DNSFailure},
		{"nobody listens", nil, DNSFailure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			udp, tcp := nettest.RefusedUDP(t), nettest.Refused(t)
			if tt.server != nil {
				udp = nettest.DNS(t, tt.server).Addr
				tcp = udp
			}
			dir := t.TempDir()
			resolver := resolve.New(resolve.Config{
				Hosts: filepath.Join(dir, "none"), Nsswitch: filepath.Join(dir, "none"), ResolvConf: filepath.Join(dir, "none"),
				Timeout: 500 * time.Millisecond,
				DialServer: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
					to := tcp
					if network == "udp" {
						to = udp
					}
					return new(net.Dialer).DialContext(ctx, network, to.String())
				},
			})
			r := trial{
				config:  Config{Resolve: resolver.Addresses},
				request: Request{Target: Target{Scheme: "tcp", Host: "name.example", Port: 80}},
			}.run(t)
			r.wants(t, PhaseResolve, tt.want, EndedByNone)
			if r.Layer != LayerApplication || r.Resolution == nil || r.Route != nil || r.ICMP != nil {
				t.Errorf("%+v", r.Outcome)
			}
		})
	}
}

// A source address or an interface that this host does not have.
func TestNoLocalAddress(t *testing.T) {
	t.Parallel()
	target4, _ := streamTarget(t, "tcp", nettest.Echo)
	target6, _ := streamTarget(t, "tcp6", nettest.Echo)
	datagrams, _ := datagramTarget(t, "udp", nettest.EchoPacket)
	for _, tt := range []struct {
		name    string
		request Request
		errno   syscall.Errno
	}{
		{"source of somebody else", Request{Target: target4, Source: netip.MustParseAddr("198.51.100.77")}, unix.EADDRNOTAVAIL},
		{"source of somebody else, v6", Request{Target: target6, Source: netip.MustParseAddr("2001:db8::77")}, unix.EADDRNOTAVAIL},
		{"source of somebody else, udp", Request{Target: datagrams, Source: netip.MustParseAddr("198.51.100.77")}, unix.EADDRNOTAVAIL},
		{"source of the other family", Request{Target: target4, Source: netip.MustParseAddr("::1")}, unix.EADDRNOTAVAIL},
		{"interface", Request{Target: target4, Interface: "nowhere"}, unix.ENODEV},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := trial{request: tt.request}.run(t)
			r.wants(t, PhaseConnect, AddressUnavailable, EndedByNone)
			if r.Errno != int(tt.errno) || r.Layer != LayerInternet || r.ICMP != nil || len(r.Attempts) != 1 {
				t.Errorf("%s, %+v; want %v", ErrnoName(r.Errno), r.Outcome, tt.errno)
			}
		})
	}
}

// A listener whose queue is full answers no SYN, over IPv6 as over IPv4.
func TestFullBacklog(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil { // which has room for one
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	full6 := netip.AddrPortFrom(netip.IPv6Loopback(), uint16(name.(*unix.SockaddrInet6).Port))
	// The first connects, and the second shows that the queue is full.
	for first := true; ; first = false {
		c, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext(t.Context(), "tcp6", full6.String())
		if err != nil {
			if first {
				t.Fatal(err)
			}
			break
		}
		defer c.Close()
	}
	for _, full := range []netip.AddrPort{nettest.Backlog(t), full6} {
		r := trial{config: Config{ConnectTimeout: 200 * time.Millisecond}, request: Request{Target: ipTarget("tcp", full)}}.run(t)
		r.wants(t, PhaseConnect, ConnectTimeout, EndedByNone)
		if r.Layer != LayerTransport || r.ICMP != nil || r.Route == nil || r.Route.Interface != "lo" {
			t.Errorf("%v: layer %d, by %+v, route %+v", full, r.Layer, r.ICMP, r.Route)
		}
	}
}
