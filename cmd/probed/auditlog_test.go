package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
)

// auditLine is a line of the audit log.
type auditLine struct {
	Event, ID, Subject, RPC, Target, Remote string
	Address, Rule, Reason, Code             string
	OK                                      bool
	BytesSent, BytesReceived                int64
}

// auditLines reads an audit log; every line is whole.
func auditLines(t *testing.T, text string) (lines []auditLine) {
	t.Helper()
	for line := range strings.Lines(text) {
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(line), &fields); err != nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("%v: %q", err, line)
		}
		at := func(key string) string { s, _ := fields[key].(string); return s }
		number := func(key string) int64 { n, _ := fields[key].(float64); return int64(n) }
		ok, _ := fields["ok"].(bool)
		lines = append(lines, auditLine{
			at("event"), at("id"), at("subject"), at("rpc"), at("target"), at("remote"),
			at("address"), at("rule"), at("reason"), at("code"), ok, number("bytesSent"), number("bytesReceived"),
		})
	}
	return lines
}

const (
	payload = "what-is-sent-is-nobodys-business"
	// A target that no role grants, and that would be reached if one did.
	elsewhere = "127.0.0.77:1"
)

// Each session is written down when it begins and when it ends, by whichever protocol it came and whatever came of it;
// lookups are not.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	echo := nettest.TCP(t, nettest.Echo).String()
	for _, where := range []string{"file", "stdout"} {
		s := newSecured(t)
		if where == "stdout" {
			s.auditPath = "-"
		}
		policy := strings.ReplaceAll(securedPolicy, "127.0.0.0/8", "127.0.0.1/32")
		s.put(t, map[string]string{"probed.yaml": s.config(policy)})
		s.start(t)
		log := func() string {
			if where == "stdout" {
				return s.stdout.String()
			}
			text, err := os.ReadFile(s.auditPath)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		caller := token("all")
		jwt := bearer(s.issuer.token(t, "all", nil))
		conn, client := s.connect(t, who{}), s.client(t, who{})
		exchanges := probev1.NewExchangeServiceClient(conn)
		ctx, cancel := context.WithTimeout(caller.as(t.Context()), patience)
		defer cancel()
		drain := func(stream interface {
			Recv() (*probev1.ExchangeResponse, error)
		}) {
			for {
				if _, err := stream.Recv(); err != nil {
					return
				}
			}
		}
		post := func(path, body string) func() {
			return func() {
				if _, _, err := s.rest(t.Context(), client, jwt, http.MethodPost, path, body); err != nil {
					t.Error(err)
				}
			}
		}
		const service = "/probe.v1.ExchangeService/"
		const name = "not-to-be-looked-up.invalid"
		sessions := []struct {
			do   func()
			want auditLine // of the end
		}{
			{
				func() { _, _ = exchanges.Connect(ctx, &probev1.ConnectRequest{Target: echo}) },
				auditLine{RPC: service + "Connect", Target: echo, Address: echo, Rule: "all/loopback", OK: true, Code: "OK"},
			},
			{
				post("/v1/connect", `{"target": "`+echo+`"}`),
				auditLine{RPC: service + "Connect", Subject: "oidc:all", Target: echo, Address: echo, Rule: "all/loopback", OK: true, Code: "OK"},
			},
			{
				func() { _, _ = exchanges.Connect(ctx, &probev1.ConnectRequest{Target: elsewhere}) },
				auditLine{RPC: service + "Connect", Target: elsewhere, Rule: "deny-default", Reason: "POLICY_DENIED", Code: "PERMISSION_DENIED"},
			},
			{
				post("/v1/connect", `{"target": "`+name+`:1"}`),
				auditLine{RPC: service + "Connect", Subject: "oidc:all", Target: name + ":1", Rule: "deny-default", Reason: "POLICY_DENIED", Code: "PERMISSION_DENIED"},
			},
			{
				func() {
					stream, err := exchanges.Exchange(ctx, &probev1.ExchangeRequest{Target: echo, Payload: &probev1.ExchangeRequest_Text{Text: payload}})
					if err == nil {
						drain(stream)
					}
				},
				auditLine{RPC: service + "Exchange", Target: echo, Address: echo, Rule: "all/loopback", OK: true, Code: "OK", BytesSent: int64(len(payload)), BytesReceived: int64(len(payload))},
			},
			{
				post("/v1/exchange", `{"target": "`+echo+`", "text": "`+payload+`"}`),
				auditLine{RPC: service + "Exchange", Subject: "oidc:all", Target: echo, Address: echo, Rule: "all/loopback", OK: true, Code: "OK", BytesSent: int64(len(payload)), BytesReceived: int64(len(payload))},
			},
			{
				post("/v1/exchange", `{"target": "`+elsewhere+`", "text": "`+payload+`"}`),
				auditLine{RPC: service + "Exchange", Subject: "oidc:all", Target: elsewhere, Rule: "deny-default", Reason: "POLICY_DENIED", Code: "PERMISSION_DENIED"},
			},
			{
				func() {
					stream, err := exchanges.Converse(ctx)
					if err != nil {
						t.Error(err)
						return
					}
					_ = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: echo}}})
					_ = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: []byte(payload)}})
					_ = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_HalfClose{HalfClose: &probev1.HalfClose{}}})
					drain(stream)
					_ = stream.CloseSend()
				},
				auditLine{RPC: service + "Converse", Target: echo, Address: echo, Rule: "all/loopback", OK: true, Code: "OK", BytesSent: int64(len(payload)), BytesReceived: int64(len(payload))},
			},
			{
				func() {
					_, _ = probev1.NewResolverServiceClient(conn).QueryDNS(ctx, &probev1.QueryDNSRequest{Name: "nothing.invalid", Server: elsewhere})
				},
				auditLine{RPC: "/probe.v1.ResolverService/QueryDNS", Target: elsewhere, Rule: "deny-default", Reason: "POLICY_DENIED", Code: "PERMISSION_DENIED"},
			},
			{
				post("/v1/dns", `{"name": "`+name+`", "server": "`+echo+`", "transport": "DNS_TRANSPORT_TCP"}`),
				auditLine{RPC: "/probe.v1.ResolverService/QueryDNS", Subject: "oidc:all", Target: echo, Rule: "deny-default", Reason: "POLICY_DENIED", Code: "PERMISSION_DENIED"},
			},
		}
		var want []auditLine
		for _, one := range sessions {
			one.do()
			if one.want.Subject == "" {
				one.want.Subject = "token:all"
			}
			one.want.Event, one.want.Remote = "end", "127.0.0.1"
			want = append(want, one.want)
		}
		// None of these opens anything: refused before, and lookups.
		_, _ = exchanges.Connect(t.Context(), &probev1.ConnectRequest{Target: echo})
		_, _ = exchanges.Connect(token("resolver").as(t.Context()), &probev1.ConnectRequest{Target: echo})
		_, _ = exchanges.Connect(ctx, &probev1.ConnectRequest{Target: "nonsense"})
		_, _ = subjectByGRPC(ctx, conn)
		for _, path := range []string{"/v1/services/ssh", "/v1/ports/22", "/v1/hostname", "/v1/vantage", "/v1/hosts/127.0.0.1", "/v1/hosts/" + name, explainPath} {
			if _, _, err := s.rest(t.Context(), client, jwt, http.MethodGet, path, ""); err != nil {
				t.Error(err)
			}
		}

		eventually(t, where+": the log has every end", func() bool { return strings.Count(log(), "\n") >= 2*len(want) })
		probetest.CheckAudit(t, probetest.Records(t, []byte(log())), s.witness.Outcomes())
		begins := map[string]auditLine{}
		var ends []auditLine
		for _, line := range auditLines(t, log()) {
			before, begun := begins[line.ID]
			switch {
			case line.Event == "begin" && !begun && len(line.ID) == 16:
				begins[line.ID] = line
			case line.Event == "end" && begun && before.Subject == line.Subject && before.Target == line.Target && before.RPC == line.RPC && before.Remote == line.Remote:
				line.ID = ""
				ends = append(ends, line)
			default:
				t.Errorf("%s: %+v after %+v", where, line, before)
			}
		}
		if len(begins) != len(ends) || len(ends) != len(want) {
			t.Errorf("%s: %d begins, %d ends, want %d", where, len(begins), len(ends), len(want))
		}
		for _, end := range want {
			if !slices.Contains(ends, end) {
				t.Errorf("%s: missing %+v", where, end)
			}
		}
		if t.Failed() {
			t.Logf("%s", log())
		}
		for _, secret := range []string{payload, secret("all"), strings.TrimPrefix(jwt.authorization, "Bearer ")} {
			if strings.Contains(log(), secret) || strings.Contains(s.stderr.String(), secret) {
				t.Errorf("%s: %q is in a log", where, secret)
			}
		}
		if where == "file" {
			if info, err := os.Stat(s.auditPath); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v: its mode", info.Mode(), err)
			}
			if s.stdout.String() != "" {
				t.Errorf("stdout: %s", s.stdout)
			}
		}
	}
}

