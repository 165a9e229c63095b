package policy

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// matchHost says whether pattern (see CheckHostPattern) matches the name host.
func matchHost(pattern, host string) bool {
	if host == "" {
		return false
	}
	if pattern == "*" {
		return true
	}
	host = strings.TrimSuffix(host, ".")
	if !isPlainName(host) {
		return false
	}
	pattern = strings.TrimSuffix(pattern, ".")
	if parent, ok := strings.CutPrefix(pattern, "*."); ok {
		// What is in front is at least one label and its dot, since no label is empty.
		front := len(host) - len(parent)
		return parent != "" && front > 0 && host[front-1] == '.' && equalFold(parent, host[front:])
	}
	return equalFold(pattern, host)
}

// isPlainName says whether a name, without a dot at its end, is of labels that a
// pattern can be held against: letters, digits, hyphens and underscores. All else
// (escapes as in \046, what IDNA has yet to encode, labels that are empty) may be
// taken for another name further on.
func isPlainName(name string) bool {
	label := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		case c == '.' && label > 0:
			label = 0
		default:
			return false
		}
	}
	return label > 0
}

// equalFold compares without the case of ASCII letters. (The function in package
// strings folds other letters too, and takes U+212A for a k.)
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// CheckHostPattern says what is wrong with a pattern in Rule.Hosts, which is one of
//
//   - a name, as www.example.com;
//   - *.example.com: every name below example.com, however many labels are in front,
//     and not example.com itself;
//   - *: every name.
//
// Names are compared in their ASCII form: without case, without the dot at the end,
// and with A-labels (RFC 5890, xn--…) for what is not ASCII. A name that was asked
// for with anything else in it than letters, digits, hyphens, underscores and dots
// is matched by * alone, even if the DNS takes it for a name that another pattern
// matches.
func CheckHostPattern(pattern string) error {
	if pattern == "*" {
		return nil
	}
	name := strings.TrimPrefix(strings.TrimSuffix(pattern, "."), "*.")
	switch {
	case pattern == "":
		return errors.New("it is empty; * is every name")
	case strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }):
		return errors.New("it is not in its ASCII form (xn--…)")
	case strings.ContainsAny(name, ":/["):
		return errors.New("it is no name; addresses and prefixes belong under cidrs")
	case strings.Contains(name, "*"):
		return errors.New("a * is all of the pattern, or its first label, as in *.example.com")
	case !isPlainName(name):
		return errors.New("a name is of labels with a dot between them; labels are of letters, digits, hyphens and underscores")
	case len(name) > 253:
		return errors.New("a name has at most 253 characters")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if len(label) > 63 {
			return fmt.Errorf("the label %s… has more than 63 characters", label[:16])
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return errors.New("it ends like an address; addresses and prefixes belong under cidrs")
	}
	return nil
}

// matchSubject says whether pattern (see CheckSubjectPattern) matches subject.
func matchSubject(pattern, subject string) bool {
	before, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == subject
	}
	subject, ok := strings.CutPrefix(subject, before)
	if !ok {
		return false
	}
	// Each part between two stars is taken where it first occurs, which leaves the
	// most for those behind it.
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(subject, part)
		}
		at := strings.Index(subject, part)
		if at < 0 {
			return false
		}
		subject, rest = subject[at+len(part):], more
	}
}

// CheckSubjectPattern says what is wrong with a pattern in Role.Subjects. A subject is
//
//   - mtls:NAME, by a client certificate;
//   - token:NAME, by a static token;
//   - ISSUER:SUB, by a token of an OpenID Connect issuer; ISSUER is the issuer's name
//     in the configuration, oidc unless it has another;
//   - anonymous, where nobody is asked who they are.
//
// A pattern is a subject, compared byte for byte, in which each * stands for any run
// of characters, also of none. So * alone is everybody, anonymous callers included.
func CheckSubjectPattern(pattern string) error {
	switch {
	case pattern == "":
		return errors.New("it is empty; * is everybody")
	case !utf8.ValidString(pattern) || strings.ContainsFunc(pattern, unicode.IsControl):
		return errors.New("there is a control character in it, or it is not UTF-8")
	case strings.TrimSpace(pattern) != pattern:
		return errors.New("there is a space at its beginning or end")
	case strings.Contains(pattern, "*") || pattern == "anonymous":
		return nil
	}
	if kind, name, ok := strings.Cut(pattern, ":"); !ok || kind == "" || name == "" {
		return errors.New("it is no subject: mtls:NAME, token:NAME, ISSUER:SUB or anonymous, with * for any run of characters")
	}
	return nil
}

// onList says whether a list of paths (see CheckUnixPath) has target, for which
// namesSocket holds.
func onList(paths []string, target string) bool {
	for _, listed := range paths {
		if dir, ok := strings.CutSuffix(listed, "*"); ok && strings.HasSuffix(dir, "/") {
			if name, ok := strings.CutPrefix(target, dir); ok && !strings.Contains(name, "/") {
				return true
			}
		}
		if target == listed {
			return true
		}
	}
	return false
}

// CheckUnixPath says what is wrong with a path in Rule.UnixPaths or Policy.UnixPaths,
// which is an absolute path for one socket, or DIR/* for every socket directly in
// DIR. It does not look whether there is a symbolic link in the path, which would
// keep it from matching anything.
func CheckUnixPath(listed string) error {
	switch {
	case strings.HasPrefix(listed, "@"):
		return errors.New("abstract sockets have no permissions, and are never reached")
	case !path.IsAbs(listed):
		return errors.New("it is an absolute path, or DIR/* for every socket directly in DIR")
	case strings.ContainsRune(listed, 0):
		return errors.New("no path has a NUL in it")
	case path.Clean(listed) != listed:
		return fmt.Errorf("the path is %s", path.Clean(listed))
	}
	dir, name := path.Split(listed)
	switch {
	case name == "":
		return errors.New("it is no socket; /* are those directly in /")
	case strings.Contains(dir, "*") || strings.Contains(name, "*") && name != "*":
		return errors.New("a * is all of the name behind the last slash")
	}
	return nil
}
