//go:build system

package resolve

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestGetNameInfoIsGlibc(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.named()
		rng := rand.New(rand.NewPCG(5, 6))
		addresses := []string{
			"127.0.0.1", "127.0.1.1", "127.0.0.2", "::1", "0.0.0.0", "::", "192.0.2.77", "192.0.2.78", "2001:db8::77", "198.51.100.9", "::ffff:198.51.100.9",
			"198.51.100.10", "198.51.100.11", "198.51.100.12", "fe80::99", "10.9.8.7", "ff02::1", "192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14",
			"192.0.2.15", "192.0.2.16", "192.0.2.17", "198.51.100.20", "2001:db8::10", "::ffff:192.0.2.10", "::192.0.2.10", "8.8.8.8", "fe80::1", "ff02::5", "ff01::1",
			"2001:db8:1::2", "192.0.2.2", "::1.2.3.4", "::ffff:0:0", "::1:2", "1::", "64:ff9b::1.2.3.4", "2001:db8::",
		}
		for _, s := range []struct {
			name  string
			setup func()
		}{
			{"usual", func() {}},
			{"dns first", func() { w.write("nsswitch.conf", "hosts: dns files\n") }},
			{"myhostname", func() { w.write("nsswitch.conf", "hosts: files myhostname dns\n") }},
			{"myhostname alone", func() { w.write("nsswitch.conf", "hosts: myhostname\n") }},
			{"no server", func() { w.write("resolv.conf", "nameserver 127.0.0.9\noptions timeout:1 attempts:1\n") }},
			{"files alone", func() { w.write("nsswitch.conf", "hosts: files nosuch\n") }},
			{"a domain", func() {
				w.write("hosts", "127.0.0.1 localhost.example.test localhost\n192.0.2.77 seventy.example.test\n")
			}},
		} {
			t.Run(s.name, func(t *testing.T) {
				w.reset()
				s.setup()
				o := w.oracle()
				defer o.close()
				r := worldResolver(t, Config{Timeout: -1})
				c := &comparison{t: t, name: s.name}
				for range 1500 {
					ip := pick(rng, addresses)
					if rng.IntN(8) == 0 {
						var b [16]byte
						for i := range b {
							b[i] = byte(rng.Uint32() & rng.Uint32())
						}
						ip = netip.AddrFrom16(b).String()
					}
					port := pick(rng, []int{0, 22, 53, 69, 80, 443, 161, 65535, 12345, 512, 514})
					scope := pick(rng, []int{0, 0, 0, 1, 2, 99})
					flags := rng.IntN(64)
					if rng.IntN(40) == 0 {
						flags |= pick(rng, []int{64, 128, 256, 1024})
					}
					address := []any{ip, port}
					addr := netip.MustParseAddr(ip)
					if addr.Is6() {
						address = []any{ip, port, 0, scope}
						if scope != 0 {
							addr = addr.WithZone(fmt.Sprint(scope))
						}
					}
					a := o.ask(map[string]any{"op": "nameinfo", "address": address, "flags": flags})
					theirs := a.Error
					if theirs == "" {
						var pair []string
						must(t, json.Unmarshal(a.OK, &pair))
						theirs = strings.Join(pair, " ")
					}
					info, err := r.GetNameInfo(t.Context(), netip.AddrPortFrom(addr, uint16(port)), NIFlags(flags))
					ours := info.Host + " " + info.Service
					if g, ok := errors.AsType[*GAIError](err); ok {
						ours = g.Code.String()
					}
					c.check(fmt.Sprintf("getnameinfo(%v, %#x)", address, flags), ours, theirs, a.Error == "")
				}
				c.report()
			})
		}
	})
}

