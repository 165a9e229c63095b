package probetest

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// Events holds the events of one exchange, or conversation, to what is true of all of them whatever happens. This is the one
// place for that; what an engine's test can see beyond it stands in service/exchange.
//
// A [Session] and a [Witness] have one for each exchange they see. The zero value is ready, and knows the least.
type Events struct {
	// Peer is what the peer of this exchange alone saw, and its bytes are compared at the end; nil: it is not known.
	Peer *nettest.Tally
	// Data says that the peer sends nettest.Data, and each byte is looked at.
	Data bool

	Received uint64           // bytes in chunks so far
	Lost     uint64           // bytes that datagrams were cut by
	Closed   bool             // the peer has
	Outcome  *probev1.Outcome // nil: not there yet
	Err      error            // what it ended with beside an outcome, or in place of one

	most         int // bytes in a chunk; 0: it is not known
	halfClosed   bool
	conversation bool   // of which no event tells that something was sent
	said         uint64 // bytes in its frames

	events       int
	connected    bool
	secured      bool // by TLS: the peer sees other bytes
	sent, chunks uint64
	attempts     int
	sentAt       time.Duration // of what was sent, and of the end
	readAt       time.Duration // of chunks, which may have been read before what is told before them
	ended        bool
}

// Of says what was asked for, so that what depends on it is looked at too.
func (e *Events) Of(request *probev1.ExchangeRequest) {
	e.most = int(request.GetBufferSize())
	e.halfClosed = len(request.GetSteps()) == 0 && !request.GetHoldOpen() ||
		slices.ContainsFunc(request.GetSteps(), func(step *probev1.Step) bool { return step.GetHalfClose() != nil })
}

// Says tells of each frame of a conversation, before it is sent.
func (e *Events) Says(frame *probev1.ConverseRequest) {
	e.conversation = true
	e.said += uint64(len(frame.GetData()))
	e.halfClosed = e.halfClosed || frame.GetHalfClose() != nil
	if open := frame.GetOpen(); open != nil {
		e.most = int(open.GetBufferSize())
	}
}

// Take asserts what has to hold of each event, and at the outcome of all.
func (e *Events) Take(t testing.TB, event *probev1.ExchangeResponse) {
	t.Helper()
	if e.Outcome != nil || e.ended {
		t.Errorf("%T after the outcome or the end", event.GetEvent())
	}
	e.events++
	switch event := event.GetEvent().(type) {
	case *probev1.ExchangeResponse_Resolved:
		if e.events != 1 {
			t.Errorf("resolved is event %d", e.events)
		}
	case *probev1.ExchangeResponse_Attempt:
		if e.connected {
			t.Error("an attempt after it was connected")
		}
		e.attempts++
	case *probev1.ExchangeResponse_Connected:
		if e.connected || e.attempts == 0 {
			t.Errorf("connected after %d attempts, before: %v", e.attempts, e.connected)
		}
		e.connected = true
	case *probev1.ExchangeResponse_Tls:
		e.secured = true
		e.needsConnection(t, "TLS")
	case *probev1.ExchangeResponse_Sent:
		e.needsConnection(t, "sent")
		e.passed(t, event.Sent.GetElapsed().AsDuration())
		e.sent += event.Sent.GetBytes()
	case *probev1.ExchangeResponse_Chunk:
		e.chunk(t, event.Chunk)
	case *probev1.ExchangeResponse_PeerClosed:
		e.needsConnection(t, "the peer closed")
		e.passed(t, event.PeerClosed.GetElapsed().AsDuration())
		if e.Closed {
			t.Error("the peer closed twice")
		}
		e.Closed = true
	case *probev1.ExchangeResponse_Outcome:
		e.outcome(t, event.Outcome)
	default:
		t.Errorf("an event of no kind: %v", event)
	}
}

// End says how the stream of events ended: with io.EOF, and then the outcome has come, or with a status, when it was not let,
// when probed itself failed or when the caller went away. Only the first call counts.
func (e *Events) End(t testing.TB, err error) {
	t.Helper()
	switch {
	case e.ended:
	case !errors.Is(err, io.EOF):
		e.Err = err
	case e.Outcome == nil:
		t.Errorf("%d events, and no outcome", e.events)
	}
	e.ended = true
}

func (e *Events) needsConnection(t testing.TB, what string) {
	t.Helper()
	if !e.connected {
		t.Errorf("%s, and there was no connection", what)
	}
}

func (e *Events) passed(t testing.TB, at time.Duration) {
	t.Helper()
	if at < e.sentAt {
		t.Errorf("an event of %v after one of %v", at, e.sentAt)
	}
	e.sentAt = at
}

func (e *Events) chunk(t testing.TB, chunk *probev1.Chunk) {
	t.Helper()
	e.needsConnection(t, "a chunk")
	data, datagram := chunk.GetData(), chunk.GetDatagram()
	if e.Closed {
		t.Error("a chunk after the peer closed")
	}
	if chunk.GetOffset() != e.Received {
		t.Errorf("a chunk at offset %d, after %d bytes", chunk.GetOffset(), e.Received)
	}
	if len(data) == 0 && datagram == nil || e.most > 0 && len(data) > e.most {
		t.Errorf("a chunk of %d bytes, of a buffer of %d", len(data), e.most)
	}
	at := chunk.GetElapsed().AsDuration()
	if at < e.readAt {
		t.Errorf("a chunk of %v after one of %v", at, e.readAt)
	}
	e.readAt = at
	if e.Data {
		for i, b := range data {
			if want := byte((e.Received + uint64(i)) % dataPeriod); b != want {
				t.Errorf("byte %d is %d, want %d", e.Received+uint64(i), b, want)
				break
			}
		}
	}
	e.chunks++
	e.Received += uint64(len(data))
	if datagram != nil {
		if datagram.GetTruncated() != (datagram.GetLength() > uint64(len(data))) {
			t.Errorf("datagram %v, of which %d bytes came", datagram, len(data))
		}
		e.Lost += datagram.GetLength() - uint64(len(data))
	}
}

