package policy

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"probed/internal/promise"
)

// FuzzDecide compares Decide with naive, an evaluator of the same rules that
// shares nothing with it: it works on digits.
func FuzzDecide(f *testing.F) {
	for i, v := range readVectors(f) {
		t := v.target
		a := t.Address.Addr()
		flags := byte(i)
		f.Add(a.AsSlice(), a.Zone(), t.Address.Port(), a.AsSlice(), []byte{127, 0, 0, 1}, flags, t.Network, t.Host, t.Path, caller, []byte{byte(i), 3, 1, 4, 1, 5, byte(i >> 3), 9, 2, 6, 5})
		f.Add(a.AsSlice(), a.Zone(), t.Address.Port(), make([]byte, 4), a.Unmap().AsSlice(), flags>>2, t.Network, t.Host, t.Path, caller, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, target []byte, zone string, port uint16, listener, lift []byte, flags byte, network, host, path, subject string, roles []byte) {
		trial{target, zone, port, listener, lift, flags, network, host, path, subject, roles}.run(t)
	})
}

// trial is one question to both evaluators.
type trial struct {
	target         []byte
	zone           string
	port           uint16
	listener, lift []byte
	flags          byte
	network, host  string
	path, subject  string
	roles          []byte // out of which roles are made
}

func (x trial) has(flag byte) bool { return x.flags&flag != 0 }

const (
	flagLoopback = 1 << iota
	flagSend
	flagSkip
	flagOpen
)

// run returns the rule that decided.
func (x trial) run(t *testing.T) string {
	t.Helper()
	addr, _ := netip.AddrFromSlice(x.target)
	addr = addr.WithZone(x.zone)
	listening, _ := netip.AddrFromSlice(x.listener)
	lifted, _ := netip.AddrFromSlice(x.lift)
	p := &Policy{
		Loopback:  x.has(flagLoopback),
		Open:      x.has(flagOpen),
		Listeners: []netip.AddrPort{netip.AddrPortFrom(listening, 8080)},
		Lift:      []netip.Prefix{netip.PrefixFrom(lifted, lifted.BitLen()), netip.PrefixFrom(lifted, 8)},
		UnixPaths: []string{"/run/open.sock"},
		Roles:     x.makeRoles(addr),
	}
	target := Target{
		Network: x.network, Address: netip.AddrPortFrom(addr, x.port), Path: x.path, Host: x.host,
		Send: x.has(flagSend), SkipVerify: x.has(flagSkip),
	}
	got := p.Decide(x.subject, target)
	want := x.naive(p.Roles)
	allowed := want == "allow-all" || want == "allow-unix-path" || strings.Contains(want, "/")
	if got.Rule != want || got.Allowed != allowed {
		t.Errorf("%+v, listener %v, lift %v, subject %q\nroles %+v: %+v, naive says %q",
			target, listening, lifted, x.subject, p.Roles, got, want)
	}
	// What Explain says amounts to what the roles decide.
	explained := make(map[netip.Addr]string)
	for _, v := range p.Explain(x.subject, target) {
		if v.Mismatch == "" && explained[v.Address] == "" {
			explained[v.Address] = v.Role + "/" + v.Rule
		} else if explained[v.Address] == "" {
			explained[v.Address] = ""
		}
	}
	switch {
	case strings.Contains(got.Rule, "/"):
		for reading, rule := range explained {
			if rule == "" {
				t.Errorf("%+v is allowed, and no rule explained grants %v", target, reading)
			}
		}
		if first := explained[canonical(target.Address.Addr())]; first != got.Rule && explained[netip.Addr{}] != got.Rule {
			t.Errorf("%+v is allowed by %s, and explained by %s", target, got.Rule, first)
		}
	case got.Rule == RuleDenyDefault:
		denied := len(explained) == 0
		for _, rule := range explained {
			denied = denied || rule == ""
		}
		if !denied {
			t.Errorf("%+v is denied, and explained: %v", target, explained)
		}
	}
	name := p.DecideName(x.subject, x.host).Rule
	if granted := slices.ContainsFunc(p.ExplainName(x.subject, x.host), func(v Verdict) bool {
		return v.Mismatch == "" && v.Role+"/"+v.Rule == name
	}); granted != strings.Contains(name, "/") {
		t.Errorf("name %q: %s, and explained: %v", x.host, name, p.ExplainName(x.subject, x.host))
	}
	// Lookups go by fewer parts of the same rules.
	if want := x.naiveName(p.Roles); name != want {
		t.Errorf("name %q, subject %q\nroles %+v: %s, naive says %s", x.host, x.subject, p.Roles, name, want)
	}
	if got, want := p.DecideAddress(x.subject, addr).Rule, x.naiveAddress(p.Roles); got != want {
		t.Errorf("address %v, subject %q\nroles %+v: %s, naive says %s", addr, x.subject, p.Roles, got, want)
	}
	return got.Rule
}

