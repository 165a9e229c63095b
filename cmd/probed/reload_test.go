package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// The results of reloads, as metrics.
const (
	reloadsOK     = `probed_config_reloads_total{result="ok"}`
	reloadsFailed = `probed_config_reloads_total{result="error"}`
	lastReload    = `probed_config_last_reload_successful`
)

// reload makes it read its configuration, and waits until that has come to the result.
func (p *program) reload(t *testing.T, result string) {
	t.Helper()
	before := p.metric(t, result)
	p.signals <- syscall.SIGHUP
	eventually(t, result+" counts", func() bool { return p.metric(t, result) != before })
	want := "1"
	if result != reloadsOK {
		want = "0"
	}
	if got := p.metric(t, lastReload); got != want {
		t.Errorf("%s is %s after %s", lastReload, got, result)
	}
}

// Who may call, what they may do and what the server shows changes while calls are under way, and none of them fails for
// another reason than that it is not allowed any more.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.put(t, map[string]string{"tokens.yaml": tokensFile("all", "leaving", "demoted"), "probed.yaml": s.config(demotable("leaving", "demoted"))})
	s.start(t)
	l := startLoad(t, s, map[string]who{
		"all": token("all"), "leaving": token("leaving"), "demoted": token("demoted"),
		"JWT": bearer(s.issuer.token(t, "all", nil)), "certificate": s.clients.caller(t, "all", time.Now().Add(time.Hour)),
	})
	l.each(t)

	if n := s.metric(t, `probed_issuer_requests_total{result="ok"}`); n == "" || n == "0" {
		t.Errorf("the issuer was asked %q times", n)
	}

	// A token is withdrawn.
	s.put(t, map[string]string{"tokens.yaml": tokensFile("all", "demoted")})
	l.mayFail("leaving", unknownCaller)
	s.reload(t, reloadsOK)
	l.fails(t, "leaving", unknownCaller)
	l.each(t)

	// A role is, and the issuer is not there.
	s.issuer.CloseClientConnections()
	s.issuer.Listener.Close()
	s.put(t, map[string]string{"probed.yaml": s.config(demotable("leaving"))})
	l.mayFail("demoted", callDenied)
	s.reload(t, reloadsOK)
	l.fails(t, "demoted", callDenied)
	l.each(t)

	// The server has another certificate.
	expires := time.Now().Add(34 * time.Minute)
	certificate, key := s.servers.issue(t, "probed", expires)
	s.put(t, map[string]string{"tls.crt": certificate, "tls.key": key})
	before := s.shown(t)
	s.reload(t, reloadsOK)
	for listener, serial := range s.shown(t) {
		if serial == before[listener] {
			t.Errorf("%s shows the old certificate", listener)
		}
		text := s.metric(t, `probed_certificate_expiration_timestamp_seconds{listener="`+listener+`"}`)
		if at, err := strconv.ParseFloat(text, 64); err != nil || int64(at) != expires.Unix() {
			t.Errorf("%s is told to show a certificate that expires at %q, want %d", listener, text, expires.Unix())
		}
	}
	l.each(t)

	// A faulty file changes nothing.
	for name, files := range map[string]map[string]string{
		"no YAML":       {"probed.yaml": "{"},
		"no such key":   {"probed.yaml": s.config() + "nonsense: 1\n"},
		"tokens":        {"tokens.yaml": "tokens: [{name: all, sha256: nonsense}]\n"},
		"no tokens":     {"tokens.yaml": "x: 1\n"},
		"key":           {"tls.key": "nonsense"},
		"another key":   {"tls.crt": s.servers.pem()},
		"no authority":  {"clients.crt": ""},
		"of the issuer": {"issuer.crt": "nonsense"},
	} {
		good := s.contents(t)
		s.put(t, files)
		s.reload(t, reloadsFailed)
		if lines := s.logged(t, "the configuration is as it was: the file has faults"); len(lines) == 0 || lines[len(lines)-1]["level"] != "ERROR" || lines[len(lines)-1]["error"] == "" {
			t.Errorf("%s: %v", name, lines)
		}
		l.each(t)
		s.put(t, good)
		s.reload(t, reloadsOK)
	}
	l.each(t)
	l.stop(t)
	if text := s.stderr.String(); strings.Contains(text, secret("all")) || strings.Contains(text, "PRIVATE KEY") {
		t.Error("the log has a secret")
	}
}

