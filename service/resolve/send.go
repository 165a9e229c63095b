package resolve

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// question is one question as it goes over the wire.
type question struct {
	name  string // fully qualified, presentation format
	qtype uint16
	class uint16
	id    uint16
	wire  []byte
}

// reply is what became of a question.
type reply struct {
	msg    *dns.Msg // an answer to the question; nil: there is none to work with
	reason Reason   // why msg is nil
	server string
	err    error
	size   int // of msg
	via    string
}

// sent is what became of the questions sent together: an answer for each, or
// what the C library would make of it.
type sent struct {
	replies []reply
	any     bool          // at least one has a message
	errno   syscall.Errno // when none has
	rcode   int           // of the first response that came, good or bad
}

// verdict is how a try with one server ended.
type verdict int

const (
	tryNext   verdict = iota // nothing usable: ask the next server
	answered                 // all that will come has come
	truncated                // ask the same server over TCP
	exhausted                // out of file descriptors: stop
)

// send asks the servers in turn until one answers, as res_send(3) does.
func (w *walk) send(questions []question) *sent {
	conf := w.sys.resolv
	s := &sent{replies: make([]reply, len(questions))}
	tcp := conf.useVC
	somewhere := false // some server was there
	offset := 0
	if conf.rotate {
		offset = int(w.r.turn.Add(1) % uint32(len(conf.servers)))
	}
	left := conf.attempts * len(conf.servers)
	if len(questions) > 1 {
		left++ // a server that answers one question alone gets asked once more
	}
	tcpErrno := syscall.ETIMEDOUT
	for attempt := 0; attempt < conf.attempts; attempt++ {
		for i := range conf.servers {
			index := (i + offset) % len(conf.servers)
			server := conf.servers[index]
			wait := w.share(conf.tryTimeout(index), left)
			left--
			if w.over() {
				s.errno = syscall.ETIMEDOUT
				w.expire(s, server)
				return s
			}
			v := truncated
			if !tcp {
				v = w.sendUDP(s, questions, server, wait, &somewhere)
			}
			if v == truncated {
				tcp = true
				attempt = conf.attempts // over TCP each server is asked once
				v = w.sendTCP(s, questions, server, w.r.dial, "tcp", w.share(conf.tryTimeout(index), left+1), &tcpErrno)
			}
			switch v {
			case answered:
				s.any = true
				return s
			case exhausted:
				s.errno = syscall.EMFILE
				return s
			}
		}
	}
	switch {
	case tcp:
		s.errno = tcpErrno
	case somewhere:
		s.errno = syscall.ETIMEDOUT
	default:
		s.errno = syscall.ECONNREFUSED
	}
	return s
}

// expire marks what has no answer when time runs out before the next try.
func (w *walk) expire(s *sent, server netip.AddrPort) {
	for i := range s.replies {
		if r := &s.replies[i]; r.msg == nil && r.reason == ReasonNone {
			r.reason, r.server, r.err = w.reasonOf(os.ErrDeadlineExceeded), server.String(), w.ctx.Err()
		}
	}
}

// fail records why a question has no answer yet. Of several reasons the one
// that says most is kept.
func (r *reply) fail(reason Reason, server string, err error) {
	weight := func(r Reason) int {
		switch r {
		case ServFail:
			return 6
		case Refused:
			return 5
		case Malformed:
			return 4
		case Timeout:
			return 3
		case Unreachable:
			return 2
		case ReasonNone:
			return 0
		}
		return 7
	}
	if weight(reason) > weight(r.reason) {
		r.reason, r.server, r.err = reason, server, err
	}
}

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

	conn    net.Conn
	release func()
	began   []time.Time
	steps   []int // in the trace; -1 when not sent
	done    []bool
}

