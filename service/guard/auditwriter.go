package guard

import (
	"io"
	"slices"
	"time"
)

// auditBatch is about the most bytes that are written at once.
const auditBatch = 64 << 10

// auditLine is a line to be written.
type auditLine struct {
	text    []byte
	begin   *beginning // nil: an end, which nobody waits for
	resumed bool       // it is no end either, and is of no use later
}

type beginning struct {
	session   *Session
	written   chan error // gets one value
	tries     int        // to write, when it was queued
	abandoned *Result    // under mu: nobody waits for it any more, and with this it has ended
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
			a.tryAgain()
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

// tryAgain sees to it that there is something to try the stream with that failed.
func (a *Audit) tryAgain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 && !a.closed {
		a.queue = append(a.queue, &auditLine{text: resumedLine(time.Now()), resumed: true})
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
	a.failed = err != nil
	var again []*auditLine
	for _, line := range batch {
		n -= len(line.text)
		// All but the newline is a whole line too: the newline will come before whatever comes next.
		written := n >= -1
		switch {
		case line.resumed:
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
