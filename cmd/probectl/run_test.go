package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"probed/internal/nettest"

	probev1 "probed/gen/probe/v1"
)

func noEnvironment(string) string { return "" }

// runHere is run for a test that needs no process of its own.
func runHere(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, "probectl", args, strings.NewReader(""), &out, &errs, noEnvironment)
	return code, out.String(), errs.String()
}

// TestArgumentsThatAreNoText: what the contract has as text is UTF-8, whatever a shell hands on; bytes are bytes.
func TestArgumentsThatAreNoText(t *testing.T) {
	t.Parallel()
	echo := nettest.TCP(t, nettest.Echo).String()
	for _, args := range [][]string{
		{"service", "a\xff"}, {"host", "\xff"}, {"connect", "\xff:80"}, {"exchange", "\xff:80"},
		{"services", "--protocol", "\xff"}, {"dns", "a.test", "@\xff"},
	} {
		code, stdout, stderr := runHere(t.Context(), args...)
		if code != exitUsage || stdout != "" || !strings.HasPrefix(stderr, "probectl: an argument is not valid UTF-8\n") {
			t.Errorf("%q: %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if code, stdout, stderr := runHere(t.Context(), "exchange", echo, "--raw", "--text", "a\xff"); code != 0 || stdout != "a\xff" {
		t.Errorf("text of bytes: %d, %q, %q", code, stdout, stderr)
	}
}

// TestInterrupted: what has come by then stays printed, and how much it was is told.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	peer := nettest.TCP(t, speakAndHold("hello\n")).String()
	server := serve(t, nettest.UDP(t, nettest.SilentPacket))
	for _, test := range []struct {
		name, awaited string
		args          []string
	}{
		{"table", "  | hello\\n\n", []string{"exchange", peer}},
		{"JSON", `"chunk"`, []string{"exchange", peer, "-o", "json"}},
		{"raw", "hello\n", []string{"exchange", peer, "--raw"}},
		{"from a server", "hello\n", []string{"--server", server, "exchange", peer, "--raw"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stdout := &watchedWriter{awaited: test.awaited, seen: cancel}
			var stderr bytes.Buffer
			code := run(ctx, "probectl", test.args, nil, stdout, &stderr, noEnvironment)
			if code != exitInterrupted {
				t.Errorf("exit code %d, want %d", code, exitInterrupted)
			}
			if !strings.HasSuffix(stdout.text.String(), test.awaited) && test.name != "JSON" {
				t.Errorf("stdout ends otherwise than in %q:\n%s", test.awaited, stdout.text.String())
			}
			if !strings.HasSuffix(stderr.String(), "probectl: interrupted: 6 bytes in 1 chunk received by then\n") {
				t.Errorf("stderr: %s", stderr.String())
			}
		})
	}
}

// TestInterruptedLookup: an answer that has not come yet is none.
func TestInterruptedLookup(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(100*time.Millisecond, cancel) // before or after it has asked: it ends the same way
	code, stdout, stderr := runHere(ctx, "--server", nettest.TCP(t, nettest.Silent).String(), "port", "80")
	timer.Stop()
	cancel()
	if code != exitInterrupted || stdout != "" || stderr != "probectl: interrupted\n" {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
}

// speakAndHold is a peer that says something and then keeps the connection open.
func speakAndHold(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, text); err == nil {
			nettest.Silent(c)
		}
	}
}

// watchedWriter calls seen when what was awaited has been written.
type watchedWriter struct {
	text    bytes.Buffer
	awaited string
	seen    func()
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	n, err := w.text.Write(b)
	if strings.Contains(w.text.String(), w.awaited) {
		w.seen()
	}
	return n, err
}

// TestOutputThatFails: an answer that could not be written is no answer.
func TestOutputThatFails(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatalf("this needs Linux's /dev/full: %v", err)
	}
	defer full.Close()
	flood := nettest.TCP(t, nettest.Flood(1<<30)).String()
	for _, args := range [][]string{
		{"port", "80"},
		{"port", "80", "-o", "json"},
		{"port", "80", "-o", "yaml"},
		{"version"},
		{"--help"},
		{"connect", flood},
		{"exchange", flood},
		{"exchange", flood, "--raw"},
		{"exchange", flood, "-o", "json"},
		{"connect", flood, flood, "--json"},
		{"converse", flood},
		{"converse", flood, "--json"},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), "probectl", args, strings.NewReader(""), full, &stderr, noEnvironment)
		if code != exitFailed || !strings.HasSuffix(stderr.String(), "no space left on device\n") ||
			!strings.Contains(stderr.String(), "probectl: cannot write the answer: ") {
			t.Errorf("%v: %d, %s", args, code, stderr.String())
		}
	}
}

