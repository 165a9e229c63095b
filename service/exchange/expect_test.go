package exchange

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"probed/internal/nettest"
)

func regex(t testing.TB, expression string) Expect {
	t.Helper()
	compiled, err := CompileExpect(expression)
	if err != nil {
		t.Fatal(err)
	}
	return Expect{Regexp: compiled}
}

// says writes each piece by itself, and then keeps the connection until the other end closes.
func says(pieces ...string) func(net.Conn) {
	return func(c net.Conn) {
		for _, piece := range pieces {
			if _, err := io.WriteString(c, piece); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, c)
	}
}

// What expressions matched is in the outcome, as far as there is room.
func TestMatchesAreTold(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("x", mostMatched-20)
	target, _ := streamTarget(t, "tcp", says("SSH-2.0-probe_1\r\n", "literal", filler+"\n", "abcdefghij\n"))
	r := trial{request: Request{Target: target, Steps: []Step{
		regex(t, `^SSH-([0-9.]+)-(\w+)( never)?`), Expect{Literal: []byte("literal")}, regex(t, "^x+$"), regex(t, "^a(.*)$"),
	}}}.run(t)
	want := []Match{
		{0, [][]byte{[]byte("SSH-2.0-probe_1"), []byte("2.0"), []byte("probe_1"), nil}},
		{2, [][]byte{[]byte(filler)[:mostMatched-25]}},
		{3, [][]byte{nil, nil}},
	}
	if !r.OK || len(r.Matches) != len(want) {
		t.Fatalf("%+v", r.Outcome)
	}
	for i, match := range r.Matches {
		if !slices.EqualFunc(match.Groups, want[i].Groups, bytes.Equal) || match.Step != want[i].Step {
			t.Errorf("match %d: %.80q of step %d, want %.80q of %d", i, match.Groups, match.Step, want[i].Groups, want[i].Step)
		}
	}
}

func TestExpect(t *testing.T) {
	t.Parallel()
	text := func(s string) Expect { return Expect{Literal: []byte(s)} }
	for _, tt := range []struct {
		name   string
		says   string
		hold   bool // the connection open
		expect []Expect
		// what the steps behind find, which receive to the end; with hold for a while of silence
		rest string
	}{
		{name: "a literal", says: "hello world", expect: []Expect{text("hello ")}, rest: "world"},
		{name: "a literal and no more", says: "hello", hold: true, expect: []Expect{text("hello")}},
		{name: "two literals", says: "a1b2c3", expect: []Expect{text("a1"), text("c")}, rest: "3"},
		{name: "a literal over a border of lines", says: "a\r\nb", expect: []Expect{text("a\r\nb")}},
		{name: "bytes that are no text", says: "\x00\xff\x00\xfe!", expect: []Expect{{Literal: []byte("\x00\xfe")}}, rest: "!"},
		{name: "a line", says: "220 mail ESMTP\r\n250 next\r\n", expect: []Expect{regex(t, "^220")}, rest: "250 next\r\n"},
		{name: "the first line that matches", says: "one\ntwo\nthree\n", expect: []Expect{regex(t, "^t")}, rest: "three\n"},
		{name: "the borders of a line", says: "xpongx\r\npong\r\n+\r\n", expect: []Expect{regex(t, "^pong$")}, rest: "+\r\n"},
		{name: "an empty line", says: "HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", expect: []Expect{regex(t, "^$")}, rest: "body"},
		{name: "a prompt", says: "login: ", hold: true, expect: []Expect{regex(t, "login: $")}},
		{name: "a prompt, and what came with it", says: "xxabcyyy", hold: true, expect: []Expect{regex(t, "a(b)c")}, rest: "yyy"},
		{name: "over lines", says: "a\r\nb\r\nc", expect: []Expect{regex(t, `a\r\nb\r\n`)}, rest: "c"},
		{name: "at the end without a line's end", says: "no\nyes", expect: []Expect{regex(t, "yes$")}},
		{name: "one after the other in one segment", says: "1\n2\n3\n", expect: []Expect{regex(t, "1"), regex(t, "2")}, rest: "3\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, cut := range []int{len(tt.says), 1} {
				target, tally := streamTarget(t, "tcp", nettest.Drip([]byte(tt.says), cut, time.Millisecond))
				if tt.hold {
					target, tally = streamTarget(t, "tcp", says(strings.SplitAfter(tt.says, "")...))
					if cut > 1 {
						target, tally = streamTarget(t, "tcp", says(tt.says))
					}
				}
				request := Request{Target: target}
				for _, expect := range tt.expect {
					request.Steps = append(request.Steps, expect)
				}
				behind := len(request.Steps)
				var rest []byte
				var got int
				end := Receive{}
				if tt.hold {
					end.Idle = 200 * time.Millisecond
				}
				request.Steps = append(request.Steps, Send{Data: []byte("mark")}, end)
				r := trial{request: request, peer: tally, hook: func(event Event) error {
					switch event := event.(type) {
					case Sent:
						if event.Step == behind {
							got = 1
						}
					case Chunk:
						if got > 0 {
							rest = append(rest, event.Data...)
						}
					}
					return nil
				}}.run(t)
				if !r.OK {
					t.Errorf("in pieces of %d: %+v", cut, r.Outcome)
				}
				if string(rest) != tt.rest || string(r.data) != tt.says {
					t.Errorf("in pieces of %d: behind the steps came %q of %q, want %q", cut, rest, r.data, tt.rest)
				}
			}
		})
	}
}

