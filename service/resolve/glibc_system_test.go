//go:build system

package resolve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// comparison counts how often this package and the C library agree.
type comparison struct {
	t             *testing.T
	name          string
	succeed, fail int // of the C library
	differs       [2]int
	shown         int
}

func (c *comparison) check(request, ours, theirs string, success bool) {
	kind := 1
	if success {
		c.succeed++
		kind = 0
	} else {
		c.fail++
	}
	if ours == theirs {
		return
	}
	c.differs[kind]++
	if c.shown++; c.shown <= 20 {
		c.t.Errorf("%s: %s\n  ours  %s\n  glibc %s", c.name, request, ours, theirs)
	}
}

func (c *comparison) report() {
	c.t.Logf("%d successes, %d different; %d failures, %d different", c.succeed, c.differs[0], c.fail, c.differs[1])
}

type addrInfoCase struct {
	host, service           *string
	family, kind, proto, fl int
}

func (q addrInfoCase) String() string {
	s := func(p *string) string {
		if p == nil {
			return "NULL"
		}
		return fmt.Sprintf("%q", *p)
	}
	return fmt.Sprintf("getaddrinfo(%s, %s, family %d, type %d, protocol %d, flags %#x)", s(q.host), s(q.service), q.family, q.kind, q.proto, q.fl)
}

func (q addrInfoCase) theirs(o *oracle) (string, bool, bool) {
	raw := func(p *string) any {
		if p == nil {
			return nil
		}
		return latin1(*p)
	}
	a := o.ask(map[string]any{"op": "addrinfo", "host": raw(q.host), "service": raw(q.service), "family": q.family, "type": q.kind, "protocol": q.proto, "flags": q.fl})
	if a.Skip != "" {
		return "", false, false
	}
	if a.Error != "" {
		return a.Error, false, true
	}
	var list [][]any
	d := json.NewDecoder(bytes.NewReader(a.OK))
	d.UseNumber()
	must(o.t, d.Decode(&list))
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintln(&b, e...)
	}
	return b.String(), true, true
}

func (q addrInfoCase) ours(r *Resolver) string {
	list, err := r.GetAddrInfo(context.Background(), q.host, q.service, Hints{
		Flags: AIFlags(q.fl), Family: Family(q.family), SocketType: SocketType(q.kind), Protocol: Protocol(q.proto),
	})
	if err != nil {
		var g *GAIError
		if !errors.As(err, &g) {
			return err.Error()
		}
		return g.Code.String()
	}
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintln(&b, int(e.Family), int(e.SocketType), int(e.Protocol), e.CanonicalName,
			formatAddr(e.Address.IP), e.Address.Port, e.Address.FlowInfo, e.Address.ScopeID)
	}
	return b.String()
}

func compareAddrInfo(t *testing.T, w *world, name string, r *Resolver, cases []addrInfoCase) {
	t.Helper()
	o := w.oracle()
	defer o.close()
	c := &comparison{t: t, name: name}
	for _, q := range cases {
		if theirs, ok, asked := q.theirs(o); asked {
			c.check(q.String(), q.ours(r), theirs, ok)
		}
	}
	c.report()
}

func ptr(s string) *string { return &s }

// hosts that need no server, half of them good.
var plainHosts = []string{
	"127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7F000001", "2130706433", "017700000001", "0", "1", "0.0.0.0",
	"255.255.255.255", "256.1.1.1", "1.2.3.256", "1.2.65536", "1.2.65535", "1.16777216", "4294967295", "4294967296",
	"1.2.3.4.5", "1.2.3", "1..2", ".1", "1.", "1.2.3.4.", "08.1", "0x", "0x.1", "0xg", "1.2.3.4 ", " 1.2.3.4", "+1", "-1", "1e1",
	"::", "::1", "::1.2.3.4", "::ffff:1.2.3.4", "::ffff:0:0", "fe80::1", "fe80::1%lo", "fe80::1%1", "fe80::1%net0",
	"fe80::1%nosuch", "fe80::1%", "fe80::1%99", "fe80::1%4294967295", "fe80::1%4294967296", "fe80::1%-1", "fe80::1%0x1", "fe80::1% 1", "fe80::1%1%2",
	"::1%lo", "::1%1", "2001:db8::1%lo", "2001:db8::1%3", "ff02::1%lo", "ff01::1%lo", "ff05::1%lo", "fec0::1%lo", "::ffff:1.2.3.4%1", "1.2.3.4%lo",
	"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "1::2::3", ":1", "1:", ":::", "12345::", "g::1", "2001:DB8::A",
	"1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::01.2.3.4", "::1.2.3.4.5", "[::1]", "[127.0.0.1]",
	"localhost", "LOCALHOST", "LocalHost", "localhost.", "localhost.localdomain", "ip6-localhost", "ip6-allnodes",
	"seventy", "SEVENTY", "seventy.", "other-seventy", "six", "mapped", "indented", "crlf", "crlf-alias", "zoned", "badaddress", "linklocal",
	"dotted.", "dotted", "und_er", "-dash", "probe-host", "PROBE-HOST", "probe-host.example.test", "probe-host.",
	"", ".", "..", "a..b", "*", "**", " ", "a b", "a\tb", "\x01", "\xff", "\xc3\xa9", "b\xc3\xbccher.example", "a/b", "a:b", "a%b", "%lo", "%", "@", "\\", "\\104", "x\\.y",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a", strings.Repeat("a.", 128) + "a", strings.Repeat("x", 300), strings.Repeat("x", 2000),
	"_http._tcp", "_", "-", "0a", "0.a", "f:g", "abc:def",
}

