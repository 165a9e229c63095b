package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lookups are the roles that the tests below ask about names and addresses.
var lookups = &Policy{Roles: []Role{
	{Name: "dns", Subjects: []string{caller}, Rules: []Rule{
		{Name: "names", Verbs: Resolve, Hosts: []string{"*.example.com"}},
		{Name: "nets", Verbs: Resolve | Connect, Prefixes: prefixes("10.0.0.0/8", "64:ff9b::/96"), Ports: []PortRange{{80, 80}}},
		{Name: "both", Verbs: Resolve, Hosts: []string{"db.test"}, Prefixes: prefixes("192.0.2.0/24")},
		{Name: "sockets", Verbs: everyVerb, UnixPaths: []string{"/run/*"}},
		{Name: "connect", Verbs: Connect | Send | SkipVerify},
	}},
	{Name: "names", Subjects: []string{"mtls:*"}, Rules: []Rule{{Name: "n", Verbs: Resolve, Hosts: []string{"*"}}}},
	{Name: "all", Subjects: []string{"mtls:root", "mtls:r*"}, Rules: []Rule{{Name: "a", Verbs: everyVerb}}},
	{Name: "none", Subjects: []string{"*"}},
}}

func TestDecideName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ subject, host, rule string }{
		{caller, "www.example.com", "dns/names"},
		{caller, "WWW.EXAMPLE.COM.", "dns/names"},
		// No addresses are known yet, so a rule for some of them may be about this name.
		{caller, "anything.test", "dns/nets"},
		{caller, "bücher.example", "dns/nets"},
		{caller, "", "dns/nets"},
		{"mtls:a", "anything.test", "names/n"},
		{"mtls:a", "bücher.example", "names/n"},
		{"mtls:a", "", RuleDenyDefault},
		{"mtls:root", "", "all/a"},
		{"anonymous", "www.example.com", RuleDenyDefault},
		{"", "www.example.com", RuleDenyDefault},
	} {
		want := Decision{strings.Contains(tt.rule, "/"), tt.rule}
		if got := lookups.DecideName(tt.subject, tt.host); got != want {
			t.Errorf("%s, %q: %+v, want %+v", tt.subject, tt.host, got, want)
		}
	}
	named := &Policy{Roles: []Role{{Name: "r", Subjects: []string{"*"}, Rules: []Rule{lookups.Roles[0].Rules[2], lookups.Roles[0].Rules[3]}}}}
	for host, rule := range map[string]string{"db.test": "r/both", "a.test": RuleDenyDefault} {
		if got := named.DecideName("x", host); got.Rule != rule {
			t.Errorf("%q: %+v, want %s", host, got, rule)
		}
	}
}

func TestDecideAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ subject, address, rule string }{
		{caller, "10.1.2.3", "dns/nets"},
		{caller, "::ffff:10.1.2.3", "dns/nets"},
		{caller, "::ffff:10.1.2.3%eth0", "dns/nets"},
		{caller, "11.1.2.3", RuleDenyDefault},
		{caller, "64:ff9b::10.1.2.3", "dns/nets"},
		{caller, "64:ff9b::11.1.2.3", RuleDenyDefault},
		{caller, "192.0.2.1", RuleDenyDefault}, // by a rule with names alone
		{"mtls:a", "10.1.2.3", RuleDenyDefault},
		{"mtls:root", "2001:db8::1", "all/a"},
		// No socket is opened to what is looked up.
		{"mtls:root", "169.254.169.254", "all/a"},
		{"mtls:root", "127.0.0.1", "all/a"},
		{"anonymous", "10.1.2.3", RuleDenyDefault},
	} {
		want := Decision{strings.Contains(tt.rule, "/"), tt.rule}
		if got := lookups.DecideAddress(tt.subject, netip.MustParseAddr(tt.address)); got != want {
			t.Errorf("%s, %s: %+v, want %+v", tt.subject, tt.address, got, want)
		}
	}
	for _, p := range []*Policy{lookups, AllowAll(), {Open: true}} {
		if got := p.DecideAddress("mtls:root", netip.Addr{}); got != (Decision{Rule: RuleDenyUnparsable}) {
			t.Errorf("no address: %+v", got)
		}
	}
}

