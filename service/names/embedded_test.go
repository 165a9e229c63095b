package names

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEmbeddedServices holds the data file to what the rest of the package
// takes for granted, and to facts that anybody can look up.
func TestEmbeddedServices(t *testing.T) {
	t.Parallel()
	entries := parseServices(embeddedServices, SourceIANA)
	count := make(map[string]int)
	for i, s := range entries {
		count[s.Protocol]++
		if i > 0 {
			if c := compareEndpoints(entries[i-1], s); c > 0 {
				t.Errorf("%+v is out of order", s)
			}
		}
	}
	if written := strings.Count("\n"+embeddedServices, "\n") - strings.Count("\n"+embeddedServices, "\n#") - strings.Count(embeddedServices, "\n\n") - 1; written != len(entries) {
		t.Errorf("%d lines, of which %d are entries", written, len(entries))
	}
	for protocol, least := range map[string]int{"tcp": 5900, "udp": 5500, "sctp": 85, "dccp": 9, "ddp": 4} {
		if count[protocol] < least {
			t.Errorf("%d entries for %s, want at least %d", count[protocol], protocol, least)
		}
	}
	table := newServiceTable("", false)
	if len(table.listed) != len(entries) {
		t.Errorf("%d entries, of which %d differ", len(entries), len(table.listed))
	}
	word := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._*/-]*$`)
	for _, s := range entries {
		for _, name := range allNames(s.Name, s.Aliases) {
			if !word.MatchString(name) {
				t.Errorf("%q is no service name", name)
			}
		}
	}
}

func compareEndpoints(a, b Service) int {
	a.Name, b.Name = "", ""
	return compare(cursorOf(&a), cursorOf(&b))
}

// TestWellKnown holds that names and ports that everybody knows answer each
// other where the host has no file, and that each is described.
func TestWellKnown(t *testing.T) {
	t.Parallel()
	tables := open(t, "", "")
	for _, tt := range []struct {
		port     uint16
		protocol string
		name     string
		aliases  []string
	}{
		{7, "tcp", "echo", nil}, {9, "udp", "discard", []string{"sink", "null"}}, {9, "dccp", "discard", nil},
		{20, "tcp", "ftp-data", nil}, {21, "tcp", "ftp", nil}, {22, "tcp", "ssh", nil}, {22, "sctp", "ssh", nil},
		{23, "tcp", "telnet", nil}, {25, "tcp", "smtp", []string{"mail"}}, {43, "tcp", "nicname", []string{"whois"}},
		{53, "tcp", "domain", nil}, {53, "udp", "domain", nil}, {67, "udp", "bootps", nil}, {69, "udp", "tftp", nil},
		{79, "tcp", "finger", nil}, {80, "tcp", "http", []string{"www", "www-http"}}, {80, "udp", "http", []string{"www", "www-http"}},
		{88, "tcp", "kerberos", []string{"kerberos5", "krb5", "kerberos-sec"}}, {110, "tcp", "pop3", []string{"pop-3"}},
		{111, "tcp", "sunrpc", []string{"portmapper", "rpcbind"}}, {113, "tcp", "auth", []string{"authentication", "tap"}},
		{119, "tcp", "nntp", []string{"readnews", "untp"}}, {123, "udp", "ntp", nil}, {143, "tcp", "imap", []string{"imap2"}},
		{161, "udp", "snmp", nil}, {162, "udp", "snmptrap", []string{"snmp-trap"}}, {179, "tcp", "bgp", nil},
		{389, "tcp", "ldap", nil}, {443, "tcp", "https", nil}, {443, "udp", "https", nil}, {445, "tcp", "microsoft-ds", nil},
		{465, "tcp", "submissions", []string{"ssmtp", "smtps"}}, {500, "udp", "isakmp", nil}, {514, "udp", "syslog", nil},
		{514, "tcp", "shell", []string{"cmd", "syslog"}}, {587, "tcp", "submission", nil}, {631, "tcp", "ipp", nil},
		{636, "tcp", "ldaps", nil}, {853, "tcp", "domain-s", nil}, {873, "tcp", "rsync", nil}, {993, "tcp", "imaps", nil},
		{995, "tcp", "pop3s", nil}, {1080, "tcp", "socks", nil}, {1433, "tcp", "ms-sql-s", nil}, {1812, "udp", "radius", nil},
		{1883, "tcp", "mqtt", nil}, {2049, "tcp", "nfs", nil}, {2049, "sctp", "nfs", nil}, {2375, "tcp", "docker", nil},
		{2379, "tcp", "etcd-client", nil}, {2380, "tcp", "etcd-server", nil}, {3306, "tcp", "mysql", nil},
		{3389, "tcp", "ms-wbt-server", nil}, {3478, "udp", "stun", nil}, {3868, "sctp", "diameter", nil},
		{4369, "tcp", "epmd", nil}, {4500, "udp", "ipsec-nat-t", nil}, {4789, "udp", "vxlan", nil}, {5004, "dccp", "avt-profile-1", nil},
		{5060, "udp", "sip", nil}, {5061, "tcp", "sips", []string{"sip-tls"}}, {5222, "tcp", "xmpp-client", []string{"jabber-client"}},
		{5353, "udp", "mdns", nil}, {5432, "tcp", "postgresql", []string{"postgres"}}, {5671, "tcp", "amqps", nil},
		{5672, "tcp", "amqp", nil}, {5672, "sctp", "amqp", nil}, {5900, "tcp", "rfb", []string{"vnc"}}, {6000, "tcp", "x11", []string{"x11-0"}},
		{6063, "udp", "x11", nil}, {6081, "udp", "geneve", nil}, {6379, "tcp", "redis", nil}, {6514, "dccp", "syslog-tls", nil},
		{6667, "tcp", "ircu", nil}, {8080, "tcp", "http-alt", []string{"webcache"}}, {8883, "tcp", "secure-mqtt", nil},
		{9418, "tcp", "git", nil}, {10000, "tcp", "ndmp", nil}, {11211, "tcp", "memcache", nil}, {27017, "tcp", "mongodb", nil},
	} {
		at := tables.Port(tt.port, tt.protocol)
		if len(at) == 0 || at[0].Name != tt.name || !slices.Equal(at[0].Aliases, tt.aliases) || at[0].Description == "" {
			t.Errorf("%d/%s: %+v, want %s %v, described", tt.port, tt.protocol, at, tt.name, tt.aliases)
		}
		for _, name := range allNames(tt.name, tt.aliases) {
			if !slices.ContainsFunc(tables.Service(name, tt.protocol), func(s Service) bool { return s.Port == tt.port }) {
				t.Errorf("%s/%s does not lead to port %d", name, tt.protocol, tt.port)
			}
		}
	}
	// Ports with a second registered name, and classic names that IANA gave to others.
	for name, port := range map[string]uint16{
		"urd": 465, "ident": 113, "ipps": 631, "turn": 3478, "shilp": 2049, "l2f": 1701, "l2tp": 1701,
		"hp-pdl-datastr": 9100, "webmin": 10000, "kerberos4": 750, "rfile": 750, "ircd": 6667, "fsp": 21, "net-assistant": 3283,
	} {
		if !slices.ContainsFunc(tables.Service(name, ""), func(s Service) bool { return s.Port == port }) {
			t.Errorf("%s does not lead to port %d", name, port)
		}
	}
}

// TestEmbeddedProtocols holds that every number IANA has assigned a keyword
// for is there, described, and found by its keyword.
func TestEmbeddedProtocols(t *testing.T) {
	t.Parallel()
	without := []int32{61, 63, 68, 99, 114} // Assigned to "any …", with no keyword.
	entries := parseProtocols(embeddedProtocols, SourceIANA)
	seen := make(map[int32]bool)
	for i, p := range entries {
		seen[p.Number] = true
		if p.Description == "" {
			t.Errorf("%s has no description", p.Name)
		}
		if i > 0 && entries[i-1].Number > p.Number {
			t.Errorf("%s is out of order", p.Name)
		}
	}
	for number := range int32(148) {
		if seen[number] == slices.Contains(without, number) {
			t.Errorf("number %d: listed is %v", number, seen[number])
		}
	}
	tables := open(t, "", "")
	for keyword, number := range map[string]int32{
		"HOPOPT": 0, "ICMP": 1, "IGMP": 2, "GGP": 3, "IPv4": 4, "ST": 5, "TCP": 6, "CBT": 7, "UDP": 17, "RDP": 27, "DCCP": 33,
		"3PC": 34, "TP++": 39, "IPv6": 41, "IPv6-Route": 43, "IPv6-Frag": 44, "RSVP": 46, "GRE": 47, "ESP": 50, "AH": 51,
		"IPv6-ICMP": 58, "IPv6-NoNxt": 59, "IPv6-Opts": 60, "CPHB": 73, "TTP": 84, "IPTM": 84, "EIGRP": 88, "OSPFIGP": 89,
		"Sprite-RPC": 90, "AX.25": 93, "ETHERIP": 97, "PIM": 103, "A/N": 107, "IPComp": 108, "VRRP": 112, "L2TP": 115,
		"SCTP": 132, "FC": 133, "Mobility-Header": 135, "UDPLite": 136, "MPLS-in-IP": 137, "HIP": 139, "Shim6": 140,
		"WESP": 141, "ROHC": 142, "Ethernet": 143, "AGGFRAG": 144, "NSH": 145, "Homa": 146, "BIT-EMU": 147,
	} {
		for _, key := range []string{keyword, strings.ToLower(keyword)} {
			if p, ok := tables.Protocol(key); !ok || p.Number != number {
				t.Errorf("Protocol(%q) = %+v, %v; want %d", key, p, ok, number)
			}
		}
	}
	if p, _ := tables.Protocol("0"); p.Name != "ip" {
		t.Errorf("number 0 is %s, want ip as in every protocols file", p.Name)
	}
}