// goodHosts are known by most configurations of the tests below.
var goodHosts = []string{
	"127.0.0.1", "127.1", "0x7f.1", "2130706433", "::1", "fe80::1%lo", "fe80::1%net0", "2001:db8::1", "::ffff:1.2.3.4", "255.255.255.255", "0", "ff02::1%lo",
	"localhost", "LocalHost", "seventy", "Seventy", "mapped", "indented", "crlf-alias", "linklocal", "probe-host", "dotted.", "und_er",
}

var dnsHosts = []string{
	"www.example.test", "www.example.test.", "WWW.Example.TEST", "v4only.example.test", "v6only.example.test", "alias.example.test",
	"chain1.example.test", "chain4.example.test", "chain6.example.test", "dangling.example.test", "nodata.example.test", "cname-nodata.example.test",
	"outside.example.test", "nothing.example.test", "under_score.example.test", "-dash.example.test", "dash-.example.test", "to-bad.example.test",
	"b*d.example.test", "sp ace.example.test", "sp\\032ace.example.test", "upper.example.test", "many.example.test", "many6.example.test",
	"mixed.example.test", "mapped6.example.test", "x.wild.example.test", "two.example.test", "name.servfail.test", "refused.invalid",
	"example.test", "a.b.c.example.test", "www", "alias", "only-a", "only-b", "x.y", "a.b.c", "nodata", "sub.search", "nothing", "anything.wild.test",
	"www.", "www.a.test", "test", "w\\119w.example.test", strings.Repeat("a", 63) + ".example.test",
}

var services = []*string{
	nil, ptr(""), ptr("0"), ptr("80"), ptr("080"), ptr("+80"), ptr("-80"), ptr("-1"), ptr(" 80"), ptr("80 "), ptr("65535"), ptr("65536"), ptr("70000"),
	ptr("4294967376"), ptr("2147483648"), ptr("99999999999999999999"), ptr("0x50"), ptr("http"), ptr("ssh"), ptr("domain"), ptr("tftp"), ptr("snmp"),
	ptr("HTTP"), ptr("nosuchservice"), ptr("www"), ptr("*"), ptr("kerberos"), ptr("1.5"), ptr("-"), ptr("+"),
}

var (
	families = []int{0, 0, 0, 2, 2, 10, 10, 1, 99}
	kinds    = []int{0, 0, 1, 1, 2, 3, 5, 4, 6, 7}
	protos   = []int{0, 0, 0, 0, 6, 17, 132, 136, 33, 1, 255}
	flagBits = []int{1, 2, 4, 8, 0x10, 0x20, 0x400}
)

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// randomHost makes addresses and near-addresses.
func randomHost(rng *rand.Rand) string {
	number := func(limit int) string {
		return fmt.Sprintf(pick(rng, []string{"%d", "%d", "%d", "%#x", "%#o", "0%d"}), rng.IntN(limit))
	}
	switch rng.IntN(6) {
	case 0, 1:
		parts := []string{}
		for range rng.IntN(4) + 1 {
			parts = append(parts, number(pick(rng, []int{256, 256, 300, 70000})))
		}
		return strings.Join(parts, ".")
	case 2, 3:
		groups := []string{}
		for range rng.IntN(8) + 1 {
			groups = append(groups, fmt.Sprintf(pick(rng, []string{"%x", "%X", "%04x", "%05x"}), rng.IntN(70000)))
		}
		s := strings.Join(groups, ":")
		if rng.IntN(3) > 0 {
			i := rng.IntN(len(s) + 1)
			s = s[:i] + "::" + s[i:]
		}
		return s + pick(rng, []string{"", "", "", "%lo", "%2", ":1.2.3.4", "/64"})
	case 4:
		h := []byte(pick(rng, plainHosts))
		if len(h) > 0 {
			h[rng.IntN(len(h))] = pick(rng, []byte("0123456789abcdefx.:% -_"))
		}
		return string(h)
	}
	return pick(rng, []string{"fe80::", "ff02::", "2001:db8::", "::ffff:"}) + fmt.Sprintf("%x", rng.IntN(65536)) + "%" + pick(rng, []string{"lo", "net0", "1", "7", "x", ""})
}

