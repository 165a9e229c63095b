package exchange

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
)

const (
	// expectWindow is the most bytes that an Expect looks at.
	expectWindow = 64 << 10
	// expectSilence is how long the peer has to be silent before a line without an end is tried, and expectLongSilence
	// before a match counts that more bytes would make longer. Sooner, what matches would depend on how the packets are cut.
	expectSilence     = 100 * time.Millisecond
	expectLongSilence = time.Second
	// manyGlances is how often all that came is searched anew without regard to how much that is.
	manyGlances = 64
	// mostInstructions bounds the program that an expression is compiled to, since the time to search grows with it.
	mostInstructions = 250
	// mostTriedToGrow bounds what is searched again and again to find out whether a match could grow; of more it is taken
	// for granted.
	mostTriedToGrow = 4 << 10
	// mostExpanded is the most bytes of one send after its groups have been filled in.
	mostExpanded = 1 << 20
	// mostMatched is the most bytes of matches in one outcome.
	mostMatched = 16 << 10
	// mostReference is the most bytes of a reference to a group: what is longer is none.
	mostReference = 64
)

// CompileExpect returns a regular expression as [Expect] wants it: ^ and $ are the borders of lines. It refuses one whose
// search would take too long, as \w{1000} repeated would.
func CompileExpect(expression string) (*regexp.Regexp, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if n := len(program.Inst); n > mostInstructions {
		return nil, fmt.Errorf("too large: it compiles to %d instructions, and %d are the most; what is repeated counts as often as it may be: write x+ for x{1,300}", n, mostInstructions)
	}
	return regexp.Compile("(?m:" + expression + ")")
}

// expect reads until what is expected, by the step numbered i, has come.
func (s *session) expect(i int, e Expect) *failure {
	w := &window{expect: e, end: -1}
	for w.end < 0 && len(w.bytes) < expectWindow {
		silence := w.silence
		piece, err := s.read(expectWindow-len(w.bytes), silence)
		switch {
		case err == nil:
			w.add(piece)
			if e.Literal != nil && w.end < 0 && s.tell(w, len(w.bytes)) != nil {
				return s.cancelled(PhaseReceive)
			}
		case errors.Is(err, os.ErrDeadlineExceeded) && silence > 0 && s.ctx.Err() == nil:
			if w.glance(); w.end < 0 && s.tell(w, len(w.bytes)) != nil {
				return s.cancelled(PhaseReceive)
			}
		default:
			if w.look(); w.end >= 0 {
				s.keepError(err)
				break
			}
			return s.unexpected(w, err)
		}
	}
	if w.end < 0 {
		if w.look(); w.end < 0 {
			return s.unexpected(w, nil)
		}
	}
	rest := w.rest()
	if s.tell(w, w.end) != nil {
		return s.cancelled(PhaseReceive)
	}
	for _, piece := range w.held {
		piece.done()
	}
	if len(rest) > 0 {
		s.pending = slices.Insert(s.pending, 0, piece{data: rest, elapsed: s.elapsed()})
	}
	if e.Regexp != nil {
		s.groups = groups{e.Regexp, w.matched}
		s.noteMatch(i, w.matched)
	}
	return nil
}

// noteMatch keeps what a step has matched for the outcome, as far as there is room.
func (s *session) noteMatch(step int, groups [][]byte) {
	match := Match{Step: step, Groups: make([][]byte, len(groups))}
	for i, group := range groups {
		n := min(len(group), mostMatched-s.matchedBytes)
		match.Groups[i] = group[:n:n]
		s.matchedBytes += n
	}
	s.outcome.Matches = append(s.outcome.Matches, match)
}

