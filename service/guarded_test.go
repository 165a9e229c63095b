package service

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/guard"
	"probed/service/policy"
)

// withRoles makes the world ask who calls. The caller NAME has the subject token:NAME; these are all there are.
func withRoles(rules *policy.Policy, names ...string) func(*settings) {
	return func(s *settings) {
		s.callers = authenticator(names...)

		s.Policy = func() *policy.Policy { return rules }
	}
}

func authenticator(names ...string) *guard.Authenticator {
	config := guard.Config{}
	for _, name := range names {
		config.Tokens = append(config.Tokens, guard.Token{Name: name, Hash: sha256.Sum256([]byte(tokenOf(name)))})
	}
	a, err := guard.NewAuthenticator(config)
	if err != nil {
		panic(err)
	}
	return a
}

func tokenOf(name string) string { return "token-of-" + name }

// callerOf is what probed itself tells the gateway.
func callerOf(r *http.Request) context.Context {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	return guard.WithCredentials(r.Context(), guard.Credentials{
		Authorization: strings.Join(r.Header.Values("Authorization"), ", "), Remote: remote.Addr().Unmap(),
	})
}

// withDNS gives the world a name server, which is asked what the hosts file does not know.
func withDNS(server *nettest.DNSServer) func(*settings) {
	return func(s *settings) {
		s.Resolve.DialServer = func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server.Addr.String())
		}
		for name, text := range map[string]string{
			s.Resolve.Nsswitch:   "hosts: files dns\n",
			s.Resolve.ResolvConf: "nameserver 192.0.2.53\noptions timeout:1 attempts:1\n",
		} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				panic(err)
			}
		}
	}
}

// caller is one caller by one transport.
type caller struct {
	world    *world
	name, by string
}

// by are the ways to call as somebody.
func (w *world) by(name string) []caller { return []caller{{w, name, "gRPC"}, {w, name, "REST"}} }

func (c caller) String() string { return c.name + " by " + c.by }

// answer is all that a caller gets to see.
type answer struct {
	err      error
	messages []proto.Message
	header   map[string][]string // and trailer, under "trailer …"
}

func (a *answer) outcome() *probev1.Outcome {
	if len(a.messages) == 0 {
		return nil
	}
	switch last := a.messages[len(a.messages)-1].(type) {
	case *probev1.ConnectResponse:
		return last.GetOutcome()
	case *probev1.ExchangeResponse:
		return last.GetOutcome()
	}
	return nil
}

// text is the whole of the answer, less what differs with each request: its id, the time and how long it took.
func (a *answer) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", status.Convert(a.err).Proto())
	for _, message := range a.messages {
		fmt.Fprintf(&b, "%v\n", message)
	}
	for _, key := range slices.Sorted(maps.Keys(a.header)) {
		// The details of an error are above; in bytes, metadata is in any order.
		if !strings.HasSuffix(key, RequestIDHeader) && key != "date" && key != "trailer grpc-status-details-bin" {
			fmt.Fprintf(&b, "%s: %v\n", key, a.header[key])
		}
	}
	text := strings.ReplaceAll(b.String(), "\u00a0", " ") // which messages print at random
	if id := requestIDIn(a.err); id != "" {
		text = strings.ReplaceAll(text, id, "ID")
	}
	return text
}

// call makes the call that a message is the request of; a ConverseRequest opens a conversation, which is then closed.
func (c caller) call(ctx context.Context, t *testing.T, request proto.Message) *answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if c.by == "REST" {
		return c.rest(ctx, t, request)
	}
	return c.grpc(ctx, t, request)
}

func (c caller) grpc(ctx context.Context, t *testing.T, request proto.Message) *answer {
	t.Helper()
	method := methodOf(t, request)
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	output, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		t.Fatal(err)
	}
	ctx = asCaller(ctx, c.name)
	a := &answer{header: map[string][]string{}}
	var header, trailer metadata.MD
	defer func() {
		maps.Copy(a.header, header)
		for key, values := range trailer {
			a.header["trailer "+key] = values
		}
	}()
	desc := &grpc.StreamDesc{ServerStreams: method.IsStreamingServer(), ClientStreams: method.IsStreamingClient()}
	stream, err := c.world.conn.NewStream(ctx, desc, path, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		a.err = err
		return a
	}
	frames := []proto.Message{request}
	if desc.ClientStreams {
		frames = append(frames, closing())
	}
	for _, frame := range frames {
		if err := stream.SendMsg(frame); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	_ = stream.CloseSend()
	for {
		response := output.New().Interface()
		if a.err = stream.RecvMsg(response); a.err != nil {
			break
		}
		a.messages = append(a.messages, response)
	}
	if errors.Is(a.err, io.EOF) {
		a.err = nil
	}
	return a
}