func randomCases(rng *rand.Rand, n int, host func() *string) []addrInfoCase {
	cases := make([]addrInfoCase, n)
	for i := range cases {
		q := addrInfoCase{host: host(), service: pick(rng, services), family: pick(rng, families), kind: pick(rng, kinds), proto: pick(rng, protos)}
		if rng.IntN(5) > 0 { // often enough something that can succeed
			q.service = pick(rng, []*string{nil, ptr("80"), ptr("http"), ptr("domain")})
			q.family, q.proto, q.kind = pick(rng, []int{0, 2, 10}), 0, pick(rng, []int{0, 1, 2})
		}
		for _, bit := range flagBits {
			if rng.IntN(4) == 0 && (bit != 4 && bit != 0x400 || rng.IntN(4) == 0) && (bit != 2 || q.host != nil) {
				q.fl |= bit
			}
		}
		if rng.IntN(50) == 0 {
			q.fl |= pick(rng, []int{0x40, 0x80, 0x100, 0x200, 0x800, 0x4000})
		}
		if rng.IntN(5) < 2 { // so that half of all succeed
			q = addrInfoCase{host: ptr(pick(rng, goodHosts)), service: pick(rng, []*string{nil, ptr("0"), ptr("80"), ptr("http"), ptr("domain"), ptr("65536")}), kind: pick(rng, kinds[:6])}
			if q.kind == 3 || q.kind == 5 {
				q.service = nil
			}
			for _, bit := range []int{1, 2, 8, 0x10} {
				if rng.IntN(3) == 0 {
					q.fl |= bit
				}
			}
			if q.fl&8 != 0 {
				q.family = pick(rng, []int{0, 10})
			}
		}
		cases[i] = q
	}
	return cases
}

func TestGetAddrInfoIsGlibc(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.named()
		rng := rand.New(rand.NewPCG(22, 2))
		plain := func() *string {
			switch rng.IntN(12) {
			case 0:
				return nil
			case 1, 2, 3, 4:
				return ptr(randomHost(rng))
			}
			return ptr(pick(rng, plainHosts))
		}
		dnsToo := func() *string {
			if rng.IntN(4) == 0 {
				return plain()
			}
			return ptr(pick(rng, dnsHosts))
		}
		// A quick server that refuses or is not there must not slow the C library down.
		const quick = "options timeout:1 attempts:1\n"
		for _, s := range []struct {
			name  string
			n     int
			host  func() *string
			setup func()
		}{
			{"usual files", 6000, plain, func() {}},
			{"dns", 3000, dnsToo, func() {}},
			{"search and ndots", 2500, dnsToo, func() {
				w.write("resolv.conf", "nameserver 127.0.0.1\nsearch a.test b.test example.test\noptions ndots:5\n")
			}},
			{"search, ndots 2", 1500, dnsToo, func() {
				w.write("resolv.conf", "nameserver 127.0.0.1\nsearch servfail.test a.test. b.test\noptions ndots:2\n")
			}},
			{"search, refused domain", 1000, dnsToo, func() {
				w.write("resolv.conf", "nameserver 127.0.0.1\nsearch a.test refused.invalid b.test\noptions no-tld-query\n"+quick)
			}},
			{"domain, root in the list", 1000, dnsToo, func() {
				w.write("resolv.conf", "domain b.test\nsearch . b.test\nnameserver 127.0.0.1\n")
			}},
			{"over tcp", 1500, dnsToo, func() {
				w.write("resolv.conf", "nameserver 127.0.0.1\nsearch servfail.test b.test\noptions use-vc ndots:2\n")
			}},
			{"edns0", 1000, dnsToo, func() { w.write("resolv.conf", "nameserver ::1\noptions edns0 trust-ad single-request\n") }},
			{"no-aaaa", 1000, dnsToo, func() {
				w.write("resolv.conf", "nameserver 127.0.0.1\nsearch b.test\noptions no-aaaa single-request-reopen\n")
			}},
			{"first server absent", 600, dnsToo, func() {
				w.write("resolv.conf", "nameserver 127.0.0.9\nnameserver 127.0.0.1\nsearch b.test\n"+quick)
			}},
			{"no server at all", 1000, dnsToo, func() { w.write("resolv.conf", "nameserver 127.0.0.9\nsearch b.test a.test\n"+quick) }},
			{"no server, over tcp", 600, dnsToo, func() { w.write("resolv.conf", "nameserver 127.0.0.9\noptions use-vc\n"+quick) }},
			{"dns files", 1500, dnsToo, func() { w.write("nsswitch.conf", "hosts: dns files\n") }},
			{"files alone", 1000, dnsToo, func() { w.write("nsswitch.conf", "hosts:\tfiles\n") }},
			{"files, stop", 1000, dnsToo, func() { w.write("nsswitch.conf", "hosts: files [NOTFOUND=return] dns\n") }},
			{"an absent module", 1000, dnsToo, func() { w.write("nsswitch.conf", "hosts: files nosuch [NOTFOUND=return] dns\n") }},
			{"an absent module last", 1000, dnsToo, func() { w.write("nsswitch.conf", "hosts: files dns nosuch\n") }},
			{"success goes on", 1000, dnsToo, func() { w.write("nsswitch.conf", "hosts: files [SUCCESS=continue] dns [!UNAVAIL=return] files\n") }},
			{"myhostname", 1500, dnsToo, func() { w.write("nsswitch.conf", "hosts: myhostname dns\n") }},
			{"myhostname, no address", 800, plain, func() {
				w.write("nsswitch.conf", "hosts: myhostname files\n")
				w.addresses()
			}},
			{"no hosts line", 600, dnsToo, func() { w.write("nsswitch.conf", "passwd: files\n") }},
			{"first line alone", 1500, plain, func() { w.write("host.conf", "multi off\n") }},
			{"IPv4 alone", 1500, dnsToo, func() { w.addresses("192.0.2.2/24") }},
			{"IPv6 alone", 1500, dnsToo, func() { w.addresses("2001:db8:1::2/64") }},
			{"no address", 1500, dnsToo, func() { w.addresses() }},
			{"deprecated address", 1000, dnsToo, func() { w.addresses("192.0.2.2/24", "2001:db8:1::2/64 preferred_lft 0") }},
			{"gai.conf", 1500, dnsToo, func() {
				w.write("gai.conf", "precedence ::ffff:0:0/96 100\nlabel 2001:db8::/32 9\nlabel ::/0 3\nscopev4 ::ffff:10.0.0.0/104 5\nscopev4 192.0.2.0/24 2\nreload yes\n")
			}},
		} {
			t.Run(s.name, func(t *testing.T) {
				w.reset()
				s.setup()
				compareAddrInfo(t, w, s.name, worldResolver(t, Config{Timeout: -1}), randomCases(rng, s.n, s.host))
			})
		}
	})
}

