package policy

import (
	"strings"
	"testing"
)

func TestCheckHostPattern(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for _, good := range []string{
		"*", "example.com", "*.example.com", "example.com.", "*.example.com.", "EXAMPLE", "*.svc", "_sip._tcp.example.com",
		"xn--bcher-kva.example", "10.example", "a-b.c_d", long, strings.Repeat("a.", 126) + "a",
	} {
		if err := CheckHostPattern(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, why := range map[string]string{
		"": "empty", ".": "labels", "*.": "*", "*..": "labels", "..": "labels", "a..b": "labels", ".example.com": "labels",
		"example.com..": "labels", "**": "*", "*.*": "*", "*a.example.com": "*", "a.*.com": "*", "*.*.com": "*", "a*": "*",
		"bücher.example": "ASCII", "\u212a.example": "ASCII", "www。example": "ASCII", "a b": "labels", "a\\046b": "labels",
		"10.0.0.1": "address", "*.0.0.1": "address", "10.0.0.0/8": "cidrs", "::1": "cidrs", "[::1]": "cidrs", "a:80": "cidrs",
		"http://a": "cidrs", long + "a": "63", strings.Repeat("a.", 127) + "a": "253", "a\x00b": "labels",
	} {
		if err := CheckHostPattern(bad); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want something about %q", bad, err, why)
		}
	}
}

func TestMatchSubject(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, subject string
		want             bool
	}{
		{"token:ci", "token:ci", true},
		{"token:ci", "token:cic", false},
		{"token:ci", "Token:ci", false},
		{"*", "x", true},
		{"token:*", "token:", true},
		{"token:*", "token:a:b/c\n", true},
		{"token:*", "mtls:token:", false},
		{"*:ci", "token:ci", true},
		{"*:ci", "token:ci:ci", true},
		{"*:ci", "token:ci2", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"ab*ba", "aba", false},
		{"*a*b*", "xaxbx", true},
		{"*a*b*", "xbxax", false},
		{"*aab", "aaab", true},
		{"a**b", "ab", true},
		{"oidc:system:serviceaccount:*:prober", "oidc:system:serviceaccount:shop:prober", true},
		{"oidc:system:serviceaccount:*:prober", "oidc:system:serviceaccount:prober", false},
		{"", "x", false},
	} {
		if got := matchSubject(tt.pattern, tt.subject); got != tt.want {
			t.Errorf("%q, %q: %t", tt.pattern, tt.subject, got)
		}
	}
}

