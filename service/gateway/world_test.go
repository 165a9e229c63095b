package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"probed/internal/probetest"
	"probed/service"
	"probed/service/policy"
)

// world is a gateway in front of a whole service, served over HTTP on loopback.
type world struct {
	address string // of the HTTP server
	client  *http.Client
	gateway *Gateway

	mu       sync.Mutex
	requests []proto.Message // as the service saw them
	count    int             // calls that came through to the service
	metadata []metadata.MD
}

const (
	servicesFile  = "ssh 22/tcp\nhttp 80/tcp www # WorldWideWeb HTTP\nnine/p 1564/tcp\n"
	protocolsFile = "tcp 6 TCP # transmission control protocol\n"
	hostsFile     = "192.0.2.7 web.test www.test\n2001:db8::7 web.test\n127.0.0.1 here.test\n"
)

// newWorld returns a world with files of its own, and a DNS server that knows one name.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w := &world{}
	var config service.Config
	config.Policy = func() *policy.Policy { return &policy.Policy{Loopback: true, Open: true} }
	config.Names.ServicesFile = write("services", servicesFile)
	config.Names.ProtocolsFile = write("protocols", protocolsFile)
	config.Resolve.Hosts = write("hosts", hostsFile)
	config.Resolve.ResolvConf = write("resolv.conf", "nameserver 192.0.2.53\n")
	config.Resolve.Nsswitch = write("nsswitch.conf", "hosts: files dns\n")
	config.Resolve.GaiConf = filepath.Join(dir, "none")
	config.Resolve.HostConf = filepath.Join(dir, "none")
	config.Resolve.Getenv = func(string) string { return "" }
	config.Resolve.Hostname = func() (string, error) { return "here.test", nil }
	server := nameServer(t)
	config.Resolve.DialServer = func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", server)
	}
	config.Vantage = service.Vantage{Hostname: "here", Pod: "web-0", Namespace: "shop", Node: "n1", Version: "v0"}

	chain, err := service.Chain(service.ChainConfig{
		Logger: slog.New(slog.DiscardHandler), Vantage: config.Vantage,
		Metrics: service.Interceptors{Unary: w.sawUnary, Stream: w.sawStream},
	})
	if err != nil {
		t.Fatal(err)
	}
	local := service.Local(chain, service.New(config).Register)
	w.gateway, err = New(Config{Conn: local, AllowedHosts: []string{"Probe.Example."}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = listener.Addr().String()
	httpServer := &http.Server{Handler: w.gateway, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = httpServer.Serve(listener) })
	w.client = &http.Client{
		Transport:     probetest.NewWitness(t).HTTP(&http.Transport{DisableCompression: true}),
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		_ = httpServer.Close()
		_ = w.gateway.Close()
		serving.Wait()
	})
	return w
}

// nameServer answers for dns.test, and says NXDOMAIN to everything else.
func nameServer(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		answer.RecursionAvailable = true
		switch q := question.Question[0]; {
		case q.Name == "dns.test." && q.Qtype == dns.TypeA:
			answer.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.IPv4(192, 0, 2, 9),
			}}
		case q.Name == "dns.test.", q.Name == ".":
		default:
			answer.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(answer)
	})}
	var serving sync.WaitGroup
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	serving.Go(func() { _ = server.ActivateAndServe() })
	<-started
	t.Cleanup(func() {
		_ = server.Shutdown()
		serving.Wait()
	})
	return conn.LocalAddr().String()
}

func (w *world) saw(ctx context.Context, request any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	if message, ok := request.(proto.Message); ok {
		w.requests = append(w.requests, proto.Clone(message))
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		w.metadata = append(w.metadata, md)
	}
}

func (w *world) sawUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	w.saw(ctx, request)
	return handler(ctx, request)
}

func (w *world) sawStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	w.saw(stream.Context(), nil)
	return handler(server, stream)
}

// calls is how many calls came through to the service.
func (w *world) calls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// lastRequest is the last unary request that came through to the service.
func (w *world) lastRequest() proto.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.requests) == 0 {
		return nil
	}
	return w.requests[len(w.requests)-1]
}

// answer is a response whose body is closed at the end of the test.
type answer struct{ *http.Response }

// send makes a request.
func (w *world) send(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			request.Host = header[i+1]
			continue
		}
		request.Header.Add(header[i], header[i+1])
	}
	response, err := w.client.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return answer{response}
}

// ask is send with the whole body read.
func (w *world) ask(t *testing.T, method, path, body string, header ...string) (answer, string) {
	t.Helper()
	response := w.send(t, method, path, body, header...)
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response, string(text)
}

// checkJSON holds a JSON text against what is wanted, also JSON: the same members, none missing and none more, and the
// same values, save where "…" is wanted, which is any value but null.
func checkJSON(t *testing.T, got, want string) {
	t.Helper()
	if err := sameJSON(parseJSON(t, got), parseJSON(t, want), "$"); err != nil {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

func parseJSON(t *testing.T, text string) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("no JSON: %v\n%s", err, text)
	}
	if decoder.More() {
		t.Fatalf("more than one value of JSON: %s", text)
	}
	return value
}

func sameJSON(got, want any, path string) error {
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is no object", path)
		}
		names := func(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
		if !slices.Equal(names(got), names(want)) {
			return fmt.Errorf("%s has members %v, want %v", path, names(got), names(want))
		}
		for name := range want {
			if err := sameJSON(got[name], want[name], path+"."+name); err != nil {
				return err
			}
		}
		return nil
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return fmt.Errorf("%s is %v, want %d elements", path, got, len(want))
		}
		for i := range want {
			if err := sameJSON(got[i], want[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	case string:
		if want == "…" && got != nil {
			return nil
		}
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%s is %#v, want %#v", path, got, want)
	}
	return nil
}

// rpcError is the JSON of a google.rpc.Status.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Type            string `json:"@type"`
		Reason          string `json:"reason"`
		Domain          string `json:"domain"`
		RequestID       string `json:"requestId"`
		FieldViolations []struct {
			Field string `json:"field"`
		} `json:"fieldViolations"`
	} `json:"details"`
}

func parseError(t *testing.T, text string) (e rpcError) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	if err := decoder.Decode(&e); err != nil {
		t.Fatalf("no google.rpc.Status: %v\n%s", err, text)
	}
	return e
}

// reason is that of the ErrorInfo, which is the first of the details.
func (e rpcError) reason() string {
	if len(e.Details) > 0 {
		if d := e.Details[0]; d.Type == "type.googleapis.com/google.rpc.ErrorInfo" && d.Domain == "probed" {
			return d.Reason
		}
	}
	return ""
}

// requestID is that of the RequestInfo.
func (e rpcError) requestID() string {
	for _, d := range e.Details {
		if d.Type == "type.googleapis.com/google.rpc.RequestInfo" {
			return d.RequestID
		}
	}
	return ""
}

func (e rpcError) field() string {
	for _, d := range e.Details {
		if d.Type == "type.googleapis.com/google.rpc.BadRequest" && len(d.FieldViolations) > 0 {
			return d.FieldViolations[0].Field
		}
	}
	return ""
}

func readAll(t *testing.T, conn net.Conn) string {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
