package resolve

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// sendUDP asks one server over UDP. All questions go out at once, over one
// socket, unless the configuration or the server's silence forbids it.
func (w *walk) sendUDP(s *sent, questions []question, server netip.AddrPort, wait time.Duration, somewhere *bool) verdict {
	conf := w.sys.resolv
	name := server.String()
	for {
		oneByOne := w.oneByOne || conf.singleRequest || conf.singleRequestReopen
		reopen := w.reopen || conf.singleRequestReopen
		for i := range s.replies {
			s.replies[i].msg = nil
		}
		t := &udpTry{w: w, s: s, questions: questions, server: server, name: name, oneByOne: oneByOne, reopen: reopen, somewhere: somewhere, dial: w.r.dial}
		v, partial := t.run(wait)
		if !partial {
			return v
		}
		// One answer came and the other did not: some servers and firewalls
		// cannot bear two questions from one port.
		switch {
		case w.over() || reopen:
			return answered
		case !oneByOne:
			w.oneByOne = true
			wait = w.share(wait, 2)
		default:
			w.reopen = true
			wait = w.share(wait, 1)
		}
		if w.deadline.IsZero() {
			continue
		}
		if wait < 10*time.Millisecond {
			return answered
		}
	}
}

// udpTry is one round with one server over UDP.
type udpTry struct {
	w                *walk
	s                *sent
	questions        []question
	server           netip.AddrPort
	name             string
	oneByOne, reopen bool
	somewhere        *bool
	dial             dialFunc
	whole            bool // every answer to the question counts, whatever its code
	keepTruncated    bool

	conn   *connection       // nil: none is open
	steps  [maxQuestions]int // in the trace; -1 when not sent
	done   [maxQuestions]bool
	strays bool // something came that answers none of the questions
}

// run returns how the round ended. partial means that some questions have an
// answer and time ran out for the others.
func (t *udpTry) run(wait time.Duration) (v verdict, partial bool) {
	n := len(t.questions)
	t.w.trace = slices.Grow(t.w.trace, n)
	for i := range t.steps {
		t.steps[i] = -1
	}
	deadline := time.Now().Add(wait)
	if err := t.open(wait, deadline); err != nil {
		for i := range t.questions {
			t.note(i)
		}
		t.failAll(t.w.reasonOf(err), err)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			return exhausted, false
		}
		return tryNext, false
	}
	defer t.release()

	buf := t.w.r.buffers.Get().(*[]byte)
	defer t.w.r.buffers.Put(buf)

	next, good, received := 0, 0, 0
	for {
		// Send what may be sent now.
		if next == 0 && n == 2 && !t.oneByOne {
			t.note(0)
			if writeBoth(t.conn.Conn, t.questions[0].wire, t.questions[1].wire) {
				t.note(1)
				t.w.queries += 2
				next = 2
			} else {
				t.w.trace = t.w.trace[:t.steps[0]]
				t.steps[0] = -1
			}
		}
		for next < n && (!t.oneByOne || next == received) {
			if next > 0 && t.reopen {
				t.release()
				if err := t.open(time.Until(deadline), deadline); err != nil {
					t.note(next)
					t.failAll(t.w.reasonOf(err), err)
					return tryNext, false
				}
			}
			t.note(next)
			t.w.queries++
			if _, err := t.conn.Write(t.questions[next].wire); err != nil {
				t.failAll(t.w.reasonOf(err), err)
				return tryNext, false
			}
			next++
		}
		size, err := t.read(*buf)
		if err != nil {
			reason := t.w.reasonOf(err)
			late := reason == Timeout
			if late {
				*t.somewhere = true
			}
			if late && t.strays {
				reason = Mismatched
			}
			t.failAll(reason, err)
			return tryNext, good > 0 && late
		}
		*t.somewhere = true
		i, msg, problem := t.identify((*buf)[:size])
		if i < 0 {
			continue // not an answer to any question of ours
		}
		if received == 0 {
			t.s.rcode = msg.Rcode
		}
		t.answer(i, msg, problem)
		received++
		t.done[i] = true
		r := &t.s.replies[i]
		switch {
		case problem != ReasonNone && (!t.whole || problem == Malformed):
			r.fail(problem, t.name, nil)
			if good > 0 {
				return answered, false // the other answer stands alone
			}
			if t.oneByOne || received == n {
				t.failAll(problem, nil)
				return tryNext, false
			}
		case msg.Truncated && !t.keepTruncated:
			return truncated, false
		default:
			r.msg, r.server, r.size, r.via = msg, t.name, size, "udp"
			good++
			if received == n {
				return answered, false
			}
		}
	}
}

func (t *udpTry) open(wait time.Duration, deadline time.Time) error {
	conn, err := t.w.connect(t.dial, "udp", t.server, wait)
	if err == nil {
		t.conn = conn
		conn.SetReadDeadline(deadline)
	}
	return err
}

func (t *udpTry) release() {
	if t.conn != nil {
		t.conn.release()
		t.conn = nil
	}
}

// note begins the step of a question.
func (t *udpTry) note(i int) {
	q := &t.questions[i]
	t.steps[i] = t.w.step(Step{Source: "dns", Name: q.name, Type: typeName(q.qtype), Server: t.name, Transport: "udp", Begin: time.Now()})
}

// answer completes the step of a question.
func (t *udpTry) answer(i int, msg *dns.Msg, problem Reason) {
	s := &t.w.trace[t.steps[i]]
	s.Duration = time.Since(s.Begin)
	s.describe(msg, problem)
}

// failAll completes the steps of all questions that are still open.
func (t *udpTry) failAll(reason Reason, err error) {
	for i := range t.questions {
		if t.done[i] {
			continue
		}
		t.s.replies[i].fail(reason, t.name, err)
		if t.steps[i] >= 0 {
			s := &t.w.trace[t.steps[i]]
			s.Duration, s.Reason, s.Err = time.Since(s.Begin), reason, err
		}
	}
}

func (t *udpTry) read(buf []byte) (int, error) {
	if err := t.w.ctx.Err(); err != nil {
		return 0, err
	}
	return t.conn.Read(buf)
}

// identify finds the question a datagram answers: same id, same question, not
// answered before. -1: none. problem tells an answer that is of no use.
func (t *udpTry) identify(data []byte) (i int, msg *dns.Msg, problem Reason) {
	stray := true
	for i := range t.questions {
		if len(data) < headerSize || t.questions[i].id != binary.BigEndian.Uint16(data) || t.steps[i] < 0 {
			continue
		}
		if t.done[i] { // the network may deliver an answer twice
			stray = false
			continue
		}
		msg, problem, ours := parseAnswer(data, &t.questions[i])
		if ours {
			return i, msg, problem
		}
	}
	t.strays = t.strays || stray
	return -1, nil, ReasonNone
}
