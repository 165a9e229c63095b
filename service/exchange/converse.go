package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// FrameError says that a frame of a conversation does not belong where it came.
type FrameError struct {
	Field  string // which frame, as "half_close", "start_tls.server_name"
	Reason string // what is wrong with it
}

func (e *FrameError) Error() string { return e.Reason }

// Conversation is an exchange whose steps are not known in advance.
type Conversation struct {
	// Request says what to open (see [Request.ValidateConversation]). It has no steps, its Timeout is for opening alone, and AllAddresses is not for it.
	Request
	// Idle ends the conversation, as [EndedByIdle], when nothing has passed either way for so long; zero: what
	// [Limits] say.
	Idle time.Duration
	// Next waits for the next step: a [Send], [StartTLS], [HalfClose] or [Close]. The error io.EOF says that there are no
	// more, which ends nothing by itself; any other one ends the conversation. Next is called in a goroutine of its own,
	// each time when the step before has been carried out; the last call may return after [Exchanger.Converse] has, and
	// what it returns is ignored then.
	Next func() (Step, error)
}

// Converse opens a connection, carries out steps as they come and hands on at the same time what the peer says, until one
// of the two has closed. Otherwise it is like [Exchanger.Run]. It emits no [Sent].
//
// When Next fails, or returns a step out of order (a [FrameError]), that is the error, and no outcome is emitted.
func (x *Exchanger) Converse(ctx context.Context, c Conversation, emit func(Event) error) (*Outcome, error) {
	c.Idle = x.config.Limits.idle(c.Idle)
	var broken error
	outcome := x.session(ctx, c.Request, true, emit, func(s *session) *failure {
		talk := &conversation{
			session: s, next: c.Next, idle: c.Idle, changed: make(chan struct{}, 1),
			order: order{target: c.Target, options: c.TLS, secured: c.Target.Scheme == "tls"},
		}
		fault := talk.run()
		broken, s.wronged = talk.broken, talk.broken != nil
		return fault
	})
	return outcome, broken
}

// conversation is two goroutines on one connection: that of the session reads, and the sender takes steps and writes.
// What both touch is either atomic or under mu.
type conversation struct {
	*session
	next  func() (Step, error)
	idle  time.Duration
	order order // the sender's

	active atomic.Int64 // when something last passed, in nanoseconds from the start
	wrote  atomic.Uint64

	// turn is held by the sender while it carries out a step.
	turn    sync.Mutex
	ended   bool          // under turn: no step is carried out any more
	sends   uint64        // under turn
	sending func(PartEnd) // under turn: ends the part of them all; nil: there has been none

	mu      sync.Mutex
	closing bool          // the caller has closed
	silent  bool          // there is nothing more to send: a half-close, or no more steps
	working bool          // a step is being carried out
	broken  error         // the caller broke the rules
	sendErr error         // of a write or a half-close
	upgrade *StartTLS     // to be carried out by the reader, since it takes both directions
	done    chan struct{} // the upgrade has been tried
	crash   crash

	changed chan struct{} // has room for one: silent or working is not what it was
}

// lingering is how long a caller may be silent when the peer has closed its side, before that is the end: who has more to
// send, and sends it, is let finish.
const lingering = 500 * time.Millisecond

// run reads until the end.
func (t *conversation) run() *failure {
	// The timeout was for opening. From here on there is the caller's context alone.
	t.ctx = t.callerCtx
	defer wokenBy(t.ctx, t.conn.Conn, t.letGo)()
	setReadDeadline(t.ctx, t.conn, time.Time{})
	t.touch()
	_, received := t.begin(t.ctx, Part{Name: "receive", Phase: PhaseReceive, Target: t.request.Target, Step: NoStep})
	go t.take()
	fault := t.read()
	t.finish()
	t.crash.again()
	t.outcome.BytesSent = t.wrote.Load()
	if fault = t.misunderstood(fault); fault == nil {
		t.outcome.OK, t.outcome.Phase = true, PhaseClose
	}
	receiving, sending := PartEnd{Bytes: t.offset, Pieces: t.outcome.Chunks}, PartEnd{Bytes: t.outcome.BytesSent, Pieces: t.sends}
	if fault != nil && fault.phase == PhaseSend && t.sending != nil {
		sending.Reason = fault.reason
	} else if fault != nil && fault.phase != PhaseTLS { // which has told it
		receiving.Reason = fault.reason
	}
	if t.sending != nil {
		t.sending(sending)
	}
	received(receiving)
	return fault
}

// finish ends the sender, except for a call of next, which knows nothing of the session.
func (t *conversation) finish() {
	t.mu.Lock()
	t.closing = true
	if t.done != nil {
		close(t.done)
		t.done = nil
	}
	t.mu.Unlock()
	// Whatever it writes is not waited for.
	_ = t.conn.SetDeadline(longAgo())
	t.turn.Lock()
	t.ended = true
	t.turn.Unlock()
	_ = t.conn.SetDeadline(time.Time{})
}

func (t *conversation) touch() { t.active.Store(int64(t.elapsed())) }

// take carries out one step after the other.
func (t *conversation) take() {
	for {
		step, err := t.wait()
		t.turn.Lock()
		t.at(true)
		goOn := !t.ended && t.carryOut(step, err)
		t.at(false)
		t.turn.Unlock()
		if !goOn {
			return
		}
	}
}

// wait waits for the next step. Its error can be a *crash.
func (t *conversation) wait() (step Step, err error) {
	var fell crash
	defer func() {
		if fell.value != nil {
			err = &fell
		}
	}()
	defer fell.catch()
	return t.next()
}