// demotable is a policy in which these have a role beside the one of all.
func demotable(names ...string) string {
	text := securedPolicy + "    - name: more\n      rules: [{name: loopback, cidrs: [127.0.0.0/8], verbs: [connect, send]}]\n      subjects: ["
	for _, name := range names {
		text += "'token:" + name + "', "
	}
	return text + "]\n"
}

// contents are the files as they are.
func (s *secured) contents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(s.path("..data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(s.path(entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[entry.Name()] = string(text)
	}
	return all
}

// shown are the serial numbers of the certificates that a new connection is shown, by listener.
func (s *secured) shown(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for listener, protocol := range map[string]string{"grpc": "h2", "http": "http/1.1"} {
		config := s.tls(who{})
		config.NextProtos = []string{protocol}
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.addresses[listener])
		if err != nil {
			t.Fatal(err)
		}
		state := conn.(*tls.Conn).ConnectionState() //nolint:forcetypeassert // it is one
		conn.Close()
		if state.NegotiatedProtocol != protocol {
			t.Errorf("%s speaks %q", listener, state.NegotiatedProtocol)
		}
		found[listener] = state.PeerCertificates[0].SerialNumber.String()
	}
	return found
}

// load is callers who call all the time: by gRPC on one connection, by REST on a new one each time.
type load struct {
	callers []*loadCaller
	end     context.CancelFunc
	ended   sync.WaitGroup
}

// loadCaller is a caller by one of the protocols.
type loadCaller struct {
	name  string
	calls atomic.Int64

	mu      sync.Mutex
	allowed []string       // how calls may end
	seen    map[string]int // how calls ended that may not end so
}

// deniedReason tells whether a reason is that the caller may not. A call that is under way while its role is withdrawn may
// have been admitted before, and is denied then at its dial.
func deniedReason(reason string) bool {
	return reason == "ERROR_REASON_CALL_DENIED" || reason == "ERROR_REASON_POLICY_DENIED"
}

func startLoad(t *testing.T, s *secured, callers map[string]who) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{end: cancel}
	t.Cleanup(func() { cancel(); l.ended.Wait() })
	for _, name := range sorted(callers) {
		caller := callers[name]
		conn := s.connect(t, caller)
		client := &http.Client{Transport: s.witness.HTTP(&http.Transport{TLSClientConfig: s.tls(caller), DisableKeepAlives: true}), Timeout: patience}
		for _, call := range []func() string{
			func() string {
				_, err := probev1.NewExchangeServiceClient(conn).Connect(caller.as(ctx), &probev1.ConnectRequest{Target: "127.0.0.1:1"})
				switch {
				case err == nil: // the outcome is a refused connection
					return admitted
				case status.Code(err) == codes.Unauthenticated:
					return unknownCaller
				case status.Code(err) == codes.PermissionDenied && deniedReason(reasonOf(err)):
					return callDenied
				}
				return "gRPC: " + err.Error()
			},
			func() string {
				response, text, err := s.rest(ctx, client, caller, http.MethodPost, "/v1/connect", `{"target": "127.0.0.1:1"}`)
				switch {
				case err != nil:
					return "REST: " + err.Error()
				case response.StatusCode == http.StatusOK:
					return admitted
				case response.StatusCode == http.StatusUnauthorized:
					return unknownCaller
				case deniedReason(reasonIn(text)):
					return callDenied
				}
				return "REST: " + text
			},
		} {
			c := &loadCaller{name: name, allowed: []string{admitted}, seen: map[string]int{}}
			l.callers = append(l.callers, c)
			l.ended.Go(func() {
				for pause := time.NewTicker(50 * time.Millisecond); ; <-pause.C {
					outcome := call()
					if ctx.Err() != nil {
						pause.Stop()
						return
					}
					c.note(outcome)
				}
			})
		}
	}
	return l
}

func (c *loadCaller) note(outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls.Add(1)
	if !slices.Contains(c.allowed, outcome) {
		c.seen[outcome]++
	}
}

