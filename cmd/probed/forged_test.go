package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// subjectByGRPC is who the server takes the caller for; "" and the error when for nobody.
func subjectByGRPC(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	answer, err := probev1.NewPolicyServiceClient(conn).ExplainPolicy(ctx, &probev1.ExplainPolicyRequest{Target: "192.0.2.1:1"})
	return answer.GetSubject(), err
}

const explainPath = "/v1/policy?target=192.0.2.1:1"

// subjectIn is that of an answer by REST.
func subjectIn(text string) string {
	var answer struct {
		Subject string `json:"subject"`
	}
	if json.Unmarshal([]byte(text), &answer) != nil {
		return ""
	}
	return answer.Subject
}

// raw sends bytes as they are and returns the answer with its body; nil when there is none.
func (s *secured) raw(t *testing.T, w who, text string) (*reply, string) {
	t.Helper()
	dialer := tls.Dialer{Config: s.tls(w)}
	conn, err := dialer.DialContext(t.Context(), "tcp", s.addresses["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return say(t, conn, text)
}

// say sends bytes on a connection and returns the answer with its body; nil when there is none.
func say(t *testing.T, conn net.Conn, text string) (*reply, string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Logf("what was sent did not arrive whole: %v", err)
	}
	method, _, _ := strings.Cut(text, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return nil, err.Error()
	}
	got, body, err := replyOf(response)
	if err != nil {
		return nil, err.Error()
	}
	return got, body
}

// forgeries are headers that stand for an identity somewhere, and that no caller shall be known by here.
var forgeries = [][2]string{
	{"Grpc-Metadata-Authorization", "Bearer " + secret("all")},
	{"Grpc-Metadata-Subject", "token:all"},
	{"Grpc-Metadata-X-Forwarded-For", "127.0.0.1"},
	{"Grpcgateway-Authorization", "Bearer " + secret("all")},
	{"Proxy-Authorization", "Bearer " + secret("all")},
	{"X-Authorization", "Bearer " + secret("all")},
	{"Cookie", "authorization=" + secret("all")},
	{"Probe-Subject", "token:all"},
	{"Subject", "token:all"},
	{"X-Remote-User", "all"},
	{"X-Forwarded-User", "token:all"},
	{"X-Forwarded-For", "127.0.0.1"},
	{"Forwarded", "for=127.0.0.1;by=127.0.0.1"},
	{"X-Forwarded-Client-Cert", `Hash=00;Subject="CN=all";URI=all`},
	{"X-Client-Cert", "all"},
	{"X-Ssl-Client-S-Dn", "CN=all"},
}

// Who calls is known by the Authorization header and by the certificate, and by nothing else that a request says.
func TestForgedIdentity(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t)
	certificate := s.clients.caller(t, "nobody", time.Now().Add(time.Hour))
	callers := map[string]struct {
		who     who
		subject string // empty: refused
	}{
		"nobody known": {who{}, ""},
		"token":        {token("nobody"), "token:nobody"},
		"JWT":          {bearer(s.issuer.token(t, "nobody", nil)), "oidc:nobody"},
		"certificate":  {certificate, "mtls:nobody"},
	}
	all := ""
	for _, header := range forgeries {
		all += header[0] + ": " + header[1] + "\r\n"
	}
	for _, name := range sorted(callers) {
		caller := callers[name]
		authorization := ""
		if caller.who.authorization != "" {
			authorization = "Authorization: " + caller.who.authorization + "\r\n"
		}
		requests := map[string]string{
			"all at once":   "GET " + explainPath + " HTTP/1.1\r\nHost: localhost\r\n" + all + authorization + "\r\n",
			"HTTP/1.0":      "GET " + explainPath + " HTTP/1.0\r\nHost: localhost\r\n" + all + authorization + "\r\n",
			"absolute form": "GET https://localhost" + explainPath + " HTTP/1.1\r\nHost: evil.example\r\n" + all + authorization + "\r\n",
			"trailers": "GET " + explainPath + " HTTP/1.1\r\nHost: localhost\r\n" + authorization +
				"Transfer-Encoding: chunked\r\nTrailer: Authorization, X-Forwarded-User\r\n\r\n0\r\nAuthorization: Bearer " + secret("all") + "\r\n" + all + "\r\n",
			"in the query": "GET " + explainPath + " HTTP/1.1\r\nHost: localhost\r\n" + authorization + "Connection: Authorization\r\n\r\n",
		}
		for _, header := range forgeries {
			requests[header[0]] = "GET " + explainPath + " HTTP/1.1\r\nHost: localhost\r\n" + authorization + header[0] + ": " + header[1] + "\r\n\r\n"
		}
		for _, form := range sorted(requests) {
			response, text := s.raw(t, who{certificate: caller.who.certificate}, requests[form])
			switch {
			case response == nil:
				t.Errorf("%s, %s: %s", name, form, text)
			case caller.subject == "" && response.StatusCode != http.StatusUnauthorized,
				caller.subject != "" && (response.StatusCode != http.StatusOK || subjectIn(text) != caller.subject):
				t.Errorf("%s, %s: %s %s, want %q", name, form, response.Status, text, caller.subject)
			}
		}
		// A parameter is none either, and is refused since no method has it.
		response, text := s.raw(t, caller.who, "GET "+explainPath+"&access_token="+secret("all")+" HTTP/1.1\r\nHost: localhost\r\n"+authorization+"\r\n")
		if response == nil || response.StatusCode == http.StatusOK {
			t.Errorf("%s: access_token in the query: %s", name, text)
		}

		// The same names by gRPC.
		conn := s.connect(t, who{certificate: caller.who.certificate})
		var names []string
		for _, header := range forgeries {
			names = append(names, strings.ToLower(header[0]), header[1])
		}
		ctx := caller.who.as(metadata.AppendToOutgoingContext(t.Context(), names...))
		subject, err := subjectByGRPC(ctx, conn)
		if caller.subject == "" && status.Code(err) != codes.Unauthenticated || subject != caller.subject || caller.subject != "" && err != nil {
			t.Errorf("%s, by gRPC: %q, %v, want %q", name, subject, err, caller.subject)
		}
	}
}

