package endurance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// harmless are the codes of what is the caller's to mend.
var harmless = []codes.Code{
	codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
	codes.ResourceExhausted, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented,
}

// lookedUp are the reasons for UNAVAILABLE of the RPCs that ask name servers: here there is none.
var lookedUp = []string{"ERROR_REASON_DNS_UNREACHABLE", "ERROR_REASON_DNS_SERVER_UNKNOWN", "EAI_AGAIN", "ERROR_REASON_DNS_MALFORMED", "ERROR_REASON_DNS_TIMEOUT", "ERROR_REASON_DNS_HANDSHAKE"}

// ofGRPC is how gRPC itself answers what holds no message, which so never comes to the service. INTERNAL is what its
// specification wants (doc/compression.md, doc/statuscodes.md of grpc/grpc).
var ofGRPC = regexp.MustCompile(`^(grpc: (received unexpected payload format|compressed flag set)|unexpected EOF$|cardinality violation: )`)

// Whatever is asked, by gRPC and by REST, of every RPC, is answered, and told to be the fault of who asked where it is.
func TestBadInputIsHarmless(t *testing.T) {
	const seed, callers = 20261123, 8
	requests := promise.Times(1_000, 100_000)
	unframed := requests / 20
	p := probetest.Start(t, probetest.Options{})
	source := random{methods: allMethods(), peers: []netip.AddrPort{nettest.TCP(t, nettest.Echo), nettest.TCP(t, nettest.CloseAtOnce), nettest.TCP(t, nettest.Reply([]byte("220 hello\r\n")))}}
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	var tally tally
	var next, faults atomic.Int64
	var asking sync.WaitGroup
	for range callers {
		asking.Go(func() {
			// A redirect is an answer. Connections are kept, and given up now and then, as those of other callers are.
			grpc, rest := &http.Transport{Protocols: &h2, DisableCompression: true}, &http.Transport{DisableCompression: true}
			defer grpc.CloseIdleConnections()
			defer rest.CloseIdleConnections()
			for i := next.Add(1); i <= int64(requests+unframed) && faults.Load() < 20; i = next.Add(1) {
				r := source
				r.Rand = rand.New(rand.NewPCG(seed, uint64(i)))
				var a answer
				switch {
				case i > int64(requests):
					a = ask(t.Context(), grpc, "gRPC", p.GRPCAddress, r.unframed)
				case i%40 == 0:
					a = sendNoise(t, &r, p.HTTPAddress)
				case i%2 == 0:
					a = ask(t.Context(), grpc, "gRPC", p.GRPCAddress, r.grpc)
				default:
					a = ask(t.Context(), rest, "REST", p.HTTPAddress, r.rest)
				}
				what, fault := a.verdict()
				if fault != "" {
					faults.Add(1)
					t.Errorf("request %d of seed %d, %s %s, %s: %s", i, seed, a.by, a.path, a.kind, fault)
				}
				tally.add(a.by + " " + string(a.kind) + ": " + what)
			}
		})
	}
	asking.Wait()
	t.Log(tally.String())
	p.Settle()
	promise.BadInputIsHarmless.Reached(t, "%d random requests over %d RPCs, 0 answers worse than INVALID_ARGUMENT and its like, 0 crashes, goroutines back; beside them %d that are no frames of gRPC, answered by gRPC itself", requests, len(source.methods), unframed)
}

// allMethods are all RPCs that probed has.
func allMethods() (all []protoreflect.MethodDescriptor) {
	// The packages have to be linked in for their descriptors to be there.
	_, _ = healthv1.File_grpc_health_v1_health_proto, grpc_reflection_v1.File_grpc_reflection_v1_reflection_proto
	for _, name := range []protoreflect.FullName{"probe.v1", "grpc.health.v1", "grpc.reflection.v1"} {
		protoregistry.GlobalFiles.RangeFilesByPackage(name, func(file protoreflect.FileDescriptor) bool {
			for i := range file.Services().Len() {
				for j := range file.Services().Get(i).Methods().Len() {
					all = append(all, file.Services().Get(i).Methods().Get(j))
				}
			}
			return true
		})
	}
	slices.SortFunc(all, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}

// answer is what came back.
type answer struct {
	kind   kind
	by     string // gRPC, REST or a connection
	path   string
	method protoreflect.MethodDescriptor // for which it was made
	raw    bool                          // bytes are wanted, not events
	lasts  bool                          // until its caller has had enough
	http   int                           // status; 0: none came
	status *status.Status
	events []*probev1.ExchangeResponse
	err    error // of the connection
}

// ask makes a request, and reads what comes back until there is no more or it is tired of that.
func ask(ctx context.Context, transport *http.Transport, by, address string, newRequest func(address string) (kind, protoreflect.MethodDescriptor, *http.Request)) (a answer) {
	var request *http.Request
	a.kind, a.method, request = newRequest(address)
	a.by, a.path = by, request.Method+" "+request.URL.String()
	a.raw = strings.Contains(request.Header.Get("Accept"), "octet-stream")
	a.lasts = a.method.IsStreamingServer() || a.method.Name() == "Connect"
	patience := 10 * time.Second
	if a.lasts {
		patience = 200 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	response, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		a.err = err
		return a
	}
	defer response.Body.Close()
	a.http = response.StatusCode
	body, err := io.ReadAll(response.Body)
	if by == "gRPC" {
		a.err = errors.Join(err, a.readGRPC(response, body))
	} else {
		a.err = errors.Join(err, a.readREST(response, body))
	}
	return a
}

func (a *answer) readGRPC(response *http.Response, body []byte) error {
	trailer := response.Trailer
	if trailer.Get("Grpc-Status") == "" {
		trailer = response.Header // without a message there is but one block of them
	}
	if text := trailer.Get("Grpc-Status"); text != "" {
		code, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		a.status = status.New(codes.Code(code), trailer.Get("Grpc-Message"))
		if details, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(trailer.Get("Grpc-Status-Details-Bin"), "=")); err == nil && len(details) > 0 {
			s := &spb.Status{}
			if err := proto.Unmarshal(details, s); err != nil {
				return err
			}
			a.status = status.FromProto(s)
		}
	}
	if a.method == nil || a.method.Output().FullName() != "probe.v1.ExchangeResponse" {
		return nil
	}
	for len(body) >= 5 && uint32(len(body)-5) >= binary.BigEndian.Uint32(body[1:]) {
		event := &probev1.ExchangeResponse{}
		end := 5 + binary.BigEndian.Uint32(body[1:])
		if err := proto.Unmarshal(body[5:end], event); err != nil {
			return err
		}
		a.events, body = append(a.events, event), body[end:]
	}
	return nil
}

