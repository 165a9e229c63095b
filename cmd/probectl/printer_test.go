package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"probed/internal/promise"
)

func TestPrinterLinesAndTables(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newPrinter(&out)
	p.line("as seen from %s", "web\nprobectl: all is well\x1b[2J")
	p.table("NAME PORT", [][]string{{"ssh", "22"}, {"a\tb\nc", ""}, {"żółw", "1"}})
	p.bytes("  | ", []byte("one\r\ntwo\\\n\nthree"))
	want := `as seen from web\nprobectl: all is well\x1b[2J
NAME      PORT
ssh       22
a\tb\nc   -
żółw      1
  | one\r\n
  | two\\\n
  | \n
  | three
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestPrinterWriteInPieces: a character that is cut in two is the same character, and one that never ends is shown.
func TestPrinterWriteInPieces(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newPrinter(&out)
	for _, b := range []byte("a€\n\t\x1b\xff\U0001f600z\xe2\x82") {
		if n, err := p.Write([]byte{b}); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	if want := "a€\n\t\\x1b\\xff\U0001f600z\\xe2\\x82"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestPrinterExact(t *testing.T) {
	t.Parallel()
	for terminal, want := range map[bool]string{
		false: hostile,
		true:  `\x1b[2J\x1b]0;owned\x07\x9b31m\u{9b}31m\u{202e}evil\u{2066}\u{200b}\rback\x7f\x00 end`,
	} {
		var out bytes.Buffer
		p := newPrinter(&out)
		p.terminal = terminal
		if err := p.exact([]byte(hostile)); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("terminal %v: %q, want %q", terminal, out.String(), want)
		}
	}
}

func TestPrinterStatus(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newPrinter(&out)
	p.status("not on a pipe")
	p.terminal = true
	p.status("")
	p.status("1000 B")
	p.status("1 KiB")
	p.status("")
	p.status("")
	_, _ = p.Write([]byte("within a line"))
	p.status("2 KiB")
	if want := "\r1000 B\r1 KiB \r     \rwithin a line"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestPrinterStopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	p := newPrinter(&failingWriter{err: full})
	p.line("one")
	p.line("two")
	if err := p.close(); !errors.Is(err, full) {
		t.Errorf("close: %v, want %v", err, full)
	}
	if writes := p.out.(*failingWriter).writes; writes != 1 {
		t.Errorf("%d writes, want 1", writes)
	}
}

type failingWriter struct {
	writes int
	err    error
}

func (w *failingWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, w.err
}

// FuzzPrinter: whatever comes and by whichever way it is printed, on a terminal no control character but newline and tab
// comes out; a line is one line; and a pipe gets exact bytes of what is for machines.
func FuzzPrinter(f *testing.F) {
	f.Add([]byte(hostile), 3)
	f.Add([]byte("a€\r\n\tb\\\xe2\x82"), 1)
	f.Fuzz(checkPrinted)
}

// checkPrinted holds the printer to that with data, cut in two.
func checkPrinted(t *testing.T, data []byte, cut int) {
	t.Helper()
	if cut < 0 || cut > len(data) {
		cut = len(data)
	}
	shown := func(colored bool) string {
		var terminal bytes.Buffer
		p := newPrinter(&terminal)
		p.terminal, p.colored = true, colored
		p.line("note: %s and %v", data, errors.New(string(data)))
		p.told(string(data), string(data))
		p.aside("%s", data)
		p.table("A RESULT", [][]string{{string(data), "b"}, {"a", string(data)}})
		if lines := strings.Count(terminal.String(), "\n"); lines != 6 {
			t.Errorf("three lines and a table of three made %d lines:\n%s", lines, terminal.String())
		}
		p.bytes("| ", data)
		_, _ = p.Write(data[:cut])
		_ = p.exact(data[cut:])
		_ = p.close()
		return terminal.String()
	}
	plain, colored := shown(false), shown(true)
	if r, bad := uncontrolled(plain, "\n\t"); bad {
		t.Errorf("%q: %U came out", data, r)
	}
	if without := ourColors.Replace(colored); without != plain {
		t.Errorf("%q: with colours it is %q, and without %q", data, without, plain)
	}

	var pipe bytes.Buffer
	p := newPrinter(&pipe)
	_ = p.exact(data[:cut])
	_ = p.exact(data[cut:])
	_ = p.close()
	if !bytes.Equal(pipe.Bytes(), data) {
		t.Errorf("a pipe got %q for %q", pipe.Bytes(), data)
	}
}

// ourColors takes out of a text what a printer adds to it, each with its end.
var ourColors = strings.NewReplacer("\x1b[1m", "", "\x1b[2m", "", "\x1b[31m", "", "\x1b[32m", "", "\x1b[33m", "", "\x1b[0m", "")

// What is dangerous comes in any mixture, and more of it than a fuzzer gets to in a minute.
func TestPrinterWithAnything(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	parts := []string{
		"\x1b[2J", "\x1b]0;owned\x07", "\x1b", "[31m", "\x9b", "\u009b", "\x90", "\x07", "\r", "\n", "\t", "\b", "\x00", "\x7f", "\\", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028",
		"\U000e0041", "\ue000", "\u0378", "\xe2\x82", "\xed\xa0\x80", "\xff", "\xf0\x9f", "\ufffd", "a", "ż", "例", "😀", "e\u0301", hostile,
	}
	texts := promise.Times(20_000, 1_000_000)
	for range texts {
		var data []byte
		for range r.IntN(12) {
			switch r.IntN(4) {
			case 0:
				data = append(data, byte(r.Uint32()))
			case 1:
				data = utf8.AppendRune(data, r.Int32N(utf8.MaxRune+1))
			default:
				data = append(data, parts[r.IntN(len(parts))]...)
			}
		}
		if checkPrinted(t, data, r.IntN(len(data)+1)); t.Failed() {
			return
		}
	}
	promise.TerminalIsSafe.Reached(t, "%d texts, printed in seven ways, with colours and without; 0 control bytes but newline and tab", texts)
}

// TestReadingInput: what is to be sent may come in pieces, fail, or be more than one message holds.
func TestReadingInput(t *testing.T) {
	t.Parallel()
	broken := errors.New("input/output error")
	for _, test := range []struct {
		name, problem string
		input         *tool
		want          int
	}{
		{name: "pieces", input: &tool{stdin: iotest.OneByteReader(strings.NewReader("hello"))}, want: 5},
		{name: "the most", input: &tool{stdin: strings.NewReader(strings.Repeat("x", 1<<20))}, want: 1 << 20},
		{name: "more", input: &tool{stdin: strings.NewReader(strings.Repeat("x", 1<<20+1))}, problem: "- has more than 1 MiB, which is the most that can be sent at once"},
		{name: "failing", input: &tool{stdin: iotest.ErrReader(broken)}, problem: broken.Error()},
	} {
		data, err := test.input.readFile("-")
		if test.problem == "" && (err != nil || len(data) != test.want) {
			t.Errorf("%s: %d bytes, %v, want %d", test.name, len(data), err, test.want)
		}
		if test.problem != "" && (err == nil || err.Error() != test.problem) {
			t.Errorf("%s: %v, want %q", test.name, err, test.problem)
		}
	}
}
