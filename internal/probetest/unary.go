package probetest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
)

// LookupHost asks for the addresses of a name, with the steps.
func (c *GRPCCaller) LookupHost(ctx context.Context, host string) (*probev1.LookupHostResponse, error) {
	return probev1.NewResolverServiceClient(c.Conn).LookupHost(ctx, &probev1.LookupHostRequest{Host: host, Trace: true})
}

// QueryDNS asks one question.
func (c *GRPCCaller) QueryDNS(ctx context.Context, request *probev1.QueryDNSRequest) (*probev1.QueryDNSResponse, error) {
	return probev1.NewResolverServiceClient(c.Conn).QueryDNS(ctx, request)
}

// Connect asks for a connection.
func (c *GRPCCaller) Connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error) {
	response, err := probev1.NewExchangeServiceClient(c.Conn).Connect(ctx, request)
	return response.GetOutcome(), err
}

// LookupHost asks for the addresses of a name, with the steps.
func (c *RESTCaller) LookupHost(ctx context.Context, host string) (*probev1.LookupHostResponse, error) {
	response := &probev1.LookupHostResponse{}
	return response, c.call(ctx, http.MethodGet, "/v1/hosts/"+url.PathEscape(host)+"?trace=true", nil, response)
}

// QueryDNS asks one question.
func (c *RESTCaller) QueryDNS(ctx context.Context, request *probev1.QueryDNSRequest) (*probev1.QueryDNSResponse, error) {
	response := &probev1.QueryDNSResponse{}
	return response, c.call(ctx, http.MethodPost, "/v1/dns", request, response)
}

// Connect asks for a connection.
func (c *RESTCaller) Connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.Outcome, error) {
	response := &probev1.ConnectResponse{}
	err := c.call(ctx, http.MethodPost, "/v1/connect", request, response)
	return response.GetOutcome(), err
}

// call is one unary call. Without a request there is no body.
func (c *RESTCaller) call(ctx context.Context, method, path string, request, response proto.Message) error {
	var body io.Reader = http.NoBody
	if request != nil {
		text, err := protojson.Marshal(request)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.p.HTTPAddress+path, body)
	if err != nil {
		return err
	}
	answer, err := c.Client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return statusOf(text)
	}
	return protojson.Unmarshal(text, response)
}
