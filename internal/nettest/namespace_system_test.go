//go:build system

package nettest

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestNamespaceIsEmptyAndLeft(t *testing.T) {
	t.Parallel()
	outside := TCP(t, Echo)
	n := Namespace(t)
	n.Do(func() {
		ifs, err := net.Interfaces()
		if err != nil || len(ifs) != 1 || ifs[0].Name != "lo" || ifs[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, %v; want lo alone, and up", ifs, err)
		}
		if c, err := net.Dial("tcp4", outside.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialled a listener outside: %v, %v", c, err)
		}
	})
	dial(t, "tcp4", outside.String())
}

func TestLink(t *testing.T) {
	t.Parallel()
	a, b := Namespace(t), Namespace(t)
	p := netip.MustParsePrefix
	Link(a, []netip.Prefix{p("10.9.0.1/24"), p("fd09::1/64")}, b, []netip.Prefix{p("10.9.0.2/24"), p("fd09::2/64")})
	for network, address := range map[string]string{"tcp4": "10.9.0.2:0", "tcp6": "[fd09::2]:0"} {
		var peer net.Addr
		b.Do(func() { peer = Listen(t, network, address, Echo) })
		a.Do(func() {
			d := net.Dialer{Timeout: 5 * time.Second}
			c, err := d.Dial(network, peer.String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
}