func TestExpectFails(t *testing.T) {
	t.Parallel()
	pong := Expect{Literal: []byte("PONG")}
	for _, tt := range []struct {
		name   string
		peer   func(net.Conn)
		expect Expect
		phase  Phase
		reason Reason
		by     EndedBy
		came   string
		text   string
	}{
		{"something else, and closed", nettest.HalfCloseThenRead([]byte("-ERR no\r\n")), pong, PhaseReceive, ExpectFailed, EndedByNone, "-ERR no\r\n", `the peer closed, and "PONG" had not come; what came is "-ERR no\r\n"`},
		{"something else, and silence", says("-ERR no\r\n"), pong, PhaseReceive, ExpectFailed, EndedByDeadline, "-ERR no\r\n", `"PONG" did not come within 400ms; what came is "-ERR no\r\n"`},
		{"an expression, and silence", says("-ERR no\r\nx"), regex(t, "^[+]PONG"), PhaseReceive, ExpectFailed, EndedByDeadline, "-ERR no\r\nx", "a match of ^[+]PONG did not come"},
		{"nothing, and closed", nettest.HalfCloseThenRead(nil), pong, PhaseReceive, PeerClosedEarly, EndedByNone, "", `the peer closed, and "PONG" had not come`},
		{"nothing, and silence", says(), pong, PhaseReceive, ReceiveTimeout, EndedByDeadline, "", "did not come within 400ms"},
		{"reset", nettest.SendThenReset(1, []byte("PIN")), pong, PhaseReceive, ConnectionReset, EndedByNone, "PIN", "reset"},
		{"too much", nettest.Flood(1 << 50), pong, PhaseReceive, ExpectFailed, EndedByNone, "", "within 65536 bytes"},
		{"too much of a line", nettest.Flood(1 << 50), regex(t, "^PONG$"), PhaseReceive, ExpectFailed, EndedByNone, "", "within 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "tcp", tt.peer)
			r := trial{request: Request{Target: target, Steps: []Step{Send{Data: []byte("P")}, tt.expect, Receive{}}, Timeout: 400 * time.Millisecond}}.run(t)
			r.wants(t, tt.phase, tt.reason, tt.by)
			if r.FailedStep != 1 || !strings.Contains(r.Error, tt.text) {
				t.Errorf("step %d: %q, want %q", r.FailedStep, r.Error, tt.text)
			}
			if tt.came != "" && string(r.StepReceived) != tt.came || len(r.StepReceived) > lastOfStep || !bytes.HasSuffix(r.data, r.StepReceived) {
				t.Errorf("what came is told as %q of %d bytes", r.StepReceived, len(r.data))
			}
		})
	}
}

// What has matched goes into later sends, and nowhere else.
func TestExpectGroups(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, expression, want string }{
		{"PONG ${1}\r\n", "PING :([^ ]+)", "PONG 4711\r\n"},
		{"${0}|${1}|${id}", "(?P<id>[0-9]+)$", "4711|4711|4711"},
		{"$1 $$ ${ ${} ${x-y} {1} $", "4(7)", "$1 $$ ${ ${} ${x-y} {1} $"},
		{"${1}${2}", "(4)|(5)", "4"},
	} {
		if group := missingGroup(Send{Data: []byte(tt.text), Expand: true}, regex(t, tt.expression).Regexp); group != "" {
			t.Errorf("%q: no group %q", tt.text, group)
			continue
		}
		target, _ := streamTarget(t, "tcp", func(c net.Conn) {
			_, _ = io.WriteString(c, "PING :4711\r\n")
			_, _ = io.Copy(c, c)
		})
		r := trial{request: Request{Target: target, Steps: []Step{
			Send{Data: []byte("${1}"), Expand: true}, // before any expression: as it is
			regex(t, tt.expression),
			Send{Data: []byte(tt.text), Expand: true}, Send{Data: []byte(tt.text)}, HalfClose{}, Receive{},
		}}}.run(t)
		if want := "PING :4711\r\n${1}" + tt.want + tt.text; string(r.data) != want || !r.OK {
			t.Errorf("%q came, want %q: %+v", r.data, want, r.Outcome)
		}
	}
}