// run returns how the round ended. partial means that some questions have an
// answer and time ran out for the others.
func (t *udpTry) run(wait time.Duration) (v verdict, partial bool) {
	n := len(t.questions)
	t.began, t.steps, t.done = make([]time.Time, n), make([]int, n), make([]bool, n)
	for i := range t.steps {
		t.steps[i] = -1
	}
	if err := t.open(wait); err != nil {
		for i := range t.questions {
			t.note(i)
		}
		t.failAll(t.w.reasonOf(err), err)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			return exhausted, false
		}
		return tryNext, false
	}
	defer func() { t.release() }()

	buf := t.w.r.buffers.Get().(*[]byte)
	defer t.w.r.buffers.Put(buf)

	deadline := time.Now().Add(wait)
	next, good, received := 0, 0, 0
	for {
		// Send what may be sent now.
		if next == 0 && n == 2 && !t.oneByOne {
			t.note(0)
			if writeBoth(t.conn, t.questions[0].wire, t.questions[1].wire) {
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
				if err := t.open(time.Until(deadline)); err != nil {
					t.release = func() {}
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
		size, err := t.read(*buf, deadline)
		if err != nil {
			reason := t.w.reasonOf(err)
			if reason == Timeout {
				*t.somewhere = true
			}
			t.failAll(reason, err)
			return tryNext, good > 0 && reason == Timeout
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

func (t *udpTry) open(wait time.Duration) (err error) {
	t.conn, t.release, err = t.w.connect(t.dial, "udp", t.server, wait)
	return err
}

// note begins the step of a question.
func (t *udpTry) note(i int) {
	q := &t.questions[i]
	t.began[i] = time.Now()
	t.steps[i] = t.w.step(Step{Source: "dns", Name: q.name, Type: typeName(q.qtype), Server: t.name, Transport: "udp"})
}

// answer completes the step of a question.
func (t *udpTry) answer(i int, msg *dns.Msg, problem Reason) {
	s := &t.w.trace[t.steps[i]]
	s.Duration = time.Since(t.began[i])
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
			s.Duration, s.Reason, s.Err = time.Since(t.began[i]), reason, err
		}
	}
}

func (t *udpTry) read(buf []byte, deadline time.Time) (int, error) {
	t.conn.SetReadDeadline(deadline)
	if err := t.w.ctx.Err(); err != nil {
		return 0, err
	}
	return t.conn.Read(buf)
}

// identify finds the question a datagram answers: same id, same question, not
// answered before. -1: none. problem tells an answer that is of no use.
func (t *udpTry) identify(data []byte) (i int, msg *dns.Msg, problem Reason) {
	if len(data) < headerSize {
		return -1, nil, ReasonNone
	}
	id := binary.BigEndian.Uint16(data)
	for i := range t.questions {
		if t.questions[i].id != id || t.done[i] || t.steps[i] < 0 {
			continue
		}
		msg, problem, ours := parseAnswer(data, &t.questions[i])
		if ours {
			return i, msg, problem
		}
	}
	return -1, nil, ReasonNone
}

const headerSize = 12

// parseAnswer reads a message and tells whether it answers the question (ours)
// and, if so, what is wrong with it.
func parseAnswer(data []byte, q *question) (msg *dns.Msg, problem Reason, ours bool) {
	msg = new(dns.Msg)
	err := msg.Unpack(data)
	if msg.Id != q.id {
		return nil, ReasonNone, false
	}
	if len(msg.Question) == 0 && len(data) == headerSize && (msg.Rcode == dns.RcodeServerFailure ||
		msg.Rcode == dns.RcodeNotImplemented || msg.Rcode == dns.RcodeRefused) {
		// Some servers refuse without repeating the question.
		return msg, rcodeReason(msg.Rcode), true
	}
	if len(msg.Question) != 1 || msg.Question[0].Qtype != q.qtype || msg.Question[0].Qclass != q.class ||
		!strings.EqualFold(msg.Question[0].Name, q.name) {
		return nil, ReasonNone, false
	}
	switch {
	case err != nil && !msg.Truncated, !msg.Response:
		return msg, Malformed, true
	case msg.Rcode == dns.RcodeServerFailure || msg.Rcode == dns.RcodeNotImplemented || msg.Rcode == dns.RcodeRefused:
		return msg, rcodeReason(msg.Rcode), true
	case msg.Rcode == dns.RcodeSuccess && len(msg.Answer) == 0 && !msg.Truncated &&
		!msg.Authoritative && !msg.RecursionAvailable && len(msg.Extra) == 0:
		// A server that neither knows nor recurses points elsewhere.
		return msg, Refused, true
	}
	return msg, ReasonNone, true
}

// rcodeReason is what a response code means for a lookup.
func rcodeReason(rcode int) Reason {
	switch rcode {
	case dns.RcodeSuccess:
		return ReasonNone
	case dns.RcodeNameError:
		return NotFound
	case dns.RcodeRefused, dns.RcodeNotAuth:
		return Refused
	}
	return ServFail
}

// sendTCP asks one server over a stream: all questions at once, then the
// answers in whatever order they come.
func (w *walk) sendTCP(s *sent, questions []question, server netip.AddrPort, open dialFunc, transport string, wait time.Duration, errno *syscall.Errno) verdict {
	n := len(questions)
	name := server.String()
	steps, began := make([]int, n), time.Now()
	for i := range questions {
		steps[i] = w.step(Step{Source: "dns", Name: questions[i].name, Type: typeName(questions[i].qtype), Server: name, Transport: transport})
		s.replies[i].msg = nil
	}
	w.queries += n
	done := make([]bool, n)
	fail := func(err error, reason Reason) verdict {
		for i := range questions {
			if !done[i] {
				st := &w.trace[steps[i]]
				st.Duration, st.Reason, st.Err = time.Since(began), reason, err
			}
			s.replies[i].msg = nil
			s.replies[i].fail(reason, name, err)
		}
		if *errno = errnoOf(err); *errno == syscall.EMFILE || *errno == syscall.ENFILE {
			return exhausted
		}
		return tryNext
	}
	deadline := began.Add(wait)
	conn, release, err := w.connect(open, "tcp", server, wait)
	if err != nil {
		return fail(err, w.reasonOf(err))
	}
	defer release()
	conn.SetDeadline(deadline)
	if err := w.ctx.Err(); err != nil {
		return fail(err, w.reasonOf(err))
	}
	var out []byte
	for i := range questions {
		out = binary.BigEndian.AppendUint16(out, uint16(len(questions[i].wire)))
		out = append(out, questions[i].wire...)
	}
	if _, err := conn.Write(out); err != nil {
		return fail(err, w.reasonOf(err))
	}
	buf := w.r.buffers.Get().(*[]byte)
	defer w.r.buffers.Put(buf)
	for received := 0; received < n; {
		data, err := readFrame(conn, *buf)
		if err != nil {
			reason := w.reasonOf(err)
			if errors.Is(err, errShortFrame) {
				reason = Malformed
			}
			return fail(err, reason)
		}
		for i := range questions {
			if done[i] {
				continue
			}
			msg, problem, ours := parseAnswer(data, &questions[i])
			if !ours {
				continue
			}
			if received == 0 {
				s.rcode = msg.Rcode
			}
			st := &w.trace[steps[i]]
			st.Duration = time.Since(began)
			st.describe(msg, problem)
			if problem == Malformed {
				return fail(nil, Malformed)
			}
			// Over a stream any code is taken for the answer.
			s.replies[i].msg, s.replies[i].server, s.replies[i].size, s.replies[i].via = msg, name, len(data), transport
			done[i] = true
			received++
			break
		}
	}
	return answered
}

var errShortFrame = errors.New("message shorter than a header")

// readFrame reads one message with its length in front (RFC 1035 4.2.2).
func readFrame(conn io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(buf))
	if size < headerSize {
		return nil, errShortFrame
	}
	_, err := io.ReadFull(conn, buf[:size])
	return buf[:size], err
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case isTimeout(err):
		return syscall.ETIMEDOUT
	}
	return errnoNone
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// describe fills in what an answer says.
func (s *Step) describe(msg *dns.Msg, problem Reason) {
	s.Rcode = rcodeName(msg.Rcode)
	s.Truncated = msg.Truncated
	s.Reason = problem
	if problem == Malformed {
		return
	}
	if len(msg.Answer) > 0 {
		s.Answers = make([]string, 0, len(msg.Answer))
	}
	data := false
	for _, rr := range msg.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			if a, ok := netip.AddrFromSlice(rr.A.To4()); ok {
				s.Answers = append(s.Answers, a.String())
			}
			data = true
		case *dns.AAAA:
			if a, ok := netip.AddrFromSlice(rr.AAAA); ok {
				s.Answers = append(s.Answers, a.String())
			}
			data = true
		default:
			name := typeName(rr.Header().Rrtype)
			s.Answers = append(s.Answers, name+" "+rdata(rr))
			data = data || name == s.Type || s.Type == "ANY"
		}
	}
	if s.Reason == ReasonNone {
		if s.Reason = rcodeReason(msg.Rcode); s.Reason == ReasonNone && !data && !msg.Truncated {
			s.Reason = NoData
		}
	}
}

