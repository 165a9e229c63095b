package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"probed/service/dial"
)

// walk is one lookup on its way through the sources: the configuration as it
// was when the lookup began, the time left, and the trace.
type walk struct {
	r        *Resolver
	sys      *system
	ctx      context.Context
	start    time.Time
	deadline time.Time // zero: none
	trace    []Step
	queries  int // sent, repetitions included

	// A server that left one of two questions unanswered gets them one by one,
	// then each over a socket of its own, for the rest of this walk.
	oneByOne, reopen bool

	own []localAddress // see local
}

// local is the list of this machine's addresses, read once for each lookup.
func (w *walk) local() ([]localAddress, error) {
	if w.own == nil {
		own, err := localAddresses()
		if err != nil {
			return nil, err
		}
		w.own = own
	}
	return w.own, nil
}

// newWalk starts a lookup. The time is bounded by timeout, when it is above
// zero, and by ctx. The answer is due by then, so the last server is waited for
// a twentieth less: of many lookups that end at once, the last ones wait for a
// processor.
func (r *Resolver) newWalk(ctx context.Context, timeout time.Duration) *walk {
	w := &walk{r: r, ctx: ctx, start: time.Now(), sys: r.system()}
	if timeout > 0 {
		w.deadline = w.start.Add(timeout - timeout/20)
	}
	if d, ok := ctx.Deadline(); ok && (w.deadline.IsZero() || d.Before(w.deadline)) {
		w.deadline = d
	}
	return w
}

// told tells who observes lookups of one that has ended.
func (w *walk) told() {
	if w.r.config.Walked != nil {
		w.r.config.Walked(w.ctx, w.trace)
	}
}

// share is how long to wait for one try when more may have to follow: what
// resolv.conf says, but no more than an even share of the time left, so that a
// silent first server cannot use up the time of the second.
func (w *walk) share(wait time.Duration, tries int) time.Duration {
	if w.deadline.IsZero() {
		return wait
	}
	return min(wait, max(0, time.Until(w.deadline)/time.Duration(max(tries, 1))))
}

// over tells that the time is up or the caller has gone.
func (w *walk) over() bool {
	return w.ctx.Err() != nil || !w.deadline.IsZero() && !time.Now().Before(w.deadline)
}

// step begins a step of the trace and returns its position.
func (w *walk) step(s Step) int {
	w.trace = append(w.trace, s)
	return len(w.trace) - 1
}

// connection is one to a server.
type connection struct {
	net.Conn
	stop  func() bool // nil: there is nothing to stop
	woken sync.WaitGroup
}

// connect opens a connection to a server that ends by itself when the caller
// goes away.
func (w *walk) connect(open dialFunc, network string, server netip.AddrPort, wait time.Duration) (*connection, error) {
	ctx := w.ctx
	if network != "udp" || wait <= 0 { // to connect a UDP socket takes no time
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	conn, err := open(ctx, network, server)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn}
	if w.ctx.Done() != nil {
		c.woken.Add(1)
		c.stop = context.AfterFunc(w.ctx, c.wake)
	}
	return c, nil
}

// wake ends what waits for the server.
func (c *connection) wake() {
	defer c.woken.Done()
	c.SetDeadline(time.Unix(1, 0))
}

// release closes the connection and waits for all that connect started.
func (c *connection) release() {
	if c.stop != nil && !c.stop() {
		c.woken.Wait()
	}
	c.Close()
}

type dialFunc = func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

// reasonOf sorts the error of a connection.
func (w *walk) reasonOf(err error) Reason {
	var denied *dial.DeniedError
	var limit *dial.LimitError
	var tlsError *handshakeError
	switch {
	case w.ctx.Err() == context.Canceled:
		return Cancelled
	case errors.As(err, &denied):
		return Denied
	case errors.As(err, &limit):
		return Limited
	case isTimeout(err):
		return Timeout
	case errors.As(err, &tlsError):
		return HandshakeFailed
	}
	return Unreachable
}

// The values of h_errno (netdb.h), which the C library hands around.
type hostErrno int

const (
	netdbInternal hostErrno = -1
	netdbSuccess  hostErrno = 0
	hostNotFound  hostErrno = 1
	tryAgain      hostErrno = 2
	noRecovery    hostErrno = 3
	noData        hostErrno = 4
)

const errnoNone = syscall.Errno(0)
