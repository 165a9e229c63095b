package gateway

import (
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// boundedAnswer is a ResponseWriter whose client has to read what is written, in a time that begins with the answer: one that
// does not would hold its connection, and the handler, for ever. Whoever sets a deadline itself keeps it.
type boundedAnswer struct {
	http.ResponseWriter
	patience time.Duration
	bounded  bool
	begun    bool // something has been written
}

// crashed, deferred, tells the client of a panic while there still is an answer to give. The panic goes on to net/http, which
// writes it down and closes the connection.
func (a *boundedAnswer) crashed() {
	value := recover()
	if value == nil {
		return
	}
	if !a.begun && value != http.ErrAbortHandler { //nolint:errorlint // it is panicked with as it is
		writeError(a, status.Error(codes.Internal, "probed failed; its log has the cause"))
		_ = http.NewResponseController(a).Flush()
	}
	panic(value)
}

// WriteHeader begins the answer.
func (a *boundedAnswer) WriteHeader(code int) {
	a.bound()
	a.begun = true
	a.ResponseWriter.WriteHeader(code)
}

// Write writes a part of the body.
func (a *boundedAnswer) Write(p []byte) (int, error) {
	a.bound()
	a.begun = true
	return a.ResponseWriter.Write(p)
}

func (a *boundedAnswer) bound() {
	if !a.bounded {
		_ = a.SetWriteDeadline(time.Now().Add(a.patience)) // a connection without deadlines is none of a network
	}
}

// SetWriteDeadline is for http.ResponseController.
func (a *boundedAnswer) SetWriteDeadline(deadline time.Time) error {
	a.bounded = true
	return http.NewResponseController(a.ResponseWriter).SetWriteDeadline(deadline)
}

// Unwrap is for http.ResponseController.
func (a *boundedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
