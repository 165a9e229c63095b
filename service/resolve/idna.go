package resolve

import (
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// idnaEncode turns a name into its ASCII form (UTS 46, non-transitional). An
// ASCII name is left as it is, whatever is in it. It fails on what is not
// UTF-8 or cannot be encoded.
func idnaEncode(name string) (string, bool) {
	if isASCII(name) {
		return name, true
	}
	if !utf8.ValidString(name) {
		return "", false
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' { // an escape has no meaning outside ASCII
			return "", false
		}
	}
	ascii, err := idna.Lookup.ToASCII(name)
	return ascii, err == nil && ascii != ""
}

// ASCII returns the form in which a name is asked for: what is not ASCII is
// encoded by IDNA. It is the form for policies to compare. What is ASCII, and
// what cannot be encoded, comes back as it is.
func ASCII(name string) string {
	if ascii, ok := idnaEncode(name); ok {
		return ascii
	}
	return name
}

// idnaDecode turns the encoded labels of a name into Unicode and leaves the
// others as they are; a name that cannot be decoded stays.
func idnaDecode(name string) string {
	if s, err := idna.Punycode.ToUnicode(name); err == nil {
		return s
	}
	return name
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
