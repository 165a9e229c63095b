package probetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	probev1 "probed/gen/probe/v1"
)

// Caller asks for exchanges, connections and lookups, by gRPC or by REST.
type Caller interface {
	// String is which of the two.
	String() string
	// Exchange begins one. It is the first event that says whether it was let.
	Exchange(ctx context.Context, t testing.TB, request *probev1.ExchangeRequest) *Session

	// The error of these is a status.

	LookupHost(ctx context.Context, host string) (*probev1.LookupHostResponse, error)
	QueryDNS(ctx context.Context, request *probev1.QueryDNSRequest) (*probev1.QueryDNSResponse, error)
	Connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error)
}

// Callers are one by gRPC and one by REST.
func (p *Probed) Callers() []Caller { return []Caller{p.GRPC(), p.REST()} }

// GRPC returns a caller with a connection of its own.
func (p *Probed) GRPC(options ...grpc.DialOption) *GRPCCaller {
	return &GRPCCaller{Conn: p.dial(options...), p: p}
}

// GRPCCaller is a caller by gRPC.
type GRPCCaller struct {
	Conn *grpc.ClientConn
	p    *Probed
}

func (c *GRPCCaller) String() string { return "gRPC" }

// Exchange begins one.
func (c *GRPCCaller) Exchange(ctx context.Context, t testing.TB, request *probev1.ExchangeRequest) *Session {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{p: c.p, t: t, cancel: cancel}
	s.Of(request)
	stream, err := probev1.NewExchangeServiceClient(c.Conn).Exchange(ctx, request)
	s.next = func() (*probev1.ExchangeResponse, error) {
		if err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	return s
}

// REST returns a caller with connections of its own, one an exchange under way.
func (p *Probed) REST() *RESTCaller { return &RESTCaller{Client: p.client(), p: p} }

// RESTCaller is a caller by REST.
type RESTCaller struct {
	Client *http.Client
	p      *Probed
}

func (c *RESTCaller) String() string { return "REST" }

// Exchange begins one. It returns when there is an answer, and so not before the first event.
func (c *RESTCaller) Exchange(ctx context.Context, t testing.TB, request *probev1.ExchangeRequest) *Session {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{p: c.p, t: t, cancel: cancel}
	s.Of(request)
	response, err := c.post(ctx, request) //nolint:bodyclose // Session.Close does
	if err != nil {
		s.next = func() (*probev1.ExchangeResponse, error) { return nil, err }
		return s
	}
	s.close = response.Body.Close
	lines := bufio.NewReaderSize(response.Body, 4<<10)
	s.next = func() (*probev1.ExchangeResponse, error) {
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
	}
	return s
}

func (c *RESTCaller) post(ctx context.Context, request *probev1.ExchangeRequest) (*http.Response, error) {
	body, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.p.HTTPAddress+"/v1/exchange", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := c.Client.Do(r)
	if errors.Is(err, io.EOF) { // closed without an answer, which is not the end of one
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, err
		}
		return nil, statusOf(text)
	}
	return response, nil
}

// statusOf is the error that a JSON status stands for.
func statusOf(text []byte) error {
	s := &spb.Status{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, s); err != nil {
		return fmt.Errorf("an error that is no status: %q", text)
	}
	return status.ErrorProto(s)
}