// makeRoles makes roles out of bytes, most of whose parts are near to matching.
func (x trial) makeRoles(addr netip.Addr) []Role {
	bytes := x.roles
	next := func(n int) int {
		if len(bytes) == 0 {
			return 0
		}
		b := int(bytes[0])
		bytes = bytes[1:]
		return b % n
	}
	pick := func(list ...string) string { return list[next(len(list))] }
	embedded := func(at int) netip.Addr {
		if b := addr.AsSlice(); len(b) >= at+4 {
			a, _ := netip.AddrFromSlice(b[at : at+4])
			return a
		}
		return addr
	}
	var roles []Role
	for len(bytes) > 0 && len(roles) < 3 {
		role := Role{Name: pick("a", "b"), Subjects: []string{pick(x.subject, "*", "*:ci", "token:*", "t*k*n*i", "mtls:*", "*ci*", "")}}
		for range 1 + next(4) {
			rule := Rule{Name: pick("x", "y"), Verbs: []Verbs{everyVerb, Connect, Connect | Send, Connect | SkipVerify, Resolve, 0}[next(6)]}
			for range next(3) {
				rule.Networks = append(rule.Networks, pick(x.network, "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "icmp", "icmp4", "icmp6", "unix", "unixgram", ""))
			}
			for range max(0, next(4)-1) {
				_, parent, _ := strings.Cut(x.host, ".")
				rule.Hosts = append(rule.Hosts, pick(x.host, "*", "*.example.com", "*."+x.host, "*."+parent, strings.ToUpper(x.host)+".", "*.", "www.example.com", "", "."))
			}
			for range next(3) {
				a := []netip.Addr{addr, embedded(12), embedded(2), embedded(4), addr.Unmap(), netip.AddrFrom16(addr.As16()), netip.IPv4Unspecified(), netip.IPv6Unspecified()}[next(8)]
				rule.Prefixes = append(rule.Prefixes, netip.PrefixFrom(a, max(0, a.BitLen()-next(130))))
			}
			for range max(0, next(4)-2) {
				rule.Ports = append(rule.Ports, PortRange{x.port - uint16(next(3)), x.port + uint16(next(2))})
			}
			for range max(0, next(5)-3) {
				dir := x.path[:strings.LastIndex(x.path, "/")+1]
				rule.UnixPaths = append(rule.UnixPaths, pick(x.path, dir+"*", "/*", "*", "", "/run/app.sock"))
			}
			role.Rules = append(role.Rules, rule)
		}
		roles = append(roles, role)
	}
	return roles
}

// Random bytes hardly ever look special, so this makes targets up from the parts
// that special ones are made of.
func TestDecideAgainstNaive(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	v4s := []string{"7f000001", "00000000", "00000001", "a9fea9fe", "a9fe0101", "a83f8110", "646464c8", "e0000001",
		"ffffffff", "0a000005", "c0000207", "80fffffe", "56015601", "00000000", "f5fffffe", "7fa9fe00"}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	v4 := func() string { return pick(v4s...) }
	v6 := func() string {
		a, b := v4(), v4()
		s := pick(
			"000000000000000000000000"+a, "00000000000000000000ffff"+a, "0000000000000000ffff0000"+a,
			"0064ff9b0000000000000000"+a, "0064ff9b0001"+a[:4]+"00"+a[4:]+"0000000000",
			"0064ff9b000100"+a[:2]+"00"+a[2:]+"00000000", "0064ff9b0001000000"+a+"000000",
			"0064ff9b0001000000000000"+a, "0064ff9b0001"+b[:4]+b+a+"0000", "0064ff9b0001"+b+"0000"+a,
			"2002"+a+"00000000000000000000", "2002"+a+"0000"+"00005efe"+b, "20010000"+a+"00000000"+b,
			"20010db8"+b+"00005efe"+a, "20010db8"+b+"02005efe"+a, "fe80000000000000"+"00005efe"+a,
			"fd000ec2000000000000000000000254", "fd2000ce000000000000000000000254", "ff020000000000000000000000000001",
			"00000000000000000000000000000001", "20010db8000000000000000000000001",
		)
		return s[:32]
	}
	address := func() []byte {
		b, err := hex.DecodeString(pick(v4(), v6(), v6()))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	seen := make(map[string]int)
	trials := promise.Times(40_000, 700_000)
	for range trials {
		x := trial{
			target: address(), zone: pick("", "", "eth0"), port: []uint16{80, 8080}[r.IntN(2)],
			listener: address(), lift: address(), flags: byte(r.IntN(16)),
			network: pick("tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "icmp", "icmp4", "icmp6", "unix", "unixpacket", "ip"),
			host:    pick("", "", "www.example.com", "WWW.example.COM.", "a.b.example.com", "example.com", "a..example.com", "w\\046.example.com", "\u212a.example.com", "k.example.com"),
			path:    pick("/run/app.sock", "/run/open.sock", "/run/a/b", "/", "@x", "/run/../x", ""),
			subject: pick(caller, caller, "token:cic", "mtls:a", "", "anonymous"),
			roles:   make([]byte, r.IntN(60)),
		}
		for i := range x.roles {
			x.roles[i] = byte(r.Uint32())
		}
		if r.IntN(2) == 0 {
			x.network = pick("tcp", "udp", "icmp")
			x.flags &^= flagOpen
		}
		rule := x.run(t)
		if t.Failed() {
			return
		}
		if strings.Contains(rule, "/") {
			rule = "a role's"
		}
		seen[rule]++
	}
	t.Log(seen)
	for _, rule := range []string{
		"a role's", RuleAllowAll, RuleAllowUnixPath, RuleDenyDefault, RuleDenyUnparsable, RuleDenyUnixPath, RuleDenyOwnListener,
		RuleDenyUnspecified, RuleDenyLoopback, RuleDenyMetadata, RuleDenyLinkLocal, RuleDenyMulticast, RuleDenyBroadcast,
	} {
		if seen[rule] < 100 {
			t.Errorf("%s decided %d times: too few to tell anything", rule, seen[rule])
		}
	}
	promise.PolicyIsSound.Reached(t, "%d decisions, of targets, names and addresses, by each of the %d rules there are and by roles; 0 disagreements", 3*trials, len(seen)-1)
}
