package policy

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// policies are the columns of testdata/decisions.txt.
var policies = map[string]*Policy{
	"reachable": {},
	"loopback":  {Loopback: true, Listeners: addrPorts("127.0.0.1:8080", "[::1]:50051", "192.0.2.10:9464")},
	"wildcard4": {Listeners: addrPorts("0.0.0.0:8080")},
	"wildcard6": {Listeners: addrPorts("[::]:8080")},
	"lifted": {
		Listeners: addrPorts("127.0.0.1:8080"),
		Lift: prefixes("169.254.20.10/32", "::ffff:169.254.20.11/128", "127.0.0.1/32", "fe80::1/128",
			"224.0.0.0/24", "169.254.30.0/24", "fd00:ec2::/32"),
	},
	"all":   AllowAll(),
	"paths": {UnixPaths: []string{"/run/app.sock", "/run/many/*", "/run/sub/../odd.sock", "relative/*", "*.sock", "/tmp/"}},
}

func TestDecide(t *testing.T) {
	t.Parallel()
	vectors := readVectors(t)
	if len(vectors) < 150 {
		t.Fatalf("%d vectors, want at least 150", len(vectors))
	}
	for _, v := range vectors {
		want := Decision{Allowed: strings.HasPrefix(v.rule, "allow-"), Rule: v.rule}
		if got := policies[v.policy].Decide(v.target); got != want {
			t.Errorf("line %d: %s: %+v: %+v, want %+v", v.line, v.policy, v.target, got, want)
		}
		// Whether a certificate is verified makes no difference yet.
		v.target.SkipVerify = true
		if got := policies[v.policy].Decide(v.target); got != want {
			t.Errorf("line %d: %s: %+v: %+v, want %+v", v.line, v.policy, v.target, got, want)
		}
	}
}

type vector struct {
	line   int
	policy string
	target Target
	rule   string
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	f, err := os.Open("testdata/decisions.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var (
		all     []vector
		columns []string
	)
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			columns = strings.Fields(strings.Trim(line, "[]"))
			for _, c := range columns {
				if policies[c] == nil {
					t.Fatalf("line %d: no policy %q", n, c)
				}
			}
			continue
		}
		fields := strings.Fields(line)
		if len(columns) == 0 || len(fields) != 2+len(columns) {
			t.Fatalf("line %d: %d fields, want %d", n, len(fields), 2+len(columns))
		}
		target := Target{Network: fields[0]}
		switch {
		case fields[1] == "-":
		case strings.HasPrefix(fields[0], "unix"):
			target.Path = fields[1]
		default:
			if target.Address, err = netip.ParseAddrPort(fields[1]); err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
		}
		for i, c := range columns {
			all = append(all, vector{n, c, target, fields[2+i]})
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// A wildcard listener is reached by every address of the host, whatever they are
// on the machine that runs the test.
func TestWildcardListenerIsEveryInterface(t *testing.T) {
	t.Parallel()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	if len(addrs) == 0 {
		t.Fatal("this host has no addresses")
	}
	for _, wildcard := range []string{"wildcard4", "wildcard6"} {
		p := policies[wildcard]
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
			if d := p.Decide(Target{Network: "tcp", Address: netip.AddrPortFrom(ip, 8080)}); d.Rule != RuleDenyOwnListener {
				t.Errorf("%s: %v: %+v", wildcard, ip, d)
			}
			if d := p.Decide(Target{Network: "tcp", Address: netip.AddrPortFrom(ip, 8081)}); d.Rule == RuleDenyOwnListener {
				t.Errorf("%s: %v, another port: %+v", wildcard, ip, d)
			}
		}
	}
}

func TestNilPolicyDenies(t *testing.T) {
	t.Parallel()
	var p *Policy
	d := p.Decide(Target{Network: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:80")})
	if want := (Decision{Rule: RuleDenyLoopback}); d != want {
		t.Errorf("%+v, want %+v", d, want)
	}
}

func TestUnixPathWithNUL(t *testing.T) {
	t.Parallel()
	for _, p := range []*Policy{AllowAll(), {UnixPaths: []string{"/run/*"}}} {
		for _, path := range []string{"", "\x00abstract", "/run/a\x00b"} {
			if d := p.Decide(Target{Network: "unix", Path: path}); d.Rule != RuleDenyUnixPath {
				t.Errorf("%q: %+v", path, d)
			}
		}
	}
}

func TestUnixRootDirectory(t *testing.T) {
	t.Parallel()
	p := &Policy{UnixPaths: []string{"/*"}}
	for path, want := range map[string]bool{"/a": true, "/a/b": false, "/": false} {
		if d := p.Decide(Target{Network: "unix", Path: path}); d.Allowed != want {
			t.Errorf("%q: %+v, want allowed %t", path, d, want)
		}
	}
}

func TestDecisionErr(t *testing.T) {
	t.Parallel()
	if err := (Decision{Allowed: true, Rule: RuleAllowAll}).Err(); err != nil {
		t.Errorf("allowed: %v", err)
	}
	err := Decision{Rule: RuleDenyMulticast}.Err()
	if e, ok := errors.AsType[*DeniedError](fmt.Errorf("dial: %w", err)); !ok || e.Rule != RuleDenyMulticast {
		t.Errorf("denied: %v", err)
	}
}

func addrPorts(list ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range list {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}
