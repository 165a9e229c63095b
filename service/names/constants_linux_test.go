package names

import "testing"

// TestConstantsLinux holds values that are the same on every Linux.
func TestConstantsLinux(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int64{
		"AF_UNSPEC": 0, "AF_UNIX": 1, "AF_LOCAL": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_ROUTE": 16,
		"AF_PACKET": 17, "AF_VSOCK": 40, "SOCK_RAW": 3, "SOCK_SEQPACKET": 5, "IPPROTO_IP": 0, "IPPROTO_ICMP": 1,
		"IPPROTO_TCP": 6, "IPPROTO_UDP": 17, "IPPROTO_IPV6": 41, "IPPROTO_ICMPV6": 58, "IPPROTO_SCTP": 132,
		"IPPROTO_UDPLITE": 136, "IPPROTO_RAW": 255, "IPPROTO_MPTCP": 262, "AI_PASSIVE": 1, "AI_NUMERICSERV": 1024,
		"NI_DGRAM": 16, "NI_MAXHOST": 1025, "EAI_BADFLAGS": -1, "EAI_NONAME": -2, "EAI_IDN_ENCODE": -105,
	} {
		if got := Constants(name); len(got) == 0 || got[0].Name != name || got[0].Value != want {
			t.Errorf("%s = %+v, want %d", name, got, want)
		}
	}
	if n := len(Constants("")); n < 130 {
		t.Errorf("%d constants, want at least 130", n)
	}
}