func (a *answer) readREST(response *http.Response, body []byte) error {
	if response.StatusCode != http.StatusOK && strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") && len(body) > 0 {
		s := &spb.Status{}
		a.status = status.FromProto(s)
		err := protojson.Unmarshal(body, s)
		a.status = status.FromProto(s)
		return err
	}
	for line := range bytes.Lines(body) {
		line = bytes.TrimSpace(line)
		if text, ok := bytes.CutPrefix(line, []byte(`{"error":`)); ok {
			s := &spb.Status{}
			if err := protojson.Unmarshal(bytes.TrimSuffix(text, []byte("}")), s); err != nil {
				return err
			}
			a.status = status.FromProto(s)
		}
		if text, ok := bytes.CutPrefix(line, []byte(`{"result":`)); ok {
			event := &probev1.ExchangeResponse{}
			if err := protojson.Unmarshal(bytes.TrimSuffix(text, []byte("}")), event); err != nil {
				return err
			}
			a.events = append(a.events, event)
		}
	}
	return nil
}

// verdict is how a request was answered, in a word, and what is wrong with that.
func (a *answer) verdict() (what, fault string) {
	for _, event := range a.events {
		if event.GetOutcome().GetReason() == probev1.Reason_REASON_INTERNAL {
			return "an outcome", fmt.Sprintf("%v", event)
		}
	}
	code := a.status.Code()
	switch {
	case a.lasts && errors.Is(a.err, context.DeadlineExceeded):
		return "given up", ""
	case a.raw && a.http == http.StatusOK && errors.Is(a.err, io.ErrUnexpectedEOF): // how bytes end that are not all
		return "cut off", ""
	case a.err != nil && a.kind == headers: // more of them, or others, than HTTP/2 or this server lets through
		return "refused", ""
	case a.err != nil:
		return "none", a.err.Error()
	case a.http >= 400 && a.http < 500:
		return strconv.Itoa(a.http), ""
	case a.by != "gRPC" && (a.http == http.StatusNotImplemented && code == codes.Unimplemented || a.kind == noise && a.http == http.StatusHTTPVersionNotSupported):
		return strconv.Itoa(a.http), ""
	case slices.Contains(harmless, code) && (a.http == http.StatusOK || a.by != "gRPC" && a.http < 400):
		return code.String(), ""
	case code == codes.Unavailable && a.method.Parent().Name() == "ResolverService" && slices.Contains(lookedUp, reasonOf(a.status)):
		return reasonOf(a.status), ""
	case code == codes.DeadlineExceeded && a.kind == headers:
		return "their deadline", ""
	case a.kind == framing && code == codes.Internal && ofGRPC.MatchString(a.status.Message()):
		return "INTERNAL of gRPC's own", ""
	}
	return code.String(), fmt.Sprintf("HTTP %d, %v %q, reason %q", a.http, code, a.status.Message(), reasonOf(a.status))
}

func reasonOf(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// sendNoise is a connection to REST that does not speak HTTP, or badly.
func sendNoise(t *testing.T, r *random, address string) (a answer) {
	a.by, a.kind = "a connection", noise
	begin := pick(r, "", "GET ", "POST /v1/connect HTTP/1.1\r\n", "POST /v1/exchange HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999999999999\r\n\r\n",
		"POST /v1/connect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "GET /v1/hostname HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
		"GET http://[::1]:namedport/ HTTP/1.1\r\n\r\n", "GET /v1/hostname HTTP/9.9\r\nHost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		a.err = err
		return a
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = conn.Write(append([]byte(begin), r.bytes(r.IntN(300))...))
	_ = conn.(*net.TCPConn).CloseWrite()
	text, err := io.ReadAll(conn)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		a.err = err
	}
	a.http = http.StatusBadRequest // to hang up is an answer too
	if _, rest, ok := bytes.Cut(text, []byte("HTTP/1.1 ")); ok && len(rest) > 3 {
		if a.http, err = strconv.Atoi(string(rest[:3])); err != nil {
			t.Errorf("%q was answered by %q", begin, text)
		}
	}
	return a
}

// tally counts by what was done and how it was answered.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[what]++
}

func (c *tally) String() string {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(c.n)) {
		fmt.Fprintf(&b, "\n%7d  %s", c.n[what], what)
	}
	return b.String()
}
