//go:build system && linux

package main

import (
	"bytes"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"probed/internal/nettest"
)

// TestTokenDoesNotLeave: another machine, or a proxy on this one that leads there, reads nothing of a token.
func TestTokenDoesNotLeave(t *testing.T) {
	t.Parallel()
	n := nettest.Namespace(t)
	n.Run("ip", "addr", "add", "198.51.100.7/32", "dev", "lo")
	const refused = "probectl: the token is not sent to ADDRESS without TLS, since that is not loopback\n"
	for _, test := range []struct {
		name, address string
		flags         []string
		code          int
		stderr        string // begins with
		server, proxy bool   // whether they get a byte
	}{
		{"another machine", "198.51.100.7:0", nil, exitUsage, refused, false, false},
		{"another machine, on purpose", "198.51.100.7:0", []string{"--token-over-plaintext"}, exitFailed, "probectl: no probed answers at ", false, true},
		{"this one", "127.0.0.1:0", nil, exitFailed, "probectl: no probed answers at ADDRESS: ", true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, serverGot := recorder(t, n, test.address)
			proxy, proxyGot := recorder(t, n, "127.0.0.1:0")
			var stderr bytes.Buffer
			command := exec.CommandContext(t.Context(), "probectl", append(test.flags, "--server", server, "--connect-timeout", "5s", "port", "80")...)
			command.Stderr = &stderr
			command.Env = append(command.Environ(), "PROBECTL_TOKEN=secret", "HTTPS_PROXY=http://"+proxy)
			var err error
			n.Do(func() { err = command.Start() })
			if err != nil {
				t.Fatal(err)
			}
			_ = command.Wait() // its exit code is looked at
			if code := command.ProcessState.ExitCode(); code != test.code || !strings.HasPrefix(stderr.String(), strings.ReplaceAll(test.stderr, "ADDRESS", server)) {
				t.Errorf("%d, %s", code, stderr.String())
			}
			atServer, atProxy := serverGot(), proxyGot()
			if (atServer != "") != test.server || (atProxy != "") != test.proxy || strings.Contains(atServer+atProxy+stderr.String(), "secret") {
				t.Errorf("the server got %q, the proxy %q", atServer, atProxy)
			}
		})
	}
}

// recorder listens in the namespace, hangs up on who has said something, and tells in the end what that was.
func recorder(t *testing.T, n *nettest.Netns, address string) (where string, got func() string) {
	t.Helper()
	var listener net.Listener
	var err error
	n.Do(func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	recorded := make(chan string, 1)
	go func() {
		var all []byte
		defer func() { recorded <- string(all) }()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			first := make([]byte, 4096)
			k, _ := io.ReadAtLeast(conn, first, 1)
			all = append(all, first[:k]...)
			conn.Close()
		}
	}()
	stop := func() { listener.Close() }
	t.Cleanup(stop)
	return listener.Addr().String(), func() string { stop(); return <-recorded }
}
