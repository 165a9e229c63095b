// Package shells presses TAB in real shells, on a terminal, where probectl has been installed as its help says.
package shells

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// shell is one of them: how to start it, and what its user has in a file for it beside what the help says.
type shell struct {
	name  string
	args  []string
	files map[string]string // below HOME
}

var shells = []shell{
	{name: "bash", args: []string{"-i"}, files: map[string]string{".bashrc": ". /usr/share/bash-completion/bash_completion\nPS1='$ '\n"}},
	{name: "zsh", args: []string{"-i", "-o", "noglobalrcs"}, files: map[string]string{
		".zshrc": "fpath=(~/.zfunc $fpath)\nautoload -U compinit; compinit\nPS1='$ '\nbindkey -e\n",
	}},
	{name: "fish", args: []string{"-i"}, files: map[string]string{
		".config/fish/config.fish": "function fish_prompt; echo -n '$ '; end\nset -g fish_greeting\nset -g fish_autosuggestion_enabled 0\n",
	}},
}

// presses is what is typed up to TAB, and the line that it makes of that; in one shell, or in all.
var presses = []struct{ typed, line, in string }{
	{typed: "probectl hostn", line: "probectl hostname"},
	{typed: "probectl config get-", line: "probectl config get-servers"},
	{typed: "probectl service postgresq", line: "probectl service postgresql"},
	{typed: "probectl connect db.shop:postgresq", line: "probectl connect db.shop:postgresql"},
	{typed: "probectl connect a:1 tls://db.shop:postgresq", line: "probectl connect a:1 tls://db.shop:postgresql"},
	{typed: "probectl exchange udp://[::1]:domain-", line: "probectl exchange udp://[::1]:domain-s", in: "bash"}, // elsewhere brackets are to be quoted
	{typed: "probectl connect unixg", line: "probectl connect unixgram://"},
	{typed: "probectl constants EAI_AG", line: "probectl constants EAI_AGAIN"},
	{typed: "probectl constants SO", line: "probectl constants SOCK_"},
	{typed: "probectl protocol ipv6-ic", line: "probectl protocol ipv6-icmp"},
	{typed: "probectl host --fam", line: "probectl host --family"},
	{typed: "probectl services --class dy", line: "probectl services --class dynamic"},
	{typed: "probectl addrinfo x --flags AI_PASSIVE,AI_NUMERICS", line: "probectl addrinfo x --flags AI_PASSIVE,AI_NUMERICSERV"},
	{typed: "probectl dns example.org CNA", line: "probectl dns example.org CNAME"},
	{typed: "probectl exchange a:1 --step half", line: "probectl exchange a:1 --step half-close"},
	{typed: "probectl --server sho", line: "probectl --server shop"},
	{typed: "probectl config use-server clu", line: "probectl config use-server cluster"},
	{typed: "probectl connect --cacert some-c", line: "probectl connect --cacert some-ca.pem"},
	{typed: "probectl service some-c", line: "probectl service some-c"}, // a file is none
	{typed: "probectl connect unix://some-c", line: "probectl connect unix://some-ca.pem"},
	// Names that a shell would run, see hostile: they are not offered.
	{typed: "probectl connect unix://hostile/a\t\t", line: "probectl connect unix://hostile/a"},
	{typed: "probectl exchange a:1 --step send-file:hostile/a\t\t", line: "probectl exchange a:1 --step send-file:hostile/a"},
}

// hostile are the names of files that run something, if a shell takes them for a part of its line.
var hostile = []string{"a$(id>ran)1", "a$(id>ran)2"} // two, whose common beginning bash does not quote

// listings is what is typed up to TAB where several things may follow, and what the shell then shows beside them.
var listings = []struct{ typed, shown string }{
	{"probectl constants ", "errors of getaddrinfo"},
	{"probectl config ", "Make a server the current one"},
	{"probectl --server ", "kube net/probed"},
}

// TestShells presses TAB and looks at the line that comes of it, by running it.
func TestShells(t *testing.T) {
	t.Parallel()
	program := build(t)
	t.Run("fish answers", func(t *testing.T) {
		t.Parallel()
		fishAnswers(t, program)
	})
	for _, shell := range shells {
		t.Run(shell.name, func(t *testing.T) {
			t.Parallel()
			home := install(t, shell, program)
			s := start(t, shell, home)
			for i, press := range presses {
				if press.in != "" && press.in != shell.name {
					continue
				}
				s.await(t, `\$ $`)
				// In the keys of emacs, which all of them have: to the begin of the line, and something in front of it.
				s.write(t, fmt.Sprintf("%s\t\x01echo RESULT %d \r", press.typed, i))
				result := s.await(t, fmt.Sprintf(`(?m)^RESULT %d (.*)$`, i))
				if line := strings.TrimRight(result[1], " "); line != press.line {
					t.Errorf("%q became %q, want %q", press.typed, line, press.line)
				}
			}
			if _, err := os.Stat(filepath.Join(home, "ran")); err == nil {
				t.Error("the name of a file was run")
			}
			for _, listing := range listings {
				s := start(t, shell, home)
				s.await(t, `\$ $`)
				s.write(t, listing.typed+"\t\t")
				s.await(t, regexp.QuoteMeta(listing.shown))
			}
		})
	}
}

