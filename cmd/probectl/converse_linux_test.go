package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
)

// TestConverseOnATerminal types, and looks at the screen.
func TestConverseOnATerminal(t *testing.T) {
	t.Parallel()
	server := serve(t, nettest.UDP(t, nettest.SilentPacket))
	for _, test := range []struct {
		name string
		peer func(net.Conn)
		// What is typed when the screen shows what stands before it.
		await, text []string
		code        int
		want        string // the screen
	}{
		{
			name: "the end of what is typed", peer: nettest.Echo,
			await: []string{`connected .*\n$`, `\none\n$`}, text: []string{"one\n", "two\n\x04"},
			want: `^as seen from .+\nconnected .+\none\ntwo\noutcome    ok, ended by PEER_CLOSED\n +sent 8 bytes \(8 acknowledged\), received 8 bytes in `,
		},
		{
			name: "Ctrl-C", peer: nettest.Echo,
			await: []string{`connected .*\n$`, `\none\n$`}, text: []string{"one\n", "\x03"}, code: exitInterrupted,
			want: `\none\n\noutcome    ok, ended by LAST_STEP\n +sent 4 bytes \(4 acknowledged\), received 4 bytes in 1 chunk\n`,
		},
		{
			name: "the peer has enough, and nobody types", peer: func(c net.Conn) { fmt.Fprint(c, "login: ") },
			want: `\nlogin: \noutcome    ok, ended by PEER_CLOSED\n`,
		},
		{
			name: "a peer that would drive the terminal", peer: func(c net.Conn) { fmt.Fprint(c, hostile+"\r\n\tx\xe2\x82") },
			want: `\n\\x1b\[2J\\x1b\]0;owned\\x07\\x9b31m\\u\{9b\}31m\\u\{202e\}evil\\u\{2066\}\\u\{200b\}\\rback\\x7f\\x00 end\n\tx\\xe2\\x82\noutcome  `,
		},
	} {
		for where, flags := range map[string][]string{"in process": nil, "from a server": {"--server", server}} {
			t.Run(test.name+" "+where, func(t *testing.T) {
				t.Parallel()
				peer := nettest.TCP(t, test.peer).String()
				p := openTerminal(t)
				command := p.start(t, append(flags, "converse", peer)...)
				for i, pattern := range test.await {
					p.await(t, pattern)
					p.typeText(t, test.text[i])
				}
				code := exitCode(t, command.Wait())
				text := p.closed(t)
				if code != test.code || !regexp.MustCompile(test.want).MatchString(text) {
					t.Errorf("exit code %d, want %d; the screen\n%s\nwant %s", code, test.code, text, test.want)
				}
				if r, bad := uncontrolled(text, "\n\t"); bad {
					t.Errorf("%U got to the terminal", r)
				}
			})
		}
	}
}

// TestConverseIsInterrupted before there is a connection, and while the peer takes nothing: it ends all the same.
func TestConverseIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(100*time.Millisecond, cancel) // before or after it has asked: it ends the same way
	code, stdout, stderr := runHere(ctx, "converse", nettest.Backlog(t).String())
	timer.Stop()
	cancel()
	if code != exitInterrupted || stdout != "" || !strings.HasSuffix(stderr, "probectl: interrupted before the connection was open\n") {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}

	for where, flags := range servers(t) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		input := &endless{}
		input.idle = time.AfterFunc(time.Hour, cancel)
		defer input.idle.Stop()
		var errs bytes.Buffer
		code := run(ctx, "probectl", append(flags, "converse", nettest.TCP(t, nettest.NeverRead).String()), input, io.Discard, &errs, noEnvironment)
		if code != exitInterrupted {
			t.Errorf("%s: %d, %s", where, code, errs.String())
		}
		// What sockets and windows hold, and no more.
		if n := input.read.Load(); n > 32<<20 {
			t.Errorf("%s: %d bytes were read for a peer that takes none", where, n)
		}
	}
}

// servers is who may answer, as flags.
func servers(t *testing.T) map[string][]string {
	t.Helper()
	return map[string][]string{
		"in process":    nil,
		"from a server": {"--server", serve(t, nettest.UDP(t, nettest.SilentPacket))},
	}
}

// endless is input without an end. When nobody has read it for a moment, idle fires.
type endless struct {
	read atomic.Int64
	idle *time.Timer
}

func (e *endless) Read(b []byte) (int, error) {
	e.read.Add(int64(len(b)))
	e.idle.Reset(300 * time.Millisecond)
	return len(b), nil
}

// TestConverseCarriesAll: much, both ways at the same time, and exactly.
func TestConverseCarriesAll(t *testing.T) {
	t.Parallel()
	for _, flags := range servers(t) {
		carry(t, 16<<20, flags)
	}
}

// carry sends so many bytes to a peer that sends them back, and returns what the kernel knew of the process at its end.
func carry(t *testing.T, size int64, flags []string) (status string) {
	t.Helper()
	var stderr bytes.Buffer
	sent, received := sha256.New(), sha256.New()
	statusFile := filepath.Join(t.TempDir(), "status")
	command := exec.CommandContext(t.Context(), "probectl", append(flags, "converse", nettest.TCP(t, nettest.Echo).String())...)
	command.Env = append(os.Environ(), "STATUS_FILE="+statusFile)
	command.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), sent)
	command.Stdout, command.Stderr = received, &stderr
	if err := command.Run(); err != nil || !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Errorf("%v: %v, or it is not what was sent; %s", flags, err, stderr.String())
	}
	if want := fmt.Sprintf("sent %d bytes (%d acknowledged), received %d bytes in ", size, size, size); !strings.Contains(stderr.String(), want) {
		t.Errorf("%v: %s\nwant %s", flags, stderr.String(), want)
	}
	text, err := os.ReadFile(statusFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestConverseOutputThatFails: who reads no more has had enough, and that is no news.
func TestConverseOutputThatFails(t *testing.T) {
	t.Parallel()
	peer := nettest.TCP(t, nettest.Flood(1<<40)).String()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	var stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), "probectl", "converse", peer, "--hold-open")
	command.Stdout, command.Stderr = writer, &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(reader, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	reader.Close()
	err = command.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE || strings.Contains(stderr.String(), "probectl:") {
		t.Errorf("%v, %s", err, stderr.String())
	}
}
