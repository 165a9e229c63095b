package exchange

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/dial"
)

// trial is one exchange of a test. Every exchange in these tests goes through its run, which asserts what holds for all
// of them, whatever happens.
type trial struct {
	config    Config          // without Dial all is admitted; without Resolve there are no names
	exchanger *Exchanger      // in place of config, for exchanges that share one; its hooks are not checked
	ctx       context.Context // nil: the test's
	request   Request
	peer      *nettest.Tally    // what the peer saw; nil: not checked
	hook      func(Event) error // called with each event after it was recorded
	deaf      bool              // Run gets no emit
}

// record is what a trial told.
type record struct {
	*trial
	*Outcome
	events  []Event  // chunks among them have data of their own
	data    []byte   // of all chunks
	lost    int      // bytes that chunks declare truncated
	refused int      // index of the event that the hook did not take; -1: none
	ended   []string // schemes, as SessionEnd told them
	begun   []string
	took    time.Duration
	closed  bool // the PeerClosed event came

	mu             sync.Mutex
	conns          []net.Conn
	dialled        []Reason
	open           int // parts that have begun and not ended
	parts          []string
	faults         []Reason // that parts ended with
	sent, received int
	endOutcome     *Outcome
	lender         *buffers // of the trial's own exchanger
}

func (x trial) run(t testing.TB) *record {
	t.Helper()
	r := &record{trial: &x, refused: -1}
	exchanger := x.exchanger
	if exchanger == nil {
		config := x.config
		if config.Dial == nil {
			config.Dial = dialer(admitAll)
		}
		if config.Resolve == nil {
			config.Resolve = hosts(t)
		}
		config.Dial = r.watch(config.Dial)
		config.Hooks = r.hooks()
		exchanger = New(config)
		r.lender = &exchanger.buffers
	}
	ctx := x.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	var busy atomic.Bool
	emit := func(event Event) error {
		if busy.Swap(true) {
			t.Error("an event came while another one was being handed over")
		}
		defer busy.Store(false)
		return r.take(t, event)
	}
	if x.deaf {
		emit = nil
	}
	begin := time.Now()
	r.Outcome = exchanger.Run(ctx, x.request, emit)
	r.took = time.Since(begin)
	r.check(t)
	return r
}

// watch keeps what dial opens.
func (r *record) watch(open dialFunc) dialFunc {
	return func(ctx context.Context, request dial.Request) (net.Conn, error) {
		c, err := open(ctx, request)
		if err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.conns = append(r.conns, c)
		}
		return c, err
	}
}

// mostRecorded bounds what a trial keeps of a peer that never stops: an exchange that forgets when to end fails its test,
// and not the machine.
const mostRecorded = 128 << 20

var errTooMuch = errors.New("more came than the test keeps")

// sip is a hook that takes a flood slowly, once some of it has come, so that a trial can keep what comes until a deadline.
func sip(event Event) error {
	if chunk, ok := event.(Chunk); ok && chunk.Offset > mostRecorded/4 {
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // is slow on purpose
	}
	return nil
}

// take records an event.
func (r *record) take(t testing.TB, event Event) error {
	if chunk, ok := event.(Chunk); ok {
		if len(r.data) > mostRecorded {
			t.Errorf("more than %d bytes came, and the exchange goes on", mostRecorded)
			return errTooMuch
		}
		lent := chunk.Data
		chunk.Data = bytes.Clone(lent)
		event = chunk
		defer func() {
			if !bytes.Equal(lent, chunk.Data) {
				t.Error("the data of a chunk changed while it was being handed over")
			}
		}()
	}
	r.events = append(r.events, event)
	if r.hook != nil {
		if err := r.hook(event); err != nil {
			r.refused = len(r.events) - 1
			return err
		}
	}
	switch event := event.(type) {
	case Chunk:
		r.data = append(r.data, event.Data...)
		if event.Datagram != nil {
			r.lost += event.Datagram.Length - len(event.Data)
		}
	case PeerClosed:
		r.closed = true
	}
	return nil
}