// unexpected is the failure that what was expected did not come; err is why no more comes, nil that the window is full.
func (s *session) unexpected(w *window, err error) *failure {
	if s.tell(w, len(w.bytes)) != nil {
		return s.cancelled(PhaseReceive)
	}
	closed := errors.Is(err, io.EOF)
	if closed && s.sayEOF() != nil {
		return s.cancelled(PhaseReceive)
	}
	f := &failure{phase: PhaseReceive, reason: ExpectFailed, text: fmt.Sprintf("%s did not come within %d bytes", w.expect, expectWindow)}
	switch {
	case closed:
		f.text = fmt.Sprintf("the peer closed, and %s had not come", w.expect)
		if len(w.bytes) == 0 {
			f.reason = PeerClosedEarly
		}
	case err != nil:
		f = s.ioFailure(PhaseReceive, err)
		if f.reason == ReceiveTimeout && len(w.bytes) > 0 {
			f.reason, f.text = ExpectFailed, fmt.Sprintf("%s did not come within %v", w.expect, s.request.Timeout)
		}
	}
	if f.reason == ExpectFailed {
		f.text += "; what came is " + excerpt(w.bytes)
	}
	return f
}

// tell hands on the first n bytes of the window, those that have not been already.
func (s *session) tell(w *window, n int) error {
	for w.told < n && len(w.held) > 0 {
		p := w.held[0]
		if room := n - w.told; len(p.data) > room {
			w.held[0].data = p.data[room:]
			p.data = p.data[:room:room]
			p.buffer.Hold() // for what is left of it
		} else {
			w.held = w.held[1:]
		}
		w.told += len(p.data)
		if err := s.chunk(p); err != nil {
			return err
		}
	}
	return nil
}

// window is what has come while an Expect waits.
type window struct {
	expect  Expect
	bytes   []byte
	held    []piece       // of bytes, those that have not been handed on
	told    int           // number of bytes that have
	line    int           // where the first line begins that has not been tried
	silence time.Duration // after which to look at what has come; zero: there is nothing new to look at
	glances int           // so far
	seen    int           // number of bytes that look has searched last
	found   int           // where the match ends that it found; -1: none
	end     int           // of what is consumed; -1: it has not come
	inLine  bool          // look has found it in the line that has no end yet
	matched [][]byte
}

func (w *window) add(p piece) {
	from := len(w.bytes)
	w.bytes = append(w.bytes, p.data...)
	w.held = append(w.held, p)
	w.end = -1
	if w.expect.Literal != nil {
		from = max(0, from-len(w.expect.Literal)+1)
		if i := bytes.Index(w.bytes[from:], w.expect.Literal); i >= 0 {
			w.end = from + i + len(w.expect.Literal)
		}
		return
	}
	w.silence = expectSilence
	for {
		n := bytes.IndexByte(w.bytes[w.line:], '\n')
		if n < 0 {
			return
		}
		line := bytes.TrimSuffix(w.bytes[w.line:w.line+n], []byte("\r"))
		w.line += n + 1
		if w.try(line) >= 0 {
			w.end = w.line
			return
		}
	}
}

// glance is look, spared when there have been many and little has come since: a peer that says a byte now and then shall
// not make us search the same again and again.
func (w *window) glance() {
	long := w.silence == expectLongSilence
	w.silence = 0
	if w.glances >= manyGlances && len(w.bytes)-w.seen < len(w.bytes)/8 {
		return
	}
	w.glances++
	if w.look(); w.end >= 0 && !long && w.couldGrow() {
		w.end, w.silence = -1, expectLongSilence
	}
}

// couldGrow tells whether the match that look has found would be longer if the peer went on, as that of [^ ]+ in a word
// of which only the half has come. What it tries stands for what peers say.
func (w *window) couldGrow() bool {
	text, end := w.bytes, w.end
	if w.line < len(w.bytes) && w.inLine {
		text, end = w.bytes[w.line:], w.end-w.line
	}
	switch {
	case end < len(text):
		return false
	case len(text) > mostTriedToGrow:
		return true
	}
	longer := append(bytes.Clone(text), 0)
	for _, next := range []byte("a0Z_-.:/ \r\n") {
		longer[len(text)] = next
		if at := w.expect.Regexp.FindIndex(longer); len(at) == 2 && at[1] > end {
			return true
		}
	}
	return false
}

