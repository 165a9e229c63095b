package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// nowhere is a connection that leads to no service.
type nowhere struct{ grpc.ClientConnInterface }

func (nowhere) Close() error { return nil }

func (nowhere) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return nil }

// impatient serves, and waits for nobody.
func impatient(t *testing.T) (address string) {
	t.Helper()
	g, err := New(Config{Conn: nowhere{}, Patience: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// Who sends a body slowly is not waited for, be it that bytes keep coming.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	address := impatient(t)
	for name, head := range map[string]string{"with its length": "Content-Length: 1000\r\n\r\n", "in chunks": "Transfer-Encoding: chunked\r\n\r\n3e8\r\n"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		begin := time.Now()
		conn.SetDeadline(begin.Add(20 * time.Second))
		if _, err := io.WriteString(conn, "POST /v1/connect HTTP/1.1\r\nHost: localhost\r\n"+head); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() {
			for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
				select {
				case <-over:
					tick.Stop()
					return
				default:
					_, _ = io.WriteString(conn, " ") // it may have been closed
				}
			}
		}()
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text := make([]byte, 4096)
		n, _ := io.ReadFull(response.Body, text)
		response.Body.Close()
		close(over)
		if took := time.Since(begin); response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text[:n]), "the body did not come within 100ms") || took < 100*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s: %s after %v: %s", name, response.Status, took, text[:n])
		}
	}
}

// Who asks and asks and reads nothing loses the connection.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	address := impatient(t)
	for _, path := range []string{"/openapi.json", "/nothing", "/v1/vantage"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		request := strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n", 1000)
		for err == nil {
			_, err = io.WriteString(conn, request)
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A timeout that is none is refused, and the refusal arrives.
func TestTimeoutOutOfRange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, timeout := range []string{"-1s", "-11s", "-2147483648s", "-315576000000s", "315576000000s", "86401s"} {
		a, text := w.ask(t, http.MethodPost, "/v1/exchange", `{"target": "127.0.0.1:9", "timeout": "`+timeout+`"}`)
		if a.StatusCode != http.StatusBadRequest || parseError(t, text).field() != "timeout" {
			t.Errorf("%s: %d %s", timeout, a.StatusCode, text)
		}
	}
}