// carryOut carries out one step, or notes why there is none; false: there will be no more.
func (t *conversation) carryOut(step Step, err error) (more bool) {
	defer func() {
		if t.crash.value != nil {
			t.tell(func() { t.closing = true })
		}
	}()
	defer t.crash.catch()
	if fell, ok := errors.AsType[*crash](err); ok {
		t.crash = *fell
		return false
	}
	if errors.Is(err, io.EOF) {
		t.note(func() { t.silent = true })
		return false
	}
	if err == nil {
		if field, problem := t.order.next(step); problem != "" {
			err = &FrameError{field, problem}
		}
	}
	if err != nil {
		t.tell(func() { t.broken = err })
		return false
	}
	switch step := step.(type) {
	case Send:
		if t.sends++; t.sending == nil {
			_, t.sending = t.begin(t.callerCtx, Part{Name: "send", Phase: PhaseSend, Target: t.request.Target, Step: NoStep})
		}
		data, beyond := t.conn.sendable(step.Data)
		var n int
		if len(data) > 0 || beyond == nil {
			n, err = t.conn.Write(data)
		}
		if err == nil {
			err = beyond
		}
		t.touch()
		t.wrote.Add(uint64(n))
		if hook := t.config.Hooks.Sent; hook != nil && n > 0 {
			hook(t.request.Target.Scheme, n)
		}
		t.noteSent(data)
	case HalfClose:
		err = t.conn.CloseWrite()
		t.conn.halfClosed.Store(true)
		t.note(func() { t.silent = true })
	case StartTLS:
		done := make(chan struct{})
		t.tell(func() {
			if t.closing { // the reader has gone
				close(done)
				return
			}
			t.upgrade, t.done = &step, done
		})
		<-done
	case Close:
		t.tell(func() { t.closing = true })
		return false
	}
	if err != nil {
		t.tell(func() { t.sendErr = err })
		return false
	}
	return true
}

// tell sets something that the reader looks at, and wakes it.
func (t *conversation) tell(set func()) {
	t.note(set)
	_ = t.conn.SetReadDeadline(longAgo())
}

// note sets something that the reader looks at when it is awake.
func (t *conversation) note(set func()) {
	t.mu.Lock()
	set()
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// at notes whether a step is being carried out.
func (t *conversation) at(work bool) { t.note(func() { t.working = work }) }

// read hands on what the peer says. It returns when the conversation is over.
func (t *conversation) read() *failure {
	for {
		_ = t.conn.SetReadDeadline(time.Now().Add(t.untilIdle()))
		// Who wakes this goroutine tells why before, so that whatever the line above has made of the wake is seen here.
		if over, fault := t.heed(); over {
			return fault
		}
		piece, err := t.piece()
		switch {
		case err == nil:
			t.touch()
			if t.chunk(piece) != nil {
				return t.cancelled(PhaseReceive)
			}
		case errors.Is(err, io.EOF):
			if t.sayEOF() != nil {
				return t.cancelled(PhaseReceive)
			}
			return t.linger()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return t.ioFailure(PhaseReceive, err)
		}
	}
}

// linger waits, when the peer has closed its side, until the caller has no more to say.
func (t *conversation) linger() *failure {
	timer := time.NewTimer(lingering)
	defer timer.Stop()
	for {
		if over, fault := t.heed(); over {
			return fault
		}
		t.mu.Lock()
		silent, working := t.silent, t.working
		t.mu.Unlock()
		if silent && !working {
			t.outcome.EndedBy = EndedByPeerClosed
			return nil
		}
		patience := lingering
		if working { // a write to a peer that does not read
			patience = t.untilIdle()
		}
		timer.Reset(patience)
		select {
		case <-t.changed:
		case <-t.ctx.Done():
		case <-timer.C:
			if !working {
				t.outcome.EndedBy = EndedByPeerClosed
				return nil
			}
		}
	}
}

// untilIdle is the time until nothing has passed for too long.
func (t *conversation) untilIdle() time.Duration {
	return time.Duration(t.active.Load()) + t.idle - t.elapsed()
}

func (t *conversation) piece() (piece, error) {
	if len(t.pending) > 0 {
		return t.session.take(0), nil
	}
	piece, err := t.conn.read(t.request.BufferSize, 0)
	piece.elapsed = t.elapsed()
	return piece, err
}

// heed does what the sender has asked for, and tells whether the conversation is over and why.
func (t *conversation) heed() (over bool, fault *failure) {
	t.mu.Lock()
	broken, sendErr, closing, upgrade, working := t.broken, t.sendErr, t.closing, t.upgrade, t.working
	t.upgrade = nil
	t.mu.Unlock()
	switch {
	case t.ctx.Err() != nil:
		return true, t.interrupted(PhaseReceive)
	case broken != nil:
		return true, t.cancelled(PhaseReceive)
	case sendErr != nil:
		return true, t.ioFailure(PhaseSend, t.lastWords(sendErr))
	case closing:
		t.outcome.EndedBy = EndedByLastStep
		return true, nil
	case upgrade != nil:
		fault := t.startTLS(upgrade.ServerName)
		t.touch()
		t.mu.Lock()
		close(t.done)
		t.done = nil
		t.mu.Unlock()
		return fault != nil, fault
	case t.untilIdle() > 0:
		return false, nil
	case working:
		return true, &failure{phase: PhaseSend, reason: SendTimeout, text: fmt.Sprintf("the peer took no more bytes for %v", t.idle)}
	default:
		if n, told := t.conn.unacknowledged(); told && n > 0 {
			return true, &failure{phase: PhaseSend, reason: SendTimeout, hint: hintUnacknowledged, text: fmt.Sprintf(
				"%d bytes of what was sent are not acknowledged after %v", n, t.idle)}
		}
		t.outcome.EndedBy = EndedByIdle
		return true, nil
	}
}
