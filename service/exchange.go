package service

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
	"probed/service/resolve"
)

type exchangeServer struct {
	probev1.UnimplementedExchangeServiceServer
	*Service
}

func (s *exchangeServer) Connect(ctx context.Context, message *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
	request, err := s.request(message)
	if err == nil {
		request.AllAddresses = message.GetAllAddresses()
		err = s.exchanges.Validate(&request)
	}
	if err != nil {
		return nil, statusOf(err)
	}
	outcome, err := s.run(ctx, probev1.ExchangeService_Connect_FullMethodName, message.GetTarget(), request, func(ctx context.Context) (*exchange.Outcome, error) {
		return s.exchanges.Run(ctx, request, nil), nil
	})
	if err != nil {
		return nil, err
	}
	return &probev1.ConnectResponse{Outcome: s.outcomeMessage(outcome)}, nil
}

func (s *exchangeServer) Exchange(message *probev1.ExchangeRequest, stream grpc.ServerStreamingServer[probev1.ExchangeResponse]) error {
	request, err := s.exchangeRequest(message)
	if err != nil {
		return statusOf(err)
	}
	defer hangUpAfter(stream.Context(), s.exchanges.Timeout(&request)+s.readerPatience).Stop()
	_, err = s.run(stream.Context(), probev1.ExchangeService_Exchange_FullMethodName, message.GetTarget(), request, func(ctx context.Context) (*exchange.Outcome, error) {
		return s.exchanges.Run(ctx, request, func(event exchange.Event) error {
			return stream.SendMsg(lend(s.eventMessage(event, len(message.GetSteps()) > 0), event))
		}), nil
	})
	return err
}

func (s *exchangeServer) Converse(stream grpc.BidiStreamingServer[probev1.ConverseRequest, probev1.ExchangeResponse]) error {
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return statusOf(&fieldError{field: "open", problem: "is the first frame of a conversation"})
	}
	request, err := s.request(open)
	conversation := exchange.Conversation{
		Request: request,
		Idle:    open.GetIdle().AsDuration(),
		Next: func() (exchange.Step, error) {
			frame, err := stream.Recv()
			if err != nil {
				return nil, err
			}
			step, err := frameOf(frame)
			s.holdToRoots("", step)
			return step, err
		},
	}
	conversation.BufferSize = int(open.GetBufferSize())
	if err == nil {
		err = s.exchanges.ValidateConversation(&conversation)
	}
	if err != nil {
		return statusOf(&frameError{"open", err})
	}
	patience := max(s.exchanges.Idle(&conversation), s.readerPatience) // a caller may be slow in a conversation that is quick
	taken := hangUpAfter(stream.Context(), patience)
	taken.Stop()
	_, err = s.run(stream.Context(), probev1.ExchangeService_Converse_FullMethodName, open.GetTarget(), request, func(ctx context.Context) (*exchange.Outcome, error) {
		outcome, err := s.exchanges.Converse(ctx, conversation, func(event exchange.Event) error {
			taken.Reset(patience)
			defer taken.Stop()
			return stream.SendMsg(lend(s.eventMessage(event, false), event))
		})
		if err != nil && stream.Context().Err() != nil { // which is why the next frame did not come
			err = context.Canceled
		}
		return outcome, err
	})
	return err
}

// run opens the session in which f carries a request out, for a call of rpc with the target as the caller wrote it. The
// error is a status; an outcome that is not ok is none.
func (s *exchangeServer) run(ctx context.Context, rpc, target string, request exchange.Request,
	f func(ctx context.Context) (*exchange.Outcome, error),
) (outcome *exchange.Outcome, err error) {
	call := &requestOf(ctx).Call
	call.Target = target
	ctx, session, err := s.session(ctx, rpc, target)
	if err != nil {
		return nil, statusOf(err)
	}
	defer func() {
		call.Outcome = outcome
		session.end(exchanged(outcome, err))
	}()
	// A caller who may not look a name up learns nothing of it, not even whether it exists.
	if err := s.mayLookUpHost(ctx, request.Target.Host); err != nil {
		return nil, statusOf(&deniedError{target: request.Target.String(), cause: err})
	}
	s.untilDrained(session)
	s.holdToRoots(request.Target.Scheme, request.Steps...)
	outcome, err = f(ctx)
	if err != nil {
		if _, ok := status.FromError(err); ok { // of a frame that the rules of the contract did not let through
			return outcome, err
		}
		return outcome, statusOf(err)
	}
	return outcome, session.outcomeStatus(request, outcome)
}

