package resolve

import "strings"

// lookupStatus is what one source of nsswitch.conf(5) reports.
type lookupStatus int

const (
	statusSuccess lookupStatus = iota
	statusNotFound
	statusUnavailable
	statusTryAgain
	statusCount
)

// source is one word of the hosts line, with what to do after each status.
type source struct {
	name    string
	returns [statusCount]bool // stop here; otherwise go on with the next source
}

// defaultSources is what glibc uses without a hosts line.
func defaultSources() []source {
	s, _ := parseSources("files dns")
	return s
}

// parseNsswitch reads nsswitch.conf(5) and returns the sources of the last
// valid hosts line.
func parseNsswitch(data []byte) []source {
	sources := defaultSources()
	for line := range strings.Lines(string(data)) {
		if i := strings.IndexByte(line, '#'); i >= 0 {
			line = line[:i]
		}
		line = strings.TrimSpace(line)
		end := strings.IndexFunc(line, func(r rune) bool { return r == ':' || isSpace(r) })
		if end <= 0 || line[:end] != "hosts" {
			continue
		}
		rest := strings.TrimLeftFunc(line[end:], func(r rune) bool { return r == ':' || isSpace(r) })
		if s, ok := parseSources(rest); ok {
			sources = s
		}
	}
	return sources
}

// parseSources reads "files [NOTFOUND=return] dns". It fails on a criterion
// that is none.
func parseSources(s string) ([]source, bool) {
	var sources []source
	for {
		s = strings.TrimLeftFunc(s, isSpace)
		if s == "" {
			return sources, true
		}
		end := strings.IndexFunc(s, func(r rune) bool { return r == '[' || isSpace(r) })
		if end == 0 {
			return sources, true
		}
		if end < 0 {
			end = len(s)
		}
		src := source{name: s[:end]}
		src.returns[statusSuccess] = true
		s = strings.TrimLeftFunc(s[end:], isSpace)
		if strings.HasPrefix(s, "[") {
			criteria, rest, found := strings.Cut(s[1:], "]")
			if !found || !src.apply(criteria) {
				return nil, false
			}
			s = rest
		}
		sources = append(sources, src)
	}
}

// apply reads the inside of brackets: "!UNAVAIL=return NOTFOUND=continue".
func (s *source) apply(criteria string) bool {
	// "STATUS = action" may have blanks around the sign.
	criteria = strings.Join(strings.FieldsFunc(criteria, isSpace), " ")
	criteria = strings.ReplaceAll(strings.ReplaceAll(criteria, " =", "="), "= ", "=")
	words := strings.Fields(criteria)
	if len(words) == 0 {
		return false
	}
	for _, word := range words {
		name, action, found := strings.Cut(word, "=")
		negated := strings.HasPrefix(name, "!")
		name = strings.TrimPrefix(name, "!")
		status, known := map[string]lookupStatus{
			"SUCCESS": statusSuccess, "NOTFOUND": statusNotFound,
			"UNAVAIL": statusUnavailable, "TRYAGAIN": statusTryAgain,
		}[strings.ToUpper(name)]
		if !found || !known {
			return false
		}
		var stop bool
		switch strings.ToLower(action) {
		case "return":
			stop = true
		case "continue", "merge": // the hosts database cannot merge
		default:
			return false
		}
		if !negated {
			s.returns[status] = stop
			continue
		}
		for other := range s.returns {
			if lookupStatus(other) != status {
				s.returns[other] = stop
			}
		}
	}
	return true
}

// isSpace is isspace(3) in the C locale.
func isSpace(r rune) bool {
	return r == ' ' || '\t' <= r && r <= '\r'
}
