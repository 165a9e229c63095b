package gateway

import (
	"net/http"
	"time"
)

// boundedAnswer is a ResponseWriter whose client has to read what is written, in a time that begins with the answer: one that
// does not would hold its connection, and the handler, for ever. Whoever sets a deadline itself keeps it.
type boundedAnswer struct {
	http.ResponseWriter
	patience time.Duration
	bounded  bool
}

// WriteHeader begins the answer.
func (a *boundedAnswer) WriteHeader(status int) {
	a.bound()
	a.ResponseWriter.WriteHeader(status)
}

// Write writes a part of the body.
func (a *boundedAnswer) Write(p []byte) (int, error) {
	a.bound()
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
