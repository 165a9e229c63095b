package endurance

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"probed/internal/nettest"
)

// routed is two hosts with a router between them: near, where probed runs, and far, where its targets are.
//
//	near 10.9.1.1 ── 10.9.1.254 router 10.9.2.254 ── 10.9.2.1 far
type routed struct{ near, router, far *nettest.Netns }

// farAddresses are those of far.
var farAddresses = []string{"10.9.2.1", "fd09:2::1"}

func newRouted(t *testing.T) routed {
	t.Helper()
	r := routed{nettest.Namespace(t), nettest.Namespace(t), nettest.Namespace(t)}
	link := func(host *nettest.Netns, n int) {
		prefixes := func(of4, of6 string) []netip.Prefix {
			return []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.9.%d.%s/24", n, of4)), netip.MustParsePrefix(fmt.Sprintf("fd09:%d::%s/64", n, of6)),
			}
		}
		// To find a neighbour for somebody else's packet, IPv6 asks from a link-local address.
		nettest.Link(host, prefixes("1", "1"), r.router, append(prefixes("254", "fe"), netip.MustParsePrefix("fe80::fe/64")))
		run(host, fmt.Sprintf("ip route add default via 10.9.%d.254", n), fmt.Sprintf("ip -6 route add default via fd09:%d::fe", n))
	}
	link(r.near, 1)
	link(r.far, 2)
	sysctl(r.router, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
		// Kernels ration their ICMP errors, a few a second; an attempt that gets none sees a drop.
		"net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.icmp_msgs_burst=1000000")
	run(r.router, "nft add table inet t", "nft add chain inet t c { type filter hook forward priority 0; }")
	return r
}

// rule adds one to what the router goes by.
func (r routed) rule(rule string) { run(r.router, "nft add rule inet t c "+rule) }

// listen is a peer at a port of far, on both addresses.
func (r routed) listen(t *testing.T, port uint16, handle func(net.Conn)) {
	t.Helper()
	r.far.Do(func() {
		for _, address := range farAddresses {
			nettest.Listen(t, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))), handle)
		}
	})
}

// run runs commands in a namespace. What is in braces is one word.
func run(n *nettest.Netns, commands ...string) {
	for _, command := range commands {
		before, braces, found := strings.Cut(command, "{")
		words := strings.Fields(before)
		if found {
			words = append(words, "{"+braces)
		}
		n.Run(words[0], words[1:]...)
	}
}

// sysctl sets what a kernel goes by in a namespace, each as KEY=VALUE.
func sysctl(n *nettest.Netns, settings ...string) {
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		n.Run("sh", "-c", fmt.Sprintf("echo %s > /proc/sys/%s", value, strings.ReplaceAll(key, ".", "/")))
	}
}