// One request has one sender: who sends two names is nobody, be one of them good or both.
func TestTwoIdentities(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t)
	conn := s.connect(t, who{})
	for _, two := range [][2]string{
		{"Bearer " + secret("all"), "Bearer " + secret("all")},
		{"Bearer " + secret("nobody"), "Bearer " + secret("all")},
		{"Bearer nonsense", "Bearer " + secret("all")},
		{"Bearer " + secret("all"), ""},
		{"", "Bearer " + secret("all")},
	} {
		response, text := s.raw(t, who{}, "GET "+explainPath+" HTTP/1.1\r\nHost: localhost\r\nAuthorization: "+two[0]+"\r\nAuthorization: "+two[1]+"\r\n\r\n")
		if response == nil || response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q by REST: %s", two, text)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", two[0], "authorization", two[1])
		if subject, err := subjectByGRPC(ctx, conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%q by gRPC: %q, %v", two, subject, err)
		}
	}
	// Nor do two spellings of one header make one.
	response, text := s.raw(t, who{}, "GET "+explainPath+" HTTP/1.1\r\nHost: localhost\r\nauthorization: Bearer nonsense\r\nAUTHORIZATION: Bearer "+secret("all")+"\r\n\r\n")
	if response == nil || response.StatusCode != http.StatusUnauthorized {
		t.Errorf("two spellings: %s", text)
	}
}

// What has expired is refused at the next call, also on a connection that was opened before.
func TestCredentialsExpireOnOpenConnections(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	until := time.Now().Truncate(time.Second).Add(3 * time.Second)
	s.put(t, map[string]string{"tokens.yaml": tokensFile("all") + tokenEntry("short", until)})
	s.start(t)
	certificate := s.clients.caller(t, "short", until)
	var all sync.WaitGroup
	for name, caller := range map[string]who{
		"token":       token("short"),
		"JWT":         bearer(s.issuer.token(t, "short", map[string]any{"exp": until.Unix()})),
		"certificate": certificate,
	} {
		conn, client := s.connect(t, caller), s.client(t, caller)
		all.Go(func() {
			if err := s.untilExpired(t.Context(), conn, client, caller, until); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
}

// untilExpired calls again and again, by both protocols on a connection each, until the caller is not known any more. That
// has to be from the time on that is given, and not for another reason.
func (s *secured) untilExpired(ctx context.Context, conn *grpc.ClientConn, client *http.Client, caller who, until time.Time) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	known := map[string]int{}
	for len(known) < 2 || known["gRPC"] >= 0 || known["REST"] >= 0 {
		before := time.Now()
		response, text, err := s.rest(ctx, client, caller, http.MethodGet, explainPath, "")
		if err != nil {
			return err
		}
		subject, err := subjectByGRPC(caller.as(ctx), conn)
		byGRPC, byREST := status.Code(err) == codes.OK, response.StatusCode == http.StatusOK
		switch {
		case byGRPC && !strings.HasSuffix(subject, ":short"):
			return fmt.Errorf("it is %q", subject)
		case !byGRPC && (status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "have expired")):
			return err
		case !byREST && (response.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "have expired")):
			return fmt.Errorf("%s: %s", response.Status, text)
		}
		for way, is := range map[string]bool{"gRPC": byGRPC, "REST": byREST} {
			switch {
			case is && before.After(until):
				return fmt.Errorf("by %s it is known still %v after the end", way, before.Sub(until))
			case !is && time.Now().Before(until):
				return fmt.Errorf("by %s it is not known %v before the end", way, time.Until(until))
			case !is && known[way] == 0:
				return fmt.Errorf("by %s it never was known", way)
			case is:
				known[way]++
			default:
				known[way] = -1
			}
		}
		<-tick.C
	}
	return nil
}

// Of anonymous callers the address counts that they come from, whatever they say.
func TestForgedAddress(t *testing.T) {
	t.Parallel()
	p := start(t, "--config="+file(t, "limits: {dials_per_second: 1}\n"))
	refused := 0
	for n := range 10 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url("http", "/v1/connect"), strings.NewReader(`{"target": "127.0.0.1:1"}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", n))
		request.Header.Set("X-Real-Ip", fmt.Sprintf("192.0.2.%d", n))
		response, err := p.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode == http.StatusTooManyRequests {
			refused++
			if got := response.Header.Get("Retry-After"); got != "1" || reasonIn(string(text)) != "ERROR_REASON_LIMIT_REACHED" { // RFC 9110, section 10.2.3
				t.Errorf("Retry-After %q: %s", got, text)
			}
		}
	}
	if refused < 5 {
		t.Errorf("%d of 10 were refused", refused)
	}
}
