package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/metrics"
)

// session is an exchange under way, by gRPC or by REST.
type session struct {
	name string
	next func() (line string, err error) // the next event in words, "" and io.EOF at the end
}

// sessions opens an exchange with the target by both ways, and returns when the target has said its first word.
func (p *program) sessions(t *testing.T, target string) []session {
	t.Helper()
	stream, err := probev1.NewExchangeServiceClient(p.conn).Exchange(t.Context(), &probev1.ExchangeRequest{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url("http", "/v1/exchange"), strings.NewReader(fmt.Sprintf(`{"target": %q}`, target)))
	if err != nil {
		t.Fatal(err)
	}
	response, err := p.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	reader := bufio.NewReader(response.Body)
	all := []session{
		{"gRPC", func() (string, error) {
			event, err := stream.Recv()
			if err != nil {
				return "", err
			}
			return event.String(), nil
		}},
		{"REST", func() (string, error) { return reader.ReadString('\n') }},
	}
	for _, s := range all {
		for line := ""; !strings.Contains(line, "chunk"); {
			if line, err = s.next(); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
	}
	return all
}

// last reads a session to its end and returns the last event.
func (s session) last() (line string, err error) {
	for {
		next, err := s.next()
		if errors.Is(err, io.EOF) {
			return line, nil
		}
		if err != nil {
			return line, err
		}
		line = next
	}
}

// greeter says a word, and the rest when it is told to.
func greeter(t *testing.T) (target string, rest chan struct{}) {
	t.Helper()
	rest = make(chan struct{})
	over := t.Context().Done()
	return nettest.TCP(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "hello")
		select {
		case <-rest:
		case <-over:
		}
	}).String(), rest
}

// After the signal it is not ready and goes on for the delay; then new calls are refused, and those under way end by
// themselves if they can.
func TestDrainInOrder(t *testing.T) {
	t.Parallel()
	p := start(t, "--drain-delay=4s", "--drain-timeout=1h")
	target, rest := greeter(t)
	under := p.sessions(t, target)
	watch, err := grpc_health_v1.NewHealthClient(p.conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", first, err)
	}

	asking, err := grpc_reflection_v1.NewServerReflectionClient(p.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	question := &grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}
	if err := asking.Send(question); err != nil {
		t.Fatal(err)
	}
	if answer, err := asking.Recv(); err != nil || len(answer.GetListServicesResponse().GetService()) == 0 {
		t.Fatalf("%v, %v", answer, err)
	}

	// kept asks over the one connection that it keeps, if it may.
	kept := http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer kept.CloseIdleConnections()
	keeps := func() bool {
		response, err := kept.Get(p.url("http", "/v1/ports/22"))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", response.Status, err)
		}
		return !response.Close
	}
	if !keeps() {
		t.Error("a connection is not kept")
	}

	p.signals <- syscall.SIGTERM
	told := time.Now()
	if second, err := watch.Recv(); err != nil || second.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Fatalf("%v, %v", second, err)
	}
	for service, status := range p.health(t) {
		if status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("the health of %q: %v", service, status)
		}
	}
	if code, body := p.get(t, "ops", "/readyz"); code != http.StatusServiceUnavailable || body != "not ready\n" {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, _ := p.get(t, "ops", "/livez"); code != http.StatusOK {
		t.Errorf("livez: %d", code)
	}
	// Those who have not noticed are served, and told to come by another connection.
	if keeps() {
		t.Error("a connection is kept that is about to be closed")
	}
	if _, err := probev1.NewNameServiceClient(p.conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
		t.Error(err)
	}
	if code, body := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
		t.Errorf("%d: %s", code, body)
	}
	// Then nobody is.
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", p.addresses["http"])
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			conn.Close()
		}
		if time.Now().After(deadline) {
			t.Fatalf("it accepts still: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	if waited := time.Since(told); waited < 4*time.Second {
		t.Errorf("it accepted for %v after the signal, want 4s", waited)
	}
	if code, _ := p.get(t, "ops", "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readyz while calls end: %d", code)
	}
	// What is under way ends well.
	close(rest)
	for _, s := range under {
		if last, err := s.last(); err != nil || !strings.Contains(last, "ENDED_BY_PEER_CLOSED") {
			t.Errorf("%s: %s, %v", s.name, last, err)
		}
	}
	// These are calls under way as well, and would be waited for.
	if _, err := watch.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the watch: %v", err)
	}
	if _, err := asking.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("reflection: %v", err)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
	if len(p.logged(t, "ending")) != 1 || len(p.logged(t, "ended")) != 1 {
		t.Errorf("%s", p.stderr)
	}
	if code, _ := p.get(t, "ops", "/livez"); code != 0 {
		t.Errorf("livez afterwards: %d", code)
	}
}

// Exchanges that do not end in time end as DRAINED, and their callers are told.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	p := start(t, "--drain-timeout=50ms")
	target, _ := greeter(t)
	under := p.sessions(t, target)
	began := time.Now()
	p.signals <- syscall.SIGINT
	for _, s := range under {
		if last, err := s.last(); err != nil || !strings.Contains(last, "REASON_DRAINED") || !strings.Contains(last, "outcome") {
			t.Errorf("%s: %s, %v", s.name, last, err)
		}
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A second signal waits for nothing.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"--drain-delay=1h", "--drain-timeout=1h"} {
		p := start(t, when)
		target, _ := greeter(t)
		under := p.sessions(t, target)
		p.signals <- syscall.SIGTERM
		p.signals <- syscall.SIGTERM
		began := time.Now()
		if code := p.wait(t); code != 0 {
			t.Errorf("%s: exit code %d: %s", when, code, p.stderr)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: it took %v", when, took)
		}
		for _, s := range under {
			if last, err := s.last(); err == nil && !strings.Contains(last, "error") {
				t.Errorf("%s: %s ended well: %s", when, s.name, last)
			}
		}
		if len(p.logged(t, "second signal: ending at once")) != 1 {
			t.Errorf("%s: %s", when, p.stderr)
		}
	}
}

