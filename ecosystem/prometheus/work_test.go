package prometheus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
)

// policy lets the caller reach loopback and the echo listener, and look names up.
const policy = `
listeners:
  http:
    tls: {certificate_file: %[1]s/tls.crt, key_file: %[1]s/tls.key}
auth:
  tokens_file: %[1]s/tokens.yaml
  issuers: [{name: nobody, url: "https://127.0.0.1:1/nobody", audience: probed}]
policy:
  roles:
    - name: all
      subjects: ["token:all"]
      rules:
        - {name: names, hosts: ["*"], verbs: [resolve]}
        - {name: loopback, cidrs: [127.0.0.0/8], verbs: [connect, send]}
        - {name: echo, unix_paths: [%[1]s/echo], verbs: [connect, send]}
limits: {sessions: %[2]d, dials_per_second: 1000}
`

const mostSessions = 3

// world is a probed and what it is asked about.
type world struct {
	*probetest.Probed
	dir     string
	grpc    *probetest.GRPCCaller
	held    *probetest.Session
	traces  *collector
	silent  string
	replies string
	refused string
	expires time.Time // the certificate of REST
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: nettest.SocketDir(t), expires: time.Now().Add(30 * 24 * time.Hour).Truncate(time.Second)}
	w.silent = nettest.TCP(t, nettest.Silent).String()
	w.replies = nettest.TCP(t, nettest.Reply([]byte("hello"))).String()
	w.refused = nettest.Refused(t).String()
	w.traces = newCollector(t)
	w.certificate(t)
	w.tokens(t, "")
	w.Probed = probetest.Start(t, probetest.Options{
		Config: fmt.Sprintf(policy, w.dir, mostSessions), Args: []string{"--echo=unix://" + w.dir + "/echo"},
		Env:  []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + w.traces.URL, "OTEL_BSP_SCHEDULE_DELAY=200"},
		Dies: true, // what a reload has put out of force is kept for those who still use it, longer than this test
	})
	w.grpc = w.GRPC()
	// One session is there all the time, with a connection to the echo listener.
	hold := &probev1.ExchangeRequest{Target: "unix://" + w.dir + "/echo", HoldOpen: true, Timeout: durationpb.New(5 * time.Minute)}
	w.held = w.grpc.Exchange(as(t.Context(), secret), t, hold)
	if w.held.UntilConnected() == nil {
		t.Fatalf("a session that is held: %v", w.held.Err)
	}
	return w
}

// tokens writes the file of tokens, with some more text.
func (w *world) tokens(t *testing.T, more string) {
	t.Helper()
	w.write(t, "tokens.yaml", fmt.Sprintf("tokens: [{name: all, sha256: \"sha256:%x\"}]\n%s", sha256.Sum256([]byte(secret)), more))
}

const secret = "probed-token-of-all-in-this-test-0000000000"

func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) certificate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: w.expires, DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	w.write(t, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// as is a context with a token.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// work makes probed do a bit of everything, and fail in the ways that somebody wants to see.
func (w *world) work(t *testing.T) {
	t.Helper()
	ctx := as(t.Context(), secret)
	exchange := func(request *probev1.ExchangeRequest) {
		w.grpc.Exchange(ctx, t, request).Rest()
	}
	hello := &probev1.ExchangeRequest_Text{Text: "hello"}
	exchange(&probev1.ExchangeRequest{Target: w.replies, Payload: hello})
	exchange(&probev1.ExchangeRequest{Target: "unix://" + w.dir + "/echo", Payload: hello})
	exchange(&probev1.ExchangeRequest{Target: w.refused})
	exchange(&probev1.ExchangeRequest{Target: "nosuch.test:80"})
	exchange(&probev1.ExchangeRequest{Target: "169.254.169.254:80"}) // is denied
	exchange(&probev1.ExchangeRequest{Target: "127.0.0.1:0"})        // is no target
	names, resolver := probev1.NewNameServiceClient(w.grpc.Conn), probev1.NewResolverServiceClient(w.grpc.Conn)
	_, _ = names.LookupService(ctx, &probev1.LookupServiceRequest{Name: "ssh"})
	_, _ = names.LookupService(ctx, &probev1.LookupServiceRequest{Name: "nosuch"})
	_, _ = resolver.LookupHost(ctx, &probev1.LookupHostRequest{Host: "localhost"})
	_, _ = resolver.LookupHost(ctx, &probev1.LookupHostRequest{Host: "nosuch.test"})

	// Nobody, and one whose issuer does not answer.
	_, _ = resolver.GetHostname(t.Context(), &probev1.GetHostnameRequest{})
	part := base64.RawURLEncoding.EncodeToString
	jwt := strings.Join([]string{part([]byte(`{"alg":"RS256","kid":"1"}`)), part([]byte(`{"iss":"https://127.0.0.1:1/nobody","aud":"probed"}`)), part([]byte("x"))}, ".")
	_, _ = resolver.GetHostname(as(t.Context(), jwt), &probev1.GetHostnameRequest{})

	// More sessions than there may be.
	var held []*probetest.Session
	for range mostSessions - 1 {
		session := w.grpc.Exchange(ctx, t, &probev1.ExchangeRequest{Target: w.silent})
		if session.UntilConnected() == nil {
			t.Errorf("a session that is held: %v", session.Err)
		}
		held = append(held, session)
	}
	exchange(&probev1.ExchangeRequest{Target: w.replies})
	for _, session := range held {
		session.Close()
		session.Rest()
	}
	w.await(t, "sessions whose caller has gone end", func() bool { return w.Metric(`probed_limit_used{limit="sessions"}`) == 1 })
}

func (w *world) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v until %s", patience, what)
		}
	}
}

// reload makes probed read its files again, with a fault in one or without.
func (w *world) reload(t *testing.T, faulty bool) {
	t.Helper()
	more, result := "", "ok"
	if faulty {
		more, result = "nonsense: 1\n", "error"
	}
	w.tokens(t, more)
	before := w.Metric(`probed_config_reloads_total{result="` + result + `"`)
	w.Signal(syscall.SIGHUP)
	w.await(t, "the configuration is read again", func() bool { return w.Metric(`probed_config_reloads_total{result="`+result+`"`) > before })
}