// mayFail allows another outcome for a caller: a change is about to come.
func (l *load) mayFail(name, outcome string) { l.allow(name, admitted, outcome) }

// fails allows nothing else any more: the change has come, but for the calls under way.
func (l *load) fails(t *testing.T, name, outcome string) {
	t.Helper()
	for _, c := range l.callers {
		if c.name == name {
			eventually(t, name+" calls", c.moreCalls(2))
		}
	}
	l.allow(name, outcome)
}

func (l *load) allow(name string, outcomes ...string) {
	for _, c := range l.callers {
		if c.name == name {
			c.mu.Lock()
			c.allowed = outcomes
			c.mu.Unlock()
		}
	}
}

// each waits for another call of every caller.
func (l *load) each(t *testing.T) {
	t.Helper()
	var all []func() bool
	for _, c := range l.callers {
		all = append(all, c.moreCalls(1))
	}
	for _, called := range all {
		eventually(t, "every caller calls", called)
	}
}

// moreCalls tells whether there were so many more from now on.
func (c *loadCaller) moreCalls(n int64) func() bool {
	start := c.calls.Load()
	return func() bool { return c.calls.Load() >= start+n }
}

// stop ends the calls and tells of those that have ended as they should not.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.end()
	l.ended.Wait()
	total := 0
	for _, c := range l.callers {
		for outcome, n := range c.seen {
			t.Errorf("%s: %d times: %s", c.name, n, outcome)
		}
		total += int(c.calls.Load())
	}
	t.Logf("%d calls", total)
}

// An authority that is removed vouches for nobody on a new connection.
func TestRemovedAuthority(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	others := newAuthority(t)
	s.put(t, map[string]string{"clients.crt": s.clients.pem() + others.pem()})
	s.start(t)
	caller, stays := others.caller(t, "all", time.Now().Add(time.Hour)), s.clients.caller(t, "all", time.Now().Add(time.Hour))
	for _, w := range []who{caller, stays} {
		if subject, err := subjectByGRPC(t.Context(), s.connect(t, w)); err != nil || subject != "mtls:all" {
			t.Errorf("before: %q, %v", subject, err)
		}
	}
	s.put(t, map[string]string{"clients.crt": s.clients.pem()})
	s.reload(t, reloadsOK)
	if subject, err := subjectByGRPC(t.Context(), s.connect(t, caller)); status.Code(err) != codes.Unavailable {
		t.Errorf("by gRPC: %q, %v", subject, err)
	}
	if _, text, err := s.rest(t.Context(), s.client(t, caller), caller, http.MethodGet, explainPath, ""); err == nil {
		t.Errorf("by REST: %s", text)
	}
	if subject, err := subjectByGRPC(t.Context(), s.connect(t, stays)); err != nil || subject != "mtls:all" {
		t.Errorf("the other: %q, %v", subject, err)
	}
}

// What a restart is needed for is said, and the rest of the file is in force.
func TestChangesThatWait(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t)
	s.put(t, map[string]string{
		"probed.yaml": strings.NewReplacer("probed.test", "another.test", s.auditPath, "another.jsonl").Replace(s.config()) +
			"limits: {sessions: 7, sessions_per_caller: 7}\ndrain: {delay: 1s}\n",
		"tokens.yaml": tokensFile("all"),
	})
	s.reload(t, reloadsOK)
	var sections []string
	for _, line := range s.logged(t, "a change of the configuration waits for a restart") {
		sections = append(sections, fmt.Sprint(line["section"]))
	}
	if want := []string{"listeners", "limits", "drain", "audit"}; !slices.Equal(sections, want) {
		t.Errorf("%v wait, want %v", sections, want)
	}
	if _, err := subjectByGRPC(token("nobody").as(t.Context()), s.connect(t, who{})); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token that was removed with it: %v", err)
	}
	if _, err := os.Stat(s.path("another.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the audit log: %v", err)
	}
}

