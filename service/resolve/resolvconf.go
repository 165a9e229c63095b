package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of resolv.conf(5).
const (
	maxNameservers = 3
	maxNdots       = 15
	maxTimeout     = 30 // seconds
	maxAttempts    = 5
)

// resolvConf is resolv.conf(5) with the environment applied.
type resolvConf struct {
	servers  []netip.AddrPort // at most three
	search   []string         // as written
	ndots    int
	timeout  int // seconds
	attempts int

	rotate              bool
	edns0               bool
	singleRequest       bool
	singleRequestReopen bool
	noTLDQuery          bool
	useVC               bool
	trustAD             bool
	noAAAA              bool

	notes []string
}

// parseResolvConf reads resolv.conf(5). getenv gives LOCALDOMAIN and
// RES_OPTIONS; hostname is where the search list comes from when nothing
// names one.
func parseResolvConf(data []byte, getenv func(string) string, hostname string) *resolvConf {
	c := &resolvConf{ndots: 1, timeout: 5, attempts: 2}
	localDomain := getenv("LOCALDOMAIN")
	if localDomain != "" {
		line, _, _ := strings.Cut(localDomain, "\n")
		c.search = splitBlank(line)
	}
	found := 0
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasSuffix(line, "\r") {
			c.note("resolv.conf has carriage returns, which the C library takes for part of a name")
		}
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		// A keyword counts at the start of the line alone, with a blank behind.
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			continue
		}
		keyword, rest := line[:end], strings.TrimLeft(line[end:], " \t")
		switch keyword {
		case "domain":
			if word := splitBlank(rest); localDomain == "" && len(word) > 0 {
				c.search = word[:1]
			}
		case "search":
			if words := splitBlank(rest); localDomain == "" && len(words) > 0 {
				c.search = words
			}
		case "nameserver":
			server, ok := parseNameserver(rest)
			if !ok {
				c.note(fmt.Sprintf("nameserver %q is no address", rest))
				continue
			}
			if found++; found > maxNameservers {
				c.note(fmt.Sprintf("nameserver %s is not asked: at most %d are", server.Addr(), maxNameservers))
				continue
			}
			c.servers = append(c.servers, server)
		case "options":
			c.setOptions(rest)
		case "sortlist":
			c.note("sortlist is not applied")
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	if len(c.search) == 0 {
		if _, domain, ok := strings.Cut(hostname, "."); ok {
			c.search = []string{domain}
		}
	}
	c.setOptions(getenv("RES_OPTIONS"))
	return c
}

// note records a remark once.
func (c *resolvConf) note(s string) {
	if !slices.Contains(c.notes, s) {
		c.notes = append(c.notes, s)
	}
}

// parseNameserver reads the address of a nameserver line; what follows a blank
// is ignored (a carriage return is none, so the line of a CRLF file is no address,
// as for the C library), as is a zone that names no interface.
func parseNameserver(s string) (netip.AddrPort, bool) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		s = s[:i]
	}
	if a, ok := parseAton(s); ok {
		return netip.AddrPortFrom(a, 53), true
	}
	text, zone, zoned := strings.Cut(s, "%")
	a, ok := parse6(text)
	if !ok {
		return netip.AddrPort{}, false
	}
	if zoned {
		if id, ok := scopeID(a, zone); ok && id != 0 {
			a = a.WithZone(zoneName(id))
		}
	}
	return netip.AddrPortFrom(a, 53), true
}

// setOptions reads the words of an options line. The C library compares
// prefixes alone.
func (c *resolvConf) setOptions(s string) {
	for _, word := range splitBlank(s) {
		value := func(prefix string) (int, bool) {
			rest, ok := strings.CutPrefix(word, prefix)
			return atoi(rest), ok
		}
		if n, ok := value("ndots:"); ok {
			c.ndots = min(n, maxNdots) & 15 // a field of four bits in glibc
		} else if n, ok := value("timeout:"); ok {
			c.timeout = min(n, maxTimeout)
		} else if n, ok := value("attempts:"); ok {
			c.attempts = min(n, maxAttempts)
		} else {
			c.setFlag(word)
		}
	}
}

func (c *resolvConf) setFlag(word string) {
	for _, f := range []struct {
		name string
		set  *bool
	}{
		{"rotate", &c.rotate},
		{"edns0", &c.edns0},
		{"single-request-reopen", &c.singleRequestReopen},
		{"single-request", &c.singleRequest},
		{"no_tld_query", &c.noTLDQuery},
		{"no-tld-query", &c.noTLDQuery},
		{"no-reload", new(bool)}, // this resolver always re-reads
		{"use-vc", &c.useVC},
		{"trust-ad", &c.trustAD},
		{"no-aaaa", &c.noAAAA},
	} {
		if strings.HasPrefix(word, f.name) {
			*f.set = true
			return
		}
	}
	c.note(fmt.Sprintf("option %q is not known", word))
}

// options lists the flags that are set, by their names.
func (c *resolvConf) options() []string {
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"rotate", c.rotate}, {"edns0", c.edns0}, {"single-request", c.singleRequest},
		{"single-request-reopen", c.singleRequestReopen}, {"no-tld-query", c.noTLDQuery},
		{"use-vc", c.useVC}, {"trust-ad", c.trustAD}, {"no-aaaa", c.noAAAA},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

// tryTimeout is how long one try with the server at index waits. Later servers
// get more time, as resolv.conf(5) tells.
func (c *resolvConf) tryTimeout(index int) time.Duration {
	seconds := c.timeout << index
	if index > 0 {
		seconds /= len(c.servers)
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

// splitBlank splits at blanks and tabs alone.
func splitBlank(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })
}

// atoi is atoi(3): the number at the front, 0 without one.
func atoi(s string) int {
	s = strings.TrimLeftFunc(s, isSpace)
	end := 0
	if end < len(s) && (s[end] == '-' || s[end] == '+') {
		end++
	}
	for end < len(s) && '0' <= s[end] && s[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(s[:end], "+"), 10, 32)
	if err != nil {
		return int(n) // 0, or the limit that was passed
	}
	return int(n)
}