// holdToRoots sees to it that those whom this host trusts are ready, when a peer may be held to them.
func (s *exchangeServer) holdToRoots(scheme string, steps ...exchange.Step) {
	isTLS := func(step exchange.Step) bool {
		_, ok := step.(exchange.StartTLS)
		return ok
	}
	if s.roots != nil && (scheme == "tls" || slices.ContainsFunc(steps, isTLS)) {
		s.roots()
	}
}

// untilDrained lets the drain end a session too.
func (s *exchangeServer) untilDrained(x *session) {
	x.drains.Store(true)
	if s.draining.Load() { // which may have passed the session by
		x.revoke(exchange.ErrDrained)
	}
}

// outcomeStatus is the status that stands for an outcome which callers do not get to see; nil for all others.
func (x *session) outcomeStatus(request exchange.Request, outcome *exchange.Outcome) error {
	switch {
	case outcome.Limit != nil:
		return statusOf(outcome.Limit)
	case outcome.Denied:
		return statusOf(&deniedError{target: request.Target.String(), cause: x.denial(outcome.Attempts)})
	case outcome.Reason == exchange.Cancelled:
		if revoked, ok := errors.AsType[*revokedError](context.Cause(x.ctx)); ok {
			return statusOf(revoked)
		}
		return statusOf(context.Canceled)
	}
	return nil
}

// opener is what all requests for a connection have in common.
type opener interface {
	GetTarget() string
	GetTimeout() *durationpb.Duration
	GetFamily() probev1.AddressFamily
	GetPreferredFamily() probev1.AddressFamily
	GetFirstAddressOnly() bool
	GetSource() string
	GetInterface() string
	GetTls() *probev1.TlsOptions
}

// request is the part of a request that says which connection to open, and how.
func (s *exchangeServer) request(message opener) (exchange.Request, error) {
	target, err := exchange.ParseTarget(message.GetTarget(), s.port)
	if err != nil {
		return exchange.Request{}, err
	}
	options, err := tlsOptions(message.GetTls())
	if err != nil {
		return exchange.Request{}, err
	}
	source, _ := netip.ParseAddr(message.GetSource()) // which the rules of the contract have let through, if it is not empty
	return exchange.Request{
		Target:    target,
		Timeout:   timeout(message.GetTimeout()),
		Family:    resolve.Family(message.GetFamily()),
		Source:    source,
		Interface: message.GetInterface(),
		TLS:       options,

		PreferredFamily:  resolve.Family(message.GetPreferredFamily()),
		FirstAddressOnly: message.GetFirstAddressOnly(),
	}, nil
}

// port finds a service by name in the host's file or the registry: what people call it, not only what programs here do.
func (s *Service) port(name, protocol string) (uint16, bool) {
	for _, service := range s.names.Service(name, protocol) {
		return service.Port, true
	}
	return 0, false
}

func (s *exchangeServer) exchangeRequest(message *probev1.ExchangeRequest) (exchange.Request, error) {
	request, err := s.request(message)
	if err != nil {
		return request, err
	}
	request.BufferSize = int(message.GetBufferSize())
	if len(message.GetSteps()) == 0 {
		data := message.GetData()
		if text, ok := message.GetPayload().(*probev1.ExchangeRequest_Text); ok {
			data = []byte(text.Text)
		}
		request.Steps = exchange.DefaultSteps(request.Target, data, message.GetHoldOpen())
		err = s.exchanges.Validate(&request)
		return request, err
	}
	switch {
	case message.GetPayload() != nil:
		return request, &fieldError{field: payloadField(message), problem: "goes without steps only: with steps, send is a step"}
	case message.GetHoldOpen():
		return request, &fieldError{field: "hold_open", problem: "goes without steps only: with steps, half-closing is a step"}
	}
	for i, step := range message.GetSteps() {
		converted, err := stepOf(step, i)
		if err != nil {
			return request, err
		}
		request.Steps = append(request.Steps, converted)
	}
	err = s.exchanges.Validate(&request)
	return request, err
}

func payloadField(message *probev1.ExchangeRequest) string {
	if _, ok := message.GetPayload().(*probev1.ExchangeRequest_Text); ok {
		return "text"
	}
	return "data"
}

func timeout(d *durationpb.Duration) time.Duration { return d.AsDuration() }