// fishAnswers asks fish what it would offer, with what it says beside it.
func fishAnswers(t *testing.T, program string) {
	t.Helper()
	home := install(t, shells[2], program)
	for typed, want := range map[string]string{
		"probectl service postgresq":         "postgresql\t5432/tcp,udp PostgreSQL Database\n",
		"probectl connect db.shop:postgresq": "db.shop:postgresql\t5432/tcp PostgreSQL Database\n",
		"probectl --server ":                 "shop\t192.0.2.1\ncluster\tkube net/probed\n",
	} {
		command := exec.CommandContext(t.Context(), "fish", "-c", "complete -C "+"'"+typed+"'")
		command.Env, command.Dir = environment(home), home
		if out, err := command.Output(); err != nil || string(out) != want {
			t.Errorf("%q: %q, %v, want %q", typed, out, err, want)
		}
	}
}

// install makes a home in which probectl is completed as its help says, with servers and a file in it.
func install(t *testing.T, s shell, program string) (home string) {
	t.Helper()
	home = t.TempDir()
	for name, text := range s.files {
		write(t, filepath.Join(home, name), text)
	}
	write(t, filepath.Join(home, "some-ca.pem"), "")
	for _, name := range hostile {
		write(t, filepath.Join(home, "hostile", name), "")
	}
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(home, "bin", "probectl")); err != nil {
		t.Fatal(err)
	}
	help := sh(t, home, "probectl completion --help")
	block := regexp.MustCompile(`(?m)^` + s.name + `.*:\n((?:  .*\n)+)`).FindStringSubmatch(help)
	if block == nil {
		t.Fatalf("the help does not say how to install it:\n%s", help)
	}
	sh(t, home, block[1])
	sh(t, home, "probectl config set-server shop --server 192.0.2.1 && probectl config set-server cluster --kube net/probed")
	return home
}

func environment(home string) []string {
	return []string{"HOME=" + home, "PATH=" + filepath.Join(home, "bin") + ":/usr/bin:/bin", "TERM=xterm", "LANG=C.UTF-8"}
}

// sh runs lines of a shell there.
func sh(t *testing.T, home, lines string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-e", "-c", lines)
	command.Env, command.Dir = environment(home), home
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v, %s", lines, err, stderr.String())
	}
	return string(out)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o700)
	if err == nil {
		err = os.WriteFile(name, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// build is the program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "probectl")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "../..", "-o", program, "./cmd/probectl").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v, %s", err, out)
	}
	return program
}

// session is a shell on a terminal.
type session struct {
	terminal *os.File
	changed  chan struct{} // has one when something was shown, and is closed at the end

	mu   sync.Mutex
	seen []byte
}

func start(t *testing.T, s shell, home string) *session {
	t.Helper()
	command := exec.CommandContext(t.Context(), s.name, s.args...)
	command.Env, command.Dir = environment(home), home
	terminal, err := pty.StartWithSize(command, &pty.Winsize{Rows: 60, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	session := &session{terminal: terminal, changed: make(chan struct{}, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(session.changed)
		buffer := make([]byte, 1<<14)
		for {
			n, err := terminal.Read(buffer)
			session.mu.Lock()
			session.seen = append(session.seen, buffer[:n]...)
			session.mu.Unlock()
			select {
			case session.changed <- struct{}{}:
			default:
			}
			if err != nil { // EIO: the shell has ended
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGHUP)
		_ = command.Process.Kill()
		_ = command.Wait() // killed
		terminal.Close()
		<-ended
	})
	return session
}

func (s *session) write(t *testing.T, text string) {
	t.Helper()
	if _, err := s.terminal.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// What a shell says to the terminal alone.
var controls = regexp.MustCompile(`\x1b\[[0-9;?>=]*[A-Za-z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78A-Za-z]|[\r\x07\x0f]`)

// await waits until what has been shown since the last time matches, and returns the groups.
func (s *session) await(t *testing.T, pattern string) []string {
	t.Helper()
	matches := regexp.MustCompile(pattern)
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		text := controls.ReplaceAllString(string(s.seen), "")
		found := matches.FindStringSubmatch(text)
		if found != nil {
			s.seen = s.seen[:0]
			if i := strings.LastIndex(text, found[0]); i >= 0 {
				s.seen = append(s.seen, text[i+len(found[0]):]...)
			}
		}
		s.mu.Unlock()
		if found != nil {
			return found
		}
		select {
		case _, open := <-s.changed:
			if !open {
				t.Fatalf("waited for %s, and the shell ended:\n%s", pattern, text)
			}
		case <-deadline:
			t.Fatalf("waited for %s, and got\n%s", pattern, text)
		}
	}
}
