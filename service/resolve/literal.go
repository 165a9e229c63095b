package resolve

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// parseAton reads an IPv4 address in every form inet_aton(3) takes: one to
// four parts, each decimal, octal (leading 0) or hexadecimal (leading 0x), the
// last part filling all remaining bytes. Nothing may follow.
func parseAton(s string) (netip.Addr, bool) {
	limits := [4]uint64{0xffffffff, 0xffffff, 0xffff, 0xff}
	var bytes [4]byte
	for part := 0; ; part++ {
		if s == "" || s[0] < '0' || s[0] > '9' {
			return netip.Addr{}, false
		}
		value, rest, ok := cNumber(s)
		if !ok {
			return netip.Addr{}, false
		}
		if rest == "" {
			if value > limits[part] {
				return netip.Addr{}, false
			}
			for i := 3; i >= part; i-- {
				bytes[i] = byte(value)
				value >>= 8
			}
			return netip.AddrFrom4(bytes), true
		}
		if rest[0] != '.' || part == 3 || value > 0xff {
			return netip.Addr{}, false
		}
		bytes[part] = byte(value)
		s = rest[1:]
	}
}

// cNumber reads a number as strtoul(3) does with base 0, from a string that
// starts with a digit, and fails above 32 bits.
func cNumber(s string) (value uint64, rest string, ok bool) {
	base := uint64(10)
	if s[0] == '0' {
		base = 8
		// "0x" without a digit behind it is the number 0 followed by "x".
		if len(s) > 2 && (s[1] == 'x' || s[1] == 'X') && digitOf(s[2]) < 16 {
			base, s = 16, s[2:]
		}
	}
	i := 0
	for ; i < len(s); i++ {
		d := digitOf(s[i])
		if d >= base {
			break
		}
		if value = value*base + d; value > 0xffffffff {
			return 0, "", false
		}
	}
	return value, s[i:], true
}

// digitOf is the value of a hexadecimal digit, and more than any base for
// every other byte.
func digitOf(c byte) uint64 {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0')
	case 'a' <= c && c <= 'f':
		return uint64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 99
}

// parse6 is inet_pton(AF_INET6): no zone.
func parse6(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// scopeID reads what stands behind the % of an IPv6 address: an interface
// name, for addresses whose scope an interface delimits, or a number.
func scopeID(addr netip.Addr, zone string) (uint32, bool) {
	if b := addr.As16(); hasLinkScope(addr) || b[0] == 0xff && b[1]&0xf == 1 {
		if i, err := net.InterfaceByName(zone); err == nil {
			return uint32(i.Index), true
		}
	}
	if zone == "" || zone[0] < '0' || zone[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(zone, 10, 32)
	return uint32(n), err == nil
}

// hasLinkScope tells link-local IPv6 addresses, fe80::/10 and ff02::/16. What
// package netip calls link-local takes in mapped IPv4.
func hasLinkScope(addr netip.Addr) bool {
	b := addr.As16()
	return b[0] == 0xfe && b[1]&0xc0 == 0x80 || b[0] == 0xff && b[1]&0xf == 2
}

// serviceNumber reads a service as strtoul(3) with base 10 does: leading white
// space and a sign are taken, and what does not fit wraps around. numeric is
// false when something other than the number is left; a number that comes out
// negative as a C int is -1, which getaddrinfo then takes for a name.
func serviceNumber(s string) (number int32, numeric bool) {
	t := strings.TrimLeft(s, " \t\n\v\f\r")
	negative := false
	if t != "" && (t[0] == '+' || t[0] == '-') {
		negative, t = t[0] == '-', t[1:]
	}
	end := 0
	for end < len(t) && '0' <= t[end] && t[end] <= '9' {
		end++
	}
	if end == 0 || end != len(t) {
		return -1, false
	}
	n, err := strconv.ParseUint(t, 10, 64)
	switch {
	case err != nil: // ERANGE: ULONG_MAX, whatever the sign
		return -1, true
	case negative:
		n = -n
	}
	return int32(uint32(n)), true
}