func TestCheckSubjectPattern(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"*", "anonymous", "mtls:web.example.com", "mtls:CN=a b,O=c", "token:ci", "oidc:system:serviceaccount:*:prober", "*:x", "t*", "mtls:bücher",
	} {
		if err := CheckSubjectPattern(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "alice", ":x", "token:", " token:a", "token:a ", "token:a\n", "token:\xff", "Anonymous"} {
		if err := CheckSubjectPattern(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParsePortRange(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]PortRange{
		"80": {80, 80}, "8000-8100": {8000, 8100}, "0": {}, "0-65535": {0, 65535}, "7-7": {7, 7}, "65535": {65535, 65535}, "080": {80, 80},
	} {
		if got, err := ParsePortRange(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for s, why := range map[string]string{
		"": "no port", "-": "no port", "80-": "no port", "-80": "no port", "+80": "no port", "8 0": "no port", "http": "no port",
		"80-90-100": "no port", "80,90": "no port", "0x50": "no port", "8_0": "no port", "٨": "no port",
		"65536": "65535", "1-65536": "65535", "99999999999999999999": "65535", "90-80": "ends before",
	} {
		if got, err := ParsePortRange(s); err == nil || !strings.Contains(err.Error(), why) || got != (PortRange{}) {
			t.Errorf("%q: %v, %v; want something about %q", s, got, err, why)
		}
	}
}

func TestCheckUnixPath(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"/run/app.sock", "/run/many/*", "/*", "/a", "/run/a b"} {
		if err := CheckUnixPath(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, why := range map[string]string{
		"": "absolute", "@x": "abstract", "run/x": "absolute", "*": "absolute", "/run/x/": "the path is /run/x", "/run/../x": "the path is /x",
		"/": "no socket", "/run/*/x": "*", "/run/*.sock": "*", "/run/a\x00": "NUL",
	} {
		if err := CheckUnixPath(bad); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want something about %q", bad, err, why)
		}
	}
}

func FuzzParseVerb(f *testing.F) {
	for _, s := range append(verbNames[:], "", "Connect", "connect,send") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVerb(s)
		if (err == nil) != (v != 0) || err == nil && v.String() != s {
			t.Errorf("%q: %v, %v", s, v, err)
		}
	})
}

func FuzzParsePortRange(f *testing.F) {
	for _, s := range []string{"80", "8000-8100", "0-65535", "65536", "90-80", "", "-", "+1", "1-2-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParsePortRange(s)
		if err != nil {
			if r != (PortRange{}) || err.Error() == "" {
				t.Errorf("%q: %v and %v", s, r, err)
			}
			return
		}
		if r.First > r.Last {
			t.Errorf("%q: %v", s, r)
		}
		if again, err := ParsePortRange(r.String()); err != nil || again != r {
			t.Errorf("%q: %v, read again as %v, %v", s, r, again, err)
		}
	})
}

// What CheckHostPattern takes matches what it says, whatever the case and the dot at
// the end.
func FuzzCheckHostPattern(f *testing.F) {
	for _, s := range []string{"*", "example.com", "*.example.com.", "*.", "a.*", "10.0.0.1", "bücher", "\u212a", "a\\046b", ""} {
		f.Add(s, "www.example.com")
	}
	f.Fuzz(func(t *testing.T, pattern, host string) {
		if CheckHostPattern(pattern) != nil {
			return
		}
		name := strings.TrimSuffix(strings.TrimPrefix(pattern, "*."), ".")
		if parent := name; parent != "*" {
			for _, host := range []string{parent, strings.ToUpper(parent), parent + "."} {
				below := strings.HasPrefix(pattern, "*.")
				if matchHost(pattern, host) == below || matchHost(pattern, "a."+host) != below || matchHost(pattern, "a.B."+host) != below {
					t.Errorf("%q, %q", pattern, host)
				}
				if matchHost(pattern, "a"+host) || matchHost(pattern, "."+host) || matchHost(pattern, host+".evil") {
					t.Errorf("%q matches what is no name of it", pattern)
				}
			}
		}
		if matchHost(pattern, host) && pattern != "*" && !strings.HasSuffix(strings.TrimSuffix(strings.ToLower(host), "."), strings.ToLower(name)) {
			t.Errorf("%q matches %q", pattern, host)
		}
		if pattern == "*" && matchHost(pattern, host) != (host != "") {
			t.Errorf("* and %q", host)
		}
	})
}

// A pattern made of a subject by leaving parts out matches it.
func FuzzCheckSubjectPattern(f *testing.F) {
	for _, s := range []string{"token:ci", "anonymous", "alice", "*", "", "oidc:system:serviceaccount:a:b", "a*b"} {
		f.Add(s, uint8(3), uint8(5))
	}
	f.Fuzz(func(t *testing.T, s string, from, to uint8) {
		err := CheckSubjectPattern(s)
		if err == nil && s == "" {
			t.Error("the empty pattern is taken")
		}
		if !matchSubject(s, s) || strings.Contains(s, "*") {
			if !strings.Contains(s, "*") {
				t.Errorf("%q does not match itself", s)
			}
			return
		}
		i := min(int(from), len(s))
		j := max(i, min(int(to), len(s)))
		if pattern := s[:i] + "*" + s[j:]; !matchSubject(pattern, s) || matchSubject(pattern+"*x", s) && !strings.HasSuffix(s, "x") {
			t.Errorf("%q, %q", pattern, s)
		}
	})
}

// What CheckUnixPath takes matches a socket, and no path that names none.
func FuzzCheckUnixPath(f *testing.F) {
	for _, s := range []string{"/run/app.sock", "/run/*", "/*", "@x", "/", "", "/run/../x", "*", "/a\x00"} {
		f.Add(s, "/run/app.sock")
	}
	f.Fuzz(func(t *testing.T, listed, target string) {
		if CheckUnixPath(listed) != nil {
			return
		}
		if socket := strings.Replace(listed, "*", "x", 1); !namesSocket(socket) || !onList([]string{listed}, socket) {
			t.Errorf("%q does not match %q", listed, socket)
		}
		if !namesSocket(target) || !onList([]string{listed}, target) {
			return
		}
		dir, _ := strings.CutSuffix(listed, "*")
		if target != listed && (dir == listed || !strings.HasPrefix(target, dir) || strings.Count(target, "/") != strings.Count(dir, "/")) {
			t.Errorf("%q matches %q", listed, target)
		}
	})
}
