package probetest

import (
	"context"
	"testing"

	probev1 "probed/gen/probe/v1"
)

// Session is one exchange as its caller sees it. Whatever is read of it has to keep the invariants.
type Session struct {
	Events

	p      *Probed
	t      testing.TB
	next   func() (*probev1.ExchangeResponse, error)
	cancel context.CancelFunc
	close  func() error
}

// Next reads an event. At the end the error is io.EOF when the outcome came, and a status when the exchange was not let
// or probed itself failed.
func (s *Session) Next() (*probev1.ExchangeResponse, error) {
	s.t.Helper()
	event, err := s.next()
	if err != nil {
		s.Close()
		s.End(s.t, err)
		return nil, err
	}
	s.Take(s.t, event)
	if event.GetOutcome() != nil {
		s.p.mu.Lock()
		s.p.outcomes++
		s.p.mu.Unlock()
	}
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
