package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
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
	// auditRetry is how often ends that could not be written are tried again while no session begins.
	auditRetry = time.Second
	// auditBatch is about the most bytes that are written at once.
	auditBatch = 64 << 10
	// What is longer of a target, and of each other string, is cut.
	auditTarget, auditString = 4 << 10, 1 << 10
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
// What cannot be written down does not take place: [Audit.Begin] fails while the stream does. When it works again, the
// next Begin finds out, and what was kept meanwhile is written first. What is kept has bounds: it is at most one end for
// each session that has begun. A line that was written in part is ended before the next one, so it costs no other.
//
// "Written" means that the kernel has it; it is not waited for until it is on the disk. A nil *Audit writes nothing, and
// its sessions are nil.
type Audit struct {
	config AuditConfig
	wake   chan struct{} // has room for one: there is something to do
	done   chan struct{} // the writer has ended

	// Of the writer alone.
	failed bool // the last write did
	torn   bool // the last line in the stream has no end

	mu      sync.Mutex
	stream  io.WriteCloser // nil when closed
	queue   []*auditLine
	tries   int          // to write, so far
	busy    time.Time    // since when the writer waits for the stream; zero: it does not
	reopens []chan error // who waits for Reopen
	closed  bool
}

// auditLine is a line to be written.
type auditLine struct {
	text  []byte
	begin *beginning // nil: an end, which nobody waits for
}