// look tries the line that has no end yet, and then everything at once. What it has found out it does not find out again.
func (w *window) look() {
	if w.expect.Regexp == nil || len(w.bytes) == 0 {
		return
	}
	if w.seen != len(w.bytes) {
		w.seen, w.found, w.inLine = len(w.bytes), -1, w.line < len(w.bytes)
		if w.inLine {
			if w.found = w.try(w.bytes[w.line:]); w.found >= 0 {
				w.found += w.line
			}
		}
		if w.found < 0 && w.line > 0 {
			w.found, w.inLine = w.try(w.bytes), false
		}
	}
	if w.found >= 0 {
		w.end = max(w.found, w.told)
	}
}

// try matches the expression, notes its groups, and returns where the match ends; -1: nowhere.
func (w *window) try(text []byte) int {
	indexes := w.expect.Regexp.FindSubmatchIndex(text)
	if indexes == nil {
		return -1
	}
	w.matched = make([][]byte, len(indexes)/2)
	for i := range w.matched {
		if from := indexes[2*i]; from >= 0 {
			w.matched[i] = bytes.Clone(text[from:indexes[2*i+1]])
		}
	}
	return indexes[1]
}

// rest is a copy of what came beyond the end.
func (w *window) rest() []byte { return bytes.Clone(w.bytes[w.end:]) }

// String is what is expected, for a person.
func (e Expect) String() string {
	if e.Regexp == nil {
		return excerpt(e.Literal)
	}
	expression := strings.TrimSuffix(strings.TrimPrefix(e.Regexp.String(), "(?m:"), ")")
	return "a match of " + expression
}

// groups is what the latest Expect with a regular expression has matched.
type groups struct {
	expression *regexp.Regexp // nil: there was none
	matched    [][]byte
}

// expand fills the groups into the text of a send; false: it becomes too long.
func (g groups) expand(text []byte) ([]byte, bool) {
	if g.expression == nil {
		return text, true
	}
	var b []byte
	fits := true
	rest := references(text, func(before []byte, name string) {
		if !fits {
			return
		}
		b = append(b, before...)
		if i := groupIndex(g.expression, name); i >= 0 && i < len(g.matched) {
			b = append(b, g.matched[i]...)
		}
		if len(b) > mostExpanded {
			fits, b = false, nil
		}
	})
	b = append(b, rest...)
	return b, fits && len(b) <= mostExpanded
}

// missingGroup is the first group that a send refers to and expression does not have; empty: none.
func missingGroup(send Send, expression *regexp.Regexp) (missing string) {
	if !send.Expand || expression == nil {
		return ""
	}
	references(send.Data, func(_ []byte, name string) {
		if missing == "" && groupIndex(expression, name) < 0 {
			missing = name
		}
	})
	return missing
}

// references calls found for each ${name} in text, with what stands before it, and returns what stands behind the last.
func references(text []byte, found func(before []byte, name string)) (rest []byte) {
	for from := 0; ; {
		i := bytes.Index(text[from:], []byte("${"))
		if i < 0 {
			return text
		}
		i += from
		n := bytes.IndexByte(text[i:min(len(text), i+mostReference)], '}')
		if n < 0 {
			from = i + 2
			continue
		}
		name := string(text[i+2 : i+n])
		if !isGroupName(name) {
			from = i + 2
			continue
		}
		found(text[:i], name)
		text, from = text[i+n+1:], 0
	}
}

func isGroupName(name string) bool {
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// groupIndex is the number of a group by its number or its name; -1: there is none.
func groupIndex(expression *regexp.Regexp, name string) int {
	if isDigits(name) {
		for i := range expression.NumSubexp() + 1 {
			if name == fmt.Sprint(i) {
				return i
			}
		}
		return -1
	}
	return expression.SubexpIndex(name)
}
