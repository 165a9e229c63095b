package tracing

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"probed/service"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/resolve"
)

// Call begins the span of a call, and returns what ends it; it is for service.ChainConfig.Trace. The span is what otelgrpc makes
// of a call. It is called here rather than by gRPC's transport because so a call by REST, which passes no transport, has the
// same span; because a transport does not know yet who is refused; and because it would be called for each message.
func (t *Tracing) Call(ctx context.Context, call *service.Call) (_ context.Context, ended func(error)) {
	ctx = t.rpcs.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: call.Method})
	span := trace.SpanFromContext(ctx)
	if id := span.SpanContext(); id.IsValid() {
		call.TraceID, call.SpanID, call.Sampled = id.TraceID().String(), id.SpanID().String(), id.IsSampled()
	}
	return ctx, func(err error) {
		if span.IsRecording() {
			span.SetAttributes(aboutCall(ctx, call, err)...)
		}
		endCall(span, call, err)
	}
}

// endCall ends the span of a call. otelgrpc would put the text of the error into it, which may quote a peer, and take it for a fault
// of ours that a name server does not answer.
func endCall(span trace.Span, call *service.Call, err error) {
	span.SetAttributes(attribute.String("rpc.response.status_code", call.Code(err)))
	if isFault(err, call.Reason(err)) {
		fail(span, call.Reason(err))
	}
	span.End()
}

// isFault tells whether a call has failed by what is wrong here, be it that the audit log cannot be written, and not with what
// was asked, or with those that were asked then.
func isFault(err error, reason string) bool {
	switch status.Code(err) {
	case grpccodes.Internal, grpccodes.Unknown, grpccodes.DataLoss:
		return true
	case grpccodes.Unavailable:
		return reason == "UNAVAILABLE"
	default:
		return false
	}
}

// aboutCall is what there is to tell of a call that has ended. Who calls is not in it: the log knows, by the id.
func aboutCall(ctx context.Context, call *service.Call, err error) []attribute.KeyValue {
	attributes := []attribute.KeyValue{
		attribute.String("probe.request_id", call.ID),
		attribute.String("probe.via", call.Via),
		attribute.String("probe.reason", call.Reason(err)),
	}
	if remote := guard.RemoteFrom(ctx); remote != "" {
		attributes = append(attributes, attribute.String("client.address", remote))
	}
	if call.Target != "" {
		attributes = append(attributes, attribute.String("probe.target", call.Target))
	}
	if call.Outcome != nil {
		attributes = append(attributes, attribute.Bool("probe.ok", call.Outcome.OK && err == nil), phase(call.Outcome.Phase))
	}
	return attributes
}

// Part begins the span of a part of an exchange; it is for exchange.Hooks.Begin.
func (t *Tracing) Part(ctx context.Context, part exchange.Part) (_ context.Context, end func(exchange.PartEnd)) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil
	}
	attributes := append(aboutTarget(part), phase(part.Phase))
	if part.Step != exchange.NoStep {
		attributes = append(attributes, attribute.Int("probe.step", part.Step))
	}
	ctx, span := t.tracer.Start(ctx, part.Name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...)) //nolint:spancheck // what is returned ends it
	return ctx, func(end exchange.PartEnd) {                                                                                   //nolint:spancheck // the same
		reason := "OK"
		if end.Reason != exchange.None {
			reason = end.Reason.String()
		}
		span.SetAttributes(attribute.String("probe.reason", reason))
		span.SetAttributes(aboutEnd(part, end)...)
		if end.Reason == exchange.PolicyDenied { // before anything was sent there
			span.SetAttributes(phase(exchange.PhasePolicy))
		}
		// That another address was quicker, or that the caller has gone, is no failure.
		if end.Reason != exchange.None && end.Reason != exchange.Cancelled {
			fail(span, reason)
		}
		span.End()
	}
}

// fail says of a span that what it is about has failed. There is no text with it, which might quote the peer.
func fail(span trace.Span, reason string) {
	span.SetAttributes(attribute.String("error.type", reason))
	span.SetStatus(codes.Error, reason)
}

// aboutTarget is where a part leads to.
func aboutTarget(part exchange.Part) []attribute.KeyValue {
	target := part.Target
	if target.IsUnix() {
		return []attribute.KeyValue{attribute.String("server.address", target.Path), attribute.String("network.transport", "unix")}
	}
	attributes := []attribute.KeyValue{attribute.String("server.address", target.Host)}
	if target.Port != 0 {
		attributes = append(attributes, attribute.Int("server.port", int(target.Port)))
	}
	transport := "tcp"
	switch {
	case target.IsICMP():
		transport = "icmp"
	case target.IsDatagram():
		transport = "udp"
	}
	attributes = append(attributes, attribute.String("network.transport", transport))
	if part.Address.IsValid() {
		attributes = append(attributes, aboutPeer(part.Address)...)
	}
	return attributes
}

