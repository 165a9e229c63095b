package exchange

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// longAgo is a deadline that wakes whoever waits on a connection, as package net itself does it.
func longAgo() time.Time { return time.Unix(1, 0) }

// heldPatience is how long a caller may take over an event behind the end of its exchange, until the peer is let go.
const heldPatience = 100 * time.Millisecond

// wokenBy makes the end of ctx wake whatever waits on c, until the function that it returns is called. Who is handing an
// event to a caller that takes none does not wait on c: when that lasts, c is closed, and the peer is not held by it.
// handing may be nil: nobody does.
func wokenBy(ctx context.Context, c net.Conn, handing *atomic.Bool) (stop func()) {
	woken, over := make(chan struct{}), make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = c.SetDeadline(longAgo())
		for handing != nil {
			select {
			case <-over:
				return
			case <-time.After(heldPatience):
			}
			if handing.Load() {
				_ = c.Close()
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

// setReadDeadline sets the moment until which a read may wait; zero: for ever. The end of ctx wakes only once, so if that
// was a moment before, it is done again.
func setReadDeadline(ctx context.Context, c net.Conn, t time.Time) {
	_ = c.SetReadDeadline(t)
	if ctx.Err() != nil {
		_ = c.SetReadDeadline(longAgo())
	}
}
