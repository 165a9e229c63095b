package exchange

import (
	"errors"
	"strings"
	"testing"
	"unicode"
)

// table is a services table with two names.
func table(service, protocol string) (uint16, bool) {
	switch service + "/" + protocol {
	case "http/tcp":
		return 80, true
	case "domain/udp":
		return 53, true
	case "null/tcp":
		return 0, true
	}
	return 0, false
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		want Target
		out  string // empty: as in
	}{
		{"example.org:80", Target{Scheme: "tcp", Host: "example.org", Port: 80}, "tcp://example.org:80"},
		{"tcp://example.org:http", Target{Scheme: "tcp", Host: "example.org", Port: 80}, "tcp://example.org:80"},
		{"TCP://example.org:1", Target{Scheme: "tcp", Host: "example.org", Port: 1}, "tcp://example.org:1"},
		{"tcp4://127.0.0.1:65535", Target{Scheme: "tcp4", Host: "127.0.0.1", Port: 65535}, ""},
		{"tcp6://[::1]:080", Target{Scheme: "tcp6", Host: "::1", Port: 80}, "tcp6://[::1]:80"},
		{"udp://ns:domain", Target{Scheme: "udp", Host: "ns", Port: 53}, "udp://ns:53"},
		{"udp4://ns:53", Target{Scheme: "udp4", Host: "ns", Port: 53}, ""},
		{"udp6://[2001:db8::1]:domain", Target{Scheme: "udp6", Host: "2001:db8::1", Port: 53}, "udp6://[2001:db8::1]:53"},
		{"tls://example.org:http", Target{Scheme: "tls", Host: "example.org", Port: 80}, "tls://example.org:80"},
		{"[::ffff:127.0.0.1]:7", Target{Scheme: "tcp", Host: "::ffff:127.0.0.1", Port: 7}, "tcp://[::ffff:127.0.0.1]:7"},
		{"[fe80::1%eth0]:80", Target{Scheme: "tcp", Host: "fe80::1%eth0", Port: 80}, "tcp://[fe80::1%eth0]:80"},
		{"[fe80::1%25eth0]:80", Target{Scheme: "tcp", Host: "fe80::1%eth0", Port: 80}, "tcp://[fe80::1%eth0]:80"},
		{"[fe80::1%25]:80", Target{Scheme: "tcp", Host: "fe80::1%25", Port: 80}, "tcp://[fe80::1%25]:80"},
		{"[fe80::1%252512]:80", Target{Scheme: "tcp", Host: "fe80::1%2512", Port: 80}, "tcp://[fe80::1%252512]:80"},
		{"0:80", Target{Scheme: "tcp", Host: "0", Port: 80}, "tcp://0:80"},
		{"bücher.example:80", Target{Scheme: "tcp", Host: "bücher.example", Port: 80}, "tcp://bücher.example:80"},
		{"host%x:80", Target{Scheme: "tcp", Host: "host%x", Port: 80}, "tcp://host%x:80"},
		{"unix:///run/x.sock", Target{Scheme: "unix", Path: "/run/x.sock"}, ""},
		{"unixgram:///run/a b:80", Target{Scheme: "unixgram", Path: "/run/a b:80"}, ""},
		{"unixpacket:///a://b", Target{Scheme: "unixpacket", Path: "/a://b"}, ""},
		{"icmp://example.org", Target{Scheme: "icmp", Host: "example.org"}, ""},
		{"ICMP4://127.0.0.1", Target{Scheme: "icmp4", Host: "127.0.0.1"}, "icmp4://127.0.0.1"},
		{"icmp6://[::1]", Target{Scheme: "icmp6", Host: "::1"}, ""},
		{"icmp://[fe80::1%25eth0]", Target{Scheme: "icmp", Host: "fe80::1%eth0"}, "icmp://[fe80::1%eth0]"},
		{"icmp://[fe80::1%252512]", Target{Scheme: "icmp", Host: "fe80::1%2512"}, ""},
		{"icmp://bücher.example", Target{Scheme: "icmp", Host: "bücher.example"}, ""},
		{"unix://@abstract", Target{Scheme: "unix", Path: "@abstract"}, ""},
	} {
		got, err := ParseTarget(tt.in, table)
		if err != nil || got != tt.want {
			t.Errorf("%q: %+v, %v; want %+v", tt.in, got, err, tt.want)
			continue
		}
		out := tt.out
		if out == "" {
			out = tt.in
		}
		if got.String() != out {
			t.Errorf("%q is written %q, want %q", tt.in, got, out)
		}
	}
}