// newQuestion prepares a question. It fails on a name that is no domain name.
func newQuestion(name string, qtype, class uint16, shape func(*dns.Msg)) (question, bool) {
	q := question{name: dns.Fqdn(name), qtype: qtype, class: class, id: uint16(rand.Uint32())}
	plain := plainName(name)
	if !plain && !escapesOK(name) {
		return q, false
	}
	msg := dns.Msg{Question: []dns.Question{{Name: q.name, Qtype: qtype, Qclass: class}}}
	msg.Id, msg.RecursionDesired = q.id, true
	shape(&msg)
	wire, err := msg.Pack()
	if q.wire = wire; err != nil {
		return q, false
	}
	if end, ok := skipName(wire, headerSize); !ok || end-headerSize > maxWireName {
		return q, false // the library lets names through that are a little too long
	}
	if !plain {
		// Spelled the way answers will spell it.
		q.name, _, err = dns.UnpackDomainName(wire, headerSize)
	}
	return q, err == nil
}

// escapesOK tells that every backslash of a name begins a whole escape. The
// library is laxer than resolvers are.
func escapesOK(name string) bool {
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' {
			var ok bool
			if _, i, ok = unescape(name, i); !ok {
				return false
			}
		}
	}
	return true
}

// maxWireName is the length of the longest name on the wire (RFC 1035 2.3.4).
const maxWireName = 255

// skipName returns where an uncompressed name ends.
func skipName(wire []byte, at int) (int, bool) {
	for at < len(wire) {
		n := int(wire[at])
		if at++; n == 0 {
			return at, true
		}
		at += n
	}
	return 0, false
}

// plainName tells names that have one spelling only, but for case.
func plainName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// typeName is the mnemonic of a record type, TYPEn for one without (RFC 3597).
func typeName(t uint16) string { return dns.Type(t).String() }
