package policy

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// policies are the columns of testdata/decisions.txt.
var policies = map[string]*Policy{
	"reachable": {Open: true},
	"loopback":  {Open: true, Loopback: true, Listeners: addrPorts("127.0.0.1:8080", "[::1]:50051", "192.0.2.10:9464")},
	"wildcard4": {Open: true, Listeners: addrPorts("0.0.0.0:8080")},
	"wildcard6": {Open: true, Listeners: addrPorts("[::]:8080")},
	"lifted": {
		Open:      true,
		Listeners: addrPorts("127.0.0.1:8080"),
		Lift: prefixes("169.254.20.10/32", "::ffff:169.254.20.11/128", "127.0.0.1/32", "fe80::1/128",
			"224.0.0.0/24", "169.254.30.0/24", "fd00:ec2::/32"),
	},
	"all": AllowAll(),
	"paths": {
		Open:      true,
		UnixPaths: []string{"/run/app.sock", "/run/many/*", "/run/sub/../odd.sock", "relative/*", "*.sock", "/tmp/"},
	},
	"zero": {},
	"roles": {
		Loopback:  true,
		Listeners: addrPorts("127.0.0.1:8080"),
		UnixPaths: []string{"/run/open.sock"}, // without effect, since it is not open
		Roles: []Role{
			{Name: "other", Subjects: []string{"mtls:*", "anonymous", "token:c"}, Rules: []Rule{{Name: "all", Verbs: everyVerb}}},
			{Name: "ci", Subjects: []string{caller}, Rules: []Rule{
				{Name: "none", Prefixes: prefixes("10.0.0.0/8")}, // no verbs
				{Name: "look", Verbs: Resolve},
				{
					Name: "web", Verbs: Connect | Send, Networks: []string{"tcp"}, Prefixes: prefixes("10.0.0.0/8"),
					Ports: []PortRange{{80, 80}, {443, 443}, {8000, 8100}},
				},
				{Name: "check", Verbs: Connect, Prefixes: prefixes("192.0.2.99/24", "127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16")},
				{Name: "mapped", Verbs: Connect, Prefixes: prefixes("::ffff:172.16.0.0/108")},
				{
					Name: "embedding", Verbs: Connect,
					Prefixes: prefixes("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::ffff:0:0:0/96", "::/96", "2001:db8::/32"),
				},
				{Name: "insecure", Verbs: Connect | SkipVerify, Hosts: []string{"*.example.com", "Db.Example.NET.", "xn--bcher-kva.example"}},
				{Name: "names", Verbs: Connect, Hosts: []string{"*"}, Ports: []PortRange{{7, 7}}},
				{Name: "odd", Verbs: Connect, Hosts: []string{"*.", "*..", "", ".", "a.*.example", "*b.example", "*.*.example"}},
				{Name: "udp4", Verbs: Connect, Networks: []string{"udp4"}, Prefixes: prefixes("198.51.100.0/24")},
				{Name: "ping", Verbs: Connect, Networks: []string{"icmp4"}, Prefixes: prefixes("198.18.0.0/15", "fd12::/16")},
				{Name: "six", Verbs: Connect, Networks: []string{"tcp6"}, Ports: []PortRange{{6, 6}}},
				{Name: "sockets", Verbs: Connect, Networks: []string{"unix", "unixgram"}, UnixPaths: []string{"/run/app.sock", "/run/many/*"}},
				{Name: "packets", Verbs: Connect | Send, UnixPaths: []string{"/run/seq.sock", "@abstract", "relative/*"}},
				{Name: "never", Verbs: everyVerb, Prefixes: prefixes("203.0.113.0/24"), UnixPaths: []string{"/run/never.sock"}},
				{Name: "nor", Verbs: everyVerb, Hosts: []string{"*"}, UnixPaths: []string{"/run/never.sock"}},
				{Name: "neither", Verbs: everyVerb, Ports: []PortRange{{0, 65535}}, UnixPaths: []string{"/run/never.sock"}},
			}},
		},
	},
	"everybody": {Roles: []Role{{Name: "r", Subjects: []string{"*"}, Rules: []Rule{{Name: "all", Verbs: everyVerb}}}}},
}