// path is where REST has a call; body says that its request is the body.
func pathOf(t *testing.T, request proto.Message) (path string, body bool) {
	t.Helper()
	switch r := request.(type) {
	case *probev1.ConnectRequest:
		return "/v1/connect", true
	case *probev1.ExchangeRequest:
		return "/v1/exchange", true
	case *probev1.QueryDNSRequest:
		if r.GetServer() != "" {
			return "/v1/dns", true
		}
		return "/v1/dns/" + url.PathEscape(r.GetName()) + "?" + url.Values{"type": {r.GetType()}}.Encode(), false
	case *probev1.LookupHostRequest:
		return "/v1/hosts/" + url.PathEscape(r.GetHost()), false
	case *probev1.LookupAddressRequest:
		return "/v1/addresses/" + r.GetAddress(), false
	case *probev1.GetAddressInfoRequest:
		query := url.Values{"host": {r.GetHost()}}
		for _, flag := range r.GetFlags() {
			query.Add("flags", flag.String())
		}
		return "/v1/addrinfo?" + query.Encode(), false
	case *probev1.GetNameInfoRequest:
		return "/v1/nameinfo?address=" + r.GetAddress(), false
	case *probev1.ExplainPolicyRequest:
		return "/v1/policy?" + url.Values{"target": {r.GetTarget()}}.Encode(), false
	case *probev1.LookupPortRequest:
		return fmt.Sprintf("/v1/ports/%d", r.GetPort()), false
	}
	t.Fatalf("%T has no path here", request)
	return "", false
}

func (c caller) rest(ctx context.Context, t *testing.T, request proto.Message) *answer {
	t.Helper()
	output, err := protoregistry.GlobalTypes.FindMessageByName(methodOf(t, request).Output().FullName())
	if err != nil {
		t.Fatal(err)
	}
	path, isBody := pathOf(t, request)
	verb, body := http.MethodGet, []byte(nil)
	if isBody {
		verb = http.MethodPost
		if body, err = protojson.Marshal(request); err != nil {
			t.Fatal(err)
		}
	}
	asked, err := http.NewRequestWithContext(ctx, verb, c.world.rest.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	asked.Header.Set("Authorization", "Bearer "+tokenOf(c.name))
	response, err := c.world.rest.client.Do(asked)
	if err != nil {
		return &answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return &answer{err: err}
	}
	a := &answer{header: map[string][]string{"status": {response.Status}}}
	for key, values := range response.Header {
		a.header[strings.ToLower(key)] = values
	}
	if response.StatusCode != http.StatusOK {
		a.err = statusFromJSON(text)
		return a
	}
	lines := [][]byte{text}
	if _, ok := request.(*probev1.ExchangeRequest); ok {
		lines = slices.Collect(bytes.Lines(text))
	}
	for _, line := range lines {
		if text, ok := bytes.CutPrefix(line, []byte(`{"error":`)); ok {
			a.err = statusFromJSON(bytes.TrimSuffix(text, []byte("}\n")))
			return a
		}
		if inner, ok := bytes.CutPrefix(line, []byte(`{"result":`)); ok {
			line = bytes.TrimSuffix(inner, []byte("}\n"))
		}
		message := output.New().Interface()
		if err := protojson.Unmarshal(line, message); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		a.messages = append(a.messages, message)
	}
	return a
}

// tlsSink is a peer that speaks TLS with a certificate that nobody trusts.
func tlsSink(t *testing.T, tally *nettest.Tally) netip.AddrPort {
	t.Helper()
	certificate, key := selfSigned(t)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return nettest.TCP(t, tally.Count(func(c net.Conn) {
		secured := tls.Server(c, config)
		_, _ = secured.Write([]byte("hi"))
		_ = secured.CloseWrite()
		_, _ = io.Copy(io.Discard, secured)
	}))
}

// soon waits until the condition holds.
func soon(t *testing.T, what string, condition func() bool) {
	t.Helper()
	late := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-late:
			t.Fatalf("%s: not within 10 s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func prefixes(all ...string) (parsed []netip.Prefix) {
	for _, s := range all {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}

// asCaller is the context of calls of NAME by gRPC.
func asCaller(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tokenOf(name))
}

// selfSigned is a certificate that nobody trusts, and its key, in PEM.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"name.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