func (r *record) hooks() *Hooks {
	return &Hooks{
		SessionStart: func(scheme string) { r.begun = append(r.begun, scheme) },
		SessionEnd: func(scheme string, outcome *Outcome) {
			r.ended = append(r.ended, scheme)
			r.endOutcome = outcome
		},
		Dialled: func(_ context.Context, _ string, reason Reason, _ time.Duration) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.dialled = append(r.dialled, reason)
		},
		Sent:     func(_ string, n int) { r.sent += n },
		Received: func(_ string, n int) { r.received += n },
		Begin: func(ctx context.Context, part Part) (context.Context, func(PartEnd)) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.open++
			r.parts = append(r.parts, part.Name)
			return ctx, func(end PartEnd) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.open--
				if end.Reason != None {
					r.faults = append(r.faults, end.Reason)
				}
			}
		},
	}
}

// check asserts the invariants.
func (r *record) check(t testing.TB) {
	t.Helper()
	o := r.Outcome
	check := func(ok bool, format string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf(format, args...)
		}
	}
	r.checkOutcome(check)
	if r.exchanger == nil {
		check(r.lender.out.Load() == 0, "%d bytes of buffers were not given back", r.lender.out.Load())
		for _, c := range r.conns {
			check(errors.Is(c.SetDeadline(time.Time{}), net.ErrClosed), "the connection to %s is open still", c.RemoteAddr())
		}
		scheme := []string{r.request.Target.Scheme}
		check(slices.Equal(r.begun, scheme), "SessionStart was called with %q", r.begun)
		check(slices.Equal(r.ended, scheme) && r.endOutcome == o, "SessionEnd was called with %q, %p of %p", r.ended, r.endOutcome, o)
		check(r.sent == int(o.BytesSent), "hooks: %d bytes sent, outcome: %d", r.sent, o.BytesSent)
		check(r.received == int(o.BytesReceived), "hooks: %d bytes received, outcome: %d", r.received, o.BytesReceived)
		check(r.open == 0, "%d of the parts %v have not ended", r.open, r.parts)
		// What the caller or the service has ended may have been in no part, and what has failed to begin has none.
		none := o.Phase == PhaseConnect && len(r.dialled) == 0
		if stopped := o.Reason == Cancelled || o.Reason == Drained; !o.OK && !stopped && !none && len(r.parts) > 0 {
			check(slices.Contains(r.faults, o.Reason), "reason %v, and the parts %v ended with %v", o.Reason, r.parts, r.faults)
		}
		var reasons []Reason
		for _, attempt := range o.Attempts {
			reasons = append(reasons, attempt.Reason)
		}
		slices.Sort(reasons)
		slices.Sort(r.dialled)
		check(o.Attempts == nil || slices.Equal(r.dialled, reasons), "hooks: dialled %v, outcome: %v", r.dialled, reasons)
	}
	if r.deaf {
		return
	}
	check(o.Limit == nil || o.Reason == LimitReached && o.Phase == PhasePolicy, "limit %v, reason %v in phase %d", o.Limit, o.Reason, o.Phase)
	if o.Denied || o.Limit != nil {
		check(len(r.events) == 0, "not admitted, and yet told: %v", r.events)
		return
	}
	r.checkEvents(check)
	if r.peer != nil {
		r.checkPeer(check)
	}
}

