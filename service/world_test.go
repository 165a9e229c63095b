package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/probetest"
	"probed/service/gateway"
	"probed/service/guard"
	"probed/service/policy"
)

// world is a whole service as probed runs it: a gRPC server and a gateway, both on loopback, and a client of each.
type world struct {
	service *Service
	server  *grpc.Server
	conn    *grpc.ClientConn // over the network
	local   *LocalConn       // within the process
	rest    *restClient
	witness *probetest.Witness // of conn and rest: every exchange of a test is held to the invariants
	log     *logBuffer
	audit   *auditLog // nil: the test has one of its own
	files   string    // the directory of the files below, which tests may change
}

// settings is what a test may have otherwise.
type settings struct {
	Config
	metrics  Interceptors
	trace    func(context.Context, *Call) (context.Context, func(error))
	register func(grpc.ServiceRegistrar) // in place of the service
	callers  *guard.Authenticator        // nil: nobody is asked who they are
}

// newWorld starts one. Its services are those of IANA alone, its names those of a hosts file, and it has no DNS.
func newWorld(t testing.TB, changes ...func(*settings)) *world {
	t.Helper()
	w := &world{log: &logBuffer{}, audit: newAuditLog(t), witness: probetest.NewWitness(t), files: t.TempDir()}
	s := settings{}
	s.Audit = w.audit.Audit
	s.Policy = func() *policy.Policy { return &policy.Policy{Loopback: true, Open: true} }
	s.Names.ServicesFile = w.file("services")
	s.Names.ProtocolsFile = w.file("protocols")
	s.Resolve.Hosts = w.file("hosts")
	s.Resolve.ResolvConf = w.file("resolv.conf")
	s.Resolve.Nsswitch = w.file("nsswitch.conf")
	s.Resolve.GaiConf = w.file("gai.conf")
	s.Resolve.HostConf = w.file("host.conf")
	s.Resolve.Getenv = func(string) string { return "" }
	s.Resolve.Hostname = func() (string, error) { return "here.test", nil }
	s.Vantage = Vantage{Hostname: "here.test", Version: "v1.2.3"}
	w.write(t, "nsswitch.conf", "hosts: files\n")
	w.write(t, "hosts", "127.0.0.1 here.test\n")
	for _, change := range changes {
		change(&s)
	}
	if s.Audit != w.audit.Audit {
		w.audit = nil
	}
	links := ChainConfig{Logger: slog.New(slog.NewJSONHandler(w.log, nil)), Vantage: s.Vantage, Metrics: s.metrics, Policy: s.Policy, Limiter: s.Limiter, Trace: s.trace}
	if s.callers != nil {
		links.Authenticator = func() *guard.Authenticator { return s.callers }
	}
	chain, err := Chain(links)
	if err != nil {
		t.Fatal(err)
	}
	w.server = grpc.NewServer(chain.ServerOptions(grpc.WaitForHandlers(true))...)
	w.service = New(s.Config)
	register := w.service.Register
	if s.register != nil {
		register = s.register
	}
	register(BeforeMessage(w.server, chain))

	grpcListener, httpListener := listen(t), listen(t)
	var serving sync.WaitGroup
	serving.Go(func() { _ = w.server.Serve(grpcListener) })
	w.local = Local(chain, register)
	rest, err := gateway.New(gateway.Config{
		Conn:  w.local,
		Enter: func(r *http.Request) (context.Context, func(), bool) { return links.Enter(callerOf(r)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	httpServer := &http.Server{Handler: rest, ReadHeaderTimeout: time.Minute}
	serving.Go(func() { _ = httpServer.Serve(httpListener) })
	w.conn, err = grpc.NewClient(grpcListener.Addr().String(), append(w.witness.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	w.rest = &restClient{"http://" + httpListener.Addr().String(), http.Client{Transport: w.witness.HTTP(&http.Transport{})}}
	t.Cleanup(func() {
		if w.audit != nil {
			w.audit.outcomes = w.witness.Outcomes()
		}
		_ = w.conn.Close()
		w.rest.client.CloseIdleConnections()
		_ = httpServer.Close()
		_ = rest.Close()
		w.server.Stop()
		serving.Wait()
	})
	return w
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (w *world) file(name string) string { return filepath.Join(w.files, name) }

func (w *world) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(w.file(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withHosts gives the world a hosts file.
func withHosts(text string) func(*settings) {
	return func(s *settings) {
		if err := os.WriteFile(s.Resolve.Hosts, []byte(text), 0o600); err != nil {
			panic(err)
		}
	}
}

// transports are the two ways to ask, which are to give the same answers.
func (w *world) transports() map[string]transport {
	return map[string]transport{"gRPC": grpcTransport{w.conn}, "REST": w.rest}
}

// transport makes calls. Errors are those of package status, with their details.
type transport interface {
	connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error)
	// exchange hands each event to each, in the goroutine of the caller.
	exchange(ctx context.Context, request *probev1.ExchangeRequest, each func(*probev1.ExchangeResponse)) error
}

type grpcTransport struct{ *grpc.ClientConn }

func (c grpcTransport) connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error) {
	response, err := probev1.NewExchangeServiceClient(c).Connect(ctx, request)
	return response.GetOutcome(), err
}

func (c grpcTransport) exchange(ctx context.Context, request *probev1.ExchangeRequest, each func(*probev1.ExchangeResponse)) error {
	stream, err := probev1.NewExchangeServiceClient(c).Exchange(ctx, request)
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		each(event)
	}
}

type restClient struct {
	url    string
	client http.Client
}

func (c *restClient) post(ctx context.Context, path string, message proto.Message) (*http.Response, error) {
	body, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return nil, statusFromJSON(text)
}

// statusFromJSON is the error that a google.rpc.Status in JSON tells of.
func statusFromJSON(text []byte) error {
	s := &spb.Status{}
	if err := protojson.Unmarshal(text, s); err != nil {
		return fmt.Errorf("no google.rpc.Status: %w: %s", err, text)
	}
	return status.ErrorProto(s)
}

func (c *restClient) connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error) {
	response, err := c.post(ctx, "/v1/connect", request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	message := &probev1.ConnectResponse{}
	err = protojson.Unmarshal(text, message)
	return message.GetOutcome(), err
}

func (c *restClient) exchange(ctx context.Context, request *probev1.ExchangeRequest, each func(*probev1.ExchangeResponse)) error {
	response, err := c.post(ctx, "/v1/exchange", request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for reader := bufio.NewReaderSize(response.Body, 2<<20); ; {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		line = bytes.TrimSuffix(line, []byte("}\n"))
		if text, ok := bytes.CutPrefix(line, []byte(`{"error":`)); ok {
			return statusFromJSON(text)
		}
		text, ok := bytes.CutPrefix(line, []byte(`{"result":`))
		if !ok {
			return fmt.Errorf("neither result nor error: %s", line)
		}
		event := &probev1.ExchangeResponse{}
		if err := protojson.Unmarshal(text, event); err != nil {
			return err
		}
		each(event)
	}
}

// events carries out an exchange and returns its events.
func events(t *testing.T, c transport, request *probev1.ExchangeRequest) ([]*probev1.ExchangeResponse, error) {
	t.Helper()
	return eventsOf(t.Context(), t, c, request)
}

// eventsOf is events with a context.
func eventsOf(ctx context.Context, t *testing.T, c transport, request *probev1.ExchangeRequest) ([]*probev1.ExchangeResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var all []*probev1.ExchangeResponse
	err := c.exchange(ctx, request, func(event *probev1.ExchangeResponse) { all = append(all, event) })
	return all, err
}

// errorInfo is the reason of a status; empty when it has none that is ours.
func errorInfo(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == ErrorDomain {
			return info.GetReason()
		}
	}
	return ""
}

// violations are the fields that a status finds wrong, in a row.
func violations(err error) string {
	var fields []string
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.GetFieldViolations() {
				fields = append(fields, violation.GetField())
				if violation.GetDescription() == "" {
					fields = append(fields, "without description")
				}
			}
		}
	}
	return strings.Join(fields, " ")
}

// logBuffer keeps lines of a log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// lines are the lines that have msg as message, decoded.
func (b *logBuffer) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []map[string]any
	for line := range bytes.Lines(b.text.Bytes()) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}
