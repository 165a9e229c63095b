package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Record is what is known of a session before it begins.
type Record struct {
	ID      string `json:"id"`      // of the request; callers see it too
	Subject string `json:"subject"` // who asks, [Caller.Subject]
	RPC     string `json:"rpc"`     // full method
	Target  string `json:"target"`  // as it was asked for
	Remote  string `json:"remote"`  // address the caller comes from
}

// Result is what is known of a session when it has ended.
type Result struct {
	Address       string        // as connected; empty when it was not
	Rule          string        // of the policy, that decided
	Reason        string        // of the outcome; empty when OK
	OK            bool          // the outcome's
	BytesSent     int64         // to the target
	BytesReceived int64         // from it
	Duration      time.Duration // of the session
	Code          string        // of the status that the caller got, as "OK", "PERMISSION_DENIED"
}

// AuditError says that a session cannot be written down, and so must not take place.
type AuditError struct{ Err error }

func (e *AuditError) Error() string { return "the audit log cannot be written: " + e.Err.Error() }

func (e *AuditError) Unwrap() error { return e.Err }

var (
	errAuditClosed = errors.New("it is closed")
	errAuditStuck  = errors.New("writing to it does not come to an end")
)

const (
	// auditPatience is how long a session waits for its record to be written, and Close for the last ones.
	auditPatience = 2 * time.Second
	// auditRetry is how often it is tried again to write, while no session begins.
	auditRetry = time.Second
)

// AuditConfig is where an Audit writes.
type AuditConfig struct {
	// Open opens the stream: at once, and again for [Audit.Reopen] and after a failure. A file is best opened with
	// O_APPEND and O_CREATE, readable by its owner alone. Required.
	Open func() (io.WriteCloser, error)
	// OnWrite is told of each try to write what came of it, nil of one that succeeded, for metrics and the log; one write may
	// hold several lines. Nil: nobody is. It is called from the goroutine that writes, and must not block.
	OnWrite func(err error)

	patience, retry time.Duration // zero: the constants; tests have less
}

// Audit writes down each session: who asked for what before it begins, and what came of it at its end. Never payload.
//
// A session is two lines of JSON with the same id, "event": "begin" and "end", each written at once and whole; the second
// repeats what stands in the first, so that it can be read alone. Every begin gets exactly one end, unless the process
// dies in between. In strings there is no control character and nothing that is no UTF-8.
//
// What cannot be written down does not take place: [Audit.Begin] fails while the stream does. It is tried again each second,
// and by the next Begin, and what was kept meanwhile is written first. What is kept has bounds: it is at most one end for
// each session that has begun. When there is nothing else to try with, it is a line of the event "resumed", which tells its
// reader of the gap, and has a time and nothing more. A line that was written in part is ended before the next one, so it
// costs no other.
//
// "Written" means that the kernel has it; it is not waited for until it is on the disk. A nil *Audit writes nothing, and
// its sessions are nil.
type Audit struct {
	config AuditConfig
	wake   chan struct{} // has room for one: there is something to do
	done   chan struct{} // the writer has ended

	torn bool // the last line in the stream has no end; of the writer alone

	mu      sync.Mutex
	failed  bool           // the last write did; the writer alone changes it
	stream  io.WriteCloser // nil when closed
	queue   []*auditLine
	tries   int          // to write, so far
	busy    time.Time    // since when the writer waits for the stream; zero: it does not
	reopens []chan error // who waits for Reopen
	closed  bool
}

// NewAudit opens the stream and starts the goroutine that writes to it. [Audit.Close] ends it.
func NewAudit(config AuditConfig) (*Audit, error) {
	if config.patience == 0 {
		config.patience = auditPatience
	}
	if config.retry == 0 {
		config.retry = auditRetry
	}
	if config.OnWrite == nil {
		config.OnWrite = func(error) {}
	}
	stream, err := config.Open()
	if err != nil {
		return nil, &AuditError{err}
	}
	a := &Audit{config: config, wake: make(chan struct{}, 1), done: make(chan struct{}), stream: stream}
	go a.run()
	return a, nil
}

// Session is a session that has been written down. End ends it.
type Session struct {
	audit  *Audit
	record Record
	ended  atomic.Bool
}