func TestOpenLookups(t *testing.T) {
	t.Parallel()
	for _, p := range []*Policy{AllowAll(), {Open: true, Roles: lookups.Roles}} {
		want := Decision{true, RuleAllowAll}
		if got := p.DecideName("", "www.example.com"); got != want {
			t.Errorf("name: %+v, want %+v", got, want)
		}
		if got := p.DecideAddress("", netip.MustParseAddr("169.254.169.254")); got != want {
			t.Errorf("address: %+v, want %+v", got, want)
		}
		if !p.Holds("", everyVerb) {
			t.Error("a verb is not held")
		}
		if got := p.Explain("mtls:root", Target{Network: "tcp", Address: netip.MustParseAddrPort("10.0.0.1:80")}); got != nil {
			t.Errorf("explained: %v", got)
		}
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		subject string
		verbs   Verbs
		want    bool
	}{
		{caller, Resolve, true},
		{caller, Connect | Send, true},
		{caller, everyVerb, true}, // for unix sockets
		{"mtls:a", Resolve, true},
		{"mtls:a", Connect, false},
		{"mtls:a", Resolve | Connect, false},
		{"mtls:root", everyVerb, true},
		{"anonymous", Resolve, false},
		{"anonymous", 0, false},
		{"", Resolve, false},
	} {
		if got := lookups.Holds(tt.subject, tt.verbs); got != tt.want {
			t.Errorf("%s, %v: %t", tt.subject, tt.verbs, got)
		}
	}
	// All verbs have to be of one rule.
	apart := &Policy{Roles: []Role{{Subjects: []string{"*"}, Rules: []Rule{{Verbs: Connect}, {Verbs: Send}}}}}
	if apart.Holds("x", Connect|Send) || !apart.Holds("x", Connect) || !apart.Holds("x", Send) {
		t.Error("verbs of two rules were put together")
	}
}

func TestRolesOf(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string][]string{
		caller:       {"dns", "none"},
		"mtls:root":  {"names", "all", "none"},
		"mtls:rest":  {"names", "all", "none"},
		"mtls:a":     {"names", "none"},
		"anonymous":  {"none"},
		"":           nil,
		"xtoken:ci":  {"none"},
		"Token:ci":   {"none"},
		"oidc:mtls:": {"none"},
	} {
		if got := lookups.RolesOf(subject); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", subject, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	p := &Policy{Roles: []Role{
		{Name: "a", Subjects: []string{caller}, Rules: []Rule{
			{Name: "verbs", Verbs: Resolve, Networks: []string{"udp"}},
			{Name: "networks", Verbs: Connect, Networks: []string{"udp", "tcp6", "unix"}, Hosts: []string{"a.test"}},
			{Name: "hosts", Verbs: Connect, Hosts: []string{"a.test"}, Prefixes: prefixes("192.0.2.0/24")},
			{Name: "cidrs", Verbs: Connect, Prefixes: prefixes("192.0.2.0/24"), Ports: []PortRange{{1, 2}}},
			{Name: "ports", Verbs: Connect, Prefixes: prefixes("10.0.0.0/8"), Ports: []PortRange{{1, 2}}},
			{Name: "paths", Verbs: Connect, UnixPaths: []string{"/run/a"}},
		}},
		{Name: "not mine", Subjects: []string{"mtls:x"}, Rules: []Rule{{Name: "all", Verbs: everyVerb}}},
		{Name: "b", Subjects: []string{"token:*"}, Rules: []Rule{{Name: "all", Verbs: Connect | Send}, {Name: "six", Verbs: Connect, Prefixes: prefixes("::/0")}}},
	}}
	four, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("64:ff9b::10.0.0.1")
	of := func(a netip.Addr, network, cidrs string) []Verdict {
		return []Verdict{
			{"a", "verbs", a, "verbs"}, {"a", "networks", a, network}, {"a", "hosts", a, "hosts"}, {"a", "cidrs", a, "cidrs"},
			{"a", "ports", a, "ports"}, {"a", "paths", a, "unix_paths"}, {"b", "all", a, ""}, {"b", "six", a, cidrs},
		}
	}
	both := of(six, "hosts", "")
	both[4].Mismatch = "cidrs"
	both = append(both, of(four, "networks", "cidrs")...)
	for _, tt := range []struct {
		target Target
		want   []Verdict
	}{
		{Target{Network: "tcp", Address: netip.MustParseAddrPort("10.0.0.1:80")}, of(four, "networks", "cidrs")},
		{Target{Network: "tcp4", Address: netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"), Send: true}, []Verdict{
			{"a", "verbs", four, "verbs"}, {"a", "networks", four, "verbs"}, {"a", "hosts", four, "verbs"}, {"a", "cidrs", four, "verbs"},
			{"a", "ports", four, "verbs"}, {"a", "paths", four, "verbs"}, {"b", "all", four, ""}, {"b", "six", four, "verbs"},
		}},
		{Target{Network: "tcp", Address: netip.MustParseAddrPort("[64:ff9b::10.0.0.1]:80")}, both},
		{Target{Network: "unix", Path: "/run/a"}, []Verdict{
			{"a", "verbs", netip.Addr{}, "verbs"}, {"a", "networks", netip.Addr{}, "hosts"}, {"a", "hosts", netip.Addr{}, "hosts"},
			{"a", "cidrs", netip.Addr{}, "cidrs"}, {"a", "ports", netip.Addr{}, "cidrs"}, {"a", "paths", netip.Addr{}, ""},
			{"b", "all", netip.Addr{}, "unix_paths"}, {"b", "six", netip.Addr{}, "cidrs"},
		}},
		{Target{Network: "unix", Path: "@abstract"}, nil},
		{Target{Network: "tcp"}, nil},
		{Target{Network: "ip", Address: netip.MustParseAddrPort("10.0.0.1:80")}, nil},
	} {
		if got := p.Explain(caller, tt.target); !slices.Equal(got, tt.want) {
			t.Errorf("%+v:\n%v, want\n%v", tt.target, got, tt.want)
		}
	}
	want := []Verdict{{"names", "n", netip.Addr{}, ""}, {"all", "a", netip.Addr{}, ""}}
	if got := lookups.ExplainName("mtls:root", "www.example.com"); !slices.Equal(got, want) {
		t.Errorf("name: %v, want %v", got, want)
	}
	want = []Verdict{{"names", "n", netip.Addr{}, MismatchHosts}}
	if got := lookups.ExplainName("mtls:a", ""); !slices.Equal(got, want) {
		t.Errorf("no name: %v, want %v", got, want)
	}
	for _, p := range []*Policy{nil, AllowAll(), {Open: true, Roles: lookups.Roles}} {
		if got := p.ExplainName("mtls:root", "www.example.com"); got != nil {
			t.Errorf("no rule is asked, and yet: %v", got)
		}
	}
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	for verbs, want := range map[Verbs]string{
		0: "none", Resolve: "resolve", Connect: "connect", Send: "send", SkipVerify: "skip-verify",
		everyVerb: "resolve,connect,send,skip-verify", Connect | 0x40: "connect,0x40", 0xf0: "0xf0",
	} {
		if got := verbs.String(); got != want {
			t.Errorf("%d: %q, want %q", verbs, got, want)
		}
	}
	for _, name := range []string{"", "none", "Connect", "connect ", "connect,send", "0x40"} {
		if v, err := ParseVerb(name); err == nil || v != 0 {
			t.Errorf("%q: %v", name, v)
		}
	}
}