const (
	caller    = "token:ci"
	everyVerb = Resolve | Connect | Send | SkipVerify
)

func TestDecide(t *testing.T) {
	t.Parallel()
	vectors := readVectors(t)
	if len(vectors) < 400 {
		t.Fatalf("%d vectors, want at least 400", len(vectors))
	}
	for _, v := range vectors {
		p := policies[v.policy]
		if got, want := p.Decide(caller, v.target), (Decision{Allowed: v.allowed(), Rule: v.rule}); got != want {
			t.Errorf("line %d: %s: %+v: %+v, want %+v", v.line, v.policy, v.target, got, want)
		}
	}
}

// Every vector of a policy that is open, under policies that differ from it in what
// roles there are.
func TestDecideWithRoles(t *testing.T) {
	t.Parallel()
	for _, v := range readVectors(t) {
		p := policies[v.policy]
		if !p.Open {
			continue
		}
		check := func(what, subject, rule string, roles ...Role) {
			t.Helper()
			p := &Policy{Loopback: p.Loopback, Listeners: p.Listeners, Lift: p.Lift, UnixPaths: p.UnixPaths, Roles: roles}
			want := Decision{Allowed: strings.Contains(rule, "/"), Rule: rule}
			for _, flags := range []Target{{}, {Send: true}, {SkipVerify: true}, {Send: true, SkipVerify: true}} {
				target := v.target
				target.Send, target.SkipVerify = flags.Send, flags.SkipVerify
				if got := p.Decide(subject, target); got != want {
					t.Errorf("line %d: %s, %s: %+v: %+v, want %+v", v.line, v.policy, what, target, got, want)
				}
			}
		}
		role := func(rules ...Rule) Role { return Role{Name: "r", Subjects: []string{caller}, Rules: rules} }
		forbidden := func(otherwise string) string {
			if v.rule == RuleAllowAll {
				return otherwise
			}
			return v.rule
		}
		if strings.HasPrefix(v.target.Network, "unix") {
			if path := v.target.Path; namesSocket(path) {
				check("no roles", caller, RuleDenyDefault)
				check("the path", caller, "r/a", role(Rule{Name: "a", Verbs: everyVerb, UnixPaths: []string{path}}))
				check("no paths", caller, RuleDenyDefault, role(Rule{Name: "a", Verbs: everyVerb}))
			} else {
				check("the path", caller, RuleDenyUnixPath, role(Rule{Name: "a", Verbs: everyVerb, UnixPaths: []string{path}}))
			}
			continue
		}
		all := Rule{Name: "all", Verbs: everyVerb}
		check("no roles", caller, forbidden(RuleDenyDefault))
		check("all", caller, forbidden("r/all"), role(all))
		check("another subject", "token:c", forbidden(RuleDenyDefault), role(all))
		check("nobody", "", forbidden(RuleDenyDefault), role(all))
		check("a verb too few", caller, forbidden(RuleDenyDefault), role(
			Rule{Name: "a", Verbs: Resolve | Send | SkipVerify}, Rule{Name: "b", Verbs: Resolve | Connect, Ports: []PortRange{{1, 0}}}))
		check("unix paths", caller, forbidden(RuleDenyDefault), role(Rule{Name: "a", Verbs: everyVerb, UnixPaths: []string{"/*"}}))
		if !v.target.Address.IsValid() || v.rule != RuleAllowAll {
			continue
		}
		// Each reading has a rule of its own; all are needed.
		readings := appendReadings(nil, canonical(v.target.Address.Addr()))
		var rules []Rule
		for i, reading := range readings {
			bits := reading.BitLen()
			if isUnspecified(reading) {
				check("an unspecified address", caller, RuleDenyDefault, role(
					Rule{Name: "a", Verbs: everyVerb, Prefixes: []netip.Prefix{netip.PrefixFrom(reading, bits), netip.PrefixFrom(reading, 8)}}))
				bits = 0
			}
			if i > 0 && !slices.ContainsFunc(rules, func(r Rule) bool { return r.Prefixes[0].Contains(reading) }) {
				check("a reading too few", caller, RuleDenyDefault, role(rules...))
			}
			rules = append(rules, Rule{Name: fmt.Sprint(i), Verbs: everyVerb, Prefixes: []netip.Prefix{netip.PrefixFrom(reading, bits)}})
		}
		check("exact", caller, "r/0", role(rules...))
	}
}