func TestParseTargetRefuses(t *testing.T) {
	t.Parallel()
	const (
		service = "no service: a port or a service name follows the host, as "
		schemes = ": it is one of tcp, tcp4, tcp6, udp, udp4, udp6, icmp, icmp4, icmp6, tls, unix, unixgram, unixpacket"
		unix    = "the path of a unix socket is absolute, as unix:///run/x.sock"
		table1  = ": give a port, 1 to 65535, or a name of the services table"
	)
	for in, want := range map[string]string{
		"":                        "the target is empty: it is [scheme://]host:service, as tcp://example.org:80",
		"http://example.org":      `unknown scheme "http"` + schemes,
		"://example.org:80":       `unknown scheme ""` + schemes,
		"ip://127.0.0.1:80":       `unknown scheme "ip"` + schemes,
		"unixx:///run/x":          `unknown scheme "unixx"` + schemes,
		"example.org":             service + "example.org:80",
		"tcp://example.org":       service + "example.org:80",
		"tcp://":                  "no host: before the colon comes a name or an address; this host itself is 127.0.0.1 or [::1]",
		"example.org:":            "no service: behind the colon comes a port or a service name",
		"[::1]:":                  "no service: behind the colon comes a port or a service name",
		"[::1]":                   "no service: behind [::1] comes a colon and a port or a service name",
		"[::1]80":                 "no service: behind [::1] comes a colon and a port or a service name",
		"[::1":                    "the bracket before the IPv6 address is not closed",
		"[127.0.0.1]:80":          `"127.0.0.1" in brackets is no IPv6 address`,
		"[example.org]:80":        `"example.org" in brackets is no IPv6 address`,
		"[]:80":                   `"" in brackets is no IPv6 address`,
		"[fe80::1%]:80":           `"fe80::1%" in brackets is no IPv6 address`,
		"[::1]]:80":               "no service: behind [::1] comes a colon and a port or a service name",
		"::1":                     "an IPv6 address stands in brackets, as [::1]:80",
		"::1:80":                  "an IPv6 address stands in brackets, as [::1]:80",
		"tcp:127.0.0.1:80":        "an IPv6 address stands in brackets, as [::1]:80",
		":80":                     "no host: before the colon comes a name or an address; this host itself is 127.0.0.1 or [::1]",
		"tcp://:http":             "no host: before the colon comes a name or an address; this host itself is 127.0.0.1 or [::1]",
		"example.org:0":           "port 0 is out of range: 1 to 65535",
		"example.org:65536":       "port 65536 is out of range: 1 to 65535",
		"example.org:70000":       "port 70000 is out of range: 1 to 65535",
		"x:99999999999999999999":  "port 99999999999999999999 is out of range: 1 to 65535",
		"example.org:-1":          `unknown service "-1" for tcp` + table1,
		"example.org:+80":         `unknown service "+80" for tcp` + table1,
		"example.org: 80":         `unknown service " 80" for tcp` + table1,
		"example.org:nosuch":      `unknown service "nosuch" for tcp` + table1,
		"udp://example.org:http":  `unknown service "http" for udp` + table1,
		"tcp://example.org:null":  `unknown service "null" for tcp` + table1,
		"tcp://example.org:80/":   `unknown service "80/" for tcp` + table1,
		"tcp://example.org/x:80":  `"example.org/x" is no host: it is a name or an address`,
		"tcp://user@host:80":      `"user@host" is no host: it is a name or an address`,
		"tcp://a b:80":            `"a b" is no host: it is a name or an address`,
		"x[::1]:80":               "an IPv6 address stands in brackets, as [::1]:80",
		"icmp://":                 "no host: behind icmp:// comes a name or an address; this host itself is 127.0.0.1 or [::1]",
		"icmp6://:80":             "no host: behind icmp6:// comes a name or an address; this host itself is 127.0.0.1 or [::1]",
		"icmp://db:80":            "ICMP has no ports: the target ends behind the host, as icmp://db",
		"icmp://db:":              "ICMP has no ports: the target ends behind the host, as icmp://db",
		"icmp4://[::1]:80":        "ICMP has no ports: the target ends behind the host, as icmp4://[::1]",
		"icmp://[::1]x":           "ICMP has no ports: the target ends behind the host, as icmp://[::1]",
		"icmp://[::1":             "the bracket before the IPv6 address is not closed",
		"icmp://[db]":             `"db" in brackets is no IPv6 address`,
		"icmp://::1":              "an IPv6 address stands in brackets, as icmp://[::1]",
		"icmp://db/":              `"db/" is no host: it is a name or an address`,
		"icmp://a b":              `"a b" is no host: it is a name or an address`,
		"unix://run/x.sock":       unix,
		"unix://":                 unix,
		"unix://./x":              unix,
		"unixgram://x":            strings.Replace(unix, "unix:", "unixgram:", 1),
		"tcp://exa\x00mple:80":    "the target has a control character in it",
		"tcp://example.org:80\n":  "the target has a control character in it",
		"unix:///run/\x7fx.sock":  "the target has a control character in it",
		"unix:///run/x.sock\x00y": "the target has a control character in it",
		"\tx:80":                  "the target has a control character in it",
	} {
		target, err := ParseTarget(in, table)
		var bad *TargetError
		if !errors.As(err, &bad) || bad.Target != in || err.Error() != want || target != (Target{}) {
			t.Errorf("%q: %+v, %v\nwant %s", in, target, err, want)
		}
	}
	if _, err := ParseTarget("x:http", nil); err == nil {
		t.Error("a service name without a table was read")
	}
}

