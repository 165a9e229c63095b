package resolve

import (
	"context"
	"net/netip"
	"testing"

	"probed/internal/nettest"
)

// What a lookup costs by each source. The DNS server is in the process, and its part
// in what is measured; its sockets are made anew each time.
func BenchmarkLookups(b *testing.B) {
	server := nettest.DNS(b, zone(map[string][]string{
		"host.example. A":             {"host.example. 60 IN A 192.0.2.1"},
		"host.example. AAAA":          {"host.example. 60 IN AAAA 2001:db8::1"},
		"1.2.0.192.in-addr.arpa. PTR": {"1.2.0.192.in-addr.arpa. 60 IN PTR host.example."},
	}))
	m := newMachine(b, server, map[string]string{
		"resolv.conf": "nameserver 10.0.0.1\n", "hosts": "127.0.0.1 localhost\n192.0.2.2 listed\n",
	}, Config{})
	host := func(name string, family Family) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := m.LookupHost(ctx, name, family)
			return err
		}
	}
	name := "host.example."
	for _, bb := range []struct {
		name   string
		lookup func(context.Context) error
	}{
		{"LookupHost/literal", host("192.0.2.1", AF_UNSPEC)},
		{"LookupHost/hosts", host("listed", AF_UNSPEC)},
		{"LookupHost/DNS", host(name, AF_UNSPEC)},
		{"LookupHost/DNS, A alone", host(name, AF_INET)},
		{"GetAddrInfo/DNS", func(ctx context.Context) error {
			_, err := m.GetAddrInfo(ctx, &name, nil, Hints{SocketType: SOCK_STREAM})
			return err
		}},
		{"LookupAddress/DNS", func(ctx context.Context) error {
			_, err := m.LookupAddress(ctx, netip.MustParseAddr("192.0.2.1"))
			return err
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context()) // as that of a call is: it may end
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if err := bb.lookup(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