type vector struct {
	line   int
	policy string
	target Target
	rule   string
}

// allowed says what the rule decided.
func (v vector) allowed() bool {
	return strings.HasPrefix(v.rule, "allow-") || strings.Contains(v.rule, "/")
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
		network, flags, _ := strings.Cut(fields[0], "+")
		target := Target{Network: network, Send: strings.Contains(flags, "send"), SkipVerify: strings.Contains(flags, "skip")}
		host, address, named := strings.Cut(fields[1], "|")
		if !named {
			host, address = "", host
		}
		target.Host = host
		switch {
		case address == "-":
		case strings.HasPrefix(network, "unix"):
			target.Path = address
		default:
			if target.Address, err = netip.ParseAddrPort(address); err != nil {
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
			if d := p.Decide("", Target{Network: "tcp", Address: netip.AddrPortFrom(ip, 8080)}); d.Rule != RuleDenyOwnListener {
				t.Errorf("%s: %v: %+v", wildcard, ip, d)
			}
			if d := p.Decide("", Target{Network: "tcp", Address: netip.AddrPortFrom(ip, 8081)}); d.Rule == RuleDenyOwnListener {
				t.Errorf("%s: %v, another port: %+v", wildcard, ip, d)
			}
		}
	}
}

func TestNilPolicyDenies(t *testing.T) {
	t.Parallel()
	var p *Policy
	for address, rule := range map[string]string{"127.0.0.1:80": RuleDenyLoopback, "192.0.2.1:80": RuleDenyDefault} {
		d := p.Decide("anonymous", Target{Network: "tcp", Address: netip.MustParseAddrPort(address)})
		if want := (Decision{Rule: rule}); d != want {
			t.Errorf("%s: %+v, want %+v", address, d, want)
		}
	}
	if d := p.Decide("anonymous", Target{Network: "unix", Path: "/run/a"}); d != (Decision{Rule: RuleDenyDefault}) {
		t.Errorf("path: %+v", d)
	}
	if d := p.DecideName("anonymous", "a.example"); d != (Decision{Rule: RuleDenyDefault}) {
		t.Errorf("name: %+v", d)
	}
	if d := p.DecideAddress("anonymous", netip.MustParseAddr("192.0.2.1")); d != (Decision{Rule: RuleDenyDefault}) {
		t.Errorf("address: %+v", d)
	}
	if p.Holds("anonymous", 0) || p.RolesOf("anonymous") != nil || p.Explain("anonymous", Target{}) != nil {
		t.Error("a nil policy has roles")
	}
}

func TestUnixPathWithNUL(t *testing.T) {
	t.Parallel()
	paths := []string{"/run/*", "\x00abstract", "/run/a\x00b", ""}
	byRole := &Policy{Roles: []Role{{Subjects: []string{"*"}, Rules: []Rule{{Verbs: everyVerb, UnixPaths: paths}}}}}
	for _, p := range []*Policy{AllowAll(), {Open: true, UnixPaths: paths}, byRole} {
		for _, path := range []string{"", "\x00abstract", "/run/a\x00b"} {
			if d := p.Decide("x", Target{Network: "unix", Path: path}); d.Rule != RuleDenyUnixPath {
				t.Errorf("%q: %+v", path, d)
			}
		}
	}
}

func TestUnixRootDirectory(t *testing.T) {
	t.Parallel()
	p := &Policy{Open: true, UnixPaths: []string{"/*"}}
	for path, want := range map[string]bool{"/a": true, "/a/b": false, "/": false} {
		if d := p.Decide("", Target{Network: "unix", Path: path}); d.Allowed != want {
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