// An idle client, one that said nothing at all, and one that watches health hold nothing up for long.
func TestIdleClientsDoNotHoldUp(t *testing.T) {
	t.Parallel()
	p := start(t, "--drain-timeout=100ms")
	for _, name := range []string{"grpc", "http", "ops"} {
		conn, err := net.Dial("tcp", p.addresses[name])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	if _, err := probev1.NewNameServiceClient(p.conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
		t.Fatal(err)
	}
	response, err := p.http.Get(p.url("http", "/v1/ports/22")) // which keeps its connection
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	began := time.Now()
	p.signals <- syscall.SIGTERM
	if code := p.wait(t); code != 0 || time.Since(began) > 4*time.Second {
		t.Errorf("exit code %d after %v: %s", code, time.Since(began), p.stderr)
	}
}

// When one listener dies the others end too, and the program says why.
func TestOneListenerDies(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"grpc", "http", "ops"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options{grpcListen: "127.0.0.1:0", httpListen: "127.0.0.1:0", opsListen: "127.0.0.1:0", drainTimeout: time.Hour}
			counts := metrics.New("test")
			l, err := listen(t.Context(), o, counts.EchoHooks())
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			s := newServer(o, &config{}, noEnv, slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler), l, counts)
			if err := s.assemble(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- s.run(t.Context(), make(chan os.Signal)) }()
			for !s.ready.Load() {
				<-time.After(time.Millisecond)
			}
			listener := map[string]net.Listener{"grpc": l.grpc, "http": l.http, "ops": l.ops}[name]
			_ = listener.Close()
			select {
			case err := <-ended:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%v", err)
				}
			case <-time.After(patience):
				t.Fatal("it goes on")
			}
			for other, address := range map[string]string{"grpc": l.grpc.Addr().String(), "http": l.http.Addr().String(), "ops": l.ops.Addr().String()} {
				if conn, err := net.Dial("tcp", address); err == nil {
					conn.Close()
					t.Errorf("%s listens still", other)
				}
			}
		})
	}
}

// The end of the context of run is as good as a signal.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := startIn(ctx, t, nil)
	cancel()
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}

// Headers and messages beyond what is allowed are refused.
func TestBounds(t *testing.T) {
	t.Parallel()
	p := start(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url("http", "/v1/ports/22"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Large", strings.Repeat("x", limitsOf(nil, false).HeaderBytes+8<<10))
	response, err := p.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%s", response.Status)
	}
	// A message beyond what is configured is refused before it is read.
	_, err = probev1.NewNameServiceClient(p.conn).LookupService(t.Context(), &probev1.LookupServiceRequest{Name: strings.Repeat("x", 1<<20+aroundMessage)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", status.Code(err))
	}
}

// As many exchanges by REST as one connection of gRPC may have, and more, hold up no other.
func TestManyByREST(t *testing.T) {
	t.Parallel()
	p := start(t, "--drain-timeout=50ms")
	sessions := int(limitsOf(nil, false).StreamsPerConnection) + 50
	target, _ := greeter(t)
	outcomes := make(chan error, sessions)
	var begun sync.WaitGroup
	begun.Add(sessions)
	for range sessions {
		go func() { outcomes <- p.drained(t.Context(), target, begun.Done) }()
	}
	begun.Wait()
	if code, body := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
		t.Errorf("%d: %s", code, body)
	}
	if got := p.metric(t, `probed_sessions_active{network="tcp"}`); got != fmt.Sprint(sessions) {
		t.Errorf("%s active, want %d", got, sessions)
	}
	p.signals <- syscall.SIGTERM
	for range sessions {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}

// drained opens an exchange by REST, tells when it has begun, and expects that it ends as DRAINED.
func (p *program) drained(ctx context.Context, target string, begun func()) error {
	begun = sync.OnceFunc(begun)
	defer begun()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url("http", "/v1/exchange"), strings.NewReader(fmt.Sprintf(`{"target": %q}`, target)))
	if err != nil {
		return err
	}
	response, err := p.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	last := ""
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if last = lines.Text(); strings.Contains(last, "chunk") {
			begun()
		}
	}
	if !strings.Contains(last, "REASON_DRAINED") {
		return fmt.Errorf("the last event is %s", last)
	}
	return nil
}

// A log that nobody reads any more does not end the program.
func TestLogPipeBreaks(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ready")
	command := exec.CommandContext(t.Context(), executable)
	command.Args = []string{"probed", "--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--listen-file=" + file}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = writer
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if _, err := bufio.NewReader(reader).ReadString('\n'); err != nil {
		t.Error(err)
	}
	reader.Close()
	p := &program{http: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	for tick := time.NewTicker(5 * time.Millisecond); p.addresses == nil; <-tick.C {
		if text, err := os.ReadFile(file); err == nil {
			p.addresses = parseAddresses(t, string(text))
		}
	}
	for range 3 { // each of which is a line of the log
		if code, body := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
			t.Errorf("%d: %s", code, body)
		}
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}