func TestSchemes(t *testing.T) {
	t.Parallel()
	for _, scheme := range Schemes() {
		target := Target{Scheme: scheme}
		unix, gram := strings.HasPrefix(scheme, "unix"), strings.HasPrefix(scheme, "udp") || strings.HasPrefix(scheme, "icmp") || scheme == "unixgram"
		if target.IsUnix() != unix || target.IsDatagram() != gram || target.HasMessages() != (gram || scheme == "unixpacket") {
			t.Errorf("%s: unix %v, datagram %v, messages %v", scheme, target.IsUnix(), target.IsDatagram(), target.HasMessages())
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"example.org:80", "tcp://[::1]:http", "[fe80::1%25eth0]:80", "[fe80::1%252525]:1", "unix:///run/x.sock", "unix://@a", "udp://ns:domain", "icmp://a", "icmp://[fe80::1%25eth0]", "icmp6://a:b",
		"tls://a:1", "::1", "[::1]", "a:b:c", "://", "tcp://", "x:70000", "x:", ":80", "TCP4://X:080", "unixpacket:///a://b:1", "a%25b:1", "[::%25]:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s, table)
		if err != nil {
			var bad *TargetError
			if !errors.As(err, &bad) || bad.Target != s || bad.Reason == "" || target != (Target{}) {
				t.Fatalf("%q: %+v, %#v", s, target, err)
			}
			return
		}
		if strings.ContainsFunc(target.Host+target.Path, unicode.IsControl) && !strings.ContainsFunc(s, unicode.IsControl) {
			t.Fatalf("%q: %+v has a control character of its own", s, target)
		}
		if target.IsUnix() != (target.Path != "") || target.IsUnix() != (target.Host == "") || (target.IsUnix() || target.IsICMP()) != (target.Port == 0) || !validScheme(target.Scheme) {
			t.Fatalf("%q: %+v", s, target)
		}
		again, err := ParseTarget(target.String(), nil)
		if err != nil || again != target {
			t.Fatalf("%q: %+v is written %q and read %+v, %v", s, target, target, again, err)
		}
	})
}
