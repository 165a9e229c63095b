package exchange

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// lastOfStep is the most bytes that the outcome tells of what came in a step that failed.
const lastOfStep = 1 << 10

// errCallerGone is the error of a read during which the caller turned out to be gone.
var errCallerGone = errors.New("the caller went away")

// receive reads until one of the rules holds, and says which.
func (s *session) receive(rules Receive) *failure {
	var got int64       // bytes
	var messages uint32 // on sockets that have them
	var tail []byte     // the last bytes, in which the delimiter may have begun
	var prefix []byte   // of the message, which tells its length
	end := func(by EndedBy) *failure {
		s.outcome.EndedBy = by
		return nil
	}
	for {
		most := limit(rules, got)
		piece, err := s.next(most, rules.Idle)
		switch {
		case errors.Is(err, io.EOF):
			if rules.Length > 0 || rules.LengthPrefix > 0 || rules.Delimiter != "" || rules.Count > 0 {
				return &failure{phase: PhaseReceive, reason: PeerClosedEarly, text: closedEarly(rules, got, messages)}
			}
			return end(EndedByPeerClosed)
		case errors.Is(err, os.ErrDeadlineExceeded) && s.ctx.Err() == nil && rules.Idle > 0:
			if s.request.Target.IsDatagram() && messages == 0 {
				return &failure{phase: PhaseReceive, reason: ReceiveTimeout, text: "nothing came within " + rules.Idle.String()}
			}
			return end(EndedByIdle)
		case errors.Is(err, errCallerGone):
			return s.cancelled(PhaseReceive)
		case err != nil:
			return s.ioFailure(PhaseReceive, err)
		}

		found := false
		if rules.Delimiter != "" {
			var n int
			if n, found = findDelimiter(tail, piece.data, rules.Delimiter); found {
				s.putBack(&piece, n)
			} else {
				tail = lastBytes(tail, piece.data, len(rules.Delimiter)-1)
			}
		}
		if missing := rules.LengthPrefix - len(prefix); missing > 0 {
			if prefix = append(prefix, piece.data[:min(missing, len(piece.data))]...); len(prefix) == rules.LengthPrefix {
				rules.Length = int64(rules.LengthPrefix) + bigEndian(prefix)
			}
		}
		got += int64(len(piece.data))
		if piece.datagram != nil {
			messages++
		}
		if s.chunk(piece) != nil {
			return s.cancelled(PhaseReceive)
		}
		switch {
		case rules.Length > 0 && got >= rules.Length:
			return end(EndedByLength)
		case found:
			return end(EndedByDelimiter)
		case rules.Count > 0 && messages >= rules.Count:
			return end(EndedByCount)
		case rules.MaxBytes > 0 && got >= rules.MaxBytes:
			return end(EndedByMaxBytes)
		}
	}
}

// limit is the most bytes that may still be read; 0: any number.
func limit(rules Receive, got int64) int {
	switch {
	case rules.Length > 0:
		return clamp(rules.Length - got)
	case rules.LengthPrefix > 0:
		return clamp(int64(rules.LengthPrefix) - got)
	case rules.MaxBytes > 0:
		return clamp(rules.MaxBytes - got)
	}
	return 0
}

// bigEndian is the number that some bytes are, the most significant first.
func bigEndian(digits []byte) (n int64) {
	for _, digit := range digits {
		n = n<<8 | int64(digit)
	}
	return n
}

func clamp(n int64) int { return int(min(n, MaxBufferSize)) }

// next is read, and tells the caller that the peer has closed.
func (s *session) next(most int, idle time.Duration) (piece, error) {
	piece, err := s.read(most, idle)
	if errors.Is(err, io.EOF) && s.sayEOF() != nil {
		return piece, errCallerGone
	}
	return piece, err
}

// sayEOF tells the caller, once, that the peer has closed.
func (s *session) sayEOF() error {
	if s.eofSaid {
		return nil
	}
	s.eofSaid = true
	return s.emit(PeerClosed{Elapsed: s.elapsed(), Unclean: s.conn.unclean})
}

// keepError keeps the error of a read for the next one. The kernel tells it once.
func (s *session) keepError(err error) {
	if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.readErr = err
	}
}

