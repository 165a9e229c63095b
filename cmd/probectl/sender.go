package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	probev1 "probed/gen/probe/v1"
)

// sender is the sending half of a conversation. One goroutine, in run, sends all frames; another one, in read, reads what
// is to be sent. Nothing is queued between them, so that the input is read as fast as the stream takes it.
type sender struct {
	stream    frameStream
	open      *probev1.Open
	datagrams bool // each read of the input is one
	holdOpen  bool
	crlf      bool
	quiet     time.Duration // at the end of the input, how long to wait for more from the peer before closing; 0: for ever

	connected chan struct{} // closed when the connection is open
	input     chan piece
	voice     chan struct{} // has one when the peer has said something
	ended     chan struct{} // closed when the conversation is over
}

// frameStream is the part of a stream that a sender needs.
type frameStream interface {
	Send(*probev1.ConverseRequest) error
	CloseSend() error
}

// piece is what one read of the input returned.
type piece struct {
	data []byte
	err  error // io.EOF at the end
}

const (
	streamPiece   = 32 << 10 // several of them fit into a window of flow control
	datagramPiece = 65507    // the most that UDP carries over IPv4

	// How long a conversation of datagrams, which have no end of file, goes on in silence after the last one was sent.
	lastDatagramQuiet = time.Second
	// How long the outcome may take after the first Ctrl-C. It comes at once, unless the peer takes nothing of what is on
	// its way, or the server is gone.
	endPatience = 2 * time.Second
)

func newSender(stream frameStream, open *probev1.Open, flags *converseFlags) *sender {
	s := &sender{
		stream: stream, open: open, holdOpen: flags.holdOpen, crlf: flags.crlf,
		connected: make(chan struct{}), input: make(chan piece), voice: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	scheme, _, _ := strings.Cut(open.GetTarget(), "://")
	s.datagrams = strings.HasPrefix(scheme, "udp") || strings.HasPrefix(scheme, "icmp") || scheme == "unixgram"
	if s.datagrams && !flags.holdOpen && open.GetIdle() == nil {
		s.quiet = lastDatagramQuiet
	}
	return s
}

// begin reads the input from now on, which is when the connection is open: without one, the input is left for somebody
// else. Of all goroutines this alone is not waited for: a read of a terminal cannot be broken off, and when the peer has
// closed, the program ends, although nobody types.
func (s *sender) begin(input io.Reader) {
	close(s.connected)
	go s.read(input)
}

func (s *sender) hasConnection() bool {
	select {
	case <-s.connected:
		return true
	default:
		return false
	}
}

// read ends with the input or with the conversation.
func (s *sender) read(input io.Reader) {
	size := streamPiece
	if s.datagrams {
		size = datagramPiece
	}
	buffer := make([]byte, size)
	var newlines crlf
	for {
		n, err := input.Read(buffer)
		if n > 0 {
			data := bytes.Clone(buffer[:n]) // a frame may be looked at after it was sent
			if s.crlf {
				data = newlines.convert(data)
			}
			if !s.pass(piece{data: data}) {
				return
			}
		}
		if err != nil {
			s.pass(piece{err: err})
			return
		}
	}
}

func (s *sender) pass(p piece) bool {
	select {
	case s.input <- p:
		return true
	case <-s.ended:
		return false
	}
}

// heard tells that the peer has said something.
func (s *sender) heard() {
	select {
	case s.voice <- struct{}{}:
	default:
	}
}

// run sends the frames of a conversation until it has ended, and returns what was wrong with the input. When interrupted
// is done, the next frame is close; if the conversation does not end soon after, cancel is called.
func (s *sender) run(interrupted context.Context, cancel context.CancelFunc) error {
	// Sending a frame may take for ever when the peer takes nothing, so patience has a goroutine of its own.
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() {
		select {
		case <-interrupted.Done():
		case <-s.ended:
			return
		}
		patience := endPatience
		if !s.hasConnection() {
			patience = 0 // frames take effect on one
		}
		select {
		case <-time.After(patience):
			cancel()
		case <-s.ended:
		}
	})

	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	input, inputEnded := s.input, false
	// The error of sending says that the conversation has ended. Why is told to who receives.
	err := s.stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: s.open}})
	for err == nil {
		select {
		case p := <-input:
			if p.err == nil {
				err = s.stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: p.data}})
				continue
			}
			if !errors.Is(p.err, io.EOF) {
				s.close()
				return p.err
			}
			input, inputEnded = nil, true
			switch {
			case s.quiet > 0:
				quiet.Reset(s.quiet)
			case !s.datagrams && !s.holdOpen:
				err = s.stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_HalfClose{HalfClose: &probev1.HalfClose{}}})
			}
		case <-s.voice:
			if inputEnded && s.quiet > 0 {
				quiet.Reset(s.quiet)
			}
		case <-quiet.C:
			s.close()
			return nil
		case <-interrupted.Done():
			s.close()
			return nil
		case <-s.ended:
			return nil
		}
	}
	return nil
}

// close sends the last frame. If it does not get through, there is nothing to close any more.
func (s *sender) close() {
	if s.stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Close{Close: &probev1.Close{}}}) == nil {
		_ = s.stream.CloseSend()
	}
}

// crlf makes \r\n of newlines. Its zero value is at the beginning of a text.
type crlf struct{ cr bool } // whether the text so far ends with \r

// convert is the next part of the text, converted: \r\n stays as it is, also where the parts meet.
func (c *crlf) convert(text []byte) []byte {
	out := make([]byte, 0, len(text)+bytes.Count(text, []byte{'\n'}))
	for _, b := range text {
		if b == '\n' && !c.cr {
			out = append(out, '\r')
		}
		out = append(out, b)
		c.cr = b == '\r'
	}
	return out
}
