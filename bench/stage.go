package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patience is for what should take a moment.
const patience = 20 * time.Second

// prepare makes of the namespaces that this program is in a place to measure in: loopback is up, and the name server is the
// one that a row may start here.
func prepare(ctx context.Context) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	if len(interfaces) != 1 {
		return errors.New("measures in a network of its own, with nothing in it but loopback: make bench")
	}
	if out, err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	file, err := os.CreateTemp("", "resolv.conf")
	if err != nil {
		return err
	}
	defer file.Close()
	defer func() { _ = os.Remove(file.Name()) }() // what is mounted stays
	if _, err := file.WriteString("nameserver 127.0.0.1\n"); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mount", "--bind", file.Name(), "/etc/resolv.conf").CombinedOutput(); err != nil {
		return fmt.Errorf("mount over /etc/resolv.conf: %w: %s", err, out)
	}
	return nil
}

// stage is what the sides of one row stand on: their processes, their files, and what is asked of them at the end.
type stage struct {
	options
	ctx    context.Context //nolint:containedctx // of the row, which the stage lives as long as
	dir    string
	ends   []func()
	checks []func() error
}

// close ends everything, the last first.
func (s *stage) close() {
	for _, end := range slices.Backward(s.ends) {
		end()
	}
	s.ends = nil
}

// check tells whether what was measured is what was meant.
func (s *stage) check() error {
	for _, check := range s.checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// file returns the path of a new file of the stage.
func (s *stage) file(name, content string) (string, error) {
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			return "", err
		}
		s.dir = dir
		s.ends = append(s.ends, func() { _ = os.RemoveAll(dir) })
	}
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(content), 0o600)
}

// process starts a program, whose output goes to a file, as that of a service does.
func (s *stage) process(name string, args ...string) (*exec.Cmd, error) {
	path, err := s.file(filepath.Base(name)+".log", "")
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.CommandContext(s.ctx, name, args...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, err
	}
	s.ends = append(s.ends, func() {
		_ = command.Process.Kill()
		_ = command.Wait() // it was killed
	})
	return command, nil
}

// server starts a program that listens at address, and waits until it does.
func (s *stage) server(address, name string, args ...string) error {
	if _, err := s.process(name, args...); err != nil {
		return err
	}
	return s.await(filepath.Base(name)+" at "+address, func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// serve starts one of the servers of this program, and returns its address.
func (s *stage) serve(kind string) (string, error) {
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	return address, s.server(address, s.self, "serve", kind, address)
}

// await waits until done.
func (s *stage) await(what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w%s", what, ctx.Err(), s.logs())
		}
	}
	return nil
}

// logs are the ends of what the processes have said.
func (s *stage) logs() string {
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, name := range names {
		text, _ := os.ReadFile(name)
		fmt.Fprintf(&all, "\n%s: %s", filepath.Base(name), text[max(0, len(text)-500):])
	}
	return all.String()
}

// freeAddress is one of loopback that nobody listens at: in this network nobody else takes it meanwhile.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// output runs a program to its end and returns what it printed.
func output(ctx context.Context, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", name, err, out, &stderr)
	}
	return string(out), nil
}

// probed is one that runs as it would be left running.
type probed struct {
	grpc, http, ops string // addresses
	pid             int
	authorization   string // header
}

// rights are all that the rows need: whatever is on loopback.
const rights = `
policy:
  roles:
    - name: bench
      subjects: [token:bench]
      rules:
        - name: names
          hosts: ["*"]
          verbs: [resolve]
        - name: loopback
          cidrs: [127.0.0.0/8]
          verbs: [connect, send]
`

// room are limits that the rows do not reach: they are counted all the same.
const room = `
limits:
  sessions: 4000
  sessions_per_caller: 4000
  calls: 4000
  calls_per_caller: 4000
  connections: 4000
  connections_per_address: 4000
  dials_per_second: 1000000
  targets_per_minute: 1000000
  session_bytes: 64Gi
`

// configure returns the file that lets in who shows the token in this header.
func (s *stage) configure() (config, authorization string, err error) {
	// new-token prints on stderr how the file has the hash.
	command := exec.CommandContext(s.ctx, s.probed, "new-token", "bench")
	var entry bytes.Buffer
	command.Stderr = &entry
	made, err := command.Output()
	if err != nil {
		return "", "", fmt.Errorf("%s new-token: %w: %s", s.probed, err, &entry)
	}
	tokens, err := s.file("tokens.yaml", "tokens:\n"+entry.String())
	if err != nil {
		return "", "", err
	}
	config, err = s.file("probed.yaml", "auth:\n  tokens_file: "+tokens+"\n"+rights+room)
	return config, "Bearer " + strings.TrimSpace(string(made)), err
}

// startProbed starts one whose callers have to show a token.
func (s *stage) startProbed() (*probed, error) {
	config, authorization, err := s.configure()
	if err != nil {
		return nil, err
	}
	ready := filepath.Join(s.dir, "ready")
	process, err := s.process(s.probed, "--config="+config, "--listen-file="+ready,
		"--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &probed{pid: process.Process.Pid, authorization: authorization}
	err = s.await("probed to be ready", func() bool {
		text, err := os.ReadFile(ready)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(text)) {
			name, address, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch name {
			case "grpc":
				p.grpc = address
			case "http":
				p.http = address
			case "ops":
				p.ops = address
			}
		}
		return true
	})
	s.checks = append(s.checks, p.check)
	return p, err
}

// check tells whether all calls were answered: a refusal is quicker than an answer.
func (p *probed) check() error {
	response, err := http.Get("http://" + p.ops + "/metrics")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	answered, failed := 0.0, 0.0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		n, err := strconv.ParseFloat(value, 64)
		switch {
		case err != nil || !strings.HasPrefix(name, "grpc_server_handled_total"):
		case strings.Contains(name, `grpc_code="OK"`):
			answered += n
		default:
			failed += n
		}
	}
	// Clients that end when the time is over leave a call each.
	if failed > answered/100+callers {
		return fmt.Errorf("%.0f calls failed, and %.0f did not", failed, answered)
	}
	return nil
}

// memory returns a line of /proc/PID/status, in KiB.
func (p *probed) memory(line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(l, line+":"); ok {
			return strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		}
	}
	return 0, fmt.Errorf("/proc has no %s", line)
}

// cpu is how much processor time it has taken.
func (p *probed) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third of proc(5) on
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc has no times: %s", text)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}