// Begin writes down that a session begins, and returns when that is written. The error is an *AuditError when it could
// not be written within two seconds, or that of ctx when that ended before: then the session must not take place, and is
// not to be ended.
func (a *Audit) Begin(ctx context.Context, record Record) (*Session, error) {
	if a == nil {
		return nil, nil //nolint:nilnil // a session of no log, which End knows
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	session := &Session{audit: a, record: record.bounded()}
	begin := &beginning{session: session, written: make(chan error, 1)}
	start := time.Now()
	line := &auditLine{text: beginLine(start, session.record), begin: begin}
	if err := a.add(line); err != nil {
		return nil, &AuditError{err}
	}
	timer := time.NewTimer(a.config.patience)
	defer timer.Stop()
	select {
	case err := <-begin.written:
		if err != nil {
			return nil, &AuditError{err}
		}
		return session, nil
	case <-ctx.Done():
		return session.unless(a.giveUp(line, Result{Code: "CANCELLED", Duration: time.Since(start)}), ctx.Err())
	case <-timer.C:
		return session.unless(a.giveUp(line, Result{Code: "UNAVAILABLE", Duration: time.Since(start)}), &AuditError{errAuditStuck})
	}
}

// unless returns the session, or the error when it was given up.
func (s *Session) unless(given bool, err error) (*Session, error) {
	if given {
		return nil, err
	}
	return s, nil
}

// End writes down how the session has ended. It does not wait for that. Only the first call counts. After [Audit.Close]
// it does nothing.
func (s *Session) End(result Result) {
	if s == nil || s.ended.Swap(true) {
		return
	}
	line := &auditLine{text: endLine(time.Now(), s.record, result)}
	s.audit.mu.Lock()
	s.audit.queue = append(s.audit.queue, line)
	s.audit.mu.Unlock()
	s.audit.poke()
}

// Writable tells whether a session that begins now could be written down, as far as is known: the last write succeeded, and
// none is under way that does not come to an end. That of nil always could.
func (a *Audit) Writable() bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.closed && !a.failed && !a.stuck()
}

// stuck tells whether somebody has waited for the writer for long enough. The caller has the lock.
func (a *Audit) stuck() bool { return !a.busy.IsZero() && time.Since(a.busy) > a.config.patience }

// Reopen opens the stream anew, after a rotation say, and closes the old one. When that fails, the old one stays in use.
// The error is an *AuditError; it comes also when two seconds were not enough, since the old stream is stuck perhaps, and
// then the new one takes its place as soon as may be.
func (a *Audit) Reopen() error {
	reopened := make(chan error, 1)
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return &AuditError{errAuditClosed}
	}
	a.reopens = append(a.reopens, reopened)
	a.mu.Unlock()
	a.poke()
	err := errAuditStuck
	select {
	case err = <-reopened:
	case <-a.done:
		err = errAuditClosed
	case <-time.After(a.config.patience):
	}
	if err != nil {
		return &AuditError{err}
	}
	return nil
}

// Close writes what is left and closes the stream. It is to be called when all sessions have ended. The error is an
// *AuditError when not all could be written within two seconds. If writing does not even end with the stream closed, the
// goroutine that does it is left behind.
func (a *Audit) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.poke()
	select {
	case <-a.done:
	case <-time.After(a.config.patience):
		a.closeStream() // which ends a write to a pipe
		select {
		case <-a.done:
		case <-time.After(a.config.patience):
			return &AuditError{errAuditStuck}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.queue); n > 0 {
		return &AuditError{fmt.Errorf("%d records are left", n)}
	}
	return nil
}

// add queues a begin.
func (a *Audit) add(line *auditLine) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return errAuditClosed
	case a.stuck():
		return errAuditStuck
	}
	line.begin.tries = a.tries
	a.queue = append(a.queue, line)
	a.poke()
	return nil
}

// giveUp takes a begin back that nobody waits for any more; false: it has just been written. One that is being written
// may turn up in the stream, and then gets its end.
func (a *Audit) giveUp(line *auditLine, result Result) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case err := <-line.begin.written:
		return err != nil
	default:
	}
	line.begin.abandoned = &result
	a.queue = slices.DeleteFunc(a.queue, func(l *auditLine) bool { return l == line })
	return true
}

// poke wakes the writer.
func (a *Audit) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}
