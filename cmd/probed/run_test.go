package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"probed/internal/nettest"
	"probed/internal/probetest"
)

// TestMain makes the program a command of the scripts in testdata, and looks for goroutines that were left behind.
func TestMain(m *testing.M) {
	testscript.Main(nettest.CheckLeaks(m), map[string]func(){"probed": main})
}

const patience = 20 * time.Second // for what should take a moment

// program is a probed that runs within the test.
type program struct {
	addresses map[string]string // of the listeners by name, as the ready file has them
	readyFile string
	signals   chan os.Signal
	exited    chan struct{} // closed at the end
	code      int           // once exited is closed
	stderr    *buffer
	stdout    *buffer
	conn      *grpc.ClientConn
	http      *http.Client
	witness   *probetest.Witness // of the clients
	audit     string             // file of the log; empty: there is none
}

// start runs probed on free ports of loopback, and returns when it is ready. What is given comes last, so it decides. It keeps
// an audit log, which has to have one record a session in the end.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	if configOf(args) == "" {
		args = append([]string{"--config=" + file(t, "")}, args...)
	}
	return startIn(t.Context(), t, nil, args...)
}

// auditName is the name of the audit log, beside the configuration.
const auditName = "audit.jsonl"

// configOf is the configuration that arguments name; empty: none.
func configOf(args []string) (path string) {
	for _, arg := range args {
		if name, ok := strings.CutPrefix(arg, "--config="); ok {
			path = name
		}
	}
	return path
}

// startIn is start with a context and an environment, and without an audit log unless the arguments name a configuration.
func startIn(ctx context.Context, t *testing.T, env map[string]string, args ...string) *program {
	t.Helper()
	return startBy(t, args, func(p *program, args []string) int {
		return run(ctx, args, p.stderr, p.stdout, func(name string) string { return env[name] }, p.signals)
	})
}

// startBy is start of what run runs.
func startBy(t *testing.T, args []string, run func(p *program, args []string) int) *program {
	t.Helper()
	p := &program{
		readyFile: filepath.Join(t.TempDir(), "ready"),
		signals:   make(chan os.Signal, 2),
		exited:    make(chan struct{}),
		stderr:    &buffer{},
		stdout:    &buffer{},
		witness:   probetest.NewWitness(t),
	}
	p.http = &http.Client{Transport: p.witness.HTTP(&http.Transport{}), Timeout: patience}
	args = append([]string{
		"--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--listen-file=" + p.readyFile,
	}, args...)
	go func() {
		defer close(p.exited)
		p.code = run(p, args)
	}()
	t.Cleanup(func() {
		if p.conn != nil {
			_ = p.conn.Close()
		}
		p.http.CloseIdleConnections()
		// Two, so that it ends whatever it is doing.
		for range 2 {
			select {
			case p.signals <- syscall.SIGTERM:
			case <-p.exited:
			}
		}
		if p.wait(t); p.audit != "" {
			p.checkAudit(t)
		}
	})
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; {
		text, err := os.ReadFile(p.readyFile)
		if err == nil {
			p.addresses = parseAddresses(t, string(text))
			break
		}
		select {
		case <-p.exited:
			t.Fatalf("it ended with %d: %s", p.code, p.stderr)
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not ready: %s", p.stderr)
		}
	}
	if log := filepath.Join(filepath.Dir(configOf(args)), auditName); configOf(args) != "" {
		if _, err := os.Stat(log); err == nil {
			p.audit = log
		}
	}
	if address := p.addresses["grpc"]; address != "" {
		var err error
		if p.conn, err = grpc.NewClient(address, append(p.witness.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))...); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// parseAddresses reads a ready file. Of several echo listeners the last stands.
func parseAddresses(t *testing.T, text string) map[string]string {
	t.Helper()
	addresses := map[string]string{}
	for line := range strings.Lines(text) {
		name, address, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok || !strings.HasSuffix(line, "\n") {
			t.Fatalf("a line of the ready file: %q", line)
		}
		addresses[name] = address
	}
	return addresses
}

// wait waits for the end and returns the exit code.
func (p *program) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.code
	case <-time.After(patience):
		t.Errorf("it does not end: %s", p.stderr)
		return -1
	}
}

// checkAudit asserts that there is one record a session, now that all have ended.
func (p *program) checkAudit(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(p.audit)
	if err != nil {
		t.Fatal(err)
	}
	probetest.CheckAudit(t, probetest.Records(t, text), p.witness.Outcomes())
}

// url is that of a path on a listener.
func (p *program) url(listener, path string) string { return "http://" + p.addresses[listener] + path }

// get asks with a connection of its own, and returns the status and the body; 0 when nobody listens.
func (p *program) get(t *testing.T, listener, path string) (status int, body string) {
	t.Helper()
	return p.do(t, http.MethodGet, listener, path, "")
}

func (p *program) do(t *testing.T, method, listener, path, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, p.url(listener, path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := p.http.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, string(text)
}

// metric is the value of a series, as the text format has it; empty when there is none.
func (p *program) metric(t *testing.T, series string) string {
	t.Helper()
	_, text := p.get(t, "ops", "/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// buffer keeps what is written to it.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// logged are the lines of the log with a message.
func (p *program) logged(t *testing.T, message string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(p.stderr.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("a line of the log: %v: %q", err, line)
		}
		if fields["msg"] == message {
			lines = append(lines, fields)
		}
	}
	return lines
}

// runToEnd runs probed that is not expected to begin, and returns what came of it.
func runToEnd(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	var errs bytes.Buffer
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGTERM // in case it does begin
	code = run(t.Context(), append([]string{
		"--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--log-level=error",
	}, args...), &errs, io.Discard, func(string) string { return "" }, signals)
	return code, errs.String()
}

// reachable are the addresses of this machine that others may reach it at, and the wildcards.
func reachable(t *testing.T) []string {
	t.Helper()
	found := []string{"0.0.0.0", "[::]", ""}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range interfaces {
		if n, ok := address.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			found = append(found, n.IP.String())
		}
	}
	return slices.Compact(found)
}
