package blackbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

const (
	// scrapeTimeout is how long Prometheus waits when it does not say, and scrapeMargin what is left of it for the answer to
	// arrive in; both as blackbox_exporter has them.
	scrapeTimeout = 120 * time.Second
	scrapeMargin  = 500 * time.Millisecond
	// mostTimeout is the longest that the contract lets a request ask for.
	mostTimeout = 10 * time.Minute
)

// Client is the part of the contract that a probe needs.
type Client interface {
	Connect(context.Context, *probev1.ConnectRequest, ...grpc.CallOption) (*probev1.ConnectResponse, error)
	Exchange(context.Context, *probev1.ExchangeRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[probev1.ExchangeResponse], error)
}

// Request is what Prometheus asks for.
type Request struct {
	Target string
	// Hostname is the name that the target's certificate must be for, where the module says none; empty: the target's host.
	Hostname string
	// Timeout is for all of it.
	Timeout time.Duration
	// Debug keeps what [Result.Debug] tells.
	Debug bool
}

// RequestError is a request that asks for what there is not.
type RequestError struct{ text string }

func (e *RequestError) Error() string { return e.text }

// ModuleError is a module that cannot be used, which is for whoever runs probed to mend. They are told why when the module is
// read, and in which file; a caller is not.
type ModuleError struct{ name string }

func (e *ModuleError) Error() string {
	return fmt.Sprintf("the module %q cannot be used; the log of probed has the cause, and check-config tells it", e.name)
}

// Named is the module of a name; a *RequestError when it is none that probed serves, a *ModuleError when it cannot be used.
func (all Modules) Named(name string) (*Module, error) {
	m := all[name]
	switch {
	case name == "":
		return nil, &RequestError{"the parameter module is missing"}
	case m == nil:
		return nil, &RequestError{fmt.Sprintf("unknown module %q", name)}
	case !m.Served():
		return nil, &RequestError{fmt.Sprintf("the module %q has the prober %s, and probed has tcp and dns: let blackbox_exporter do this one", name, m.config.GetProber())}
	case m.broken:
		return nil, &ModuleError{name}
	}
	return m, nil
}

// Timeout is how long a probe may take: as the module says, and half a second less than Prometheus waits, which it says in a
// header (X-Prometheus-Scrape-Timeout-Seconds; empty: it did not), whichever is less. Of a wait of half a second or less the
// module's counts alone, and where it has none the whole wait. In any case it is not longer than most (0: no such bound).
func (m *Module) Timeout(scrape string, most time.Duration) (time.Duration, error) {
	wait := scrapeTimeout
	if scrape != "" {
		seconds, err := strconv.ParseFloat(scrape, 64)
		if err != nil || !(seconds >= 0 && seconds < 1e6) {
			return 0, &RequestError{fmt.Sprintf("the timeout of the scrape is a number of seconds, not %q", scrape)}
		}
		if seconds > 0 {
			wait = time.Duration(seconds * float64(time.Second))
		}
	}
	timeout := wait - scrapeMargin
	switch {
	case m.timeout > 0 && (m.timeout < timeout || timeout <= 0):
		timeout = m.timeout
	case timeout <= 0:
		timeout = wait
	}
	if most <= 0 || most > mostTimeout {
		most = mostTimeout
	}
	return min(timeout, most), nil
}

