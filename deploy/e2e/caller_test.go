//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // which an error by REST may carry
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/probetest"
)

// caller asks one probed, by gRPC or by REST. What it is told of exchanges is held to the invariants (probetest.Witness).
type caller interface {
	fmt.Stringer
	LookupHost(context.Context, *probev1.LookupHostRequest) (*probev1.LookupHostResponse, error)
	Vantage(context.Context) (*probev1.DescribeVantageResponse, error)
	Connect(context.Context, *probev1.ConnectRequest) (*probev1.Outcome, error)
	// Exchange returns all that was received, too.
	Exchange(context.Context, *probev1.ExchangeRequest) ([]byte, *probev1.Outcome, error)
	// With is the same caller with another token; empty: without any.
	With(token string) caller
}

// callers are the two ways to ask a pod's probed through port-forward.
func (p *place) callers(t testing.TB, pod *corev1.Pod, token string) []caller {
	t.Helper()
	roots, _ := p.authority(t)
	addresses, err := p.stage.forwards.to(p.namespace, pod.Name)
	if err != nil {
		t.Fatal(err)
	}
	witness := probetest.NewWitness(t)
	plain, transport := insecure.NewCredentials(), &http.Transport{}
	scheme := "http://"
	if roots != nil {
		secure := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		plain, transport.TLSClientConfig, scheme = credentials.NewTLS(secure), secure.Clone(), "https://"
	}
	conn, err := grpc.NewClient("passthrough:///"+addresses[grpcPort], append(witness.GRPC(), grpc.WithTransportCredentials(plain))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		transport.CloseIdleConnections()
	})
	return []caller{
		&grpcCaller{conn, token},
		&restCaller{&http.Client{Transport: witness.HTTP(transport)}, scheme + addresses[httpPort], token},
	}
}

// settled waits until a Service can be reached from where c asks: that its pods are ready takes a moment to be known on every
// node.
func settled(ctx context.Context, t testing.TB, c caller, request *probev1.ConnectRequest) {
	t.Helper()
	var outcome *probev1.Outcome
	if err := poll(ctx, 20*time.Second, func(ctx context.Context) (ok bool, err error) {
		outcome, err = c.Connect(ctx, request)
		return outcome.GetOk(), err
	}); err != nil {
		t.Fatalf("%s: %v: %v: %s", request.GetTarget(), err, outcome.GetReason(), outcome.GetError())
	}
}

type grpcCaller struct {
	conn  *grpc.ClientConn
	token string
}

func (c *grpcCaller) String() string           { return "gRPC" }
func (c *grpcCaller) With(token string) caller { return &grpcCaller{c.conn, token} }

func (c *grpcCaller) known(ctx context.Context) context.Context {
	if c.token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
}

func (c *grpcCaller) LookupHost(ctx context.Context, request *probev1.LookupHostRequest) (*probev1.LookupHostResponse, error) {
	return probev1.NewResolverServiceClient(c.conn).LookupHost(c.known(ctx), request)
}

func (c *grpcCaller) Vantage(ctx context.Context) (*probev1.DescribeVantageResponse, error) {
	return probev1.NewResolverServiceClient(c.conn).DescribeVantage(c.known(ctx), &probev1.DescribeVantageRequest{})
}

func (c *grpcCaller) Connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error) {
	response, err := probev1.NewExchangeServiceClient(c.conn).Connect(c.known(ctx), request)
	return response.GetOutcome(), err
}

func (c *grpcCaller) Exchange(ctx context.Context, request *probev1.ExchangeRequest) ([]byte, *probev1.Outcome, error) {
	stream, err := probev1.NewExchangeServiceClient(c.conn).Exchange(c.known(ctx), request)
	if err != nil {
		return nil, nil, err
	}
	return gather(stream.Recv)
}

// gather reads events to the last one.
func gather(next func() (*probev1.ExchangeResponse, error)) (data []byte, outcome *probev1.Outcome, err error) {
	for {
		event, err := next()
		if errors.Is(err, io.EOF) {
			return data, outcome, nil
		}
		if err != nil {
			return data, outcome, err
		}
		data = append(data, event.GetChunk().GetData()...)
		outcome = event.GetOutcome()
	}
}

type restCaller struct {
	client *http.Client
	url    string
	token  string
}

func (c *restCaller) String() string           { return "REST" }
func (c *restCaller) With(token string) caller { return &restCaller{c.client, c.url, token} }

