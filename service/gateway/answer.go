package gateway

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// boundedAnswer is a ResponseWriter whose client has to read what is written, in a time that begins with the answer: one that
// does not would hold its connection, and the handler, for ever. Whoever sets a deadline itself keeps it.
//
// It knows what is told of an answer that is not that of a call.
type boundedAnswer struct {
	http.ResponseWriter
	patience time.Duration
	bounded  bool
	begun    bool // something has been written

	newID   func() string   // nil: nobody is told
	entered context.Context // of Enter; before that, of the request
	pattern string          // of the path; empty: it is not known
	reason  string          // of an error; empty: it has none
	id      string          // empty: the answer is that of a call
	status  int
}

// answerKey is the key of a boundedAnswer in the context of its request.
type answerKey struct{}

// answerOf is the one that is written in ctx.
func answerOf(ctx context.Context) *boundedAnswer {
	if a, ok := ctx.Value(answerKey{}).(*boundedAnswer); ok {
		return a
	}
	return &boundedAnswer{}
}

// Answer is one to a request that has become no call, since it could not be read, or asks for what there is not, or comes from
// where it may not.
type Answer struct {
	// ID is that of the answer, in the header that the answers of calls have it in.
	ID string
	// Remote is the address that the request came from.
	Remote string
	// Method is that of HTTP and the pattern of the path, as "GET /v1/ports/{port}"; of a path that fits none, or is not looked
	// at, its beginning. A method that HTTP does not have is OTHER.
	Method string
	// Status is that of HTTP.
	Status int
	// Reason is OK, or that of an error, as "INVALID_FIELD".
	Reason string
	// Duration is how long it took.
	Duration time.Duration
}

// mostPath is how many bytes are told of a path that is a caller's own.
const mostPath = 64

// tell tells of an answer, if it is not that of a call.
func (g *Gateway) tell(a *boundedAnswer, r *http.Request, begin time.Time) {
	if a.id == "" {
		return
	}
	switch {
	case a.reason != "":
	case a.status < http.StatusBadRequest:
		a.reason = "OK"
	case a.status < http.StatusInternalServerError:
		a.reason = "HTTP_REQUEST"
	default:
		a.reason = "INTERNAL"
	}
	method := "OTHER"
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		method = r.Method
	}
	path := a.pattern
	if path == "" {
		path = r.URL.Path[:min(len(r.URL.Path), mostPath)]
	}
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // of a TCP connection, it always reads
	g.config.Answered(a.entered, Answer{ID: a.id, Remote: remote.Addr().Unmap().String(), Method: method + " " + path, Status: a.status, Reason: a.reason, Duration: time.Since(begin)})
}

// notePattern keeps which pattern the path of a request fits.
func notePattern(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, pathParameters map[string]string) {
		if pattern, ok := runtime.HTTPPattern(r.Context()); ok {
			answerOf(r.Context()).pattern = strings.ReplaceAll(pattern.String(), "=*}", "}")
		}
		next(w, r, pathParameters)
	}
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
	a.begin(code)
	a.ResponseWriter.WriteHeader(code)
}

// Write writes a part of the body.
func (a *boundedAnswer) Write(p []byte) (int, error) {
	a.begin(http.StatusOK)
	return a.ResponseWriter.Write(p)
}

// identify gives an answer an id that has none, by which those are told apart that no call has given.
func (a *boundedAnswer) identify() {
	if a.newID != nil && a.Header().Get(requestIDHeader) == "" {
		a.id = a.newID()
		a.Header().Set(requestIDHeader, a.id)
	}
}

func (a *boundedAnswer) begin(code int) {
	if !a.begun {
		a.begun, a.status = true, code
		a.identify()
	}
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
