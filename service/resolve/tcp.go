package resolve

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"time"
)

// sendTCP asks one server over a stream: all questions at once, then the
// answers in whatever order they come.
func (w *walk) sendTCP(s *sent, questions []question, server netip.AddrPort, open dialFunc, transport string, wait time.Duration, errno *syscall.Errno) verdict {
	n := len(questions)
	name := server.String()
	steps, began := make([]int, n), time.Now()
	for i := range questions {
		steps[i] = w.step(Step{Source: "dns", Name: questions[i].name, Type: typeName(questions[i].qtype), Server: name, Transport: transport, Begin: began})
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
	conn, err := w.connect(open, "tcp", server, wait)
	if err != nil {
		return fail(err, w.reasonOf(err))
	}
	defer conn.release()
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
	strays := false // something came that answers none of the questions
	for received := 0; received < n; {
		data, err := readFrame(conn, *buf)
		if err != nil {
			reason := w.reasonOf(err)
			switch {
			case errors.Is(err, errShortFrame):
				reason = Malformed
			case reason == Timeout && strays:
				reason = Mismatched
			}
			return fail(err, reason)
		}
		before := received
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
		strays = strays || received == before
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