func TestAddressOrderIsGlibc(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rng := rand.New(rand.NewPCG(22, 4))
		w.write("nsswitch.conf", "hosts: files\n")
		addr := func() string {
			if rng.IntN(2) == 0 {
				return pick(rng, []string{"192.0.2.%d", "10.0.0.%d", "127.0.0.%d", "169.254.1.%d", "198.51.100.%d", "224.0.0.%d", "192.0.3.%d", "255.255.255.%d", "0.0.0.%d"})
			}
			return pick(rng, []string{"2001:db8:1::%x", "2001:db8:1:0:8000::%x", "2001:db8:2::%x", "fd00::%x", "fd01::%x", "fe80::%x", "fec0::%x", "2002:c000:200::%x", "2001::%x", "::%x", "ff02::%x", "ff05::%x", "::ffff:192.0.2.%d", "64:ff9b::%x", "3ffe::%x"})
		}
		for _, place := range [][]string{
			{"192.0.2.2/24", "fd00::2/64", "2001:db8:1::2/64"},
			{"192.0.2.2/24", "10.0.0.2/8", "2001:db8:1::2/64"},
			{"192.0.2.2/24"}, {"2001:db8:1::2/64"}, {"fd00::2/64", "192.0.2.2/31"}, {"169.254.1.1/16", "2002:c000:200::9/48"}, {},
		} {
			w.addresses(place...)
			for _, gai := range []string{"", "precedence ::ffff:0:0/96 100\n", "label ::1/128 0\nlabel fd00::/8 0\nlabel 2001:db8::/32 5\nscopev4 ::ffff:192.0.2.0/120 2\n"} {
				w.write("gai.conf", gai)
				var hosts strings.Builder
				for i := range 120 {
					for range 2 + rng.IntN(7) {
						fmt.Fprintf(&hosts, addr()+" host%d\n", 1+rng.IntN(250), i)
					}
				}
				w.write("hosts", hosts.String())
				var cases []addrInfoCase
				for i := range 120 {
					cases = append(cases, addrInfoCase{host: ptr(fmt.Sprint("host", i)), service: pick(rng, services[:4]), family: pick(rng, []int{0, 0, 0, 2, 10}), kind: pick(rng, []int{0, 1}), fl: pick(rng, []int{0, 2, 0x18, 8})})
				}
				compareAddrInfo(t, w, fmt.Sprint("order ", place, " ", len(gai)), worldResolver(t, Config{}), cases)
			}
		}
	})
}
