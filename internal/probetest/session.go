package probetest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	probev1 "probed/gen/probe/v1"
)

// Session is one exchange as its caller sees it. Whatever is read of it has to keep the invariants.
type Session struct {
	// Data says that the peer sends nettest.Data, and each byte is looked at.
	Data bool

	Received uint64           // bytes in chunks so far
	Lost     uint64           // bytes that datagrams were cut by
	Closed   bool             // the peer has
	Outcome  *probev1.Outcome // nil: not there yet
	Err      error            // what it ended with in place of an outcome

	p      *Probed
	t      testing.TB
	next   func() (*probev1.ExchangeResponse, error)
	cancel context.CancelFunc
	close  func() error

	sent, chunks uint64
	attempts     int
	connected    bool
	elapsed      time.Duration
	ended        bool
}

// Next reads an event. At the end the error is io.EOF when the outcome came, and a status when the exchange was not let
// or probed itself failed.
func (s *Session) Next() (*probev1.ExchangeResponse, error) {
	s.t.Helper()
	event, err := s.next()
	if err != nil {
		s.Close()
		if s.ended {
			return nil, err
		}
		s.ended = true
		switch {
		case errors.Is(err, io.EOF) && s.Outcome == nil:
			s.t.Error("the events ended without an outcome")
		case !errors.Is(err, io.EOF):
			s.Err = err
		}
		return nil, err
	}
	s.take(event)
	return event, nil
}

// Rest reads to the end and returns the outcome; nil when there is none, and then Err says why.
func (s *Session) Rest() *probev1.Outcome {
	s.t.Helper()
	for {
		if _, err := s.Next(); err != nil {
			return s.Outcome
		}
	}
}

// Until reads up to the first event that f wants; nil when there is none.
func (s *Session) Until(f func(*probev1.ExchangeResponse) bool) *probev1.ExchangeResponse {
	s.t.Helper()
	for {
		event, err := s.Next()
		if err != nil {
			return nil
		}
		if f(event) {
			return event
		}
	}
}

// UntilChunk reads up to the first chunk.
func (s *Session) UntilChunk() *probev1.Chunk {
	s.t.Helper()
	return s.Until(func(e *probev1.ExchangeResponse) bool { return e.GetChunk() != nil }).GetChunk()
}

// UntilConnected reads until there is a connection.
func (s *Session) UntilConnected() *probev1.Connected {
	s.t.Helper()
	return s.Until(func(e *probev1.ExchangeResponse) bool { return e.GetConnected() != nil }).GetConnected()
}

// Close goes away, as a caller may at any time.
func (s *Session) Close() {
	s.cancel()
	if s.close != nil {
		_ = s.close() // the answer was cut off on purpose, or read to its end
	}
}

// take asserts what has to hold of each event, and at the outcome of all.
func (s *Session) take(event *probev1.ExchangeResponse) {
	s.t.Helper()
	if s.Outcome != nil {
		s.t.Errorf("%T after the outcome", event.GetEvent())
	}
	switch e := event.GetEvent().(type) {
	case *probev1.ExchangeResponse_Resolved:
	case *probev1.ExchangeResponse_Attempt:
		s.attempts++
	case *probev1.ExchangeResponse_Connected:
		if s.connected {
			s.t.Error("connected twice")
		}
		s.connected = true
	case *probev1.ExchangeResponse_Tls:
	case *probev1.ExchangeResponse_Sent:
		s.sent += e.Sent.GetBytes()
	case *probev1.ExchangeResponse_Chunk:
		s.chunk(e.Chunk)
	case *probev1.ExchangeResponse_PeerClosed:
		if s.Closed {
			s.t.Error("the peer closed twice")
		}
		s.Closed = true
	case *probev1.ExchangeResponse_Outcome:
		s.outcome(e.Outcome)
	default:
		s.t.Errorf("an event of no kind: %v", event)
	}
}

func (s *Session) chunk(chunk *probev1.Chunk) {
	s.t.Helper()
	if !s.connected || s.Closed {
		s.t.Errorf("a chunk, connected: %v, closed: %v", s.connected, s.Closed)
	}
	if chunk.GetOffset() != s.Received {
		s.t.Errorf("a chunk at offset %d, after %d bytes", chunk.GetOffset(), s.Received)
	}
	if at := chunk.GetElapsed().AsDuration(); at < s.elapsed {
		s.t.Errorf("a chunk of %v after one of %v", at, s.elapsed)
	} else {
		s.elapsed = at
	}
	if s.Data {
		for i, b := range chunk.GetData() {
			if want := byte((s.Received + uint64(i)) % dataPeriod); b != want {
				s.t.Errorf("byte %d is %d, want %d", s.Received+uint64(i), b, want)
				break
			}
		}
	}
	s.chunks++
	s.Received += uint64(len(chunk.GetData()))
	if d := chunk.GetDatagram(); d != nil {
		s.Lost += d.GetLength() - uint64(len(chunk.GetData()))
	}
}

// dataPeriod is that of nettest.Data.
const dataPeriod = 251

func (s *Session) outcome(o *probev1.Outcome) {
	s.t.Helper()
	s.Outcome = o
	s.p.mu.Lock()
	s.p.outcomes++
	s.p.mu.Unlock()
	reason := o.GetReason()
	if _, known := probev1.Reason_name[int32(reason)]; !known {
		s.t.Errorf("reason %d is not of the list", reason)
	}
	if o.GetOk() != (reason == probev1.Reason_REASON_UNSPECIFIED) || o.GetOk() != (o.GetError() == "") || o.GetOk() != (o.GetHint() == "") {
		s.t.Errorf("ok %v, reason %v, error %q, hint %q", o.GetOk(), reason, o.GetError(), o.GetHint())
	}
	if o.GetOk() != (o.GetPhase() == probev1.Phase_PHASE_CLOSE) {
		s.t.Errorf("ok %v in %v", o.GetOk(), o.GetPhase())
	}
	if reason == probev1.Reason_REASON_INTERNAL {
		s.t.Errorf("INTERNAL, which is a bug: %s", o.GetError())
	}
	if o.GetBytesReceived() != s.Received || o.GetChunks() != s.chunks {
		s.t.Errorf("%d bytes in %d chunks came; outcome: %d in %d", s.Received, s.chunks, o.GetBytesReceived(), o.GetChunks())
	}
	if o.GetBytesSent() < s.sent || o.GetBytesSent() != s.sent && o.GetPhase() != probev1.Phase_PHASE_SEND {
		s.t.Errorf("sent events: %d bytes; outcome: %d", s.sent, o.GetBytesSent())
	}
	if o.GetBytesAcknowledged() > o.GetBytesSent() {
		s.t.Errorf("%d bytes acknowledged of %d", o.GetBytesAcknowledged(), o.GetBytesSent())
	}
	if s.attempts != len(o.GetAttempts()) {
		s.t.Errorf("%d attempts were told, outcome: %d", s.attempts, len(o.GetAttempts()))
	}
	if s.connected != (o.GetRemote() != "") {
		s.t.Errorf("connected: %v, remote %q", s.connected, o.GetRemote())
	}
}

// Wants asserts how it ended.
func (s *Session) Wants(reason probev1.Reason) {
	s.t.Helper()
	switch {
	case s.Outcome == nil:
		s.t.Errorf("no outcome, but %v; want %v", s.Err, reason)
	case s.Outcome.GetReason() != reason:
		s.t.Errorf("%v in %v, want %v: %s", s.Outcome.GetReason(), s.Outcome.GetPhase(), reason, s.Outcome.GetError())
	}
}