func TestExpectGroupsAreBounded(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "tcp", says(strings.Repeat("x", 60_000)+"\n"))
	r := trial{request: Request{Target: target, Steps: []Step{
		regex(t, "x+"), Send{Data: []byte(strings.Repeat("${0}", 100_000)), Expand: true},
	}}}.run(t)
	r.wants(t, PhaseSend, LimitReached, EndedByNone)
}

func TestCompileExpect(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		"^220":                       "",
		`.{200}`:                     "",
		"(":                          "error parsing regexp: missing closing ): `(`",
		strings.Repeat(`\w{400}`, 2): "too large: it compiles to 802 instructions, and 250 are the most; what is repeated counts as often as it may be: write x+ for x{1,300}",
	} {
		got := ""
		if _, err := CompileExpect(expression); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", expression, got, want)
		}
	}
}

// A word of which the half has come is no word yet, however long the packet with the rest takes.
func TestExpectWaitsForTheRest(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "tcp", func(c net.Conn) {
		for _, piece := range []string{"PI", "NG :to", "ken1", "23 x\r\n"} {
			_, _ = io.WriteString(c, piece)
			time.Sleep(3 * expectSilence) //nolint:forbidigo // a slow peer
		}
		_, _ = io.Copy(c, c)
	})
	r := trial{request: Request{Target: target, Steps: []Step{
		regex(t, "^PING :([^ ]+)"), Send{Data: []byte("PONG ${1}"), Expand: true}, HalfClose{}, Receive{},
	}}}.run(t)
	if !r.OK || !strings.HasSuffix(string(r.data), "PONG token123") {
		t.Errorf("%q came: %+v", r.data, r.Outcome)
	}
	// If there is no rest, it is one after all.
	target, _ = streamTarget(t, "tcp", says("hello world"))
	r = trial{request: Request{Target: target, Steps: []Step{regex(t, `hello (\w+)`)}}}.run(t)
	if !r.OK || r.Timings.Total < expectLongSilence {
		t.Errorf("%q came: %+v", r.data, r.Outcome)
	}
}

// However the packets are cut, the window finds the same.
func FuzzExpect(f *testing.F) {
	f.Add("220 mail ESMTP x\r\n250 ok", "^220 ([^ ]+)", uint64(3), true)
	f.Add("a\nb\nc", "b", uint64(1), false)
	f.Add("\r\n\r\n", "^$", uint64(0xffff), true)
	f.Add("aab", "ab", uint64(5), false)
	f.Fuzz(func(t *testing.T, text, pattern string, cuts uint64, expression bool) {
		expect := Expect{Literal: []byte(pattern)}
		if expression {
			compiled, err := CompileExpect(pattern)
			if err != nil || len(pattern) > 200 {
				return
			}
			expect = Expect{Regexp: compiled}
		} else if pattern == "" {
			return
		}
		if len(text) > 4096 {
			return
		}
		feed := func(cuts uint64) *window {
			w := &window{expect: expect, end: -1}
			from := 0
			for i := range len(text) {
				if i == len(text)-1 || cuts>>(i%64)&1 == 1 {
					w.add(piece{data: []byte(text[from : i+1])})
					if from = i + 1; w.end >= 0 {
						return w
					}
				}
			}
			w.look()
			return w
		}
		whole, cut := feed(0), feed(cuts)
		if whole.end != cut.end || !slices.EqualFunc(whole.matched, cut.matched, bytes.Equal) {
			t.Errorf("%q in %q ends at %d with %q, and cut by %x at %d with %q", pattern, text, whole.end, whole.matched, cuts, cut.end, cut.matched)
		}
		if !expression && whole.end >= 0 && whole.end != strings.Index(text, pattern)+len(pattern) {
			t.Errorf("%q in %q ends at %d", pattern, text, whole.end)
		}
	})
}