// What cannot be written down does not take place, and everything else does.
func TestAuditLogCannotBeWritten(t *testing.T) {
	t.Parallel()
	p := start(t, "--config="+file(t, "audit: {path: /dev/full}\n"))
	dialled := make(chan struct{}, 100)
	target := nettest.TCP(t, func(net.Conn) { dialled <- struct{}{} }).String()
	for range 3 {
		_, err := probev1.NewExchangeServiceClient(p.conn).Connect(t.Context(), &probev1.ConnectRequest{Target: target})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "audit log") || reasonOf(err) != "ERROR_REASON_UNAVAILABLE" {
			t.Errorf("by gRPC: %v", err)
		}
		for _, path := range []string{"/v1/connect", "/v1/exchange"} {
			if code, text := p.do(t, http.MethodPost, "http", path, fmt.Sprintf(`{"target": %q}`, target)); code != http.StatusServiceUnavailable || !strings.Contains(text, "audit log") {
				t.Errorf("%s: %d %s", path, code, text)
			}
		}
	}
	if code, text := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
		t.Errorf("a lookup: %d %s", code, text)
	}
	if code, text := p.get(t, "ops", "/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, text)
	}
	if got := p.metric(t, `probed_audit_writes_total{result="error"}`); got == "0" || got == "" {
		t.Errorf("failed writes: %s", got)
	}
	if got := p.metric(t, `probed_dials_total{network="tcp",reason="OK"}`); got != "" && got != "0" {
		t.Errorf("%s connections were made", got)
	}
	if lines := p.logged(t, "the audit log cannot be written: no session begins"); len(lines) != 1 || lines[0]["level"] != "ERROR" || !strings.Contains(fmt.Sprint(lines[0]["error"]), "no space left on device") {
		t.Errorf("the log says %v", lines)
	}
	select {
	case <-dialled:
		t.Error("the target was reached")
	default:
	}
}

