package resolve

import (
	"net/netip"
	"os"
	"syscall"

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

// maxQuestions is how many are sent together, at most: those for the addresses of
// both families.
const maxQuestions = 2

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
	if len(questions) > 1 && left == 1 {
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
// that says most is kept; a server that may be asked says more than one that may
// not, and one that may be asked later more than one that may not at all.
func (r *reply) fail(reason Reason, server string, err error) {
	weight := func(r Reason) int {
		switch r {
		case ServFail:
			return 7
		case Refused:
			return 6
		case Malformed, Mismatched:
			return 5
		case Timeout:
			return 4
		case Unreachable:
			return 3
		case Limited:
			return 2
		case Denied:
			return 1
		case ReasonNone:
			return 0
		}
		return 8
	}
	if weight(reason) > weight(r.reason) {
		r.reason, r.server, r.err = reason, server, err
	}
}
