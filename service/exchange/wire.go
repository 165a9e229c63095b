package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// wire is the connection below TLS. It keeps the first of what went over it, which tells whether the peer speaks TLS.
type wire struct {
	net.Conn
	received, sent []byte          // the first wireHead bytes
	ended          bool            // the peer has closed, below TLS
	ctx            context.Context // of the handshake, while there is one
	unacknowledged func() (uint64, bool)
}

const wireHead = 64

// errSilent is the end of a handshake whose hello was taken and not answered.
var errSilent = errors.New("no answer to the hello")

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.read(b)
	w.ended = w.ended || errors.Is(err, io.EOF)
	if room := wireHead - len(w.received); room > 0 {
		w.received = append(w.received, b[:min(n, room)]...)
	}
	return n, err
}

// read is Read. A peer that has the hello and does not say a word speaks something else: servers answer it at once, and
// what is waiting for more would wait to the end.
func (w *wire) read(b []byte) (int, error) {
	if w.ctx == nil || len(w.received) > 0 {
		return w.Conn.Read(b)
	}
	setReadDeadline(w.ctx, w.Conn, time.Now().Add(helloPatience))
	n, err := w.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) && w.ctx.Err() == nil {
		if n, told := w.unacknowledged(); told && n == 0 {
			return 0, errSilent
		}
		setReadDeadline(w.ctx, w.Conn, time.Time{})
		return w.Conn.Read(b)
	}
	setReadDeadline(w.ctx, w.Conn, time.Time{})
	return n, err
}

func (w *wire) Write(b []byte) (int, error) {
	if room := wireHead - len(w.sent); room > 0 {
		w.sent = append(w.sent, b[:min(len(b), room)]...)
	}
	return w.Conn.Write(b)
}

// SetWriteDeadline is called by crypto/tls alone, which gives the last alert five seconds: too long for a peer that does
// not read.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if soon := time.Now().Add(closePatience); t.After(soon) {
		t = soon
	}
	return w.Conn.SetWriteDeadline(t)
}

// notTLS tells whether what came is no TLS: no record (RFC 8446, section 5.1), or our own words come back.
func (w *wire) notTLS() bool {
	if len(w.received) == 0 {
		return false
	}
	return !looksLikeTLS(w.received) || len(w.received) >= 11 && bytes.HasPrefix(w.sent, w.received)
}

// looksLikeTLS tells whether data begins as a TLS record does.
func looksLikeTLS(data []byte) bool {
	return data[0] >= 20 && data[0] <= 24 && (len(data) < 2 || data[1] == 3)
}
