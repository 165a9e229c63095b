package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/service/blackbox"
)

const (
	probePath = "/probe"
	// scrapeTimeoutHeader is how Prometheus tells how long it waits.
	scrapeTimeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
)

func (g *Gateway) modules() blackbox.Modules {
	if g.config.Modules == nil {
		return nil
	}
	return g.config.Modules()
}

// probe answers Prometheus. Of a request, nothing but what is read here reaches a call.
//
// A target that is down is an answer, 200 with probe_success 0. That the caller may not ask, or asks for what there is not,
// is an error of HTTP, which Prometheus tells as `up` 0 of the scrape: it says nothing about the target, and must not look as
// if it did. What a policy denies is such an error too. Errors are a line of text, as those of blackbox_exporter.
func (g *Gateway) probe(w http.ResponseWriter, r *http.Request, modules blackbox.Modules) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeText(w, http.StatusMethodNotAllowed, "a probe is asked for by GET")
		return
	}
	ctx, leave, ok := g.config.Enter(r)
	defer leave()
	client := &headerClient{Client: g.client}
	if !ok || !g.config.Admits(ctx, probev1.ExchangeService_Connect_FullMethodName) {
		// The chain refuses whatever is asked, and says why. Who may not connect learns nothing of the modules.
		_, err := client.Connect(ctx, &probev1.ConnectRequest{})
		copyHeader(w, client.header)
		writeProbeError(w, err)
		return
	}
	query := r.URL.Query()
	module, err := modules.Named(query.Get("module"))
	if err != nil {
		writeProbeError(w, err)
		return
	}
	timeout, err := module.Timeout(r.Header.Get(scrapeTimeoutHeader), g.config.ExchangeTimeoutMax)
	if err != nil {
		writeProbeError(w, err)
		return
	}
	debug := query.Get("debug") == "true"
	result, err := module.Probe(ctx, client, blackbox.Request{Target: query.Get("target"), Hostname: query.Get("hostname"), Timeout: timeout, Debug: debug})
	copyHeader(w, client.header)
	if err != nil {
		writeProbeError(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if debug {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = result.Debug(w) // a client that went away needs no more of it
		return
	}
	gatherer, err := result.Gatherer()
	if err != nil {
		writeProbeError(w, err)
		return
	}
	scrape := &http.Request{Method: r.Method, Header: http.Header{
		"Accept": r.Header.Values("Accept"), "Accept-Encoding": r.Header.Values("Accept-Encoding"),
	}}
	promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, scrape.WithContext(ctx))
}

// headerClient is one that keeps the header of the call that is made, of which the answer has what is meant for the caller.
type headerClient struct {
	blackbox.Client
	header metadata.MD
}

// Connect is that of the client.
func (c *headerClient) Connect(ctx context.Context, request *probev1.ConnectRequest, options ...grpc.CallOption) (*probev1.ConnectResponse, error) {
	return c.Client.Connect(ctx, request, append(options, grpc.Header(&c.header))...)
}

// Exchange is that of the client. The header is there when the stream has ended.
func (c *headerClient) Exchange(ctx context.Context, request *probev1.ExchangeRequest, options ...grpc.CallOption) (grpc.ServerStreamingClient[probev1.ExchangeResponse], error) {
	return c.Client.Exchange(ctx, request, append(options, grpc.Header(&c.header))...)
}

// writeProbeError writes why there was no probe.
func writeProbeError(w http.ResponseWriter, err error) {
	var request *blackbox.RequestError
	var module *blackbox.ModuleError
	switch {
	case errors.As(err, &request):
		writeText(w, http.StatusBadRequest, request.Error())
		return
	case errors.As(err, &module):
		writeText(w, http.StatusInternalServerError, module.Error())
		return
	case err == nil: // the chain let something pass that it should have refused
		err = status.Error(codes.Unavailable, "the credentials have changed meanwhile: try again")
	}
	s := statusOf(err)
	code := runtime.HTTPStatusFromCode(s.Code())
	setErrorHeaders(w, code, s)
	writeText(w, code, s.Message())
}

// writeText writes a line of text.
func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	// A client that went away needs no error. Lines of a caller's own in it would look like ours.
	fmt.Fprintln(w, strings.Join(strings.Fields(text), " "))
}
