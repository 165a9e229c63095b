package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"probed/internal/nettest"

	probev1 "probed/gen/probe/v1"
)

// TestConnectIsInterrupted: an answer is printed when it is known, and Ctrl-C loses none.
func TestConnectIsInterrupted(t *testing.T) {
	t.Parallel()
	echo, never := nettest.TCP(t, nettest.Echo).String(), nettest.Backlog(t).String()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stdout := &watchedWriter{awaited: "\n", seen: cancel}
	var stderr bytes.Buffer
	code := run(ctx, "probectl", []string{"connect", echo, never, echo, "--json"}, nil, stdout, &stderr, noEnvironment)
	if code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	want := regexp.MustCompile(fmt.Sprintf(`^\{"target":"%s","outcome":\{"ok":true,.*\}\}\n`+
		`\{"target":"%s","error":\{"code":1,"message":".*","details":\[\{.*"ERROR_REASON_CANCELLED".*\}\]\}\}\n`+
		`\{"target":"%s",("outcome":\{"ok":true,|"error":\{"code":1,).*\}\}\n$`, echo, never, echo))
	if !want.MatchString(stdout.text.String()) {
		t.Errorf("stdout:\n%s", stdout.text.String())
	}
	if !regexp.MustCompile(`^probectl: interrupted: [12] of 3 targets answered by then\n$`).MatchString(stderr.String()) {
		t.Errorf("stderr:\n%s", stderr.String())
	}
}

// TestConnectAtOnce: so many at the same time, and no more; and whoever is first to answer, the answers are in order.
func TestConnectAtOnce(t *testing.T) {
	t.Parallel()
	const targets, most = 40, 32
	gate := &gate{most: most, full: make(chan struct{})}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	probev1.RegisterExchangeServiceServer(server, gate)
	args := []string{"--server", serveOn(t, server), "connect", "--json"}
	var want strings.Builder
	for i := range targets {
		target := fmt.Sprintf("host-%d:1", i)
		args = append(args, target)
		fmt.Fprintln(&want, target)
	}
	code, stdout, stderr := runHere(t.Context(), args...)
	got := regexp.MustCompile(`\{"target":"([^"]*)".*"ok":true.*`).ReplaceAllString(stdout, "$1")
	if code != exitYes || stderr != "" || got != want.String() {
		t.Errorf("%d, %s\n%s", code, stderr, got)
	}
	if gate.atOnce != most {
		t.Errorf("%d at once, want %d", gate.atOnce, most)
	}
}

// gate answers when so many ask at the same time, and from then on.
type gate struct {
	probev1.UnimplementedExchangeServiceServer
	most int
	full chan struct{}

	mu           sync.Mutex
	open, atOnce int
}

func (g *gate) Connect(ctx context.Context, _ *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
	g.mu.Lock()
	g.open++
	if g.open > g.atOnce {
		if g.atOnce = g.open; g.atOnce == g.most {
			close(g.full)
		}
	}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.open--
		g.mu.Unlock()
	}()
	select {
	case <-g.full:
	case <-ctx.Done():
	}
	return &probev1.ConnectResponse{Outcome: &probev1.Outcome{Ok: true}}, ctx.Err()
}

// TestConnectLines: what no peer of the scripts does.
func TestConnectLines(t *testing.T) {
	t.Parallel()
	tls := &probev1.TlsInfo{Version: "TLS 1.3", Cipher: "C", ServerName: "a.test", Verified: true}
	old := &probev1.TlsInfo{Version: "TLS 1.2", Cipher: "D", ServerName: "a.test", VerifyError: "it has expired"}
	attempt := func(address string, ok bool, tls *probev1.TlsInfo) *probev1.Attempt {
		a := &probev1.Attempt{Address: address, Ok: ok, Duration: ms(1), Tls: tls}
		if tls != nil {
			a.TlsDuration = ms(4)
		}
		if !ok {
			a.Reason, a.Error = probev1.Reason_REASON_TLS_EXPIRED, tls.GetVerifyError()
		}
		return a
	}
	var out bytes.Buffer
	connectTable(newPrinter(&out), []*connection{
		{target: target{text: "tls"}, response: &probev1.ConnectResponse{Outcome: &probev1.Outcome{
			Ok: true, Remote: "192.0.2.1:1", Tls: tls, Timings: &probev1.Timings{Resolve: ms(2), Tls: ms(3)},
			Attempts: []*probev1.Attempt{attempt("192.0.2.1:1", true, nil)},
		}}},
		{target: target{text: "expired"}, response: &probev1.ConnectResponse{Outcome: &probev1.Outcome{
			Remote: "192.0.2.1:1", Tls: old, Timings: &probev1.Timings{Resolve: ms(2), Tls: ms(3), Total: ms(9)},
			Phase: probev1.Phase_PHASE_TLS, Layer: probev1.Layer_LAYER_APPLICATION, Reason: probev1.Reason_REASON_TLS_EXPIRED, Error: "it has expired", Hint: "Renew it.",
			Attempts: []*probev1.Attempt{attempt("192.0.2.1:1", true, nil)},
		}}},
		{target: target{text: "all"}, response: &probev1.ConnectResponse{Outcome: &probev1.Outcome{
			Phase: probev1.Phase_PHASE_TLS, Layer: probev1.Layer_LAYER_APPLICATION, Reason: probev1.Reason_REASON_TLS_EXPIRED, Error: "it has expired", Hint: "Renew it.",
			Attempts: []*probev1.Attempt{attempt("192.0.2.1:1", true, tls), attempt("192.0.2.2:1", false, old)},
		}}},
		{target: target{text: "late"}, err: status.FromContextError(context.Canceled).Err()},
	}, noon)
	want := `TARGET    ADDRESS       RESULT         RESOLVE   CONNECT   TLS
tls       192.0.2.1:1   ok             2.0ms     1.0ms     3.0ms
expired   192.0.2.1:1   TLS_EXPIRED    2.0ms     1.0ms     3.0ms
all       192.0.2.1:1   ok             -         1.0ms     4.0ms
all       192.0.2.2:1   TLS_EXPIRED    -         1.0ms     4.0ms
late      -             not answered   -         -         -

tls
  TLS 1.3, C
  verified for a.test

expired
  failed: TLS_EXPIRED in phase TLS, layer APPLICATION: it has expired
  hint: Renew it.
  resolve 2.0ms, tls 3.0ms, total 9.0ms
  TLS 1.2, D
  not verified for a.test: it has expired

all
  failed: TLS_EXPIRED in phase TLS, layer APPLICATION: it has expired
  hint: Renew it.
  192.0.2.1:1
    TLS 1.3, C
    verified for a.test
  192.0.2.2:1: TLS_EXPIRED after 1.0ms: it has expired
    TLS 1.2, D
    not verified for a.test: it has expired
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
