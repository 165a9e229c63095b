package gateway

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

const (
	errorDomain = "probed"
	// requestIDHeader has the id of a call.
	requestIDHeader = "Probe-Request-Id"
	// endRetry is when to ask again after probed has ended.
	endRetry = 2 * time.Second
)

// requestError is a request that is refused before any service saw it.
func requestError(code codes.Code, message string) *status.Status {
	return withDetails(status.New(code, message), &errdetails.ErrorInfo{
		Reason: probev1.ErrorReason_ERROR_REASON_HTTP_REQUEST.String(), Domain: errorDomain,
	})
}

// invalidField is a request whose body or query cannot be read; field is the one to blame, if it is known.
func invalidField(field, message string) *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: probev1.ErrorReason_ERROR_REASON_INVALID_FIELD.String(), Domain: errorDomain,
	}}
	if field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
			Field: field, Description: message, Reason: "UNREADABLE",
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

// fieldPatterns find the field in what readBody says, and in what the generated handlers say of paths and queries.
var fieldPatterns = []*regexp.Regexp{
	regexp.MustCompile(`^([A-Za-z_][\w.\[\]]*): `),
	regexp.MustCompile(`(?:field|list) "([^"]+)"`),
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
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		w.Header().Set("Connection", "close") // what is left of the body is not waited for
		writeStatus(w, http.StatusRequestEntityTooLarge, requestError(codes.ResourceExhausted,
			fmt.Sprintf("the body is too large: the most is %d bytes", tooLarge.Limit)))
		return
	}
	s := statusOf(err)
	writeStatus(w, runtime.HTTPStatusFromCode(s.Code()), s)
}

// statusOf is the status of an error, with the reason that every error has.
func statusOf(err error) *status.Status {
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if _, ok := detail.(*errdetails.ErrorInfo); ok {
			return s
		}
	}
	// Without an ErrorInfo it did not come from the service.
	reason := probev1.ErrorReason_ERROR_REASON_INTERNAL
	var more []protoadapt.MessageV1
	switch s.Code() {
	case codes.InvalidArgument:
		message := parseFunction.ReplaceAllString(s.Message(), "")
		return invalidField(fieldIn(message), message)
	case codes.Unavailable:
		s, reason = status.New(codes.Unavailable, "probed is shutting down"), probev1.ErrorReason_ERROR_REASON_UNAVAILABLE
		more = append(more, &errdetails.RetryInfo{RetryDelay: durationpb.New(endRetry)}) // another one may be there by then
	case codes.ResourceExhausted:
		reason = probev1.ErrorReason_ERROR_REASON_LIMIT_REACHED
	case codes.Canceled, codes.DeadlineExceeded:
		reason = probev1.ErrorReason_ERROR_REASON_CANCELLED
	}
	return withDetails(s, append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason.String(), Domain: errorDomain}}, more...)...)
}

// parseFunction is how the generated handlers begin what is wrong with a number.
var parseFunction = regexp.MustCompile(`strconv\.\w+: `)

func writeStatus(w http.ResponseWriter, httpStatus int, s *status.Status) {
	if a, ok := w.(*boundedAnswer); ok {
		a.identify()
	}
	s = withRequestID(s, w.Header().Get(requestIDHeader))
	w.Header().Set("Content-Type", "application/json")
	setErrorHeaders(w, httpStatus, s)
	text := append(statusJSON(s), '\n')
	w.Header().Set("Content-Length", strconv.Itoa(len(text))) // so that it is whole also when the connection is closed behind it
	w.WriteHeader(httpStatus)
	// A client that went away needs no error.
	_, _ = w.Write(text)
}

// withRequestID is s with the id that stands in the header, for those who keep nothing but the body. Of a call it has it already,
// unless the end of probed came in between.
func withRequestID(s *status.Status, id string) *status.Status {
	has := slices.ContainsFunc(s.Details(), func(detail any) bool { _, ok := detail.(*errdetails.RequestInfo); return ok })
	if id == "" || has {
		return s
	}
	return withDetails(s, &errdetails.RequestInfo{RequestId: id})
}

// setErrorHeaders sets those headers of an error that HTTP has for it.
func setErrorHeaders(w http.ResponseWriter, httpStatus int, s *status.Status) {
	if a, ok := w.(*boundedAnswer); ok {
		a.reason = reasonOf(s)
	}
	if httpStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, section 11.6.1
	}
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			seconds := math.Ceil(retry.GetRetryDelay().AsDuration().Seconds())
			w.Header().Set("Retry-After", strconv.Itoa(int(seconds))) // RFC 9110, section 10.2.3
		}
	}
}

// reasonOf is the reason of an error, without the prefix of the contract.
func reasonOf(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return strings.TrimPrefix(info.GetReason(), "ERROR_REASON_")
		}
	}
	return ""
}

func statusJSON(s *status.Status) []byte {
	text, err := marshal.Marshal(s.Proto())
	if err != nil { // a detail of a type this program does not know
		return []byte(`{"code":13,"message":"the error cannot be written","details":[]}`)
	}
	return text
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
