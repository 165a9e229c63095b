package exchange

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// Limits are what an operator lets one exchange take. The zero value of each number means no bound, and that of each
// default the constant of its name.
type Limits struct {
	// Timeout is that of a request which does not say; zero: DefaultTimeout. MaxTimeout is the longest that one may ask for,
	// and bounds the default too.
	Timeout, MaxTimeout time.Duration
	// Idle is that of a conversation which does not say; zero: DefaultIdle. MaxIdle is the longest that one may ask for, and
	// bounds the default too.
	Idle, MaxIdle time.Duration
	// BytesSent and BytesReceived bound what is sent to the peer and read from it, as the outcome counts it. An exchange
	// that would go beyond ends with [LimitReached]: what is within is sent, or handed on, before. Of a message that goes
	// beyond, nothing is sent; received, it is truncated. Nothing is read beyond, so whether a peer that has sent exactly as
	// much would have said more is not known: an exchange that waits for more ends all the same.
	BytesSent, BytesReceived int64
}

// Validate is [Request.Validate], and finds also what goes beyond the limits of the Exchanger, as a [FieldError]. A request
// that was not asked about is held to them all the same: it gets the longest that is allowed.
func (x *Exchanger) Validate(r *Request) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return exceeds("timeout", r.Timeout, x.config.Limits.MaxTimeout)
}

// ValidateConversation is [Request.ValidateConversation], and finds also what goes beyond the limits, as [Exchanger.Validate].
func (x *Exchanger) ValidateConversation(c *Conversation) error {
	if err := c.ValidateConversation(); err != nil {
		return err
	}
	if err := exceeds("timeout", c.Timeout, x.config.Limits.MaxTimeout); err != nil {
		return err
	}
	return exceeds("idle", c.Idle, x.config.Limits.MaxIdle)
}

// Timeout is how long an exchange may take.
func (x *Exchanger) Timeout(r *Request) time.Duration { return x.config.Limits.timeout(r.Timeout) }

// Idle is how long nothing may pass in a conversation.
func (x *Exchanger) Idle(c *Conversation) time.Duration { return x.config.Limits.idle(c.Idle) }

func exceeds(field string, asked, most time.Duration) error {
	if most > 0 && asked > most {
		return &FieldError{field, fmt.Sprintf("%v is longer than the %v that are allowed here", asked, most)}
	}
	return nil
}

// timeout is the one that a request gets.
func (l *Limits) timeout(asked time.Duration) time.Duration {
	return atMost(cmp.Or(asked, l.Timeout, DefaultTimeout), l.MaxTimeout)
}

// idle is the one that a conversation gets.
func (l *Limits) idle(asked time.Duration) time.Duration {
	return atMost(cmp.Or(asked, l.Idle, DefaultIdle), l.MaxIdle)
}

func atMost(d, most time.Duration) time.Duration {
	if most > 0 {
		return min(d, most)
	}
	return d
}

// allowance is what is left of a bound in bytes. The zero value has no bound. Of a connection one belongs to who sends, the
// other to who reads.
type allowance struct {
	most, used int64  // most is zero: there is no bound
	what       string // the connection does: sends or receives
}

const (
	sends    = "sends"
	receives = "receives"
)

func (a *allowance) left() int64 {
	if a.most <= 0 {
		return math.MaxInt64
	}
	return a.most - a.used
}

// upTo is n, or what is left when that is less.
func (a *allowance) upTo(n int) int { return int(min(int64(n), a.left())) }

func (a *allowance) use(n int) { a.used += int64(n) }

// limitError is that an allowance is used up.
type limitError struct {
	most int64
	what string
}

func (a *allowance) exceeded() error { return &limitError{a.most, a.what} }

func (e *limitError) Error() string {
	return fmt.Sprintf("an exchange %s at most %d bytes here", e.what, e.most)
}

func isLimit(err error) bool {
	_, ok := errors.AsType[*limitError](err)
	return ok
}

// failure is the end of the exchange for it.
func (e *limitError) failure(phase Phase) *failure {
	hint := hintBytes
	if e.what == receives {
		hint = hintFewerBytes
	}
	return &failure{phase: phase, reason: LimitReached, text: "the limit is reached: " + e.Error(), hint: fmt.Sprintf(hint, e.most)}
}
