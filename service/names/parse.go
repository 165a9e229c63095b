package names

import (
	"math"
	"strings"
)

// This file reads services(5) and protocols(5) as glibc's nss/nss_files does,
// which is more generous than the man pages: a comment starts inside a word, a
// port may be written in octal or hexadecimal and is cut to 16 bits, the
// protocol of a service may be missing. One slip is not followed: where no
// newline ends an indented line, glibc 2.36 sees its last bytes twice.

// lines calls yield for each line of text that holds more than space and
// comment: the line without its comment and leading space, and the comment
// without its signs and surrounding space. A NUL ends a line, as C has it.
func lines(text string, yield func(line, comment string)) {
	for text != "" {
		var line, comment string
		line, text, _ = strings.Cut(text, "\n")
		line, _, _ = strings.Cut(line, "\x00")
		line, comment, _ = strings.Cut(line, "#")
		if line = skipSpace(line); line != "" {
			yield(line, strings.Trim(comment, "# \t\v\f\r"))
		}
	}
}

// parseServices returns the entries of a services file in its order. Lines
// that the C library would not take are left out.
func parseServices(text string, source Source) []Service {
	services := make([]Service, 0, len(text)/20) // A line of the embedded table has 21 bytes on average.
	lines(text, func(line, comment string) {
		name, rest := cutField(line)
		number, rest, ok := cutNumber(rest, 0)
		if !ok {
			return
		}
		switch slashless := strings.TrimLeft(rest, "/"); {
		case rest == "": // No protocol.
		case slashless == rest:
			return
		default:
			rest = slashless
		}
		protocol, rest := cutField(rest)
		services = append(services, Service{
			Name:        name,
			Port:        uint16(number), // Cut to 16 bits as htons does: 65558/tcp is 22/tcp.
			Protocol:    protocol,
			Aliases:     fields(rest),
			Description: comment,
			Source:      source,
		})
	})
	return services
}

// parseProtocols returns the entries of a protocols file in its order. Lines
// that the C library would not take are left out.
func parseProtocols(text string, source Source) []Protocol {
	var protocols []Protocol
	lines(text, func(line, comment string) {
		name, rest := cutField(line)
		number, rest, ok := cutNumber(rest, 10)
		if !ok || rest != "" && !isSpace(rest[0]) {
			return
		}
		protocols = append(protocols, Protocol{
			Name:        name,
			Number:      int32(number), // The C library's p_proto is an int: large numbers turn negative.
			Aliases:     fields(rest),
			Description: comment,
			Source:      source,
		})
	})
	return protocols
}

// isSpace is C's isspace in the locales that programs run in: unlike Go's
// unicode.IsSpace it holds for ASCII alone.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func skipSpace(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	return s
}

// cutField returns what stands before the first space, and what follows the
// space. Where s begins with space the field is empty.
func cutField(s string) (field, rest string) {
	i := 0
	for i < len(s) && !isSpace(s[i]) {
		i++
	}
	return s[:i], skipSpace(s[i:])
}

// fields splits s at space; nil if there is nothing else.
func fields(s string) []string {
	var all []string
	for s = skipSpace(s); s != ""; {
		var field string
		field, s = cutField(s)
		all = append(all, field)
	}
	return all
}

// cutNumber reads the number that s begins with as C's 64-bit strtoul does: a
// sign is allowed, and base 0 takes the base from the prefix 0x or 0. It
// returns what follows the digits. Not ok are a missing number and one that
// does not fit in 32 bits.
func cutNumber(s string, base uint64) (n uint32, rest string, ok bool) {
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	if base == 0 {
		base = 10
		switch {
		case len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' && digit(s[2]) < 16:
			s, base = s[2:], 16
		case strings.HasPrefix(s, "0"):
			base = 8
		}
	}
	var value uint64
	i, overflow := 0, false
	for ; i < len(s) && digit(s[i]) < base; i++ {
		overflow = overflow || value > (math.MaxUint64-digit(s[i]))/base
		value = value*base + digit(s[i])
	}
	if negative {
		value = -value
	}
	if i == 0 || overflow || value > math.MaxUint32 {
		return 0, s, false
	}
	return uint32(value), s[i:], true
}

// digit returns the value of c as a digit, or more than any base if it is none.
func digit(c byte) uint64 {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return uint64(c|0x20-'a') + 10
	default:
		return math.MaxUint64
	}
}