func (r *record) checkOutcome(check func(bool, string, ...any)) {
	o := r.Outcome
	failed := o.Reason != None
	check(o.Reason >= None && int(o.Reason) < len(reasons), "reason %d is not of the list", int(o.Reason))
	check(o.OK != failed, "ok %v with reason %v", o.OK, o.Reason)
	check((o.Error != "") == failed && (o.Hint != "") == failed, "reason %v with error %q and hint %q", o.Reason, o.Error, o.Hint)
	check(o.Layer == o.Reason.layer() || r.request.Target.IsUnix() && o.Layer == LayerTransport || o.ICMP != nil && o.Layer == LayerLink ||
		o.Hint == hintUnheard && o.Layer == LayerTransport || r.request.Target.IsICMP() && o.Layer == LayerInternet,
		"reason %v in layer %v", o.Reason, o.Layer)
	check(o.Phase > PhaseNone && o.Phase <= PhaseClose, "phase %d is not of the list", o.Phase)
	check((o.Phase == PhaseClose) == o.OK, "ok %v in phase %d", o.OK, o.Phase)
	check(o.EndedBy >= EndedByNone && o.EndedBy <= EndedByLastStep, "ended by %d, which is not of the list", o.EndedBy)
	check((o.EndedBy != EndedByNone && o.EndedBy != EndedByDeadline) == o.OK, "ok %v, ended by %d", o.OK, o.EndedBy)
	check(o.Reason != Internal, "INTERNAL, which is a bug: %s", o.Error)
	check(o.FailedStep == NoStep || failed && o.FailedStep < len(r.request.Steps), "failed step %d, ok %v", o.FailedStep, o.OK)
	check(o.Errno == 0 || failed && ErrnoName(o.Errno) != "", "errno %d with reason %v", o.Errno, o.Reason)
	check((o.Remote != "") == (o.Socket != Socket{}), "remote %q of socket %v", o.Remote, o.Socket)
	check((o.Remote != "") == (o.SocketOptions != nil), "remote %q with options %+v", o.Remote, o.SocketOptions)
	check(o.ICMP == nil || failed && o.Errno != 0, "reason %v, errno %d, by %+v", o.Reason, o.Errno, o.ICMP)
	check(o.Route == nil || !r.request.Target.IsUnix() && o.Route.Source.IsValid() && o.Route.Interface != "" && o.Route.MTU > 0, "route %+v", o.Route)
	tcp := strings.HasPrefix(r.request.Target.network(), "tcp") && o.Remote != ""
	check((o.BytesAcknowledged != nil) == tcp && (o.TCPInfo != nil) == tcp, "TCP facts of %s: acknowledged %v, info %v",
		r.request.Target, o.BytesAcknowledged, o.TCPInfo)
	if o.BytesAcknowledged != nil {
		check(*o.BytesAcknowledged <= o.BytesSent, "%d bytes acknowledged of %d", *o.BytesAcknowledged, o.BytesSent)
	}
	tm := o.Timings
	check(tm.Total > 0 && tm.Total <= r.took, "total time %v of %v", tm.Total, r.took)
	check(tm.Resolve+tm.Connect+tm.FirstByte <= tm.Total, "timings %+v", tm)
	check((tm.FirstByte > 0) == (o.Chunks > 0) || r.refused >= 0, "first byte after %v, %d chunks", tm.FirstByte, o.Chunks)
	connected := false
	for _, a := range o.Attempts {
		check(a.OK == (a.Reason == None), "attempt %+v", a)
		check(a.OK == (a.Error == ""), "attempt %+v", a)
		check(a.Reason != Internal, "attempt: INTERNAL, which is a bug: %s", a.Error)
		check(a.Address != "" && a.Start+a.Duration <= tm.Total, "attempt %+v in %v", a, tm.Total)
		connected = connected || a.OK
	}
	check(o.Remote == "" || connected, "connected to %q without an attempt: %v", o.Remote, o.Attempts)
}

