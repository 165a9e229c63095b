package exchange

import (
	"context"
	"net"
	"time"
)

// longAgo is a deadline that wakes whoever waits on a connection, as package net itself does it.
func longAgo() time.Time { return time.Unix(1, 0) }

// heldPatience is how long a connection stays open behind its exchange's end. Whoever uses it notices at once, but may be
// handing an event to a caller that takes none, and the peer is not to be held by that.
const heldPatience = 100 * time.Millisecond

// wokenBy makes the end of ctx wake whatever waits on c, and soon after that close it, until the function that it returns is
// called.
func wokenBy(ctx context.Context, c net.Conn) (stop func()) {
	woken := make(chan struct{})
	var held *time.Timer
	stopped := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = c.SetDeadline(longAgo())
		held = time.AfterFunc(heldPatience, func() { _ = c.Close() })
	})
	return func() {
		if !stopped() {
			<-woken
			held.Stop()
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
