package exchange

import (
	"context"
	"net"
	"time"
)

// longAgo is a deadline that wakes whoever waits on a connection, as package net itself does it.
func longAgo() time.Time { return time.Unix(1, 0) }

// heldPatience is how long a caller may take over an event behind the end of its exchange, until the peer is let go.
const heldPatience = 100 * time.Millisecond

// wokenBy makes the end of ctx wake whatever waits on c, until the function that it returns is called. Who is handing an
// event to a caller that takes none does not wait on c; letGo is called while that may last, until it says that c is closed.
// It may be nil: nobody does.
func wokenBy(ctx context.Context, c net.Conn, letGo func() bool) (stop func()) {
	woken, over := make(chan struct{}), make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = c.SetDeadline(longAgo())
		for letGo != nil {
			select {
			case <-over:
				return
			case <-time.After(heldPatience):
			}
			if letGo() {
				return
			}
		}
	})
	return func() {
		if !stopped() {
			close(over)
			<-woken
		}
	}
}

// letGo closes the connection if an event is being handed to the caller, so that the peer is not held by that.
func (s *session) letGo() bool {
	if !s.handing.Load() {
		return false
	}
	last := s.conn.facts()
	s.conn.last.Store(&last)
	_ = s.conn.Conn.Close()
	return true
}

// setReadDeadline sets the moment until which a read may wait; zero: for ever. The end of ctx wakes only once, so if that
// was a moment before, it is done again.
func setReadDeadline(ctx context.Context, c net.Conn, t time.Time) {
	_ = c.SetReadDeadline(t)
	if ctx.Err() != nil {
		_ = c.SetReadDeadline(longAgo())
	}
}
