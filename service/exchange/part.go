package exchange

import (
	"context"
	"net/netip"
)

// Part is something that takes time in an exchange: a lookup, an attempt on an address, a handshake, a step.
type Part struct {
	// Name is one of "resolve", "connect", "tls", "send", "half_close", "expect" and "receive". In a conversation "send" and
	// "receive" come once each, however many frames and chunks there are: "send" begins with the first frame.
	Name    string
	Phase   Phase
	Target  Target
	Address netip.AddrPort // of "connect" and "tls"; the zero value: a unix socket
	Step    int            // NoStep: it is of no step
}

// PartEnd tells how a part ended.
type PartEnd struct {
	Reason Reason   // None: well
	Bytes  uint64   // that were sent, or handed on
	Pieces uint64   // of a conversation: how many times some were sent, or handed on
	Local  string   // of "connect": the address of this side; empty when there is none
	TLS    *TLSInfo // of "tls": what the handshake told
}

// begin tells the hook that a part begins. end may be called whether or not there is one.
func (x *Exchanger) begin(ctx context.Context, part Part) (_ context.Context, end func(PartEnd)) {
	if hook := x.config.Hooks.Begin; hook != nil {
		if ctx, end := hook(ctx, part); end != nil {
			return ctx, end
		}
	}
	return ctx, unheeded
}

func unheeded(PartEnd) {}

// beginStep is begin for a step. StartTLS is left to the handshake.
func (s *session) beginStep(i int, step Step) (end func(*failure)) {
	if s.config.Hooks.Begin == nil {
		return func(*failure) {}
	}
	part := Part{Target: s.request.Target, Step: i}
	switch step.(type) {
	case Send:
		part.Name, part.Phase = "send", PhaseSend
	case HalfClose:
		part.Name, part.Phase = "half_close", PhaseSend
	case Expect:
		part.Name, part.Phase = "expect", PhaseReceive
	case Receive:
		part.Name, part.Phase = "receive", PhaseReceive
	default:
		return func(*failure) {}
	}
	sent, received := s.outcome.BytesSent, s.offset
	_, ended := s.begin(s.ctx, part)
	return func(fault *failure) {
		end := PartEnd{Reason: fault.why(), Bytes: s.offset - received}
		if part.Phase == PhaseSend {
			end.Bytes = s.outcome.BytesSent - sent
		}
		ended(end)
	}
}

// why is the reason of a failure, if there is one.
func (f *failure) why() Reason {
	if f == nil {
		return None
	}
	return f.reason
}
