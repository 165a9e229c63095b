package gateway

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	probev1 "probed/gen/probe/v1"
)

const errorDomain = "probed"

// requestError is a request that is refused before any service saw it.
func requestError(code codes.Code, message string) *status.Status {
	return withDetails(status.New(code, message), &errdetails.ErrorInfo{
		Reason: probev1.ErrorReason_ERROR_REASON_HTTP_REQUEST.String(), Domain: errorDomain,
	})
}

// badRequest is a request whose body or query cannot be read.
func badRequest(message string) *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: probev1.ErrorReason_ERROR_REASON_INVALID_FIELD.String(), Domain: errorDomain,
	}}
	if field := fieldIn(message); field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
			Field: field, Description: message,
		}}})
	}
	return withDetails(status.New(codes.InvalidArgument, message), details...)
}

func withDetails(s *status.Status, details ...protoadapt.MessageV1) *status.Status {
	detailed, err := s.WithDetails(details...)
	if err != nil { // a detail that does not marshal: the rest is still true
		return s
	}
	return detailed
}

// fieldPatterns find the field in what the JSON and query parsers say.
var fieldPatterns = []*regexp.Regexp{
	regexp.MustCompile(`unknown field "([^"]+)"`),
	regexp.MustCompile(`field ([\w.]+):`),
	regexp.MustCompile(`field "([^"]+)"`),
	regexp.MustCompile(`parameter: ([\w.]+)`),
}

func fieldIn(message string) string {
	for _, pattern := range fieldPatterns {
		if found := pattern.FindStringSubmatch(message); found != nil {
			return found[1]
		}
	}
	return ""
}

// writeError writes what a call came back with, or what the generated handlers found wrong with the request.
func writeError(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || strings.Contains(err.Error(), "http: request body too large") {
		writeStatus(w, http.StatusRequestEntityTooLarge, requestError(codes.ResourceExhausted, "the body is too large: the most is 2 MiB"))
		return
	}
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if _, ok := detail.(*errdetails.ErrorInfo); ok {
			writeStatus(w, runtime.HTTPStatusFromCode(s.Code()), s)
			return
		}
	}
	// Without an ErrorInfo it did not come from the service.
	switch s.Code() {
	case codes.InvalidArgument:
		s = badRequest(plain(s.Message()))
	case codes.Unavailable:
		s = withDetails(s, &errdetails.ErrorInfo{Reason: probev1.ErrorReason_ERROR_REASON_UNAVAILABLE.String(), Domain: errorDomain})
	case codes.Canceled, codes.DeadlineExceeded:
		s = withDetails(s, &errdetails.ErrorInfo{Reason: probev1.ErrorReason_ERROR_REASON_CANCELLED.String(), Domain: errorDomain})
	default:
		s = withDetails(s, &errdetails.ErrorInfo{Reason: probev1.ErrorReason_ERROR_REASON_INTERNAL.String(), Domain: errorDomain})
	}
	writeStatus(w, runtime.HTTPStatusFromCode(s.Code()), s)
}

// plain makes one sentence of what protojson says: it puts "proto:" before it, and, so that nobody relies on the text,
// at random a space of another kind.
func plain(message string) string {
	message = strings.TrimPrefix(strings.ReplaceAll(message, "\u00a0", " "), "proto: ")
	if strings.Contains(message, "google.protobuf.Duration") {
		message += `: a duration is in seconds, as "90s" or "0.3s"`
	}
	return message
}

func writeStatus(w http.ResponseWriter, httpStatus int, s *status.Status) {
	text, err := marshal.Marshal(s.Proto())
	if err != nil { // a detail of a type this program does not know
		text, httpStatus = []byte(`{"code":13,"message":"the error cannot be written","details":[]}`), http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus)
	// A client that went away needs no error.
	_, _ = w.Write(append(text, '\n'))
}

// routingError is for requests that fit no RPC.
func routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int) {
	switch httpStatus {
	case http.StatusMethodNotAllowed:
		writeStatus(w, httpStatus, requestError(codes.Unimplemented, r.Method+" does not go with "+r.URL.Path+": what opens a connection is POST, what looks up is GET"))
	case http.StatusNotFound:
		writeStatus(w, httpStatus, requestError(codes.NotFound, "there is no "+r.URL.Path+": /openapi.json tells what there is"))
	default:
		writeStatus(w, httpStatus, requestError(codes.InvalidArgument, "the request cannot be read: "+http.StatusText(httpStatus)))
	}
}

// outgoingHeader lets the headers of an answer through that are meant for every caller.
func outgoingHeader(key string) (string, bool) {
	if strings.HasPrefix(key, "probe-") {
		return http.CanonicalHeaderKey(key), true
	}
	return "", false
}

func copyHeader(w http.ResponseWriter, header metadata.MD) {
	for key, values := range header {
		if name, ok := outgoingHeader(key); ok {
			w.Header()[name] = values
		}
	}
}
