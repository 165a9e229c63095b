package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestParseResolvConf(t *testing.T) {
	t.Parallel()
	servers := func(s ...string) (list []netip.AddrPort) {
		for _, a := range s {
			list = append(list, netip.MustParseAddrPort(a))
		}
		return list
	}
	for name, tt := range map[string]struct {
		text, hostname string
		env            []string
		servers        []netip.AddrPort
		search         []string
		limits         [3]int // ndots, timeout, attempts
		options        string
	}{
		"empty":            {text: ""},
		"three servers":    {text: "nameserver 10.0.0.1\nnameserver 2001:db8::1 # x\nnameserver\t10.3 \nnameserver 10.0.0.4\n", servers: servers("10.0.0.1:53", "[2001:db8::1]:53", "10.0.0.3:53")},
		"bad server":       {text: "nameserver ns.example\nnameserver\n nameserver 10.0.0.1\nnameserver: 10.0.0.2\n"},
		"a zone":           {text: "nameserver fe80::1%1\nnameserver fe80::2%nosuch\n", servers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(zoneName(1)), 53), netip.MustParseAddrPort("[fe80::2]:53")}},
		"comments":         {text: "# nameserver 10.0.0.1\n; search x\n#\n"},
		"last search wins": {text: "search a b\ndomain c\nsearch  d\te.f.\n", search: []string{"d", "e.f."}},
		"domain":           {text: "search a b\ndomain c d\n", search: []string{"c"}},
		"empty search":     {text: "search a\nsearch \nsearch\n", search: []string{"a"}},
		"host's domain":    {hostname: "h.dom.ain", search: []string{"dom.ain"}},
		"options":          {text: "options ndots:3 timeout:7 attempts:4 rotate edns0\noptions use-vc trust-ad\n", limits: [3]int{3, 7, 4}, options: "rotate edns0 use-vc trust-ad"},
		"limits":           {text: "options ndots:99 timeout:99 attempts:99\n", limits: [3]int{15, 30, 5}},
		"nonsense":         {text: "options ndots:x timeout: attempts:0 unheard-of\n", limits: [3]int{0, 0, 0}},
		"single":           {text: "options single-request\n", options: "single-request"},
		"reopen":           {text: "options single-request-reopen no-aaaa no_tld_query\n", options: "single-request-reopen no-tld-query no-aaaa"},
		"RES_OPTIONS":      {text: "options ndots:3\n", env: []string{"RES_OPTIONS", "ndots:5 rotate"}, limits: [3]int{5, 5, 2}, options: "rotate"},
		"LOCALDOMAIN":      {text: "search a b\n", env: []string{"LOCALDOMAIN", "x y\nz"}, search: []string{"x", "y"}},
		"no final newline": {text: "search a\nnameserver 10.0.0.1", search: []string{"a"}, servers: servers("10.0.0.1:53")},
	} {
		if tt.servers == nil {
			tt.servers = servers("127.0.0.1:53")
		}
		if tt.limits == [3]int{} && name != "nonsense" {
			tt.limits = [3]int{1, 5, 2}
		}
		got := parseResolvConf([]byte(tt.text), env(tt.env...), tt.hostname)
		if !slices.Equal(got.servers, tt.servers) || !slices.Equal(got.search, tt.search) ||
			[3]int{got.ndots, got.timeout, got.attempts} != tt.limits || strings.Join(got.options(), " ") != tt.options {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestTryTimeout(t *testing.T) {
	t.Parallel()
	c := &resolvConf{timeout: 5, servers: make([]netip.AddrPort, 3)}
	for i, want := range []time.Duration{5 * time.Second, 3 * time.Second, 6 * time.Second} {
		if got := c.tryTimeout(i); got != want {
			t.Errorf("server %d: %v", i, got)
		}
	}
	c.timeout = 0
	if got := c.tryTimeout(0); got != time.Second {
		t.Errorf("no timeout: %v", got)
	}
}

func TestParseHosts(t *testing.T) {
	t.Parallel()
	f := parseHosts([]byte(usualTestHosts))
	for _, tt := range []struct {
		name   string
		family Family
		multi  bool
		want   string
	}{
		{"a", AF_UNSPEC, true, "a [A2 b a b c] [192.0.2.1 2001:db8::1 192.0.2.2]"},
		{"A", AF_INET, true, "a [A2 a b c] [192.0.2.1 192.0.2.2]"},
		{"a2", AF_INET6, true, ""},
		{"b", AF_UNSPEC, true, "a [b a b c] [2001:db8::1 192.0.2.2]"},
		{"b", AF_UNSPEC, false, "a [b] [2001:db8::1]"},
		{"lo", AF_INET, true, "lo [] [127.0.0.1]"},
		{"lo", AF_UNSPEC, true, "lo [] [::1]"},
		{"crlf", AF_UNSPEC, true, "crlf [end] [192.0.2.3]"},
		{"mapped", AF_INET, true, "mapped [] [192.0.2.4]"},
		{"comment", AF_UNSPEC, true, ""},
		{"zoned", AF_UNSPEC, true, ""},
		{"", AF_UNSPEC, true, " [] [192.0.2.9]"},
	} {
		got := ""
		if e := f.lookupName(tt.name, tt.family, tt.multi); e != nil {
			got = fmt.Sprint(e.name, " ", e.aliases, " ", e.addrs)
		}
		if got != tt.want {
			t.Errorf("%q %v: %s, want %s", tt.name, tt.family, got, tt.want)
		}
	}
	for addr, want := range map[string]string{"192.0.2.1": "a", "127.0.0.1": "lo", "::1": "lo", "192.0.2.4": "mapped", "192.0.2.200": ""} {
		got := ""
		if e := f.lookupAddr(netip.MustParseAddr(addr)); e != nil {
			got = e.name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}

const usualTestHosts = "# comment\n\n192.0.2.1 a A2#b comment\n2001:db8::1\ta  b\r\n192.0.2.2 c a b\n::1 lo\n192.0.2.3 crlf end\r\n::ffff:192.0.2.4 mapped\n" +
	"fe80::1%lo zoned\nnonsense comment\n192.0.2.9\n"

func TestParseNsswitch(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "files[S] dns[S]",
		"hosts: files dns":                   "files[S] dns[S]",
		"  hosts:files\tmyhostname # dns\n":  "files[S] myhostname[S]",
		"passwd: files\nhosts:\n":            "",
		"hosts: dns [NOTFOUND=return] files": "dns[SN] files[S]",
		"hosts: dns [!UNAVAIL=return] files": "dns[SNT] files[S]",
		"hosts: a[SUCCESS=continue  tryagain = RETURN ] b": "a[T] b[S]",
		"hosts: a [SUCCESS=merge] b":                       "a[] b[S]",
		"hosts: a [NONSENSE=return] b":                     "files[S] dns[S]",
		"hosts: a [NOTFOUND=jump] b":                       "files[S] dns[S]",
		"hosts: a [NOTFOUND=return b":                      "files[S] dns[S]",
		"hosts: a []":                                      "files[S] dns[S]",
		"hostsx: a\nnohosts: b\nhosts a\n":                 "a[S]",
	} {
		var got []string
		for _, s := range parseNsswitch([]byte(text)) {
			letters := ""
			for i, stop := range s.returns {
				if stop {
					letters += string("SNUT"[i])
				}
			}
			got = append(got, s.name+"["+letters+"]")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestParseGaiConf(t *testing.T) {
	t.Parallel()
	table := parseGaiConf([]byte("label ::1/128 7\nlabel 2001:db8::/32 8 # x\nlabel bad 1\nlabel ::/129 1\nlabel ::/0 -1\n" +
		"precedence ::ffff:0:0/96 100\nscopev4 10.0.0.0/8 5\nscopev4 ::ffff:192.0.2.0/120 2\nscopev4 ::1/96 1\nreload yes\nscopev4 1.2.3.4/33 1\n"))
	for addr, want := range map[string][3]int{ // label, precedence, scope
		"::1":            {7, 40, 2},
		"2001:db8::1":    {8, 40, 14},
		"2001::1":        {1, 40, 14},
		"10.1.2.3":       {1, 100, 5},
		"192.0.2.9":      {1, 100, 2},
		"127.0.0.1":      {1, 100, 14},
		"fec0::1":        {1, 40, 5},
		"ff05::1":        {1, 40, 5},
		"::ffff:1.2.3.4": {1, 100, 14},
	} {
		a := netip.MustParseAddr(addr)
		if got := [3]int{match(table.labels, a), match(table.precedence, a), table.scope(a)}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if d := parseGaiConf(nil); match(d.labels, netip.MustParseAddr("2002::1")) != 2 || match(d.precedence, netip.MustParseAddr("192.0.2.1")) != 10 {
		t.Error("defaults")
	}
}

func TestHostNameOK(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"": true, ".": true, "a": true, "a.": true, "a.b-c_D9": true, "-a": false, "a.-b": true, "a-": true, "..": false, "a..b": false, ".a": false,
		"a b": false, "a*": false, "é": false, "a\x00": false, label: true, label + "a": false,
		label + "." + label + "." + label + "." + label[:61]: true, label + "." + label + "." + label + "." + label[:62]: false,
		`\097`: true, `\045a`: false, `a\.b`: false, `a\`: false, `a\1`: false, `\256`: false, `\a`: true, `\09x`: false,
	} {
		if got := hostNameOK(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestHostname(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil, map[string]string{"hosts": "192.0.2.1 probe-host.example probe-host\n", "nsswitch.conf": "hosts: files\n"}, Config{})
	got, err := m.GetHostname(t.Context())
	if err != nil || got.Hostname != "probe-host" || got.CanonicalName != "probe-host.example" || !slices.Equal(got.Addresses, addrs("192.0.2.1")) || got.Err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	m.write("hosts", "")
	m.current.Store(nil)
	got, err = m.GetHostname(t.Context())
	if err != nil || got.CanonicalName != "probe-host" || got.Err == nil || got.Err.Reason != NotFound {
		t.Errorf("%+v, %v", got, err)
	}
	m.write("nsswitch.conf", "hosts: myhostname\n")
	m.current.Store(nil)
	if got, err = m.GetHostname(t.Context()); err != nil || got.CanonicalName != "probe-host" || len(got.Addresses) == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVantage(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil, map[string]string{
		"resolv.conf":   "nameserver 10.0.0.1\nnameserver x\nsearch a b\noptions ndots:5 edns0\n",
		"nsswitch.conf": "hosts: files mdns dns\n",
	}, Config{})
	got, err := m.Vantage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lo := slices.IndexFunc(got.Interfaces, func(i Interface) bool { return i.Name == "lo" })
	if lo < 0 || got.Interfaces[lo].Index != 1 || got.Interfaces[lo].MTU == 0 || !slices.Contains(got.Interfaces[lo].Flags, "LOOPBACK") ||
		!slices.Contains(got.Interfaces[lo].Addresses, netip.MustParsePrefix("127.0.0.1/8")) {
		t.Errorf("interfaces %+v", got.Interfaces)
	}
	c := got.Resolver
	if fmt.Sprint(c.Nameservers, c.Search, c.Ndots, c.Timeout, c.Attempts, c.Options, c.Sources) != "[10.0.0.1:53] [a b] 5 5s 2 [edns0] [files mdns dns]" || len(c.Notes) != 1 {
		t.Errorf("resolver %+v", c)
	}
	// Nothing handed out may be used to change what the resolver works with.
	c.Nameservers[0] = netip.AddrPort{}
	if again, _ := m.Vantage(t.Context()); !again.Resolver.Nameservers[0].IsValid() {
		t.Error("the configuration is shared")
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\nsearch a b\noptions ndots:5 timeout:1\n"))
	f.Add([]byte("domain x\r\nnameserver fe80::1%lo\noptions ndots:-1 attempts:99999999999999999999\nsortlist 1/2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := parseResolvConf(data, env("RES_OPTIONS", string(data)), "h.d")
		if n := len(c.servers); n < 1 || n > maxNameservers {
			t.Errorf("%d servers", n)
		}
		if c.ndots < 0 || c.ndots > maxNdots || c.timeout > maxTimeout || c.attempts > maxAttempts {
			t.Errorf("%+v", c)
		}
		for i := range c.servers {
			if d := c.tryTimeout(i); d < time.Second || d > 4*maxTimeout*time.Second {
				t.Errorf("waits %v", d)
			}
		}
	})
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte(usualTestHosts), "a")
	f.Add([]byte("127.0.0.1\tlocalhost loopback # this one\r\n::1 localhost ip6-localhost\n\n#10.0.0.1 gone\n"), "LOCALHOST")
	f.Add([]byte("fe80::1%lo a\n::ffff:10.0.0.1 a b\n10.0.0.1 b a\n0x7f.1 c\n010.0.0.1 c"), "a")
	f.Add([]byte("10.0.0.1\n10.0.0.2 \xff\xfe a\x00b\n 10.0.0.3\ta. a\n"), "a.")
	f.Add([]byte("10.0.0.1 "+strings.Repeat("x", 300)+" "+strings.Repeat("y ", 50)), "y")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		h := parseHosts(data)
		for _, family := range []Family{AF_UNSPEC, AF_INET, AF_INET6} {
			one, all := h.lookupName(name, family, false), h.lookupName(name, family, true)
			if (one == nil) != (all == nil) {
				t.Fatal("multi decides whether there is an answer")
			}
			if all == nil {
				continue
			}
			if one.name != all.name || len(one.addrs) != 1 || one.addrs[0] != all.addrs[0] {
				t.Errorf("%+v and %+v", one, all)
			}
			for _, a := range all.addrs {
				if a.Zone() != "" || family == AF_INET && !a.Is4() || family == AF_INET6 && !a.Is6() {
					t.Errorf("%v for %v", a, family)
				}
			}
		}
		for _, line := range h.lines {
			if h.lookupAddr(line.addr) == nil {
				t.Errorf("%v is not found", line.addr)
			}
		}
	})
}

func FuzzNsswitch(f *testing.F) {
	f.Add([]byte("hosts: files [!UNAVAIL=return] dns\n"))
	f.Add([]byte("hosts:a[x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range parseNsswitch(data) {
			if s.name == "" || strings.ContainsFunc(s.name, isSpace) {
				t.Errorf("%+v", s)
			}
		}
	})
}

func FuzzGaiConf(f *testing.F) {
	f.Add([]byte("label ::1/128 7\nprecedence ::ffff:0:0/96 100\nscopev4 10.0.0.0/8 5\n"), []byte{1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, data, raw []byte) {
		table := parseGaiConf(data)
		if a, ok := netip.AddrFromSlice(raw); ok {
			if match(table.labels, a) < 0 || match(table.precedence, a) < 0 || table.scope(a) < 0 {
				t.Error("an address without a value")
			}
		}
	})
}

// FuzzAnswer lets a server answer with any bytes behind the right id.
func FuzzAnswer(f *testing.F) {
	good := new(dns.Msg)
	good.SetQuestion("host.example.", dns.TypeA)
	good.Response = true
	rr, _ := dns.NewRR("host.example. 60 IN CNAME host.example.")
	good.Answer = append(good.Answer, rr)
	data, _ := good.Pack()
	f.Add(data[2:], false)
	f.Add(data[2:20], true)
	f.Add([]byte{}, false)
	asked := "\x04host\x07example\x00\x00\x01\x00\x01"
	for _, message := range []string{
		"\x83\x80\x00\x01\x00\x00\x00\x00\x00\x00" + asked,                                                                      // cut short, as it says
		"\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00" + asked,                                                                      // NXDOMAIN
		"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + asked + "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01", // an address
		"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + asked + "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x03\x0a\x00\x00",     // of three bytes
		"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + asked + "\xc0\x1d\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x1d",         // a name that is itself
		"\x81\x80\x00\x01\xff\xff\xff\xff\xff\xff" + asked,                                                                      // records it has not
		"\x81\x80\x00\x01\x00\x00\x00\x00\x00\x01" + asked + "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00",                     // EDNS
	} {
		f.Add([]byte(message), false)
		f.Add([]byte(message), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer bool) {
		qtype := dns.TypeA
		if pointer {
			qtype = dns.TypePTR
		}
		q := question{name: "host.example.", qtype: qtype, class: dns.ClassINET, id: 0x1234}
		msg, problem, ours := parseAnswer(append([]byte{0x12, 0x34}, body...), &q)
		if !ours {
			return
		}
		var s Step
		s.describe(msg, problem)
		for _, a := range s.Answers {
			if a != printable(a) {
				t.Errorf("%q in a trace", a)
			}
		}
		if problem != ReasonNone || len(msg.Question) == 0 {
			return
		}
		names, addrs := chain(msg)
		if len(names) == 0 || len(addrs) > len(msg.Answer) {
			t.Errorf("%v %v", names, addrs)
		}
		for _, n := range names[1:] {
			if !hostNameOK(n) {
				t.Errorf("%q is no host name", n)
			}
		}
		pointers(msg)
		loops(msg)
		for _, r := range append(records(msg.Answer), records(msg.Extra)...) {
			if r.Data != printable(r.Data) || r.Name != printable(r.Name) {
				t.Errorf("%+v", r)
			}
		}
	})
}

// FuzzLiteral holds the readers of addresses and numbers against each other.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"127.1", "0x7f.1", "fe80::1%lo", "4294967296", "1.2.3.4", "08", "-1", " 80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := parseAton(s)
		// netip takes for IPv4 what inet_pton(3) takes: four decimal parts, no leading zeros.
		if strict, err := netip.ParseAddr(s); err == nil && strict.Is4() && (!ok || a != strict) {
			t.Errorf("%q: %v, but strictly %v", s, a, strict)
		}
		if ok && !a.Is4() {
			t.Errorf("%q: %v", s, a)
		}
		if n, numeric := serviceNumber(s); !numeric && n != -1 {
			t.Errorf("%q: %d", s, n)
		}
		hostNameOK(s)
	})
}