// TestOutputThatNobodyReads: whoever has stopped reading, as head does, wants to hear no more.
func TestOutputThatNobodyReads(t *testing.T) {
	t.Parallel()
	flood := nettest.TCP(t, nettest.Flood(1<<30)).String()
	for _, args := range [][]string{
		{"port", "80", "-o", "json"}, {"connect", flood, flood, "--json"}, {"exchange", flood, "--raw"}, {"converse", flood, "--json"},
	} {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		reader.Close()
		var stderr bytes.Buffer
		code := run(t.Context(), "probectl", args, strings.NewReader(""), writer, &stderr, noEnvironment)
		writer.Close()
		if code != exitFailed || strings.Contains(stderr.String(), "probectl:") {
			t.Errorf("%v: %d, %s", args, code, stderr.String())
		}
	}
}

// TestProgress: nothing in the first second, then what has come and how fast, out of the way when something is printed,
// and gone at the end.
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		stderr, stdout := newPrinter(&out), newPrinter(io.Discard)
		stderr.terminal = true
		p := startTransfer(stderr, stdout)
		chunk := func(n int) {
			_ = p.during(&probev1.Chunk{Data: make([]byte, n)}, func() error { return nil })
		}
		pass := func(d time.Duration) { <-time.After(d) } // on the clock of the bubble
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := out.take(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		chunk(2000)
		pass(999 * time.Millisecond)
		expect("")
		pass(time.Millisecond)
		expect("\r2.0 KiB received, 2.0 KiB/s, 1s")
		chunk(3 << 20)
		expect("\r" + strings.Repeat(" ", len("2.0 KiB received, 2.0 KiB/s, 1s")) + "\r")
		pass(time.Second)
		expect("\r3.0 MiB received, 3.0 MiB/s, 2s")
		pass(time.Second)
		expect("\r3.0 MiB received, 0 B/s, 3s" + strings.Repeat(" ", len("3.0 MiB")-len("0 B")))
		p.stop()
		p.stop()
		expect("\r" + strings.Repeat(" ", len("3.0 MiB received, 0 B/s, 3s")) + "\r")
		if got := p.received(); got != "3147728 bytes in 2 chunks" {
			t.Error(got)
		}

		// Within a line of the same terminal it does not show, and on anything but a terminal never.
		stdout.terminal = true
		_, _ = stdout.Write([]byte("half a line"))
		p = startTransfer(stderr, stdout)
		pass(2500 * time.Millisecond)
		p.stop()
		expect("")
		stdout.terminal, stderr.terminal = false, false
		p = startTransfer(stderr, stdout)
		pass(2500 * time.Millisecond)
		p.stop()
		expect("")
	})
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func TestSizeText(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 5 << 29: "2.5 GiB", 1 << 40: "1.0 TiB", 1 << 52: "4096.0 TiB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestServerAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"probed.shop:1234": "probed.shop:1234", "probed.shop": "probed.shop:50051", "192.0.2.1": "192.0.2.1:50051",
		"::1": "[::1]:50051", "[::1]": "[::1]:50051", "[::1]:1234": "[::1]:1234",
		":1234": "", "host:": "", "https://host": "", "dns:///host:1": "",
	} {
		got, err := serverAddress(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

// TestEveryCommandHasOneShape: all of them are documented in the same way, with examples that are of this command, and
// their help fits a terminal.
func TestEveryCommandHasOneShape(t *testing.T) {
	t.Parallel()
	root := newRootCommand(&tool{stdout: newPrinter(io.Discard), stderr: newPrinter(io.Discard)}, noEnvironment)
	for _, command := range append(subcommands(root), root) {
		checkHelp(t, command)
	}
}

// subcommands are all below a command.
func subcommands(command *cobra.Command) (all []*cobra.Command) {
	for _, below := range command.Commands() {
		if below.Name() != "help" { // cobra's own
			all = append(append(all, below), subcommands(below)...)
		}
	}
	return all
}

func checkHelp(t *testing.T, command *cobra.Command) {
	t.Helper()
	path := command.CommandPath()
	if command.Short == "" || command.Long == "" || command.Args == nil || command.RunE == nil {
		t.Errorf("%s: it lacks a short text, a long one, a check of its arguments, or something to do", path)
	}
	if !strings.HasPrefix(command.Example, "  "+path) {
		t.Errorf("%s: the example is %q", path, command.Example)
	}
	for line := range strings.SplitSeq(command.Long+"\n"+command.Example, "\n") {
		if len(line) > 92 {
			t.Errorf("%s: this line is too long to read:\n%s", path, line)
		}
	}
}
