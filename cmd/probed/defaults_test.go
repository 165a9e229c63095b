package main

import (
	"bufio"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// Without a flag nobody is asked anything, everything of this machine can be reached, and as often as anybody likes.
func TestLoopbackIsEasy(t *testing.T) {
	t.Parallel()
	p := startIn(t.Context(), t, nil) // without a file
	for name, header := range map[string]string{"nothing": "", "a token for somebody else": "Bearer of-another-service", "no token": "Basic YTpi"} {
		w := who{authorization: header}
		if subject, err := subjectByGRPC(w.as(t.Context()), p.conn); err != nil || subject != "anonymous" {
			t.Errorf("%s by gRPC: %q, %v", name, subject, err)
		}
		if header != "" {
			header = "Authorization: " + header + "\r\n"
		}
		response, text := p.plainly(t, "GET "+explainPath+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+header+"\r\n")
		if response == nil || response.StatusCode != http.StatusOK || subjectIn(text) != "anonymous" {
			t.Errorf("%s by REST: %s", name, text)
		}
	}
	target := nettest.TCP(t, nettest.Echo).String()
	const calls = 200 // at once; who is reachable takes 50 a second
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range calls / 4 {
				answer, err := probev1.NewExchangeServiceClient(p.conn).Connect(t.Context(), &probev1.ConnectRequest{Target: target})
				if err != nil || !answer.GetOutcome().GetOk() {
					t.Errorf("%v, %v", answer, err)
				}
			}
		})
	}
	all.Wait()
	for series, want := range map[string]string{
		`probed_dials_total{network="tcp",reason="OK"}`: "200",
		"probed_insecure_listeners":                     "0",
		"probed_connections_refused_total":              "0",
		`probed_audit_writes_total{result="ok"}`:        "0",
		"probed_config_last_reload_successful":          "1",
	} {
		if got := p.metric(t, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	if text := p.stderr.String(); strings.Contains(text, `"WARN"`) || strings.Contains(text, `"ERROR"`) {
		t.Errorf("it warns: %s", text)
	}
	// There is nothing to read again, and the signal ends nothing.
	p.signals <- syscall.SIGHUP
	if _, err := subjectByGRPC(t.Context(), p.conn); err != nil {
		t.Error(err)
	}
}

// Who is reachable gives load balancers five seconds unless told otherwise, who is not ends at once.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "0s"},
		{[]string{"--insecure-no-auth"}, "0s"}, // on loopback nobody is let in by it
		{[]string{"--insecure-no-auth", "--grpc-listen=0.0.0.0:0"}, "5s"},
		{[]string{"--insecure-no-auth", "--grpc-listen=0.0.0.0:0", "--drain-delay=70ms"}, "70ms"},
		{[]string{"--ops-listen=0.0.0.0:0"}, "0s"},
	} {
		p := start(t, test.args...)
		p.signals <- syscall.SIGTERM
		eventually(t, "it begins to end", func() bool { return len(p.logged(t, "ending")) == 1 })
		if got := p.logged(t, "ending")[0]["delay"]; got != test.want {
			t.Errorf("%q: delay %v, want %s", test.args, got, test.want)
		}
		began := time.Now()
		select {
		case p.signals <- syscall.SIGTERM:
		case <-p.exited:
		}
		if code := p.wait(t); code != 0 || time.Since(began) > 4*time.Second {
			t.Errorf("%q: exit code %d after %v", test.args, code, time.Since(began))
		}
		insecure := 0
		if len(test.args) > 1 {
			insecure = 1
		}
		if got := len(p.logged(t, "listening without authentication: whoever reaches this address can make connections from here")); got != insecure {
			t.Errorf("%q: %d warnings, want %d", test.args, got, insecure)
		}
	}
}

// The last word for callers is DRAINED also where they are known, over TLS.
func TestDrainSecured(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t, "--drain-timeout=50ms")
	target, _ := greeter(t)
	caller := token("all")
	stream, err := probev1.NewExchangeServiceClient(s.connect(t, who{})).Exchange(caller.as(t.Context()), &probev1.ExchangeRequest{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.addresses["http"]+"/v1/exchange", strings.NewReader(`{"target": "`+target+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", caller.authorization)
	response, err := s.client(t, who{}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, one := range []session{
		{"gRPC", func() (string, error) {
			event, err := stream.Recv()
			return event.String(), err
		}},
		{"REST", func() (string, error) { return lines.ReadString('\n') }},
	} {
		for line := ""; !strings.Contains(line, "chunk"); {
			if line, err = one.next(); err != nil {
				t.Fatalf("%s: %v", one.name, err)
			}
		}
		defer func() {
			if last, err := one.last(); err != nil || !strings.Contains(last, "REASON_DRAINED") {
				t.Errorf("%s: %s, %v", one.name, last, err)
			}
		}()
	}
	s.signals <- syscall.SIGTERM
}