// LookupHost and LookupAddress tell what gethostbyname_ex and gethostbyaddr
// tell, each address and alias once.
func TestLookupIsGlibc(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.named()
		for _, s := range []struct {
			name  string
			setup func()
		}{
			{"usual", func() {}},
			{"search", func() {
				w.write("resolv.conf", "nameserver 127.0.0.1\nsearch a.test b.test example.test\noptions ndots:5\n")
			}},
			{"dns first", func() { w.write("nsswitch.conf", "hosts: dns files\n") }},
			{"myhostname", func() { w.write("nsswitch.conf", "hosts: myhostname files\n") }},
		} {
			t.Run(s.name, func(t *testing.T) {
				w.reset()
				s.setup()
				o := w.oracle()
				defer o.close()
				r := worldResolver(t, Config{})
				c := &comparison{t: t, name: s.name}
				for _, host := range slices.Concat(plainHosts, dnsHosts) {
					if isLocalhost(host) || !isASCII(host) || host == "" || host == "*" {
						continue // localhost follows RFC 6761; Python encodes the others, or has its own meaning
					}
					if strings.Contains(host, ":") || parses(host) {
						continue // addresses are their own answers here; Python writes them anew
					}
					a := o.ask(map[string]any{"op": "byname", "host": host})
					if a.Skip != "" {
						continue
					}
					theirs := "fails"
					if a.Error == "" {
						theirs = normal(t, a.OK)
					}
					got, err := r.LookupHost(t.Context(), host, AF_INET)
					ours := "fails"
					if err == nil {
						ours = fmt.Sprint(got.CanonicalName, got.Aliases, addrStrings(got.Addresses))
					}
					c.check("gethostbyname_ex("+host+")", ours, theirs, a.Error == "")
				}
				for i := range 256 {
					for _, format := range []string{"192.0.2.%d", "198.51.100.%d", "2001:db8::%x", "127.0.0.%d"} {
						ip := fmt.Sprintf(format, i)
						a := o.ask(map[string]any{"op": "byaddr", "host": ip})
						theirs := "fails"
						if a.Error == "" {
							theirs = normal(t, a.OK)
						}
						got, err := r.LookupAddress(t.Context(), netip.MustParseAddr(ip))
						ours := "fails"
						if err == nil {
							if got.Source == sourceDNS {
								got.Aliases = nil // the C library drops all names but the first
							}
							ours = fmt.Sprint(got.CanonicalName, got.Aliases, addrStrings(got.Addresses))
						}
						c.check("gethostbyaddr("+ip+")", ours, theirs, a.Error == "")
					}
				}
				c.report()
			})
		}
	})
}

func parses(host string) bool {
	_, ok := parseLiteral(host)
	return ok
}

// normal writes a triple of Python with each value once.
func normal(t *testing.T, data json.RawMessage) string {
	var name string
	var aliases, addresses []string
	must(t, json.Unmarshal(data, &[]any{&name, &aliases, &addresses}))
	return fmt.Sprint(name, distinct(aliases, name), distinct(addresses))
}

// TestRealServer asks bind9 what the C library cannot tell.
func TestRealServer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.named()
		w.write("resolv.conf", "nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:2\n")
		r := worldResolver(t, Config{})
		ctx := t.Context()

		got, err := r.LookupHost(ctx, "chain1.example.test", AF_UNSPEC)
		must(t, err)
		if fmt.Sprint(got.CanonicalName, got.Aliases, got.Addresses) != "www.example.test[chain1.example.test chain2.example.test chain3.example.test] [192.0.2.10 2001:db8::10]" {
			t.Errorf("chain: %+v", got)
		}
		got, err = r.LookupHost(ctx, "many.example.test", AF_UNSPEC)
		must(t, err)
		if len(got.Addresses) != 100 || !slices.ContainsFunc(got.Trace, func(s Step) bool { return s.Truncated }) ||
			got.Trace[len(got.Trace)-1].Transport != "tcp" {
			t.Errorf("many: %d addresses", len(got.Addresses))
		}
		for host, want := range map[string]Reason{
			"nothing.example.test": NotFound, "nodata.example.test": NoData, "cname-nodata.example.test": NoData,
			"dangling.example.test": NotFound, "x.servfail.test.": ServFail, "x.refused.invalid": Refused,
		} {
			_, err := r.LookupHost(ctx, host, AF_UNSPEC)
			var e *Error
			if !errors.As(err, &e) || e.Reason != want || e.Server != "127.0.0.1:53" {
				t.Errorf("%s: %v, want %v", host, err, want)
			}
		}
		w.write("resolv.conf", "nameserver 127.0.0.9\n")
		r.current.Store(nil)
		_, err = r.LookupHost(ctx, "www.example.test", AF_UNSPEC)
		var e *Error
		if !errors.As(err, &e) || e.Reason != Unreachable || e.Server != "127.0.0.9:53" {
			t.Errorf("no server: %v", err)
		}
		w.write("resolv.conf", "nameserver 127.0.0.1\n")
		r.current.Store(nil)

		signed, err := r.QueryDNS(ctx, Query{Name: "www.signed.test", DNSSEC: true})
		must(t, err)
		if len(signed.Answers) != 2 || signed.Answers[1].TypeName != "RRSIG" || !strings.HasPrefix(signed.Answers[1].Data, "A ") || !signed.EDNS.DNSSECOK {
			t.Errorf("signed: %+v", signed)
		}
		for qtype, want := range map[uint16]string{dns.TypeSOA: "ns.example.test. hostmaster.signed.test.", dns.TypeDNSKEY: "257 3 13 ", dns.TypeTXT: `"caf\195\169"`} {
			answer, err := r.QueryDNS(ctx, Query{Name: "signed.test", Type: qtype, Transport: "tcp"})
			must(t, err)
			if !slices.ContainsFunc(answer.Answers, func(r Record) bool { return strings.HasPrefix(r.Data, want) }) {
				t.Errorf("type %d: %+v", qtype, answer.Answers)
			}
		}
	})
}
