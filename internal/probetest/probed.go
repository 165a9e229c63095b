// Package probetest drives a real probed, a process of its own, as its callers do, and asserts of every exchange what has
// to hold whatever happens: exactly one outcome, the last event; bytes that add up; one record in the audit log; and when
// all are over, as many goroutines and descriptors as before.
//
// [Start] starts one, [Probed.GRPC] and [Probed.REST] are its callers, and a [Session] is one exchange. What memory it takes
// comes from /proc.
//
// Used by tests only, best in a package whose TestMain is in a namespace (nettest.InNamespace).
package probetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"probed/internal/nettest"
)

// patience is for what should take a moment, on a machine that is busy.
const patience = 30 * time.Second

// Options are how probed is started. The zero value is on loopback, everybody may do everything, and the limits are those
// of its defaults.
type Options struct {
	Race   bool     // with the race detector, which takes memory and time
	Config string   // YAML, without `audit`, which every one here has
	Args   []string // flags
	Env    []string // beside that of the test
	// In is the namespace it runs in, where its callers then call it from as well; nil: that of the test.
	In *nettest.Netns
	// DiskFull is set when its audit log cannot be written: then no session begins.
	DiskFull bool
	// Dies is set when the test ends probed itself, or makes it end: then nothing is asserted of its end.
	Dies bool
}

// Probed is one that runs.
type Probed struct {
	GRPCAddress, HTTPAddress, OpsAddress string
	EchoAddress                          string // without its scheme, of the last --echo; empty: there is none
	PID                                  int

	t       testing.TB
	options Options
	command *exec.Cmd
	log     *bytes.Buffer // once exited
	audit   string        // file
	exited  chan struct{}
	code    int // once exited
	before  footprint
	scraper *http.Client // has one connection, which is in each footprint alike

	mu       sync.Mutex
	outcomes int // that its callers were told
	closers  []func()
}

// Start builds probed and starts one on free ports of loopback, and returns when it is ready. It ends with the test, and
// then has to have kept the invariants.
func Start(t testing.TB, o Options) *Probed {
	t.Helper()
	dir := t.TempDir()
	p := &Probed{t: t, options: o, log: &bytes.Buffer{}, audit: filepath.Join(dir, "audit"), exited: make(chan struct{})}
	if o.DiskFull {
		p.audit = "/dev/full"
	}
	config := filepath.Join(dir, "probed.yaml")
	if err := os.WriteFile(config, []byte(o.Config+"\naudit:\n  path: "+p.audit+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(dir, "ready")
	p.command = exec.Command(build(t, o.Race), append([]string{
		"--config=" + config, "--listen-file=" + ready, "--log-level=warn",
		"--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0",
	}, o.Args...)...)
	p.command.Env = append(os.Environ(), o.Env...)
	p.command.Stderr = p.log
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is killed leaves none behind
	if err := p.within(p.command.Start); err != nil {
		t.Fatal(err)
	}
	p.PID = p.command.Process.Pid
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // the code tells
		p.code = p.command.ProcessState.ExitCode()
	}()
	transport := &http.Transport{DialContext: p.connect, MaxConnsPerHost: 1}
	p.scraper = &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(p.end)
	p.await("it to be ready", func() bool {
		select {
		case <-p.exited:
			t.Fatalf("probed ended with %d: %s", p.code, p.log)
		default:
		}
		text, err := os.ReadFile(ready)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(text)) {
			name, address, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch name {
			case "grpc":
				p.GRPCAddress = address
			case "http":
				p.HTTPAddress = address
			case "ops":
				p.OpsAddress = address
			case "echo":
				_, p.EchoAddress, _ = strings.Cut(address, "://")
			}
		}
		return true
	})
	p.Metric("go_goroutines") // the first scrape starts what later ones find
	p.before = p.idleFootprint()
	return p
}

// within calls f in the namespace of probed.
func (p *Probed) within(f func() error) error {
	if p.options.In == nil {
		return f()
	}
	err := errors.New("the namespace could not be entered")
	p.options.In.Do(func() { err = f() })
	return err
}

// connect opens the connections of callers.
func (p *Probed) connect(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.within(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Signal sends one.
func (p *Probed) Signal(signal syscall.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		p.t.Errorf("signal: %v", err)
	}
}

// Wait waits for the end, and returns the exit code and what was logged.
func (p *Probed) Wait(most time.Duration) (code int, log string) {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.code, p.log.String()
	case <-time.After(most):
		_ = p.command.Process.Signal(syscall.SIGQUIT) // it tells where it is
		<-p.exited
		p.t.Errorf("probed did not end within %v:\n%s", most, p.log)
		return -1, p.log.String()
	}
}

