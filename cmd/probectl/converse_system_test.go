//go:build system && linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/echo"
)

// TestConverseWithServers talks with what people run, in process and by way of a probed: what is said comes back, and the
// conversation ends when it should.
func TestConverseWithServers(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	long := string(nettest.Data(size))
	digest := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(long)))
	open := []string{"--hold-open"}
	for _, test := range []struct {
		name   string
		target func(t *testing.T) string
		flags  []string
		input  string
		want   string // what comes; empty: the input
		match  string // or what it begins with
		end    string // PEER_CLOSED if empty
		local  bool   // a probed does not reach it
	}{
		// When its peer half-closes, ncat drops what its program still has to say. So the program is the first to end.
		{name: "ncat", target: ncat("--exec", fmt.Sprintf("/usr/bin/head -c %d", size)), flags: open, input: long},
		{name: "ncat that does not listen", target: ncat("--send-only", "--exec", "/bin/echo hello"), flags: open, input: "x", want: "hello\n"},
		{name: "ncat with TLS", target: ncatTLS("--exec", "/usr/bin/head -c 6"), flags: []string{"--tls", "-k", "--hold-open"}, input: "hello\n"},
		{name: "ncat on a unix socket", target: ncatUnix("--exec", fmt.Sprintf("/usr/bin/head -c %d", size)), flags: open, input: long, local: true},
		{name: "ncat by UDP", target: func(t *testing.T) string { return "udp://" + ncat("--udp", "--exec", "/bin/cat")(t) }, input: "hello\n", end: "LAST_STEP"},
		// Socat reads nothing while its program takes nothing, so much at once goes one way only.
		{name: "socat", target: socat("TCP-LISTEN:0,bind=127.0.0.1,fork", "", "cat"), input: "hello\n"},
		{name: "socat that counts", target: socat("TCP-LISTEN:0,bind=127.0.0.1,fork", "", "sha256sum"), input: long, want: digest},
		{name: "socat by IPv6", target: socat("TCP6-LISTEN:0,bind=[::1],fork", "tcp6://", "sha256sum"), input: long, want: digest},
		{name: "socat on a unix socket", target: socatUnix("UNIX-LISTEN:%s,fork", "unix://", "sha256sum"), input: long, want: digest, local: true},
		{name: "socat by seqpacket", target: socatUnix("UNIX-LISTEN:%s,fork,type=5", "unixpacket://", "cat"), input: "hello\n", local: true},
		{name: "redis", target: redis, input: "PING\r\nSET k v\r\nGET k\r\n", want: "+PONG\r\n+OK\r\n$1\r\nv\r\n"},
		{name: "redis, typed", target: redis, flags: []string{"-C"}, input: "PING\nQUIT\n", want: "+PONG\r\n+OK\r\n"},
		{name: "sshd", target: sshd, input: "SSH-2.0-probectl\r\n", match: `^SSH-2\.0-OpenSSH_\S+`},
		{name: "our echo", target: echoing("tcp://127.0.0.1:0"), input: long},
		{name: "our echo by UDP", target: echoing("udp://127.0.0.1:0"), input: "hello\n", end: "LAST_STEP"},
		{name: "our echo on a unix socket", target: echoing("unix://"), input: long, local: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target := test.target(t)
			for where, flags := range servers(t) {
				if test.local && where != "in process" {
					continue
				}
				var stdout, stderr bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				command := exec.CommandContext(ctx, "probectl", append(append(flags, "converse", target), test.flags...)...)
				command.Stdin, command.Stdout, command.Stderr = strings.NewReader(test.input), &stdout, &stderr
				if err := command.Run(); err != nil {
					t.Errorf("%s: %v, %s", where, err, stderr.String())
				}
				want := test.want
				if want == "" {
					want = test.input
				}
				switch got := stdout.String(); {
				case test.match != "" && !regexp.MustCompile(test.match).MatchString(got):
					t.Errorf("%s: %q came, want %s", where, got, test.match)
				case test.match == "" && got != want:
					t.Errorf("%s: %d bytes came, want %d: %.100q", where, len(got), len(want), got)
				}
				end := test.end
				if end == "" {
					end = "PEER_CLOSED"
				}
				if !strings.Contains(stderr.String(), "outcome    ok, ended by "+end+"\n") {
					t.Errorf("%s: %s\nwant it ended by %s", where, stderr.String(), end)
				}
			}
		})
	}
}

// TestHelpExamples runs the examples of the help against the servers they name.
func TestHelpExamples(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"redis": {redis(t), "--step", `send:PING\r\n`, "--step", `expect:+PONG\r\n`},
		"ssh":   {sshd(t), "--step", `expect-regex:^SSH-2\.0-`},
	} {
		code, stdout, stderr := runHere(t.Context(), append([]string{"exchange"}, args...)...)
		if code != exitYes || !strings.Contains(stdout, "outcome    ok, ended by LAST_STEP\n") {
			t.Errorf("%s: %d, %s%s", name, code, stdout, stderr)
		}
	}
}

