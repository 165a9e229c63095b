package resolve

import (
	"net/netip"
	"strings"
)

// hostsFile is hosts(5), indexed.
type hostsFile struct {
	lines  []hostsLine
	byName map[string][]int // lower-case name to lines, in file order
}

type hostsLine struct {
	addr  netip.Addr
	names []string // the first is the canonical one; it may be empty
}

// parseHosts reads hosts(5). A line whose first word is no address counts for
// nothing, as do zones, which the C library does not take there.
func parseHosts(data []byte) *hostsFile {
	f := &hostsFile{byName: map[string][]int{}}
	for text := range strings.Lines(string(data)) {
		if i := strings.IndexByte(text, '#'); i >= 0 {
			text = text[:i]
		}
		words := strings.FieldsFunc(text, isSpace)
		if len(words) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(words[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		names := words[1:]
		if len(names) == 0 {
			names = []string{""}
		}
		n := len(f.lines)
		f.lines = append(f.lines, hostsLine{addr, names})
		for _, name := range names {
			key := asciiLower(name)
			if at := f.byName[key]; len(at) == 0 || at[len(at)-1] != n {
				f.byName[key] = append(at, n)
			}
		}
	}
	return f
}

// hostEntry is a struct hostent.
type hostEntry struct {
	name    string
	aliases []string
	addrs   []netip.Addr
	scopes  []uint32 // interface of each address; nil when none has one
}

// as gives an address of the file in the form a query for family wants it.
// Asked for IPv4, the C library takes ::1 for 127.0.0.1.
func as(addr netip.Addr, family Family) (netip.Addr, bool) {
	switch {
	case family == AF_UNSPEC:
		return addr, true
	case family == AF_INET6:
		return addr, addr.Is6()
	case addr.Is4():
		return addr, true
	case addr.Is4In6():
		return addr.Unmap(), true
	case addr == netip.IPv6Loopback():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	return netip.Addr{}, false
}

// lookupName collects every line that bears the name, or, without multi, the
// first one alone (host.conf(5)). Nil: none does.
func (f *hostsFile) lookupName(name string, family Family, multi bool) *hostEntry {
	var e *hostEntry
	for _, n := range f.byName[asciiLower(name)] {
		line := &f.lines[n]
		addr, ok := as(line.addr, family)
		if !ok {
			continue
		}
		if e == nil {
			e = &hostEntry{name: line.names[0], aliases: append([]string(nil), line.names[1:]...), addrs: []netip.Addr{addr}}
			if !multi {
				return e
			}
			continue
		}
		e.addrs = append(e.addrs, addr)
		e.aliases = append(e.aliases, line.names[1:]...)
		if line.names[0] != e.name {
			e.aliases = append(e.aliases, line.names[0])
		}
	}
	return e
}

// lookupAddr finds the first line with the address. Nil: there is none.
func (f *hostsFile) lookupAddr(addr netip.Addr) *hostEntry {
	family := AF_INET6
	if addr.Is4() {
		family = AF_INET
	}
	for i := range f.lines {
		line := &f.lines[i]
		if a, ok := as(line.addr, family); ok && a == addr {
			return &hostEntry{name: line.names[0], aliases: line.names[1:], addrs: []netip.Addr{addr}}
		}
	}
	return nil
}

// asciiLower folds A to Z alone: host names know no other case.
func asciiLower(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// parseHostConf reads the one word of host.conf(5) that matters here: whether
// a name may have several lines in the hosts file.
func parseHostConf(data []byte) bool {
	multi := false
	for line := range strings.Lines(string(data)) {
		words := strings.FieldsFunc(line, isSpace)
		if len(words) >= 2 && strings.EqualFold(words[0], "multi") {
			multi = strings.EqualFold(words[1], "on")
		}
	}
	return multi
}