// dial returns a connection of its own for gRPC.
func (p *Probed) dial(options ...grpc.DialOption) *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient(p.GRPCAddress, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return p.connect(ctx, "tcp", address) }),
	}, options...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.atEnd(func() { _ = conn.Close() })
	return conn
}

// client returns one for HTTP with connections of its own.
func (p *Probed) client() *http.Client {
	transport := &http.Transport{DialContext: p.connect, ReadBufferSize: 4 << 10}
	p.atEnd(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (p *Probed) atEnd(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closers = append(p.closers, f)
}

// Settle closes the callers, and asserts that probed holds no more goroutines and descriptors than when it was started, within
// 2 s. If not it ends, and tells what they are. The end of the test does so too.
func (p *Probed) Settle() {
	p.t.Helper()
	p.mu.Lock()
	closers := p.closers
	p.closers = nil
	p.mu.Unlock()
	for _, f := range closers {
		f()
	}
	var after footprint
	for deadline := time.Now().Add(2 * time.Second); ; {
		after = p.footprint()
		if after.goroutines <= p.before.goroutines && after.descriptors <= p.before.descriptors {
			return
		}
		if time.Now().After(deadline) {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	p.Signal(syscall.SIGQUIT) // it tells where it is
	<-p.exited
	p.t.Errorf("2 s after the last session probed has %+v; it began with %+v:\n%s", after, p.before, p.log)
}

// end asserts what has to hold at the end of any test.
func (p *Probed) end() {
	p.t.Helper()
	select {
	case <-p.exited:
	default:
		if p.t.Failed() || p.options.Dies {
			_ = p.command.Process.Kill()
			<-p.exited
			break
		}
		if p.Settle(); p.t.Failed() {
			break
		}
		p.Signal(syscall.SIGTERM)
		if code, log := p.Wait(patience); code != 0 {
			p.t.Errorf("exit code %d: %s", code, log)
		}
	}
	for _, f := range p.closers {
		f()
	}
	for _, word := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if strings.Contains(p.log.String(), word) {
			p.t.Errorf("%s in what probed logged:\n%s", word, p.log)
		}
	}
	if !p.options.Dies && !p.options.DiskFull {
		p.mu.Lock()
		defer p.mu.Unlock()
		CheckAudit(p.t, p.Audit(), p.outcomes)
	}
}

// await waits until f holds.
func (p *Probed) await(what string, f func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !f(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// Metrics are the lines of /metrics.
func (p *Probed) Metrics() []string {
	p.t.Helper()
	response, err := p.scraper.Get("http://" + p.OpsAddress + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	var lines []string
	scanner := bufio.NewScanner(response.Body)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		p.t.Fatal(err)
	}
	return lines
}

// Metric is the value of all series of a name together; with labels, of those that have them, as `probed_dials_total{reason="NONE"`.
func (p *Probed) Metric(name string) float64 {
	p.t.Helper()
	var sum float64
	for _, line := range p.Metrics() {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || !strings.ContainsRune(" {,}", rune(rest[0])) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			p.t.Fatalf("%q: %v", line, err)
		}
		sum += value
	}
	return sum
}

// footprint is what may leak.
type footprint struct{ goroutines, descriptors int }

func (p *Probed) footprint() footprint {
	p.t.Helper()
	return footprint{int(p.Metric("go_goroutines")), p.descriptors()}
}

// idleFootprint is that of a probed that nobody asks anything. Metrics are gathered by some goroutines at a time, how many
// of them are there when goroutines are counted is chance, and so the largest of several counts is the one that any later
// one can come down to.
func (p *Probed) idleFootprint() (most footprint) {
	p.t.Helper()
	for range 10 {
		now := p.footprint()
		most.goroutines, most.descriptors = max(most.goroutines, now.goroutines), max(most.descriptors, now.descriptors)
	}
	return most
}

// descriptors counts those that are open, but for the pipes that the standard library keeps to splice with.
func (p *Probed) descriptors() int {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.PID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, entry := range entries {
		if file, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && !strings.HasPrefix(file, "pipe:") {
			n++
		}
	}
	return n
}

// Memory is what of it is resident, bytes.
func (p *Probed) Memory() int64 { return p.status("VmRSS:") }

// PeakMemory is the most that was resident since ResetPeak, bytes.
func (p *Probed) PeakMemory() int64 { return p.status("VmHWM:") }

// ResetPeak lets PeakMemory begin anew (proc(5), clear_refs).
func (p *Probed) ResetPeak() {
	p.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID), []byte("5"), 0); err != nil {
		p.t.Fatal(err)
	}
}

func (p *Probed) status(key string) int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatalf("no %s in /proc/%d/status", key, p.PID)
	return 0
}
