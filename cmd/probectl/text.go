package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Which control characters appendVisible leaves as they are.
const (
	allEscaped = ""
	layoutKept = "\n\t"
)

// visible is text on one line, with nothing in it that a terminal would act upon or a reader could not see.
func visible(text string) string {
	out, _ := appendVisible(nil, []byte(text), allEscaped, false)
	return string(out)
}

// appendVisible appends text to out. What is not a graphic character of Unicode is escaped: control characters, those
// that change the direction of text, those without a width, and bytes that are no UTF-8. So are the backslashes if asked
// for; then the result is exact and [unescape] turns it back.
//
// With control characters kept, \r\n is \n, and text may end within it or within a character: those bytes are the rest, for
// the next call to begin with. Otherwise text is complete, and there is none.
func appendVisible(out, text []byte, kept string, backslashes bool) (_, rest []byte) {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '\\' && backslashes:
			out = append(out, `\\`...)
		case ' ' <= r && r < 0x7f:
			out = append(out, byte(r))
		case r == utf8.RuneError && size == 1:
			if kept != allEscaped && !utf8.FullRune(text) {
				return out, text
			}
			out = appendHex(out, text[0])
		case r == '\r' && kept != allEscaped && len(text) == 1:
			return out, text
		case r == '\r' && kept != allEscaped && text[1] == '\n': // the end of a line, as most protocols have it
		case strings.ContainsRune(kept, r):
			out = append(out, byte(r))
		case r == '\n':
			out = append(out, `\n`...)
		case r == '\r':
			out = append(out, `\r`...)
		case r == '\t':
			out = append(out, `\t`...)
		case r < 0x80:
			out = appendHex(out, byte(r))
		case !unicode.IsGraphic(r):
			out = fmt.Appendf(out, `\u{%x}`, r)
		default:
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	return out, nil
}

func appendHex(out []byte, b byte) []byte {
	const digits = "0123456789abcdef"
	return append(out, '\\', 'x', digits[b>>4], digits[b&15])
}

// visibleJSON is appendVisible in the escapes of JSON, for a text that is JSON without white space: protojson leaves in
// place what only Unicode calls a control character. As JSON it means the same.
func visibleJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case r != 0x7f && unicode.IsGraphic(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// escapesHelp tells what unescape takes.
const escapesHelp = `\r \n \t \0 \\, \xHH for a byte, \u{H} for a character`

// unescape reads text as the user typed it. A shell hands on \r\n as four characters, so the escapes are read here; what
// they can write is any sequence of bytes.
func unescape(text string) ([]byte, error) {
	out := make([]byte, 0, len(text))
	for {
		before, after, found := strings.Cut(text, `\`)
		out = append(out, before...)
		if !found {
			return out, nil
		}
		if after == "" {
			return nil, errors.New(`a single \ at the end: write \\ for a backslash`)
		}
		text = after[1:]
		switch after[0] {
		case 'r':
			out = append(out, '\r')
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case '0':
			out = append(out, 0)
		case '\\':
			out = append(out, '\\')
		case 'x':
			if len(text) < 2 {
				return nil, errors.New(`\x takes two hexadecimal digits, as \x1b`)
			}
			n, err := strconv.ParseUint(text[:2], 16, 8)
			if err != nil {
				return nil, fmt.Errorf(`\x takes two hexadecimal digits, as \x1b, and not %q`, text[:2])
			}
			out = append(out, byte(n))
			text = text[2:]
		case 'u':
			digits, rest, closed := strings.Cut(strings.TrimPrefix(text, "{"), "}")
			n, err := strconv.ParseUint(digits, 16, 32)
			if !strings.HasPrefix(text, "{") || !closed || err != nil || n > unicode.MaxRune || !utf8.ValidRune(rune(n)) {
				return nil, errors.New(`\u takes a character's number in braces, as \u{20ac}`)
			}
			out = utf8.AppendRune(out, rune(n))
			text = rest
		default:
			r, _ := utf8.DecodeRuneInString(after)
			return nil, fmt.Errorf(`there is no escape \%c: there are %s`, r, escapesHelp)
		}
	}
}
