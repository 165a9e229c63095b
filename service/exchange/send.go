package exchange

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	// sendPatience is how long a send may be stuck before what the peer says is read beside it. Two ends that both
	// send and do not read would wait for each other for ever (an echo server does, once the buffers between are
	// full).
	sendPatience = 20 * time.Millisecond
	// mostPending bounds what is kept of what the peer says meanwhile, give or take one piece. It is as much as one
	// message of a request can carry, so that an echo of it has room.
	mostPending = 1 << 20
	// pieceOverhead is what a piece takes beside its bytes.
	pieceOverhead = 128
	// lastWordsPatience bounds the wait for what a peer said before it closed for good. It has come already by then,
	// so this is a bound that nothing should meet.
	lastWordsPatience = 100 * time.Millisecond
)

// send hands data to the kernel, all of it.
func (s *session) send(step int, data []byte) *failure {
	data, beyond := s.conn.sendable(data)
	if len(data) == 0 && beyond != nil {
		return s.ioFailure(PhaseSend, beyond)
	}
	s.noteSent(data)
	n, err := s.conn.tryWrite(data)
	s.sent(n)
	if errors.Is(err, syscall.EAGAIN) {
		n, err = s.sendReading(data[n:])
		s.sent(n)
	}
	if err == nil {
		err = beyond
	}
	if err != nil {
		return s.ioFailure(PhaseSend, s.lastWords(err))
	}
	if s.emit(Sent{Step: step, Bytes: len(data), Elapsed: s.elapsed()}) != nil {
		return s.cancelled(PhaseSend)
	}
	return nil
}

func (s *session) sent(n int) {
	s.outcome.BytesSent += uint64(n)
	if hook := s.config.Hooks.Sent; hook != nil && n > 0 {
		hook(s.request.Target.Scheme, n)
	}
}

// sendReading writes data that the kernel has no room for yet, and, when that takes long, keeps what the peer says
// meanwhile for the steps that follow.
func (s *session) sendReading(data []byte) (n int, err error) {
	done := make(chan struct{})
	var crash crash
	go func() {
		defer close(done)
		defer crash.catch()
		n, err = s.conn.Write(data)
	}()
	defer crash.again()
	timer := time.NewTimer(sendPatience)
	defer timer.Stop()
	select {
	case <-done:
		return n, err
	case <-timer.C:
	}
	// The writer wakes the reader when it has finished. A deadline that a step before has left would do so at once.
	_ = s.conn.SetReadDeadline(time.Time{})
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		<-done
		_ = s.conn.SetReadDeadline(longAgo())
	}()
	for s.readAhead() {
	}
	<-watch
	_ = s.conn.SetReadDeadline(time.Time{})
	return n, err
}

// readAhead reads one piece and keeps it; false: no more can be read or kept now.
func (s *session) readAhead() bool {
	kept := 0
	for _, piece := range s.pending {
		kept += len(piece.data) + pieceOverhead
	}
	if s.eof || s.readErr != nil || kept >= mostPending {
		return false
	}
	piece, err := s.conn.read(s.request.BufferSize, 0)
	switch {
	case err == nil:
		piece.elapsed = s.elapsed()
		s.keep(piece)
		return true
	case errors.Is(err, io.EOF):
		s.eof = true
	case !errors.Is(err, os.ErrDeadlineExceeded):
		// The kernel tells an error once; the next read would find an orderly end.
		s.readErr = err
		if isLimit(err) { // to send on would be in vain
			_ = s.conn.SetWriteDeadline(longAgo())
		}
	}
	return false
}

// keep stores a piece for the steps that follow. It is copied, and on a stream put together with the one before: a peer
// that sends byte by byte would otherwise take a buffer for each.
func (s *session) keep(p piece) {
	defer p.done()
	if n := len(s.pending); n > 0 && p.datagram == nil && len(s.pending[n-1].data)+len(p.data) <= maxChunk {
		last := &s.pending[n-1]
		last.data = append(last.data, p.data...)
		return
	}
	s.pending = append(s.pending, piece{data: bytes.Clone(p.data), elapsed: p.elapsed, datagram: p.datagram})
}

// lastWords hands on what the peer said before it closed for good: why it did is often in there. It returns why writing
// failed: a reset that was found by reading is told to the writer as a mere EPIPE, or to shutdown(2) as ENOTCONN.
func (s *session) lastWords(err error) error {
	reset := isErrno(err, syscall.ECONNRESET)
	closed := isErrno(err, syscall.EPIPE) || isErrno(err, syscall.ENOTCONN)
	limited := isLimit(s.readErr)
	if !limited && (s.request.Target.IsDatagram() || s.ctx.Err() != nil || !reset && !closed) {
		return err
	}
	for len(s.pending) > 0 {
		if s.chunk(s.take(0)) != nil {
			return err
		}
	}
	if limited {
		return s.readErr
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(lastWordsPatience))
	for s.readErr == nil {
		piece, readErr := s.conn.read(s.request.BufferSize, 0)
		if readErr != nil {
			s.readErr = readErr
			break
		}
		piece.elapsed = s.elapsed()
		if s.chunk(piece) != nil {
			return err
		}
	}
	var errno syscall.Errno
	if closed && errors.As(s.readErr, &errno) {
		return s.readErr
	}
	return err
}

// awaitRead sets the moment until which a read may wait, and tells when the exchange itself is at its end.
func (s *session) awaitRead(idle time.Duration) error {
	var until time.Time
	if idle > 0 {
		until = time.Now().Add(idle)
	}
	if err := s.conn.SetReadDeadline(until); err != nil {
		return err
	}
	// The end of the context sets a deadline too, once; if it did so before the line above, it shows here.
	if s.ctx.Err() != nil {
		return os.ErrDeadlineExceeded
	}
	return nil
}