// Probe carries out a request, and returns what came of it, whatever it was. The error is a *RequestError, or the status of
// the call: of a caller who may not, of limits, of probed itself. None of these says anything about the target.
func (m *Module) Probe(ctx context.Context, client Client, request Request) (*Result, error) {
	target := request.Target
	if target == "" {
		return nil, &RequestError{"the parameter target is missing"}
	}
	r := &Result{module: m, timeout: request.Timeout, begun: time.Now(), debug: request.Debug}
	var err error
	if m.dns != nil {
		err = r.ask(ctx, client, target)
	} else {
		err = r.connect(ctx, client, target, request.Hostname)
	}
	r.took = time.Since(r.begun)
	if err == nil {
		err = ourOwn(r.outcome.GetReason())
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// ourOwn is the status that stands for a reason which says nothing about the target; nil for all others.
func ourOwn(reason probev1.Reason) error {
	switch reason {
	case probev1.Reason_REASON_DRAINED:
		return status.Error(codes.Unavailable, "probed is shutting down")
	case probev1.Reason_REASON_CANCELLED:
		return status.Error(codes.Canceled, "the probe was given up")
	case probev1.Reason_REASON_INTERNAL:
		return status.Error(codes.Internal, "probed failed; its log has the cause")
	default:
		return nil
	}
}

// connect is a probe by TCP.
func (r *Result) connect(ctx context.Context, client Client, target, hostname string) error {
	if _, _, err := net.SplitHostPort(target); err != nil {
		why := err.Error()
		if e, ok := errors.AsType[*net.AddrError](err); ok {
			why = e.Err
		}
		return &RequestError{fmt.Sprintf("the target %q is not HOST:PORT: %s", target, why)}
	}
	scheme, options := "tcp", r.module.tls
	if r.module.secured {
		scheme = "tls"
	}
	if hostname != "" && options.GetServerName() == "" && r.module.speaksTLS() {
		if options == nil {
			options = &probev1.TlsOptions{}
		}
		options = proto.CloneOf(options)
		options.ServerName = hostname
	}
	request := &probev1.ExchangeRequest{Target: scheme + "://" + target, Tls: options}
	for _, step := range r.module.steps {
		request.Steps = append(request.Steps, step.message)
	}
	if err := r.call(ctx, client, request); err != nil {
		return err
	}
	r.success = r.outcome.GetOk()
	return nil
}

// speaksTLS tells whether a probe by TCP comes to speak TLS.
func (m *Module) speaksTLS() bool {
	for _, step := range m.steps {
		if step.message.GetStartTls() != nil {
			return true
		}
	}
	return m.secured
}

// ask is a question to a name server.
func (r *Result) ask(ctx context.Context, client Client, target string) error {
	q := r.module.dns
	asked := q.message()
	steps, err := q.steps(asked)
	if err != nil {
		return err
	}
	if err := r.call(ctx, client, &probev1.ExchangeRequest{Target: q.target(target), Tls: r.module.tls, Steps: steps}); err != nil || !r.outcome.GetOk() {
		return err
	}
	if r.answer, r.judged = q.read(asked, r.received); r.judged == nil {
		r.judged = q.judge(r.answer)
	}
	r.success = r.judged == nil
	return nil
}

// call fills in what requests of a module have in common, makes the call, and notes what it tells.
func (r *Result) call(ctx context.Context, client Client, request *probev1.ExchangeRequest) error {
	request.Timeout, request.Source, request.FirstAddressOnly = durationpb.New(r.timeout), r.module.source, true
	if r.module.fallback {
		request.PreferredFamily = r.module.family
	} else {
		request.Family = r.module.family
	}
	r.target = request.GetTarget()
	if len(request.GetSteps()) == 0 {
		response, err := client.Connect(ctx, &probev1.ConnectRequest{
			Target: request.GetTarget(), Timeout: request.GetTimeout(), Source: request.GetSource(), Tls: request.GetTls(),
			Family: request.GetFamily(), PreferredFamily: request.GetPreferredFamily(), FirstAddressOnly: true,
		})
		r.outcome = response.GetOutcome()
		return err
	}
	stream, err := client.Exchange(ctx, request)
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		switch {
		case err == nil:
			r.note(event)
		case !errors.Is(err, io.EOF):
			return err
		case r.outcome == nil:
			return io.ErrUnexpectedEOF
		default:
			return nil
		}
	}
}

// note keeps what an event tells.
func (r *Result) note(event *probev1.ExchangeResponse) {
	switch e := event.GetEvent().(type) {
	case *probev1.ExchangeResponse_Chunk:
		if r.module.dns != nil {
			r.received = append(r.received, e.Chunk.GetData()...)
		}
		r.answered = e.Chunk.GetElapsed().AsDuration()
	case *probev1.ExchangeResponse_Sent:
		r.sent = e.Sent.GetElapsed().AsDuration()
	case *probev1.ExchangeResponse_Outcome:
		r.outcome = e.Outcome
		return
	}
	if r.debug && len(r.events) < mostEvents {
		r.events = append(r.events, compact(event))
	}
}

// mostEvents bounds what a debug output tells.
const mostEvents = 256

// compact is a message as JSON on one line.
func compact(message proto.Message) string {
	text, err := protojson.Marshal(message)
	if err != nil {
		return err.Error()
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil { // protojson spaces its output at random
		return err.Error()
	}
	return printable(line.String())
}

// printable keeps what a peer says, as in its certificate, from driving the terminal that shows it.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return unicode.ReplacementChar
		}
		return c
	}, text)
}

// address is the one that was chosen; the zero value when none was.
func (r *Result) address() netip.Addr {
	for _, attempt := range r.outcome.GetAttempts() {
		if address, err := netip.ParseAddrPort(attempt.GetAddress()); err == nil {
			return address.Addr().Unmap()
		}
	}
	return netip.Addr{}
}

// failure is why a probe failed: phase, layer and reason, by their names without prefix.
func (r *Result) failure() (reason, phase, layer string) {
	if r.judged != nil { // all went well, and what came is not what was expected
		return "EXPECT_FAILED", "RECEIVE", "APPLICATION"
	}
	layer = strings.TrimPrefix(r.outcome.GetLayer().String(), "LAYER_")
	if r.outcome.GetLayer() == probev1.Layer_LAYER_UNSPECIFIED {
		layer = ""
	}
	return strings.TrimPrefix(r.outcome.GetReason().String(), "REASON_"), strings.TrimPrefix(r.outcome.GetPhase().String(), "PHASE_"), layer
}