func (c *restCaller) LookupHost(ctx context.Context, request *probev1.LookupHostRequest) (*probev1.LookupHostResponse, error) {
	response := &probev1.LookupHostResponse{}
	query := url.Values{"trace": {fmt.Sprint(request.GetTrace())}, "family": {request.GetFamily().String()}}
	return response, c.unary(ctx, http.MethodGet, "/v1/hosts/"+url.PathEscape(request.GetHost())+"?"+query.Encode(), nil, response)
}

func (c *restCaller) Vantage(ctx context.Context) (*probev1.DescribeVantageResponse, error) {
	response := &probev1.DescribeVantageResponse{}
	return response, c.unary(ctx, http.MethodGet, "/v1/vantage", nil, response)
}

func (c *restCaller) Connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error) {
	response := &probev1.ConnectResponse{}
	err := c.unary(ctx, http.MethodPost, "/v1/connect", request, response)
	return response.GetOutcome(), err
}

func (c *restCaller) Exchange(ctx context.Context, request *probev1.ExchangeRequest) ([]byte, *probev1.Outcome, error) {
	answer, err := c.do(ctx, http.MethodPost, "/v1/exchange", request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	lines := bufio.NewReader(answer.Body)
	return gather(func() (*probev1.ExchangeResponse, error) {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if failure, ok := bytes.CutPrefix(line, []byte(`{"error":`)); ok {
			return nil, statusOf(bytes.TrimSuffix(bytes.TrimSpace(failure), []byte("}")))
		}
		event := &probev1.ExchangeResponse{}
		text, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(`{"result":`))
		if !ok {
			return nil, fmt.Errorf("a line that is no event: %q", line)
		}
		return event, protojson.Unmarshal(bytes.TrimSuffix(text, []byte("}")), event)
	})
}

func (c *restCaller) unary(ctx context.Context, method, path string, request, response proto.Message) error {
	answer, err := c.do(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, response)
}

// do returns an answer that is 200; of others it is the status they tell, which has to be the one of HTTP.
func (c *restCaller) do(ctx context.Context, method, path string, request proto.Message) (*http.Response, error) {
	var body io.Reader = http.NoBody
	if request != nil {
		text, err := protojson.Marshal(request)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.client.Do(r)
	if err != nil || answer.StatusCode == http.StatusOK {
		return answer, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	err = statusOf(text)
	if want := map[codes.Code]int{
		codes.Unauthenticated: http.StatusUnauthorized, codes.PermissionDenied: http.StatusForbidden, codes.NotFound: http.StatusNotFound,
		codes.Unavailable: http.StatusServiceUnavailable, codes.InvalidArgument: http.StatusBadRequest, codes.ResourceExhausted: http.StatusTooManyRequests,
	}[status.Code(err)]; answer.StatusCode != want {
		return nil, fmt.Errorf("%s, and in it %w", answer.Status, err)
	}
	return nil, err
}

// statusOf is the error that a JSON status stands for.
func statusOf(text []byte) error {
	s := &spb.Status{}
	if err := protojson.Unmarshal(text, s); err != nil {
		return fmt.Errorf("an error that is no status: %w: %q", err, text)
	}
	return status.ErrorProto(s)
}

// detail is the first detail of an error's status that is of type T; nil: there is none.
func detail[T proto.Message](err error) (none T) {
	for _, detail := range status.Convert(err).Details() {
		if d, ok := detail.(T); ok {
			return d
		}
	}
	return none
}

// authority is that of the place's certificate, as its callers get it, in PEM too; nil: the place speaks no TLS.
func (p *place) authority(t testing.TB) (*x509.CertPool, string) {
	t.Helper()
	if !slices.Contains(p.components, "tls") {
		return nil, ""
	}
	text, err := os.ReadFile(p.authorityFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("the Secret probed-tls has no authority in ca.crt")
	}
	return pool, string(text)
}

// addressesOf are those of a pod, of each family that it has.
func addressesOf(pod *corev1.Pod) (addresses []string) {
	for _, ip := range pod.Status.PodIPs {
		addresses = append(addresses, ip.IP)
	}
	return addresses
}

func addressesOfAll(pods []corev1.Pod) (addresses []string) {
	for _, pod := range pods {
		addresses = append(addresses, addressesOf(&pod)...)
	}
	return addresses
}

func sameAddresses(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// join is a host and a port as a target.
func join(host, port string) string { return "tcp://" + net.JoinHostPort(host, port) }