type beginning struct {
	session   *Session
	written   chan error // gets one value
	tries     int        // to write, when it was queued
	abandoned *Result    // under mu: nobody waits for it any more, and with this it has ended
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
	case !a.busy.IsZero() && time.Since(a.busy) > a.config.patience:
		return errAuditStuck // another one has waited for long enough
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

// run is the writer.
func (a *Audit) run() {
	defer close(a.done)
	defer a.closeStream()
	for {
		var retry <-chan time.Time
		if a.failed {
			retry = time.After(a.config.retry)
		}
		select {
		case <-a.wake:
		case <-retry:
		}
		a.mu.Lock()
		closed := a.closed // asked before: what was queued until then is written below
		a.mu.Unlock()
		a.reopen()
		for a.write() {
		}
		if closed {
			return
		}
	}
}

// reopen opens the stream anew for who has asked for it.
func (a *Audit) reopen() {
	a.mu.Lock()
	waiting := a.reopens
	a.reopens = nil
	a.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	err := a.openAnew()
	for _, reopened := range waiting {
		reopened <- err
	}
}

// openAnew replaces the stream, if a new one can be had.
func (a *Audit) openAnew() error {
	a.mu.Lock()
	a.busy = time.Now()
	a.mu.Unlock()
	stream, err := a.config.Open()
	a.mu.Lock()
	a.busy = time.Time{}
	unused := a.stream
	switch {
	case err != nil:
		unused = nil
	case a.stream == nil: // closed meanwhile
		unused, err = stream, errAuditClosed
	default:
		a.stream = stream
	}
	a.mu.Unlock()
	if unused != nil { // not under the lock: closing may take long
		unused.Close()
	}
	return err
}

func (a *Audit) closeStream() {
	a.mu.Lock()
	stream := a.stream
	a.stream = nil
	a.mu.Unlock()
	if stream != nil {
		stream.Close()
	}
}

// write writes some of what is queued; false: nothing is, or it could not be written.
func (a *Audit) write() bool {
	a.mu.Lock()
	batch := a.batch()
	a.tries++
	a.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	if a.failed {
		// What has failed may work again in a new stream, such as a pipe with a new reader. If there is none to be had, the
		// old one is tried.
		_ = a.openAnew()
	}
	a.mu.Lock()
	batch = slices.DeleteFunc(batch, func(l *auditLine) bool { return l.begin != nil && l.begin.abandoned != nil })
	stream := a.stream
	if len(batch) > 0 {
		a.busy = time.Now()
	}
	a.mu.Unlock()
	if len(batch) == 0 { // all were given up meanwhile
		return true
	}
	var text []byte
	if a.torn {
		text = append(text, '\n')
	}
	skipped := len(text)
	for _, line := range batch {
		text = append(text, line.text...)
	}
	n, err := 0, errAuditClosed
	if stream != nil {
		n, err = stream.Write(text)
	}
	if n = min(max(n, 0), len(text)); n < len(text) && err == nil {
		err = io.ErrShortWrite
	}
	if n > 0 {
		a.torn = text[n-1] != '\n'
	}
	a.failed = err != nil
	a.settle(batch, n-skipped, err)
	a.config.OnWrite(err)
	return err == nil
}

// batch takes lines off the queue, as many as are to be written at once.
func (a *Audit) batch() []*auditLine {
	n, size := 0, 0
	for n < len(a.queue) && size < auditBatch {
		size += len(a.queue[n].text)
		n++
	}
	batch := a.queue[:n:n]
	if a.queue = a.queue[n:]; len(a.queue) == 0 {
		a.queue = nil
	}
	return batch
}

// settle tells who waits for a line of the batch, of which n bytes are written, what became of it. Ends that are not
// written go back into the queue.
func (a *Audit) settle(batch []*auditLine, n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = time.Time{}
	var again []*auditLine
	for _, line := range batch {
		n -= len(line.text)
		// All but the newline is a whole line too: the newline will come before whatever comes next.
		written := n >= -1
		switch {
		case line.begin == nil && !written:
			again = append(again, line)
		case line.begin == nil:
		case line.begin.abandoned != nil && written:
			a.queue = append(a.queue, &auditLine{text: endLine(time.Now(), line.begin.session.record, *line.begin.abandoned)})
		case written:
			line.begin.written <- nil
		default:
			line.begin.written <- err
		}
	}
	if err == nil {
		return
	}
	// Whoever stood behind would wait for the same. Who came later is tried.
	for _, line := range a.queue {
		if line.begin == nil || line.begin.tries == a.tries {
			again = append(again, line)
		} else {
			line.begin.written <- err
		}
	}
	a.queue = again
}

// What a line holds.
type (
	auditHead struct {
		Time  time.Time `json:"time"`
		Event string    `json:"event"`
		Record
	}
	auditTail struct {
		auditHead
		Address       string  `json:"address"`
		Rule          string  `json:"rule"`
		OK            bool    `json:"ok"`
		Reason        string  `json:"reason"`
		Code          string  `json:"code"`
		BytesSent     int64   `json:"bytesSent"`
		BytesReceived int64   `json:"bytesReceived"`
		Duration      float64 `json:"durationSeconds"`
	}
)

func beginLine(now time.Time, record Record) []byte {
	return jsonLine(auditHead{now.UTC(), "begin", record})
}

func endLine(now time.Time, record Record, r Result) []byte {
	return jsonLine(auditTail{
		auditHead: auditHead{now.UTC(), "end", record},
		Address:   bounded(r.Address, auditString), Rule: bounded(r.Rule, auditString),
		OK: r.OK, Reason: bounded(r.Reason, auditString), Code: bounded(r.Code, auditString),
		BytesSent: r.BytesSent, BytesReceived: r.BytesReceived, Duration: r.Duration.Seconds(),
	})
}

func (r Record) bounded() Record {
	return Record{
		ID: bounded(r.ID, auditString), Subject: bounded(r.Subject, auditString), RPC: bounded(r.RPC, auditString),
		Target: bounded(r.Target, auditTarget), Remote: bounded(r.Remote, auditString),
	}
}

// bounded cuts a string that is too long, and says so in its place.
func bounded(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (cut, %d bytes in all)", s[:end], len(s))
}

// jsonLine is a value as a line of JSON. The library escapes the control characters of ASCII and replaces what is no
// UTF-8; what else can drive a terminal or hide from its reader is escaped here: the other control characters and the
// invisible ones, which turn the direction of text for instance.
func jsonLine(value any) []byte {
	line, err := json.Marshal(value)
	if err != nil { // of strings and numbers it cannot be
		line = []byte("{}")
	}
	clean := bytes.IndexFunc(line, isHidden)
	if clean < 0 {
		return append(line, '\n')
	}
	escaped := line[:clean:clean]
	for _, r := range string(line[clean:]) {
		switch high, low := utf16.EncodeRune(r); {
		case !isHidden(r):
			escaped = utf8.AppendRune(escaped, r)
		case high != unicode.ReplacementChar:
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	return append(escaped, '\n')
}

func isHidden(r rune) bool { return r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) }