// dataPeriod is that of nettest.Data.
const dataPeriod = 251

// outcome asserts that what is told at the end is what was told before.
func (e *Events) outcome(t testing.TB, o *probev1.Outcome) {
	t.Helper()
	e.Outcome = o
	checkOutcome(t, o)
	if o.GetReason() == probev1.Reason_REASON_CANCELLED {
		return // the caller went away, or was sent away, and need not have been told of all
	}
	if o.GetBytesReceived() != e.Received || o.GetChunks() != e.chunks {
		t.Errorf("%d bytes in %d chunks came; outcome: %d in %d", e.Received, e.chunks, o.GetBytesReceived(), o.GetChunks())
	}
	switch sent := o.GetBytesSent(); {
	case e.conversation && (sent > e.said || e.sent > 0):
		t.Errorf("said: %d bytes; sent events: %d; outcome: %d", e.said, e.sent, sent)
	case !e.conversation && (sent < e.sent || sent != e.sent && o.GetPhase() != probev1.Phase_PHASE_SEND):
		t.Errorf("sent events: %d bytes; outcome: %d in %v", e.sent, sent, o.GetPhase())
	}
	if e.attempts != len(o.GetAttempts()) {
		t.Errorf("%d attempts were told, outcome: %d", e.attempts, len(o.GetAttempts()))
	}
	if e.connected != (o.GetRemote() != "") {
		t.Errorf("connected: %v, remote %q", e.connected, o.GetRemote())
	}
	if total := o.GetTimings().GetTotal().AsDuration(); total < e.sentAt || total < e.readAt {
		t.Errorf("an event of %v, or %v, in %v", e.sentAt, e.readAt, total)
	}
	if e.Peer != nil && !e.secured {
		e.peer(t, o)
	}
}

// peer compares with what the peer saw.
func (e *Events) peer(t testing.TB, o *probev1.Outcome) {
	t.Helper()
	sent := int64(o.GetBytesSent())
	if got := e.Peer.Received.Load(); got > sent {
		t.Errorf("the peer received %d bytes of %d sent", got, sent)
	}
	if !e.Closed {
		return
	}
	if came, want := int64(e.Received+e.Lost+o.GetBytesUnread()), e.Peer.Sent.Load(); came != want {
		t.Errorf("the peer sent %d bytes, %d came", want, came)
	}
	if !o.GetOk() || !e.halfClosed {
		return
	}
	// The peer may have closed its side first and be reading still.
	for deadline := time.Now().Add(5 * time.Second); e.Peer.Received.Load() < sent && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if got := e.Peer.Received.Load(); got != sent {
		t.Errorf("the peer received %d bytes of %d sent", got, sent)
	}
}

// checkOutcome asserts what is true of any outcome, that of a Connect too.
func checkOutcome(t testing.TB, o *probev1.Outcome) {
	t.Helper()
	reason, ok := o.GetReason(), o.GetOk()
	if probev1.Reason_name[int32(reason)] == "" || probev1.Phase_name[int32(o.GetPhase())] == "" ||
		probev1.Layer_name[int32(o.GetLayer())] == "" || probev1.EndedBy_name[int32(o.GetEndedBy())] == "" {
		t.Errorf("reason %d, phase %d, layer %d, ended by %d: not all are of the lists", reason, o.GetPhase(), o.GetLayer(), o.GetEndedBy())
	}
	if ok != (reason == probev1.Reason_REASON_UNSPECIFIED) || ok != (o.GetError() == "") || ok != (o.GetHint() == "") ||
		ok && o.GetLayer() != probev1.Layer_LAYER_UNSPECIFIED {
		t.Errorf("ok %v, reason %v in %v, error %q, hint %q", ok, reason, o.GetLayer(), o.GetError(), o.GetHint())
	}
	if o.GetPhase() == probev1.Phase_PHASE_UNSPECIFIED || ok != (o.GetPhase() == probev1.Phase_PHASE_CLOSE) {
		t.Errorf("ok %v in %v", ok, o.GetPhase())
	}
	if by := o.GetEndedBy(); ok == (by == probev1.EndedBy_ENDED_BY_UNSPECIFIED || by == probev1.EndedBy_ENDED_BY_DEADLINE) {
		t.Errorf("ok %v, %v", ok, by)
	}
	if reason == probev1.Reason_REASON_INTERNAL {
		t.Errorf("INTERNAL, which is a bug: %s", o.GetError())
	}
	if ok && (o.FailedStep != nil || o.GetErrno() != 0) {
		t.Errorf("ok, and step %d failed with errno %d", o.GetFailedStep(), o.GetErrno())
	}
	if o.GetBytesAcknowledged() > o.GetBytesSent() {
		t.Errorf("%d bytes acknowledged of %d", o.GetBytesAcknowledged(), o.GetBytesSent())
	}
	total := o.GetTimings().GetTotal().AsDuration()
	if total <= 0 {
		t.Errorf("it took %v", total)
	}
	for _, a := range o.GetAttempts() {
		if a.GetOk() != (a.GetReason() == probev1.Reason_REASON_UNSPECIFIED) || a.GetOk() != (a.GetError() == "") || a.GetAddress() == "" ||
			a.GetReason() == probev1.Reason_REASON_INTERNAL || a.GetStart().AsDuration()+a.GetDuration().AsDuration() > total {
			t.Errorf("in %v, attempt %v", total, a)
		}
	}
}
