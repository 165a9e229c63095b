package endurance

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/probetest"
)

// dialling are the ways to have probed dial a host, at a port, or at that of the peer or the name server. Each is without an
// error when what is allowed was reached, and all of it answered.
var dialling = []struct {
	name string
	dial func(t *testing.T, caller probetest.Caller, host string, port int) error
}{
	{"Exchange, TCP", func(t *testing.T, caller probetest.Caller, host string, port int) error {
		return exchange(t, caller, "tcp", host, port)
	}},
	{"Exchange, UDP", func(t *testing.T, caller probetest.Caller, host string, port int) error {
		return exchange(t, caller, "udp", host, port)
	}},
	{"Connect", connect},
	{"Converse", converse},
	{"QueryDNS, UDP", func(t *testing.T, caller probetest.Caller, host string, port int) error {
		return query(t, caller, host, port, probev1.DNSTransport_DNS_TRANSPORT_UDP)
	}},
	{"QueryDNS, TCP", func(t *testing.T, caller probetest.Caller, host string, port int) error {
		return query(t, caller, host, port, probev1.DNSTransport_DNS_TRANSPORT_TCP)
	}},
}

func at(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func exchange(t *testing.T, caller probetest.Caller, scheme, host string, port int) error {
	s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{
		Target: scheme + "://" + at(host, cmp.Or(port, peerPort)), Payload: &probev1.ExchangeRequest_Text{Text: "x"},
	})
	if o := s.Rest(); o != nil && (!o.GetOk() || s.Received != 1) {
		return fmt.Errorf("%v", o)
	}
	return s.Err
}

// connect connects to all addresses of the host. All but the denied ones are reached.
func connect(t *testing.T, caller probetest.Caller, host string, port int) error {
	o, err := caller.Connect(t.Context(), &probev1.ConnectRequest{Target: at(host, cmp.Or(port, peerPort)), AllAddresses: true})
	if err != nil {
		return err
	}
	reached := 0
	for _, attempt := range o.GetAttempts() {
		remote, err := netip.ParseAddrPort(attempt.GetAddress())
		if err != nil {
			return err
		}
		is := remote.Addr().String()
		switch good := is == allowed4 || is == allowed6; {
		case good && attempt.GetOk():
			reached++
		case good, attempt.GetReason() != probev1.Reason_REASON_POLICY_DENIED:
			return fmt.Errorf("attempt %v", attempt)
		}
	}
	if reached == 0 {
		return fmt.Errorf("%v", o)
	}
	return nil
}

// converse converses, which is by gRPC only; by REST it is an exchange.
func converse(t *testing.T, caller probetest.Caller, host string, port int) error {
	c, ok := caller.(*probetest.GRPCCaller)
	if !ok {
		return exchange(t, caller, "tcp", host, port)
	}
	stream, err := probev1.NewExchangeServiceClient(c.Conn).Converse(t.Context())
	if err != nil {
		return err
	}
	for _, frame := range []*probev1.ConverseRequest{
		{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: at(host, cmp.Or(port, peerPort))}}},
		{Frame: &probev1.ConverseRequest_Data{Data: []byte("x")}},
		{Frame: &probev1.ConverseRequest_HalfClose{HalfClose: &probev1.HalfClose{}}},
	} {
		if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) { // which means that Recv tells
			return err
		}
	}
	received := 0
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		received += len(event.GetChunk().GetData())
		if o := event.GetOutcome(); o != nil {
			if !o.GetOk() || received != 1 {
				return fmt.Errorf("%d bytes, %v", received, o)
			}
			_, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func query(t *testing.T, caller probetest.Caller, host string, port int, transport probev1.DNSTransport) error {
	answer, err := caller.QueryDNS(t.Context(), &probev1.QueryDNSRequest{
		Name: "x.example.", Server: at(host, cmp.Or(port, serverPort)), Transport: transport,
	})
	if err == nil && len(answer.GetAnswers()) != 1 {
		err = fmt.Errorf("%v", answer)
	}
	return err
}

// isDenied tells whether the policy is why.
func isDenied(err error) bool {
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && s.Code() == codes.PermissionDenied {
			return info.GetReason() == probev1.ErrorReason_ERROR_REASON_POLICY_DENIED.String()
		}
	}
	return false
}
