package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want string }{
		{"plain", "web-7d9f in shop", "web-7d9f in shop"},
		{"backslash", `a\b`, `a\b`},
		{"layout", "a\tb\r\nc", `a\tb\r\nc`},
		{"ANSI", "\x1b[2J\a\x00\x7f", `\x1b[2J\x07\x00\x7f`},
		{"C1 as UTF-8", "\u009b31m", `\u{9b}31m`},
		{"C1 as a byte", "\x9b31m", `\x9b31m`},
		{"bidi", "\u202eevil\u2066\u061c", `\u{202e}evil\u{2066}\u{61c}`},
		{"invisible", "a\u200bb\u00adc\ufeff", `a\u{200b}b\u{ad}c\u{feff}`},
		{"tags", "\U000e0041", `\u{e0041}`},
		{"separators", "\u2028\u2029", `\u{2028}\u{2029}`},
		{"private and unassigned", "\ue000\U000f0000\u0378", `\u{e000}\u{f0000}\u{378}`},
		{"half a character", "\xe2\x82", `\xe2\x82`},
		{"surrogate", "\xed\xa0\x80", `\xed\xa0\x80`},
		{"beyond ASCII", "zażółć 例え 😀 é", "zażółć 例え 😀 é"},
		{"replacement character", "\ufffd", "\ufffd"},
	} {
		if got := visible(test.text); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestVisibleJSON(t *testing.T) {
	t.Parallel()
	text := "\"a\u009b\u202e\x7f\U000e0041€\""
	want := `"a\u009b\u202e\u007f\udb40\udc41€"`
	if got := string(visibleJSON([]byte(text))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestUnescape(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, want, problem string }{
		{text: "", want: ""},
		{text: `GET / HTTP/1.0\r\n\r\n`, want: "GET / HTTP/1.0\r\n\r\n"},
		{text: "a real\nnewline", want: "a real\nnewline"},
		{text: `\t\0\\n`, want: "\t\x00\\n"},
		{text: `\x1b\xfF00`, want: "\x1b\xff00"},
		{text: `\u{20ac}\u{0}\u{10ffff}`, want: "€\x00\U0010ffff"},
		{text: `\`, problem: `a single \ at the end`},
		{text: `a\\\`, problem: `a single \ at the end`},
		{text: `\q`, problem: `there is no escape \q`},
		{text: "\\\xff", problem: "there is no escape"},
		{text: `\x`, problem: "two hexadecimal digits"},
		{text: `\x1`, problem: "two hexadecimal digits"},
		{text: `\x1g`, problem: "two hexadecimal digits"},
		{text: `\x+1`, problem: "two hexadecimal digits"},
		{text: `\u20ac`, problem: "in braces"},
		{text: `\u{20ac`, problem: "in braces"},
		{text: `\u{}`, problem: "in braces"},
		{text: `\u{d800}`, problem: "in braces"},
		{text: `\u{110000}`, problem: "in braces"},
		{text: `\u{+1}`, problem: "in braces"},
	} {
		got, err := unescape(test.text)
		if test.problem == "" && (err != nil || string(got) != test.want) {
			t.Errorf("%s: %q, %v, want %q", test.text, got, err, test.want)
		}
		if test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%s: %q, %v, want an error with %q", test.text, got, err, test.problem)
		}
	}
}

// FuzzVisible: nothing comes out that a terminal would act upon, what is escaped exactly can be read back, and what is
// shown as JSON means the same.
func FuzzVisible(f *testing.F) {
	f.Add([]byte(hostile))
	f.Add([]byte("a\\x1b\\\r\n\t€\xe2\x82"))
	f.Fuzz(func(t *testing.T, data []byte) {
		line := visible(string(data))
		if r, bad := uncontrolled(line, ""); bad {
			t.Errorf("%q: %U passed", data, r)
		}
		if again := visible(line); again != line {
			t.Errorf("%q: seen twice it is %q, and once %q", data, again, line)
		}
		exact, rest := appendVisible(nil, data, allEscaped, true)
		if r, bad := uncontrolled(string(exact), ""); bad || len(rest) > 0 {
			t.Errorf("%q: %U passed, or a rest of %q", data, r, rest)
		}
		if back, err := unescape(string(exact)); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%q: read back from %q as %q, %v", data, exact, back, err)
		}
		text, err := json.Marshal(string(data))
		if err != nil {
			t.Fatal(err)
		}
		shown := visibleJSON(text)
		if r, bad := uncontrolled(string(shown), ""); bad {
			t.Errorf("%q: %U passed in JSON", data, r)
		}
		var want, got string
		if json.Unmarshal(text, &want) != nil || json.Unmarshal(shown, &got) != nil || got != want {
			t.Errorf("%s means %q, want %q", shown, got, want)
		}
	})
}

func FuzzUnescape(f *testing.F) {
	f.Add(`GET / HTTP/1.0\r\n\r\n\x1b\u{20ac}\0\\`)
	f.Add(`\u{110000}\x\q\`)
	f.Fuzz(func(t *testing.T, text string) {
		data, err := unescape(text)
		if err != nil {
			return
		}
		exact, _ := appendVisible(nil, data, allEscaped, true)
		if back, err := unescape(string(exact)); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%q is %q, which is %q, and that %q, %v", text, data, exact, back, err)
		}
	})
}

// uncontrolled returns the first character of text that could drive a terminal or that nobody sees, besides those that
// are kept.
func uncontrolled(text, kept string) (rune, bool) {
	for i, r := range text {
		if strings.ContainsRune(kept, r) {
			continue
		}
		invalid := r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd")
		if invalid || r < ' ' || r >= 0x7f && r <= 0x9f || !unicode.IsGraphic(r) {
			return r, true
		}
	}
	return 0, false
}
