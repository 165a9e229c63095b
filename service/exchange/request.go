package exchange

import (
	"fmt"
	"time"
)

// Request is one exchange to carry out.
type Request struct {
	Target Target
	// Steps are carried out in order; then the connection is closed. None: it is opened and closed.
	Steps []Step
	// BufferSize is the most bytes of one chunk, and at most MaxBufferSize, whatever it says; zero: it grows with the
	// flow, from 4 KiB to 256 KiB, and is 64 KiB for messages.
	BufferSize int
	// Timeout is for all of it; zero: DefaultTimeout.
	Timeout time.Duration
}

// Step is one thing to do with an open connection: [Send], [HalfClose] or [Receive].
type Step interface{ step() }

// Send sends Data: on a stream all of it, on a datagram socket as one datagram, which may be empty.
type Send struct{ Data []byte }

// HalfClose closes the sending side, so that the peer reads end of file (shutdown(2), SHUT_WR).
type HalfClose struct{}

// Receive reads until one of its rules holds; the zero value reads until the peer closes. A short read is never an end.
// When the peer closes before Length, Delimiter or Count held, the exchange fails with [PeerClosedEarly].
type Receive struct {
	// Length ends it after exactly so many bytes, and no further byte is read; zero: no such rule.
	Length int64
	// Delimiter ends it behind these bytes; empty: no such rule. What came beyond stays for the next step.
	Delimiter string
	// Idle ends it when nothing came for so long; zero: no such rule. On a datagram socket on which nothing came in
	// this step at all it is a failure, [ReceiveTimeout], since silence there says nothing.
	Idle time.Duration
	// Count ends it after so many messages; zero: no such rule.
	Count uint32
	// MaxBytes ends it after at most so many bytes, and no further byte is read; zero: no such rule. A message that
	// goes beyond is truncated.
	MaxBytes int64
}

func (Send) step()      {}
func (HalfClose) step() {}
func (Receive) step()   {}

// DefaultSteps are those of a first socket program: send everything, half-close (unless holdOpen) and receive until the
// peer closes. A datagram socket has neither half-close nor end of file, so there one datagram is sent and one
// received.
func DefaultSteps(target Target, data []byte, holdOpen bool) []Step {
	var steps []Step
	if len(data) > 0 || target.IsDatagram() {
		steps = append(steps, Send{Data: data})
	}
	if target.IsDatagram() {
		return append(steps, Receive{Count: 1})
	}
	if !holdOpen {
		steps = append(steps, HalfClose{})
	}
	return append(steps, Receive{})
}

// StepError says that a step cannot be carried out.
type StepError struct {
	Step   int    // counted from 0
	Field  string // the field of the step, as "receive.count", "half_close"
	Reason string // what is wrong with it
}

func (e *StepError) Error() string { return e.Reason }

// Validate finds steps that do not go with the target or with the steps before, or end rules that do not go together.
// The error is a [StepError].
func (r *Request) Validate() error {
	scheme := r.Target.Scheme
	halfClosed := NoStep
	for i, step := range r.Steps {
		bad := func(field, format string, args ...any) error {
			return &StepError{Step: i, Field: field, Reason: fmt.Sprintf(format, args...)}
		}
		switch step := step.(type) {
		case Send:
			if halfClosed != NoStep {
				return bad("send", "the sending side is closed already, by step %d", halfClosed)
			}
		case HalfClose:
			switch {
			case r.Target.IsDatagram():
				return bad("half_close", "a datagram socket (%s) has no half-close", scheme)
			case halfClosed != NoStep:
				return bad("half_close", "the sending side is closed already, by step %d", halfClosed)
			}
			halfClosed = i
		case Receive:
			switch {
			case step.Length > 0 && r.Target.HasMessages():
				return bad("receive.length", "length is for streams; messages (%s) end by count or idle", scheme)
			case step.Delimiter != "" && r.Target.HasMessages():
				return bad("receive.delimiter", "delimiter is for streams; messages (%s) end by count or idle", scheme)
			case step.Count > 0 && !r.Target.HasMessages():
				return bad("receive.count", "count is for messages; a stream (%s) has no borders to count: use length, delimiter or idle", scheme)
			case step.Length > 0 && step.Delimiter != "":
				return bad("receive.delimiter", "length and delimiter exclude each other")
			case step.Length > 0 && step.MaxBytes > 0:
				return bad("receive.max_bytes", "length and maxBytes exclude each other")
			}
		}
	}
	return nil
}