// The path of every connect check. A decision by a role has to cost as little as one
// without.
func decisions() map[string]Target {
	address := netip.MustParseAddrPort
	return map[string]Target{
		"prefix":   {Network: "tcp4", Address: address("10.1.2.3:443"), Send: true},
		"mapped":   {Network: "tcp", Address: address("[::ffff:172.16.0.1]:22")},
		"nat64":    {Network: "tcp6", Address: address("[64:ff9b::10.1.2.3]:80")},
		"name":     {Network: "tcp4", Address: address("8.8.8.8:443"), Host: "WWW.example.com.", SkipVerify: true},
		"unix":     {Network: "unix", Path: "/run/many/x"},
		"default":  {Network: "tcp4", Address: address("8.8.8.8:81"), Host: "www.example.org"},
		"metadata": {Network: "tcp4", Address: address("169.254.169.254:80")},
	}
}

func TestDecideAllocatesNothing(t *testing.T) { // not parallel: it counts what the whole process allocates
	p := policies["roles"]
	p.Decide(caller, decisions()["prefix"]) // makes the labels
	for name, target := range decisions() {
		if n := testing.AllocsPerRun(100, func() { p.Decide(caller, target) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, target := range decisions() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policies["roles"].Decide(caller, target)
			}
		})
	}
}

func TestHasRoles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		p    *Policy
		want bool
	}{{nil, true}, {&Policy{}, true}, {&Policy{Roles: []Role{{Name: "a"}}}, true}, {&Policy{Open: true}, false}, {AllowAll(), false}} {
		if got := tt.p.HasRoles(); got != tt.want {
			t.Errorf("%+v: %v", tt.p, got)
		}
	}
}

func TestOperates(t *testing.T) {
	t.Parallel()
	roles := []Role{
		{Name: "a", Subjects: []string{"token:a"}, Rules: []Rule{{Name: "all", Verbs: Connect}}},
		{Name: "b", Subjects: []string{"token:b", "mtls:*"}, Operations: []string{OperationChannelz}},
	}
	for name, tt := range map[string]struct {
		p       *Policy
		subject string
		want    bool
	}{
		"no policy":            {nil, "token:b", false},
		"the user's own":       {AllowAll(), "", true},
		"open":                 {&Policy{Open: true}, "token:b", false},
		"open, on loopback":    {&Policy{Open: true, Loopback: true}, "", true},
		"open, roles or not":   {&Policy{Open: true, Roles: roles}, "token:b", false},
		"without the role":     {&Policy{Roles: roles}, "token:a", false},
		"on loopback, without": {&Policy{Roles: roles, Loopback: true}, "token:a", false},
		"with the role":        {&Policy{Roles: roles}, "token:b", true},
		"by a pattern":         {&Policy{Roles: roles}, "mtls:c", true},
		"nobody":               {&Policy{Roles: []Role{{Subjects: []string{"*"}, Operations: []string{OperationChannelz}}}}, "", false},
	} {
		if got := tt.p.Operates(tt.subject, OperationChannelz); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (&Policy{Roles: roles}).Operates("token:b", "other") {
		t.Error("an operation that no role has")
	}
}
