package resolve

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// gaiTables are the tables of gai.conf(5) that order addresses. Each is sorted
// so that the first entry that matches is the right one.
type gaiTables struct {
	labels     []prefixEntry
	precedence []prefixEntry
	scopes4    []scopeEntry
}

type prefixEntry struct {
	prefix [16]byte
	bits   int
	value  int
}

type scopeEntry struct {
	addr, mask uint32
	scope      int
}

// defaultTables are glibc's: those of RFC 3484 with site-local, unique local
// and Teredo prefixes labelled apart.
func defaultTables() *gaiTables {
	entry := func(prefix string, value int) prefixEntry {
		p := netip.MustParsePrefix(prefix)
		return prefixEntry{p.Addr().As16(), p.Bits(), value}
	}
	return &gaiTables{
		labels: []prefixEntry{
			entry("::1/128", 0), entry("2002::/16", 2), entry("::/96", 3),
			{netip.MustParseAddr("::ffff:0:0").As16(), 96, 4},
			entry("fec0::/10", 5), entry("fc00::/7", 6), entry("2001::/32", 7), entry("::/0", 1),
		},
		precedence: []prefixEntry{
			entry("::1/128", 50), entry("2002::/16", 30), entry("::/96", 20),
			{netip.MustParseAddr("::ffff:0:0").As16(), 96, 10},
			entry("::/0", 40),
		},
		scopes4: []scopeEntry{
			{169<<24 | 254<<16, 0xffff0000, 2},
			{127 << 24, 0xff000000, 2},
			{0, 0, 14},
		},
	}
}

// parseGaiConf reads gai.conf(5). A table with at least one valid line
// replaces the default table whole; a catch-all entry is added when missing.
func parseGaiConf(data []byte) *gaiTables {
	var labels, precedence []prefixEntry
	var scopes []scopeEntry
	for line := range strings.Lines(string(data)) {
		if i := strings.IndexByte(line, '#'); i >= 0 {
			line = line[:i]
		}
		words := strings.FieldsFunc(line, isSpace)
		if len(words) < 3 {
			continue
		}
		switch words[0] {
		case "label":
			if e, ok := parsePrefixEntry(words[1], words[2]); ok {
				labels = append(labels, e)
			}
		case "precedence":
			if e, ok := parsePrefixEntry(words[1], words[2]); ok {
				precedence = append(precedence, e)
			}
		case "scopev4":
			if e, ok := parseScopeEntry(words[1], words[2]); ok {
				scopes = append(scopes, e)
			}
		}
	}
	t := defaultTables()
	if len(labels) > 0 {
		t.labels = sortPrefixes(labels, 1)
	}
	if len(precedence) > 0 {
		t.precedence = sortPrefixes(precedence, 40)
	}
	if len(scopes) > 0 {
		if !slices.ContainsFunc(scopes, func(e scopeEntry) bool { return e.mask == 0 }) {
			scopes = append(scopes, scopeEntry{scope: 14})
		}
		slices.SortStableFunc(scopes, func(a, b scopeEntry) int {
			// By mask in network byte order, as the C library compares them:
			// all masks are contiguous, so this is the longest first.
			return int(int64(b.mask) - int64(a.mask))
		})
		t.scopes4 = scopes
	}
	return t
}

// sortPrefixes puts the longest prefix first and makes sure of a catch-all.
func sortPrefixes(entries []prefixEntry, otherwise int) []prefixEntry {
	if !slices.ContainsFunc(entries, func(e prefixEntry) bool { return e.bits == 0 }) {
		entries = append(entries, prefixEntry{value: otherwise})
	}
	slices.SortStableFunc(entries, func(a, b prefixEntry) int { return b.bits - a.bits })
	return entries
}

func parsePrefixEntry(prefix, value string) (prefixEntry, bool) {
	text, length, hasLength := strings.Cut(prefix, "/")
	addr, ok := parse6(text)
	bits := 128
	if hasLength {
		n, err := strconv.ParseUint(length, 10, 8)
		ok = ok && err == nil && n <= 128
		bits = int(n)
	}
	v, err := strconv.ParseUint(value, 10, 31)
	if !ok || err != nil {
		return prefixEntry{}, false
	}
	return prefixEntry{addr.As16(), bits, int(v)}, true
}

// parseScopeEntry reads a scopev4 line: the prefix is IPv4 or its mapped form.
func parseScopeEntry(prefix, value string) (scopeEntry, bool) {
	text, length, hasLength := strings.Cut(prefix, "/")
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || (addr.Is6() && !addr.Is4In6()) {
		return scopeEntry{}, false
	}
	bits := 32
	if hasLength {
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil {
			return scopeEntry{}, false
		}
		bits = int(n)
		if addr.Is4In6() {
			bits -= 96
		}
		if bits < 0 || bits > 32 {
			return scopeEntry{}, false
		}
	}
	v, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return scopeEntry{}, false
	}
	mask := uint32(uint64(math.MaxUint32) << (32 - bits))
	b := addr.Unmap().As4()
	return scopeEntry{binary.BigEndian.Uint32(b[:]) & mask, mask, int(v)}, true
}

// match is the value of the longest prefix that holds the address, IPv4 taken
// in its mapped form.
func match(table []prefixEntry, addr netip.Addr) int {
	a := addr.As16()
	for i := range table {
		e := &table[i]
		whole, rest := e.bits/8, e.bits%8
		if string(a[:whole]) == string(e.prefix[:whole]) &&
			(rest == 0 || (a[whole]^e.prefix[whole])>>(8-rest) == 0) {
			return e.value
		}
	}
	return 0
}

// scope is the scope of an address (RFC 4007 values: 2 link, 5 site, 14
// global).
func (t *gaiTables) scope(addr netip.Addr) int {
	if addr.Is4() {
		b := addr.As4()
		v := binary.BigEndian.Uint32(b[:])
		for _, e := range t.scopes4 {
			if v&e.mask == e.addr {
				return e.scope
			}
		}
		return 14
	}
	// By the bits of the IPv6 address: an IPv4-mapped one is global whatever
	// it maps.
	b := addr.As16()
	switch {
	case b[0] == 0xff:
		return int(b[1] & 0xf)
	case hasLinkScope(addr), addr == netip.IPv6Loopback():
		return 2
	case b[0] == 0xfe && b[1]&0xc0 == 0xc0: // fec0::/10, site-local
		return 5
	}
	return 14
}