func (r *record) checkEvents(check func(bool, string, ...any)) {
	o := r.Outcome
	var attempts, told []Attempt
	var order, chunks, sentSteps int
	var offset uint64
	var elapsed, read time.Duration
	closed, sent := false, 0
	most := MaxBufferSize
	if r.request.BufferSize > 0 {
		most = r.request.BufferSize
	}
	next := func(kind int) {
		check(order <= kind, "events out of order: %v", r.events)
		order = kind
	}
	passed := func(at time.Duration) {
		check(elapsed <= at, "an event of %v after one of %v", at, elapsed)
		elapsed = at
	}
	for i, event := range r.events {
		last := i == len(r.events)-1
		check(r.refused < 0 || i <= r.refused || last, "event %d, %T, after the caller had gone with event %d", i, event, r.refused)
		taken := i != r.refused
		switch event := event.(type) {
		case Resolved:
			check(i == 0, "resolved is event %d", i)
		case Attempt:
			next(1)
			attempts = append(attempts, event)
		case Connected:
			next(2)
			check(event == Connected{o.Local, o.Remote, o.Socket}, "connected %+v, outcome %+v", event, o)
			order = 3 // only once
		case Sent:
			next(3)
			passed(event.Elapsed)
			check(event.Step >= sentSteps, "sent by step %d after %d", event.Step, sentSteps)
			step, ok := r.request.Steps[event.Step].(Send)
			check(ok && (step.Expand || len(step.Data) == event.Bytes), "sent %d bytes by step %d, which is %T", event.Bytes, event.Step, r.request.Steps[event.Step])
			sentSteps = event.Step + 1
			sent += event.Bytes
		case Chunk:
			next(3) // it may have been read before what was told before it
			check(read <= event.Elapsed && event.Elapsed <= o.Timings.Total, "a chunk of %v after one of %v", event.Elapsed, read)
			read = event.Elapsed
			check(!closed, "a chunk after the peer closed")
			check(event.Offset == offset, "a chunk at offset %d, after %d bytes", event.Offset, offset)
			check(len(event.Data) <= most, "a chunk of %d bytes, with buffer size %d", len(event.Data), r.request.BufferSize)
			check(len(event.Data) > 0 || event.Datagram != nil, "an empty chunk")
			check((event.Datagram != nil) == r.request.Target.HasMessages(), "%s and datagram %v", r.request.Target, event.Datagram)
			if d := event.Datagram; d != nil {
				check(d.Truncated == (d.Length > len(event.Data)), "datagram %+v of which %d bytes came", d, len(event.Data))
			}
			if taken {
				offset += uint64(len(event.Data))
				chunks++
			}
		case PeerClosed:
			next(3)
			passed(event.Elapsed)
			check(!closed, "the peer closed twice")
			closed = true
		case *Outcome:
			check(last, "event %d of %d is the outcome", i, len(r.events))
			check(event == o, "the outcome told is not the one returned")
			next(4)
			passed(event.Timings.Total)
		}
	}
	check(order == 4, "no outcome: %v", r.events)
	check(chunks == int(o.Chunks), "%d chunks, outcome: %d", chunks, o.Chunks)
	check(offset == o.BytesReceived && int(offset) == len(r.data), "%d bytes in chunks, outcome: %d", offset, o.BytesReceived)
	check(sent == int(o.BytesSent) || sent < int(o.BytesSent) && o.Phase == PhaseSend, "sent events: %d bytes, outcome: %d", sent, o.BytesSent)
	check(len(r.events) == 1 || r.request.Target.IsUnix() || firstResolved(r.events), "first event %T", r.events[0])
	if r.refused < 0 {
		byStart := func(a, b Attempt) int { return int(a.Start - b.Start) }
		told = slices.SortedFunc(slices.Values(o.Attempts), byStart)
		slices.SortFunc(attempts, byStart)
		check(slices.Equal(attempts, told), "attempts told: %v\noutcome: %v", attempts, told)
	}
}

func firstResolved(events []Event) bool {
	_, ok := events[0].(Resolved)
	return ok
}

// checkPeer compares with what the peer saw.
func (r *record) checkPeer(check func(bool, string, ...any)) {
	o := r.Outcome
	check(r.peer.Received.Load() <= int64(o.BytesSent), "the peer received %d bytes of %d sent", r.peer.Received.Load(), o.BytesSent)
	if !r.closed {
		return
	}
	came := int64(o.BytesReceived) + int64(r.lost) + int64(o.BytesUnread)
	check(r.peer.Sent.Load() == came, "the peer sent %d bytes, %d came", r.peer.Sent.Load(), came)
	halfClosed := slices.ContainsFunc(r.request.Steps, func(step Step) bool { _, ok := step.(HalfClose); return ok })
	if !o.OK || !halfClosed {
		return
	}
	// The peer may have closed its side first and be reading still.
	for deadline := time.Now().Add(5 * time.Second); r.peer.Received.Load() < int64(o.BytesSent) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) //nolint:forbidigo // asks again until the deadline above
	}
	check(r.peer.Received.Load() == int64(o.BytesSent), "the peer received %d bytes of %d sent", r.peer.Received.Load(), o.BytesSent)
}

// wants asserts how the exchange ended.
func (r *record) wants(t testing.TB, phase Phase, reason Reason, by EndedBy) {
	t.Helper()
	if r.Phase != phase || r.Reason != reason || r.EndedBy != by {
		t.Errorf("phase %d, %v, ended by %d; want %d, %v, %d\n%s", r.Phase, r.Reason, r.EndedBy, phase, reason, by, r.Error)
	}
}

// got asserts the bytes that came.
func (r *record) got(t testing.TB, want []byte) {
	t.Helper()
	if bytes.Equal(r.data, want) {
		return
	}
	if len(r.data)+len(want) < 200 {
		t.Errorf("received %q, want %q", r.data, want)
		return
	}
	i := 0
	for i < min(len(r.data), len(want)) && r.data[i] == want[i] {
		i++
	}
	t.Errorf("received %d bytes, want %d; they differ from byte %d on", len(r.data), len(want), i)
}

type dialFunc = func(ctx context.Context, request dial.Request) (net.Conn, error)
