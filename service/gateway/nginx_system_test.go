//go:build system

package gateway

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
)

// proxy starts nginx in front of an address, as its documentation does it, with more directives, and returns where.
func proxy(t *testing.T, to, directives string) string {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatalf("%v: apt-get install nginx-light", err)
	}
	dir := nettest.SocketDir(t)
	for range 5 { // between the choice of a port and its use another may take it
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := free.Addr().String()
		free.Close()
		text := fmt.Sprintf(`
			daemon off; master_process off; user root; pid %s/pid; error_log %[1]s/log;
			events {}
			http { access_log off; server { listen %s; location / { proxy_pass http://%s; %s } } }`, dir, address, to, directives)
		if err := os.WriteFile(dir+"/conf", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), path, "-e", dir+"/log", "-p", dir, "-c", dir+"/conf")
		command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
		command.WaitDelay = 10 * time.Second
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() {
			defer close(exited)
			_ = command.Wait() // it is told to end
		}()
		t.Cleanup(func() { <-exited })
		if listens(t, address, exited) {
			return address
		}
	}
	log, _ := os.ReadFile(dir + "/log")
	t.Fatalf("nginx does not begin: %s", log)
	return ""
}

// listens waits until somebody listens; false: whoever should has exited.
func listens(t *testing.T, address string, exited <-chan struct{}) bool {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return true
		}
		select {
		case <-exited:
			return false
		case <-tick.C:
		}
	}
	t.Fatalf("nobody listens at %s", address)
	return false
}

// Behind nginx, too, events are seen when they happen, and an exchange that failed does not look like one that went well.
func TestBehindNginx(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct{ name, directives string }{
		{"HTTP/1.0", ""}, // what nginx speaks unless told otherwise
		{"HTTP/1.1", "proxy_http_version 1.1;"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			front := &world{address: proxy(t, w.address, tt.directives), client: w.client}
			for _, format := range []string{formatLines, formatEvents} {
				next := make(chan string)
				peer := nettest.TCP(t, func(c net.Conn) {
					for {
						select {
						case line, ok := <-next:
							if !ok {
								return
							}
							_, _ = io.WriteString(c, line)
						case <-t.Context().Done():
							return
						}
					}
				})
				response := front.send(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q}`, peer), "Accept", format)
				reader := bufio.NewReader(response.Body)
				for _, line := range []string{"one\n", "two\n"} {
					next <- line
					for got, want := "", base64.StdEncoding.EncodeToString([]byte(line)); !strings.Contains(got, want); {
						var err error
						if got, err = reader.ReadString('\n'); err != nil {
							t.Fatalf("%s, %q: %v", format, line, err)
						}
					}
				}
				close(next)
				if rest, err := io.ReadAll(reader); err != nil || !strings.Contains(string(rest), `"ENDED_BY_PEER_CLOSED"`) {
					t.Errorf("%s: %q, %v", format, rest, err)
				}
			}

			peer := nettest.TCP(t, nettest.SendThenReset(1, []byte("half a li")))
			response := front.send(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q, "text": "x", "holdOpen": true}`, peer), "Accept", formatRaw)
			text, err := io.ReadAll(response.Body)
			cut := response.StatusCode == http.StatusOK && string(text) == "half a li" && errors.Is(err, io.ErrUnexpectedEOF)
			refused := response.StatusCode == http.StatusNotAcceptable && err == nil
			if cut != (tt.name == "HTTP/1.1") || refused == cut {
				t.Errorf("%s, %q, %v", response.Status, text, err)
			}
		})
	}
}