// A probed that others reach does not become one that asks nobody, whatever its file says meanwhile.
func TestReloadDoesNotExpose(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t, "--grpc-listen=0.0.0.0:0", "--http-listen=0.0.0.0:0")
	for _, name := range []string{"grpc", "http"} {
		s.addresses[name] = strings.Replace(s.addresses[name], "0.0.0.0", "127.0.0.1", 1)
		s.addresses[name] = strings.Replace(s.addresses[name], "[::]", "127.0.0.1", 1)
	}
	conn := s.connect(t, who{})
	full := s.config()
	listeners, rest, _ := strings.Cut(full, "auth:")
	auth, _, _ := strings.Cut("auth:"+rest, "\npolicy:")
	for name, text := range map[string]string{
		"no auth":     strings.ReplaceAll(strings.Replace(full, auth, "", 1), ", client_ca_file: clients.crt", ""),
		"no policy":   s.config(""),
		"no TLS":      strings.Replace(full, listeners, "listeners: {http: {allowed_hosts: [probed.test]}}\n", 1),
		"nothing":     "",
		"no file":     "-",
		"without CAs": strings.ReplaceAll(full, ", client_ca_file: clients.crt", ""),
	} {
		if text == "-" {
			if err := os.Remove(s.path("probed.yaml")); err != nil {
				t.Fatal(err)
			}
		} else {
			s.put(t, map[string]string{"probed.yaml": text})
		}
		s.reload(t, reloadsFailed)
		if _, err := subjectByGRPC(t.Context(), conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: a caller without credentials: %v", name, err)
		}
		if subject, err := subjectByGRPC(token("all").as(t.Context()), conn); err != nil || subject != "token:all" {
			t.Errorf("%s: %q, %v", name, subject, err)
		}
		s.put(t, map[string]string{"probed.yaml": full})
		s.reload(t, reloadsOK)
	}
}

// A token file with nothing in it lets nobody in; it does not let everybody in. On loopback as well, where who says nothing
// about callers is not asked about them.
func TestEmptyTokensFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("probed.yaml", "auth: {tokens_file: tokens.yaml}\n")
	write("tokens.yaml", tokensFile("all"))
	p := start(t, "--config="+dir+"/probed.yaml")
	for _, text := range []string{"", "\n", "tokens: []\n", "tokens:\n", "{}\n"} {
		write("tokens.yaml", text)
		p.reload(t, reloadsFailed)
		if _, err := subjectByGRPC(t.Context(), p.conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%q: %v", text, err)
		}
		if code, stderr := runToEnd(t, "--config="+dir+"/probed.yaml"); code == 0 || !strings.Contains(stderr, "token") {
			t.Errorf("%q: it starts: %s", text, stderr)
		}
	}
}

// What changes is noticed without a signal, what is mended too, in whichever file.
func TestChangesAreNoticed(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.program = startWatching(t, s.path("probed.yaml"))
	conn := s.connect(t, who{})
	knows := func(name string) bool {
		_, err := subjectByGRPC(token(name).as(t.Context()), conn)
		return err == nil
	}
	failed := func() bool { return s.metric(t, lastReload) == "0" }
	s.put(t, map[string]string{"tokens.yaml": tokensFile("all", "new")})
	eventually(t, "a token is added", func() bool { return knows("new") })
	// The configuration names a file that is not there yet.
	s.put(t, map[string]string{"probed.yaml": strings.Replace(s.config(), "tokens.yaml", "more.yaml", 1)})
	eventually(t, "a file is missing", failed)
	if !knows("new") {
		t.Error("what was in force is not")
	}
	s.put(t, map[string]string{"more.yaml": tokensFile("all", "later")})
	eventually(t, "it is there", func() bool { return knows("later") && !failed() })
	if knows("new") {
		t.Error("the other file counts still")
	}
}

// startWatching runs probed, which looks at its files often.
func startWatching(t *testing.T, config string) *program {
	t.Helper()
	return startBy(t, []string{"--config=" + config}, func(p *program, args []string) int {
		o := options{watchEvery: 10 * time.Millisecond}
		flags := pflag.NewFlagSet("probed", pflag.ContinueOnError)
		o.register(flags)
		err := flags.Parse(args)
		if err == nil {
			err = serve(t.Context(), o, p.stderr, p.stdout, func(string) string { return "" }, p.signals)
		}
		if err != nil {
			fmt.Fprintln(p.stderr, err)
			return exitFailure
		}
		return 0
	})
}