// read returns the next piece, at most so many bytes of it (0: any number): first what has been read already.
func (s *session) read(most int, idle time.Duration) (piece, error) {
	if len(s.pending) > 0 {
		return s.take(most), nil
	}
	if s.readErr != nil {
		return piece{}, s.readErr
	}
	if !s.eof {
		if err := s.awaitRead(idle); err != nil {
			return piece{}, err
		}
		piece, err := s.conn.read(s.request.BufferSize, most)
		if idle > 0 && errors.Is(err, os.ErrDeadlineExceeded) && s.ctx.Err() == nil {
			// A short time can be over before a read was tried even once; what is there by now came in time.
			piece, err = s.conn.readNow(s.request.BufferSize, most)
		}
		if err == nil {
			piece.elapsed = s.elapsed()
			return piece, nil
		}
		if !errors.Is(err, io.EOF) {
			return piece, err
		}
		s.eof = true
	}
	return piece{}, io.EOF
}

// take returns the first pending piece, no larger than a read could have returned it. There must be one.
func (s *session) take(most int) piece {
	p := s.pending[0]
	room := len(p.data)
	for _, limit := range []int{most, s.request.BufferSize} {
		if limit > 0 {
			room = min(room, limit)
		}
	}
	switch {
	case room == len(p.data):
		s.pending = s.pending[1:]
	case p.datagram != nil:
		s.pending = s.pending[1:]
		p.data, p.datagram.Truncated = p.data[:room], true
	default:
		s.pending[0].data = p.data[room:]
		p.data = p.data[:room:room]
	}
	return p
}

// putBack cuts piece off after n bytes and leaves the rest to the next step.
func (s *session) putBack(p *piece, n int) {
	if n == len(p.data) {
		return
	}
	rest := piece{data: p.data[n:], elapsed: p.elapsed}
	if p.buffer != nil {
		rest.data = bytes.Clone(rest.data)
	}
	s.pending = append([]piece{rest}, s.pending...)
	p.data = p.data[:n:n]
}

// chunk hands a piece on and gives its buffer back.
func (s *session) chunk(p piece) error {
	defer p.done()
	if s.outcome.Chunks == 0 {
		// What came with the end of a handshake came at once, which is not the same as never.
		s.outcome.Timings.FirstByte = max(1, p.elapsed-s.opened)
		if s.conn.secured == nil && !s.request.Target.HasMessages() {
			s.noteReceived(p.data)
		}
	}
	s.last = lastBytes(s.last, p.data, lastOfStep)
	chunk := Chunk{Data: p.data, Buffer: p.buffer, Offset: s.offset, Elapsed: p.elapsed, Datagram: p.datagram}
	if err := s.emit(chunk); err != nil {
		return err
	}
	s.offset += uint64(len(p.data))
	s.outcome.BytesReceived = s.offset
	s.outcome.Chunks++
	if hook := s.config.Hooks.Received; hook != nil && len(p.data) > 0 {
		hook(s.request.Target.Scheme, len(p.data))
	}
	return nil
}

// findDelimiter looks for the delimiter in data, or across the border of tail and data, and returns how many bytes of
// data there are up to its end.
func findDelimiter(tail, data []byte, delimiter string) (n int, found bool) {
	border := string(tail) + string(data[:min(len(data), len(delimiter)-1)])
	if i := strings.Index(border, delimiter); i >= 0 {
		return i + len(delimiter) - len(tail), true
	}
	if i := bytes.Index(data, []byte(delimiter)); i >= 0 {
		return i + len(delimiter), true
	}
	return 0, false
}

// lastBytes returns the last n bytes of tail and data together.
func lastBytes(tail, data []byte, n int) []byte {
	if len(data) >= n {
		return append(tail[:0], data[len(data)-n:]...)
	}
	tail = append(tail, data...)
	return tail[max(0, len(tail)-n):]
}

// closedEarly says what was missing when the peer closed.
func closedEarly(rules Receive, bytes int64, messages uint32) string {
	switch {
	case rules.Length > 0:
		return fmt.Sprintf("the peer closed after %d of %d bytes", bytes, rules.Length)
	case rules.LengthPrefix > 0:
		return fmt.Sprintf("the peer closed after %d of the %d bytes that tell the length", bytes, rules.LengthPrefix)
	case rules.Count > 0:
		return fmt.Sprintf("the peer closed after %d of %d messages", messages, rules.Count)
	}
	return fmt.Sprintf("the peer closed after %d bytes, without the delimiter %q", bytes, rules.Delimiter)
}