func aboutPeer(peer netip.AddrPort) []attribute.KeyValue {
	address, kind := peer.Addr().Unmap(), "ipv6"
	if address.Is4() {
		kind = "ipv4"
	}
	return []attribute.KeyValue{
		attribute.String("network.peer.address", address.String()), attribute.Int("network.peer.port", int(peer.Port())),
		attribute.String("network.type", kind),
	}
}

// aboutEnd is what a part has come to.
func aboutEnd(part exchange.Part, end exchange.PartEnd) (attributes []attribute.KeyValue) {
	switch part.Phase {
	case exchange.PhaseSend, exchange.PhaseReceive:
		attributes = append(attributes, attribute.Int64("probe.bytes", int64(end.Bytes)))
		if end.Pieces > 0 {
			attributes = append(attributes, attribute.Int64("probe.pieces", int64(end.Pieces)))
		}
	case exchange.PhaseConnect:
		if local, err := netip.ParseAddrPort(end.Local); err == nil {
			attributes = append(attributes,
				attribute.String("network.local.address", local.Addr().Unmap().String()), attribute.Int("network.local.port", int(local.Port())))
		}
	case exchange.PhaseTLS:
		if end.TLS != nil {
			attributes = append(attributes, aboutTLS(end.TLS)...)
		}
	}
	return attributes
}

func aboutTLS(told *exchange.TLSInfo) []attribute.KeyValue {
	attributes := []attribute.KeyValue{attribute.String("tls.client.server_name", told.ServerName)}
	for _, a := range []struct{ key, value string }{
		{"tls.protocol.version", strings.TrimPrefix(told.Version, "TLS ")},
		{"tls.cipher", told.Cipher},
		{"tls.next_protocol", told.ALPN},
	} {
		if a.value != "" {
			attributes = append(attributes, attribute.String(a.key, a.value))
		}
	}
	if len(told.Chain) > 0 {
		attributes = append(attributes, attribute.String("tls.server.not_after", told.Chain[0].NotAfter.UTC().Format(time.RFC3339)))
	}
	return attributes
}

// Walked makes a span of each query that a lookup has sent; it is for resolve.Config.Walked.
func (t *Tracing) Walked(ctx context.Context, steps []resolve.Step) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return
	}
	for i := range steps {
		if step := &steps[i]; !step.Begin.IsZero() {
			t.query(ctx, step)
		}
	}
}

func (t *Tracing) query(ctx context.Context, step *resolve.Step) {
	transport := step.Transport
	if transport == "tls" {
		transport = "tcp"
	}
	attributes := []attribute.KeyValue{
		attribute.String("dns.question.name", step.Name),
		attribute.String("probe.dns.type", step.Type),
		attribute.String("probe.dns.transport", step.Transport),
		attribute.String("network.transport", transport),
	}
	if server, err := netip.ParseAddrPort(step.Server); err == nil {
		attributes = append(attributes, attribute.String("server.address", server.Addr().String()), attribute.Int("server.port", int(server.Port())))
		attributes = append(attributes, aboutPeer(server)...)
	}
	reason := "OK"
	if step.Reason != resolve.ReasonNone {
		reason = strings.ToUpper(strings.ReplaceAll(step.Reason.String(), " ", "_"))
	}
	attributes = append(attributes, attribute.String("probe.reason", reason))
	if step.Rcode != "" {
		attributes = append(attributes, attribute.String("probe.dns.rcode", step.Rcode))
	}
	_, span := t.tracer.Start(ctx, "dns", trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(step.Begin), trace.WithAttributes(attributes...))
	switch step.Reason {
	case resolve.ReasonNone, resolve.NotFound, resolve.NoData, resolve.Cancelled: // the server has answered, or need not any more
	default:
		fail(span, reason)
	}
	span.End(trace.WithTimestamp(step.Begin.Add(step.Duration)))
}

// phase is the attribute that names one, as the contract does.
func phase(p exchange.Phase) attribute.KeyValue {
	names := [...]string{"", "RESOLVE", "POLICY", "CONNECT", "TLS", "SEND", "RECEIVE", "CLOSE"}
	return attribute.String("probe.phase", names[p])
}
