package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"
)

func TestNewToken(t *testing.T) {
	t.Parallel()
	token, hash := NewToken()
	if !regexp.MustCompile(`^probed_[A-Za-z0-9_-]{43}$`).MatchString(token) {
		t.Errorf("token %q has not the form that scanners look for", token)
	}
	parsed, err := ParseTokenHash(hash)
	if err != nil || parsed != sha256.Sum256([]byte(token)) {
		t.Errorf("the hash %q of token %q reads as %x, %v", hash, token, parsed, err)
	}
	if got, ok := parseBearer("Bearer " + token); !ok || got != token {
		t.Errorf("as a header, %q is read as %q, %v", token, got, ok)
	}
	if other, _ := NewToken(); other == token {
		t.Error("two tokens are the same")
	}
}

func TestFindToken(t *testing.T) {
	t.Parallel()
	tokens := []Token{
		{Name: "a", Hash: sha256.Sum256([]byte("first"))},
		{Name: "b", Hash: sha256.Sum256([]byte("second"))},
		{Name: "c", Hash: sha256.Sum256([]byte("third"))},
	}
	for presented, want := range map[string]int{"first": 0, "second": 1, "third": 2, "fourth": -1, "": -1, "firs": -1} {
		if got := findToken(tokens, presented); got != want {
			t.Errorf("%q is token %d, want %d", presented, got, want)
		}
	}
	if got := findToken(nil, "first"); got != -1 {
		t.Errorf("of no tokens it is number %d", got)
	}
}

func FuzzParseTokenHash(f *testing.F) {
	_, hash := NewToken()
	for _, s := range []string{
		hash, strings.ToUpper(hash), "sha256:" + strings.ToUpper(hash[7:]), hash[7:], hash + "0", hash[:70], "sha256:", "",
		"sha256:" + strings.Repeat("g", 64), "sha512:" + hash[7:], " " + hash, "sha256:" + strings.Repeat("é", 32),
	} {
		f.Add(s)
	}
	valid := regexp.MustCompile(`^sha256:[0-9a-fA-F]{64}$`)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTokenHash(s)
		if (err == nil) != (valid.MatchString(s) && !strings.HasSuffix(s, "\n")) {
			t.Fatalf("%q: %v", s, err)
		}
		if err == nil && "sha256:"+hex.EncodeToString(got[:]) != "sha256:"+strings.ToLower(s[7:]) {
			t.Errorf("%q reads as %x", s, got)
		}
		if err != nil && got != [sha256.Size]byte{} {
			t.Errorf("%q: an error, and %x", s, got)
		}
		if err != nil && len(s) > 16 && strings.Contains(err.Error(), s) {
			t.Errorf("the error repeats what was given: %v", err)
		}
	})
}

func FuzzParseBearer(f *testing.F) {
	for _, header := range []string{
		"Bearer abc", "bearer abc", "BEARER abc", "Bearer  abc", "Bearer\tabc", "Bearer abc ", " Bearer abc", "Bearer", "Bearer ",
		"Bearer a=", "Bearer a==", "Bearer =", "Bearer a=b", "Bearer a, Bearer b", "Bearer a,b", "Basic dTpw", "abc", "",
		"Bearer a\x00b", "Bearer é", "Bearer -._~+/09azAZ", "Bearer a.b.c", "Bearer" + strings.Repeat(" ", 16<<10) + "x",
	} {
		f.Add(header)
	}
	valid := regexp.MustCompile(`\A([Bb][Ee][Aa][Rr][Ee][Rr]) +([A-Za-z0-9._~+/-]+=*)\z`)
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := parseBearer(header)
		match := valid.FindStringSubmatch(header)
		if ok != (match != nil && len(header) <= 16<<10) {
			t.Fatalf("%q: %q, %v", header, token, ok)
		}
		if ok && token != match[2] {
			t.Errorf("%q: token %q, want %q", header, token, match[2])
		}
	})
}
