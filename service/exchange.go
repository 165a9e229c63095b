package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
)

type exchangeServer struct {
	probev1.UnimplementedExchangeServiceServer
	*Service
}

func (s *exchangeServer) Connect(ctx context.Context, message *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
	target, err := s.target(message.GetTarget())
	if err != nil {
		return nil, statusOf(err)
	}
	outcome, err := s.run(ctx, exchange.Request{Target: target, Timeout: timeout(message.GetTimeout())}, nil)
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
	_, err = s.run(stream.Context(), request, func(event exchange.Event) error {
		return stream.Send(s.eventMessage(event, len(message.GetSteps()) > 0))
	})
	return err
}

// run carries a request out. The error is a status; an outcome that is not ok is none.
func (s *exchangeServer) run(ctx context.Context, request exchange.Request, emit func(exchange.Event) error) (*exchange.Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.drained, func() { cancel(exchange.ErrDrained) })
	defer stop()
	if s.drained.Err() != nil { // AfterFunc takes a moment, in which a quick exchange is over
		cancel(exchange.ErrDrained)
	}

	outcome := s.exchanges.Run(ctx, request, emit)
	switch outcome.Reason {
	case exchange.PolicyDenied:
		return nil, statusOf(&deniedError{target: request.Target.String(), outcome: outcome})
	case exchange.Cancelled:
		return nil, statusOf(context.Canceled)
	}
	return outcome, nil
}

func (s *exchangeServer) target(text string) (exchange.Target, error) {
	target, err := exchange.ParseTarget(text, s.port)
	if err == nil && target.Scheme == "tls" {
		err = &notImplementedError{field: "target", what: "the scheme tls"}
	}
	return target, err
}

// port finds a service by name in the host's file or the registry: what people call it, not only what programs here do.
func (s *exchangeServer) port(name, protocol string) (uint16, bool) {
	for _, service := range s.names.Service(name, protocol) {
		return service.Port, true
	}
	return 0, false
}

func (s *exchangeServer) exchangeRequest(message *probev1.ExchangeRequest) (exchange.Request, error) {
	target, err := s.target(message.GetTarget())
	if err != nil {
		return exchange.Request{}, err
	}
	request := exchange.Request{
		Target:     target,
		BufferSize: int(message.GetBufferSize()),
		Timeout:    timeout(message.GetTimeout()),
	}
	if len(message.GetSteps()) == 0 {
		data := message.GetData()
		if text, ok := message.GetPayload().(*probev1.ExchangeRequest_Text); ok {
			data = []byte(text.Text)
		}
		request.Steps = exchange.DefaultSteps(target, data, message.GetHoldOpen())
		return request, nil
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
	err = request.Validate()
	return request, err
}

func payloadField(message *probev1.ExchangeRequest) string {
	if _, ok := message.GetPayload().(*probev1.ExchangeRequest_Text); ok {
		return "text"
	}
	return "data"
}

func timeout(d *durationpb.Duration) time.Duration { return d.AsDuration() }