// A log that cannot even be opened is no log: it does not start.
func TestAuditLogCannotBeOpened(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none", "audit.jsonl")
	if code, stderr := runToEnd(t, "--config="+file(t, "audit: {path: "+path+"}\n")); code != exitFailure || !strings.Contains(stderr, "audit") {
		t.Errorf("%d: %s", code, stderr)
	}
}

// A log that was moved away begins anew at the signal, and nothing is lost between the two.
func TestAuditLogIsRotated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	p := start(t, "--config="+file(t, "audit: {path: "+path+"}\n"))
	target, rest := greeter(t)
	under := p.sessions(t, target)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	p.signals <- syscall.SIGHUP
	eventually(t, "there is a new file", func() bool { _, err := os.Stat(path); return err == nil })
	close(rest)
	for _, s := range under {
		if _, err := s.last(); err != nil {
			t.Error(err)
		}
	}
	if code, text := p.do(t, http.MethodPost, "http", "/v1/connect", `{"target": "127.0.0.1:1"}`); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	read := func(path string) []auditLine {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return auditLines(t, string(text))
	}
	eventually(t, "the new file has two ends and a session", func() bool { return len(read(path)) == 4 })
	if old := read(path + ".1"); len(old) != 2 || old[0].Event != "begin" || old[1].Event != "begin" {
		t.Errorf("the old file: %+v", old)
	}
	events := map[string]int{}
	for _, line := range read(path) {
		events[line.Event]++
		if line.Subject != "anonymous" {
			t.Errorf("%+v", line)
		}
	}
	if events["begin"] != 1 || events["end"] != 3 {
		t.Errorf("the new file: %v", events)
	}
	var both []byte
	for _, name := range []string{path + ".1", path} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	probetest.CheckAudit(t, probetest.Records(t, both), p.witness.Outcomes())
}