// TestServerThatVanishes: a probed that says nothing any more, as one whose cable is pulled, is noticed.
func TestServerThatVanishes(t *testing.T) {
	t.Parallel()
	server := serve(t, nettest.UDP(t, nettest.SilentPacket))
	vanish := make(chan struct{})
	proxy := nettest.TCP(t, func(c net.Conn) {
		to, err := net.Dial("tcp", server)
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		var copying sync.WaitGroup
		copying.Go(func() { copyUntil(c, to, vanish) })
		copyUntil(to, c, vanish)
		copying.Wait()
		io.Copy(io.Discard, c) // until the caller has had enough
	}).String()
	stdin, typed := io.Pipe()
	defer typed.Close()
	var stderr bytes.Buffer
	stdout := &watchedWriter{awaited: "hello\n", seen: func() { close(vanish) }}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go fmt.Fprint(typed, "hello\n")
	code := run(ctx, "probectl", []string{"--server", proxy, "converse", nettest.TCP(t, nettest.Echo).String()}, stdin, stdout, &stderr, noEnvironment)
	if code != exitFailed || !strings.Contains(stderr.String(), "probectl: the connection to the server broke: ") {
		t.Errorf("%d, %s", code, stderr.String())
	}
}

// copyUntil copies until there is no more, or stop is closed. Then it keeps the connections open and copies nothing.
func copyUntil(to, from net.Conn, stop <-chan struct{}) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-stop:
			from.SetReadDeadline(time.Unix(1, 0))
		case <-done:
		}
	}()
	io.Copy(to, from)
	<-stop
	from.SetReadDeadline(time.Time{})
}

// launch starts a server and waits until it has said, on any of its outputs, that it is ready. What the first group of
// the pattern matches is returned.
func launch(t *testing.T, ready, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: apt-get install ncat openssh-server openssl redis-server socat", err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	command := exec.Command(path, args...)
	command.Stdout, command.Stderr = writer, writer
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // and what it has started for a connection
		_ = command.Wait()
		reader.Close()
	})
	if err := reader.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var said []byte
	for pattern, buffer := regexp.MustCompile(ready), make([]byte, 4096); ; {
		n, err := reader.Read(buffer)
		said = append(said, buffer[:n]...)
		if found := pattern.FindSubmatch(said); found != nil {
			return string(found[len(found)-1])
		}
		if err != nil {
			t.Fatalf("%s %q: %v; it said\n%s", name, args, err, said)
		}
	}
}

// freePort is a port that nobody has now. Those who cannot choose one themselves get it.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func ncat(args ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		port := freePort(t)
		launch(t, `Listening on 127\.0\.0\.1`, "ncat", append([]string{"-v", "-k", "-l", "127.0.0.1", port}, args...)...)
		return "127.0.0.1:" + port
	}
}

func ncatTLS(args ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		files := make([]string, 2)
		certificate, key := pemFiles(t, secureServer(t).TLS.Certificates[0])
		for i, content := range [][]byte{certificate, key} {
			files[i] = filepath.Join(t.TempDir(), "pem")
			if err := os.WriteFile(files[i], content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return ncat(append([]string{"--ssl", "--ssl-cert", files[0], "--ssl-key", files[1]}, args...)...)(t)
	}
}

func ncatUnix(args ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		path := filepath.Join(nettest.SocketDir(t), "s")
		launch(t, `Listening on `, "ncat", append([]string{"-v", "-k", "-l", "-U", path}, args...)...)
		return "unix://" + path
	}
}

// socat gives what comes to a program, and sends back what that says. It chooses its port, and tells it.
func socat(listen, scheme, program string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		return scheme + launch(t, `listening on AF=\d+ (\S+)`, "socat", "-d", "-d", listen, "EXEC:"+program)
	}
}

func socatUnix(listen, scheme, program string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		path := filepath.Join(nettest.SocketDir(t), "s")
		launch(t, `listening on `, "socat", "-d", "-d", fmt.Sprintf(listen, path), "EXEC:"+program)
		return scheme + path
	}
}

func redis(t *testing.T) string {
	t.Helper()
	port := freePort(t)
	launch(t, `Ready to accept connections`, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	return "127.0.0.1:" + port
}

// sshd serves one connection each time, as inetd would have it.
func sshd(t *testing.T) string {
	t.Helper()
	const path = "/usr/sbin/sshd"
	dir := t.TempDir()
	key, config := filepath.Join(dir, "key"), filepath.Join(dir, "config")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v, %s: apt-get install openssh-server", err, out)
	}
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Where it puts its unprivileged half. The package makes it when the service starts.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	return nettest.TCP(t, func(c net.Conn) {
		file, err := c.(*net.TCPConn).File()
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		command := exec.CommandContext(t.Context(), path, "-i", "-f", config, "-h", key)
		command.Stdin, command.Stdout = file, file
		_ = command.Run() // it says 255 of a client that leaves
	}).String()
}

func echoing(address string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		scheme, host, _ := strings.Cut(address, "://")
		if scheme == "unix" {
			host = filepath.Join(nettest.SocketDir(t), "s")
		}
		listener, err := echo.Listen(t.Context(), echo.Config{Address: scheme + "://" + host})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		_, at, found := strings.Cut(listener.Addr(), "://")
		if !found {
			at = listener.Addr()
		}
		return scheme + "://" + at
	}
}
