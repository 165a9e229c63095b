package resolve

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
)

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
