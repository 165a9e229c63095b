package resolve

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// chain follows the CNAMEs of an answer and collects the addresses at their
// end. names begins with the name asked for; the last is the canonical one.
// Owners of CNAMEs are not checked, as the C library does not: servers list
// the chain in order.
func chain(msg *dns.Msg) (names []string, addrs []netip.Addr) {
	q := msg.Question[0]
	expected := q.Name
	names = append(names, unrooted(expected))
	for _, rr := range msg.Answer {
		h := rr.Header()
		if h.Class != dns.ClassINET {
			continue
		}
		if c, ok := rr.(*dns.CNAME); ok {
			expected = c.Target
			if target := unrooted(expected); hostNameOK(target) {
				names = append(names, target)
			}
			continue
		}
		if h.Rrtype != q.Qtype || !strings.EqualFold(h.Name, expected) {
			continue
		}
		switch rr := rr.(type) {
		case *dns.A:
			if a := rr.A.To4(); a != nil {
				addrs = append(addrs, netip.AddrFrom4([4]byte(a)))
			}
		case *dns.AAAA:
			if len(rr.AAAA) == 16 {
				addrs = append(addrs, netip.AddrFrom16([16]byte(rr.AAAA)))
			}
		}
	}
	return names, addrs
}

// loops tells that the CNAMEs of an answer come back to a name they left.
func loops(msg *dns.Msg) bool {
	next := map[string]string{}
	for _, rr := range msg.Answer {
		if c, ok := rr.(*dns.CNAME); ok {
			next[asciiLower(c.Hdr.Name)] = asciiLower(c.Target)
		}
	}
	name := asciiLower(msg.Question[0].Name)
	for range len(next) + 1 {
		target, ok := next[name]
		if !ok {
			return false
		}
		name = target
	}
	return true
}

// pointers are the names of an answer to a PTR question, behind its CNAMEs.
// What is no host name is told apart: it must not be taken for one.
func pointers(msg *dns.Msg) (names []string, bad bool) {
	expected := msg.Question[0].Name
	for _, rr := range msg.Answer {
		if rr.Header().Class != dns.ClassINET {
			continue
		}
		switch rr := rr.(type) {
		case *dns.CNAME:
			expected = rr.Target
		case *dns.PTR:
			if !strings.EqualFold(rr.Hdr.Name, expected) {
				continue
			}
			if name := unrooted(rr.Ptr); hostNameOK(name) {
				names = append(names, name)
			} else {
				bad = bad || len(names) == 0 // the C library looks at the first alone
			}
		}
	}
	return names, bad
}

// unrooted drops the final dot of a name, but for the root itself.
func unrooted(name string) string {
	if len(name) > 1 && name[len(name)-1] == '.' {
		return name[:len(name)-1]
	}
	return name
}

// hostNameOK is res_hnok(3): a domain name whose labels hold letters, digits,
// hyphens and underscores alone, and which does not begin with a hyphen. The
// empty name and the root pass.
func hostNameOK(name string) bool {
	label, total, begin := 0, 1, true
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '.' {
			if label == 0 && name != "." {
				return false
			}
			label, begin = 0, false
			continue
		}
		if c == '\\' {
			// Escapes may spell letters.
			var ok bool
			if c, i, ok = unescape(name, i); !ok {
				return false
			}
		}
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_':
		case c == '-' && !(begin && label == 0):
		default:
			return false
		}
		if label == 0 {
			total++
		}
		label++
		total++
		if label > 63 || total > 255 {
			return false
		}
	}
	return true
}

// unescape reads \DDD or \X at i and returns the byte and where it ends.
func unescape(s string, i int) (c byte, end int, ok bool) {
	if i+1 >= len(s) {
		return 0, i, false
	}
	if d := s[i+1]; d < '0' || d > '9' {
		return d, i + 1, true
	}
	if i+3 >= len(s) {
		return 0, i, false
	}
	n := 0
	for _, d := range []byte(s[i+1 : i+4]) {
		if d < '0' || d > '9' {
			return 0, i, false
		}
		n = n*10 + int(d-'0')
	}
	return byte(n), i + 3, n <= 255
}
