package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/policy"
	"probed/service/resolve"
	"probed/service/schema"
)

// ErrorDomain is the domain of the google.rpc.ErrorInfo in every error status.
const ErrorDomain = "probed"

// fieldError is a request field that handlers, rather than the rules in the contract, find wrong.
type fieldError struct {
	field   string // its path in the contract's spelling, as "steps[1].half_close"
	problem string // what is wrong, to be read behind the field's name
}

func (e *fieldError) Error() string { return jsonPath(e.field) + " " + e.problem }

// notFoundError is a lookup in a table that found nothing.
type notFoundError struct {
	reason   probev1.ErrorReason
	kind     string // of what was looked for
	name     string
	protocol string // for which; empty: any
}

func (e *notFoundError) Error() string {
	what := fmt.Sprintf("no table has the %s %q", e.kind, e.name)
	if e.protocol != "" {
		what += " for " + e.protocol
	}
	return what
}

// unknownMethodError is a call of a method that is not here.
type unknownMethodError struct{ method string }

func (e *unknownMethodError) Error() string {
	return "there is no method " + e.method + " here; reflection tells which there are (grpcurl ADDRESS list)"
}

// The reasons of field violations that no rule of the contract has a name for. Those that one has are called by it, as
// STRING_MAX_LEN.
const (
	violationTarget  = "TARGET"       // it cannot be read
	violationValue   = "VALUE"        // it cannot be read, or is nothing that there is
	violationContext = "CONTEXT"      // it does not go with other fields
	violationOrder   = "OUT_OF_ORDER" // a frame that does not go with those before
)

// unavailableRetry is when it is worth while to ask again for what is not to be had just now.
const unavailableRetry = 2 * time.Second

// frameError is an error in a frame of a conversation.
type frameError struct {
	frame string // its field in the contract
	error
}

func (e *frameError) Unwrap() error { return e.error }

// deniedError is an exchange that the policy did not let happen: the caller may not look up the name, or none of its
// addresses was admitted. It reads the same for both, so that who may not look a name up does not learn whether it exists.
type deniedError struct {
	target string
	cause  error
}

func (e *deniedError) Error() string {
	return "the policy of this probed does not let this caller reach " + e.target
}

func (e *deniedError) Unwrap() error { return e.cause }

// statusOf turns any error of the engines and the handlers into the status a caller sees. It is the one place that
// does. No error is none.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	var (
		field       *fieldError
		notFound    *notFoundError
		denied      *deniedError
		target      *exchange.TargetError
		unfit       *exchange.FieldError
		step        *exchange.StepError
		order       *exchange.FrameError
		validation  *schema.InvalidError
		addressInfo *resolve.GAIError
		lookup      *resolve.Error
		frame       *frameError
		stranger    *guard.UnauthenticatedError
		forbidden   *guard.ForbiddenError
		limit       *guard.LimitError
		dials       *dial.LimitError
		unwritten   *guard.AuditError
		rule        *policy.DeniedError
		revoked     *revokedError
		encoding    *encodingError
		unknown     *unknownMethodError
	)
	within := ""
	if errors.As(err, &frame) {
		within = frame.frame + "."
	}
	switch {
	case errors.As(err, &field):
		return fieldStatus(probev1.ErrorReason_ERROR_REASON_INVALID_FIELD, err.Error(),
			&errdetails.BadRequest_FieldViolation{Field: within + field.field, Description: field.problem, Reason: violationValue})
	case errors.As(err, &unfit):
		return fieldStatus(probev1.ErrorReason_ERROR_REASON_INVALID_FIELD, jsonPath(unfit.Field)+": "+unfit.Reason,
			&errdetails.BadRequest_FieldViolation{Field: within + unfit.Field, Description: unfit.Reason, Reason: violationContext})
	case errors.As(err, &order):
		return fieldStatus(probev1.ErrorReason_ERROR_REASON_INVALID_FIELD, "out of order: "+jsonPath(order.Field)+": "+order.Reason,
			&errdetails.BadRequest_FieldViolation{Field: order.Field, Description: order.Reason, Reason: violationOrder})
	case errors.As(err, &target):
		return fieldStatus(probev1.ErrorReason_ERROR_REASON_INVALID_TARGET, "target: "+target.Reason,
			&errdetails.BadRequest_FieldViolation{Field: within + "target", Description: target.Reason, Reason: violationTarget})
	case errors.As(err, &step):
		path := fmt.Sprintf("steps[%d].%s", step.Step, step.Field)
		return fieldStatus(probev1.ErrorReason_ERROR_REASON_INVALID_FIELD, jsonPath(path)+": "+step.Reason,
			&errdetails.BadRequest_FieldViolation{Field: path, Description: step.Reason, Reason: violationContext})
	case errors.As(err, &validation):
		return validationStatus(validation)
	case errors.As(err, &encoding):
		return newStatus(codes.InvalidArgument, probev1.ErrorReason_ERROR_REASON_INVALID_FIELD.String(), encoding.Error())
	case errors.As(err, &notFound):
		return newStatus(codes.NotFound, notFound.reason.String(), err.Error(), resource(notFound.kind, notFound.name, err.Error()))
	case errors.As(err, &unknown):
		return newStatus(codes.Unimplemented, probev1.ErrorReason_ERROR_REASON_UNIMPLEMENTED.String(), unknown.Error())
	case errors.As(err, &revoked): // before its cause, whose status it has in other words
		cause := status.Convert(statusOf(revoked.cause)).Proto()
		cause.Message = revoked.Error()
		return status.FromProto(cause).Err()
	case errors.As(err, &stranger) && stranger.Unavailable:
		return newStatus(codes.Unavailable, probev1.ErrorReason_ERROR_REASON_UNAVAILABLE.String(), stranger.Error(), retryIn(unavailableRetry))
	case errors.As(err, &stranger):
		return infoStatus(codes.Unauthenticated, stranger.Error(),
			info(probev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, "cause", stranger.Reason))
	case errors.As(err, &forbidden):
		return infoStatus(codes.PermissionDenied, forbidden.Error(),
			info(probev1.ErrorReason_ERROR_REASON_CALL_DENIED, "method", forbidden.Method, "rule", forbidden.Rule))
	case errors.As(err, &limit): // also as the cause of the next
		return limitStatus(limit, limit.Error())
	case errors.As(err, &dials):
		return limitStatus(&guard.LimitError{Limit: dials.Limit, RetryAfter: dials.RetryAfter}, dials.Error())
	case errors.As(err, &unwritten):
		return newStatus(codes.Unavailable, probev1.ErrorReason_ERROR_REASON_UNAVAILABLE.String(),
			"this probed cannot write its audit log, and does nothing that it cannot write down", retryIn(unavailableRetry))
	case errors.As(err, &denied):
		return deniedStatus(denied.Error(), denied.cause)
	case errors.As(err, &rule):
		return deniedStatus("the policy of this probed does not let this caller look that up", err)
	case errors.As(err, &addressInfo):
		reason := addressInfo.Code.String()
		code, meaning := addressInfoCode(addressInfo.Code)
		details := []protoadapt.MessageV1{shortTrace(resolutionFailure(reason, addressInfo.Trace, addressInfo.Duration, addressInfoHint(addressInfo)))}
		if errors.As(addressInfo, &lookup) && code == codes.NotFound {
			details = append(details, resource("host", lookup.Name, meaning))
		}
		return newStatus(code, reason, reason+": "+meaning, details...)
	case errors.As(err, &lookup):
		code, reason := lookupCode(lookup.Reason)
		details := []protoadapt.MessageV1{shortTrace(lookupFailure(lookup))}
		if code == codes.NotFound {
			details = append(details, resource("host", lookup.Name, lookup.Reason.String()))
		}
		return newStatus(code, reason.String(), err.Error(), details...)
	case errors.Is(err, context.Canceled):
		return newStatus(codes.Canceled, probev1.ErrorReason_ERROR_REASON_CANCELLED.String(), "the caller went away")
	case errors.Is(err, context.DeadlineExceeded):
		return newStatus(codes.DeadlineExceeded, probev1.ErrorReason_ERROR_REASON_CANCELLED.String(), "the call's deadline passed")
	}
	// What we did not foresee may tell internals: it is for the log, which has the request's id.
	return &internalError{err}
}

// internalError is INTERNAL to the caller, with its cause kept for the log.
type internalError struct{ cause error }

func (e *internalError) Error() string { return e.cause.Error() }

func (e *internalError) Unwrap() error { return e.cause }

// GRPCStatus is what the caller sees; package grpc asks for it.
func (e *internalError) GRPCStatus() *status.Status {
	return status.Convert(newStatus(codes.Internal, probev1.ErrorReason_ERROR_REASON_INTERNAL.String(),
		"probed failed; its log has the cause under the id of this request"))
}

// addressInfoCode is the code for a failure of getaddrinfo or getnameinfo, and its meaning in words.
func addressInfoCode(code resolve.EAI) (codes.Code, string) {
	switch code {
	case resolve.EAI_NONAME:
		return codes.NotFound, "the host, or the service, is not known here"
	case resolve.EAI_NODATA:
		return codes.NotFound, "the name exists and has no address"
	case resolve.EAI_ADDRFAMILY:
		return codes.NotFound, "the host has no address of this family"
	case resolve.EAI_FAMILY:
		return codes.InvalidArgument, "the address family is not supported"
	case resolve.EAI_SOCKTYPE:
		return codes.InvalidArgument, "the socket type is not supported, or not with this protocol"
	case resolve.EAI_SERVICE:
		return codes.InvalidArgument, "the service is not known for this socket type"
	case resolve.EAI_BADFLAGS:
		return codes.InvalidArgument, "a flag is unknown, or does not go with the rest"
	case resolve.EAI_IDN_ENCODE:
		return codes.InvalidArgument, "the host cannot be encoded by IDNA"
	case resolve.EAI_AGAIN:
		return codes.Unavailable, "the name servers cannot answer now; later they may"
	case resolve.EAI_FAIL:
		return codes.Internal, "the name servers failed for good"
	}
	return codes.Internal, "the lookup failed"
}

func lookupCode(reason resolve.Reason) (codes.Code, probev1.ErrorReason) {
	switch reason {
	case resolve.NotFound, resolve.BadName:
		return codes.NotFound, probev1.ErrorReason_ERROR_REASON_NAME_NOT_FOUND
	case resolve.NoData:
		return codes.NotFound, probev1.ErrorReason_ERROR_REASON_NAME_HAS_NO_ADDRESS
	case resolve.ServFail:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_SERVER_FAILURE
	case resolve.Refused:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_REFUSED
	case resolve.Timeout:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_TIMEOUT
	case resolve.Unreachable:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_UNREACHABLE
	case resolve.Malformed:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_MALFORMED
	case resolve.Mismatched:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_MISMATCHED
	case resolve.Looped:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_LOOPED
	case resolve.HandshakeFailed:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_HANDSHAKE
	case resolve.UnknownServerName:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_DNS_SERVER_UNKNOWN
	case resolve.NotConfigured:
		return codes.Unavailable, probev1.ErrorReason_ERROR_REASON_RESOLVER_NOT_CONFIGURED
	case resolve.Denied:
		return codes.PermissionDenied, probev1.ErrorReason_ERROR_REASON_POLICY_DENIED
	case resolve.Limited:
		return codes.ResourceExhausted, probev1.ErrorReason_ERROR_REASON_LIMIT_REACHED
	case resolve.Cancelled:
		return codes.Canceled, probev1.ErrorReason_ERROR_REASON_CANCELLED
	}
	return codes.Internal, probev1.ErrorReason_ERROR_REASON_INTERNAL
}

// addressInfoHint is the hint of the walk that a failed getaddrinfo took; empty when nobody was asked.
func addressInfoHint(err *resolve.GAIError) string {
	if lookup, ok := errors.AsType[*resolve.Error](err); ok {
		return lookup.Reason.Hint()
	}
	return ""
}

// validationStatus is what the rules in the contract found wrong.
func validationStatus(err *schema.InvalidError) error {
	violations := make([]*errdetails.BadRequest_FieldViolation, len(err.Violations))
	texts := make([]string, len(err.Violations))
	for i, violation := range err.Violations {
		violations[i] = &errdetails.BadRequest_FieldViolation{
			Field: violation.Field, Description: violation.Message, Reason: constantCase(violation.Rule),
		}
		texts[i] = jsonPath(violation.Field) + ": " + violation.Message
	}
	return fieldStatus(probev1.ErrorReason_ERROR_REASON_INVALID_FIELD, strings.Join(texts, "; "), violations...)
}

func fieldStatus(reason probev1.ErrorReason, message string, violations ...*errdetails.BadRequest_FieldViolation) error {
	return newStatus(codes.InvalidArgument, reason.String(), message, &errdetails.BadRequest{FieldViolations: fewViolations(violations)})
}

// constantCase is the id of a rule as google.rpc has constants: string.max_len is STRING_MAX_LEN.
func constantCase(rule string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '-' {
			return '_'
		}
		return unicode.ToUpper(r)
	}, rule)
}

// limitStatus is for a limit that is reached.
func limitStatus(limit *guard.LimitError, message string) error {
	violation := &errdetails.QuotaFailure_Violation{
		Subject: cmp.Or(limit.Caller, ErrorDomain), Description: message, QuotaId: limit.Limit, QuotaValue: int64(limit.Max),
	}
	details := []protoadapt.MessageV1{&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{violation}}}
	if limit.RetryAfter > 0 {
		details = append(details, retryIn(limit.RetryAfter))
	}
	return infoStatus(codes.ResourceExhausted, message, info(probev1.ErrorReason_ERROR_REASON_LIMIT_REACHED, "limit", limit.Limit), details...)
}

func retryIn(d time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

// resource is what was looked for and is not there.
func resource(kind, name, description string) *errdetails.ResourceInfo {
	return &errdetails.ResourceInfo{
		ResourceType: kind, ResourceName: shortened(name, mostWords), Description: shortened(description, mostWords),
	}
}

// info has the reason of a status, with metadata: each key before its value.
func info(reason probev1.ErrorReason, metadata ...string) *errdetails.ErrorInfo {
	i := &errdetails.ErrorInfo{Reason: reason.String(), Domain: ErrorDomain, Metadata: make(map[string]string)}
	for pair := range slices.Chunk(metadata, 2) {
		i.Metadata[pair[0]] = shortened(pair[1], mostWords)
	}
	return i
}

// deniedStatus is for what the policy denies; cause has the rule.
func deniedStatus(message string, cause error) error {
	if denied, ok := errors.AsType[*policy.DeniedError](cause); ok {
		message += " (rule " + denied.Rule + ")"
		return infoStatus(codes.PermissionDenied, message, info(probev1.ErrorReason_ERROR_REASON_POLICY_DENIED, "rule", denied.Rule))
	}
	return infoStatus(codes.PermissionDenied, message, info(probev1.ErrorReason_ERROR_REASON_POLICY_DENIED))
}

func newStatus(code codes.Code, reason, message string, details ...protoadapt.MessageV1) error {
	return infoStatus(code, message, &errdetails.ErrorInfo{Reason: reason, Domain: ErrorDomain}, details...)
}

func infoStatus(code codes.Code, message string, info *errdetails.ErrorInfo, details ...protoadapt.MessageV1) error {
	message = shortened(message, mostMessage)
	s, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil { // a detail that does not marshal: the rest is still true
		return status.Error(code, message)
	}
	return s.Err()
}

// bareReasons are those of statuses that did not arise here, and so have none: of gRPC, and of the services that come with it.
var bareReasons = map[codes.Code]probev1.ErrorReason{
	codes.Canceled:          probev1.ErrorReason_ERROR_REASON_CANCELLED,
	codes.DeadlineExceeded:  probev1.ErrorReason_ERROR_REASON_CANCELLED,
	codes.InvalidArgument:   probev1.ErrorReason_ERROR_REASON_INVALID_FIELD,
	codes.NotFound:          probev1.ErrorReason_ERROR_REASON_NOT_FOUND,
	codes.ResourceExhausted: probev1.ErrorReason_ERROR_REASON_LIMIT_REACHED,
	codes.Unavailable:       probev1.ErrorReason_ERROR_REASON_UNAVAILABLE,
	codes.Unimplemented:     probev1.ErrorReason_ERROR_REASON_UNIMPLEMENTED,
}

// complete is the status of a call with what every one has: a reason, and the id of its request. No error is none.
func complete(err error, requestID string) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.Convert(statusOf(err))
	}
	var details []protoadapt.MessageV1
	if reasonOf(err) == probev1.ErrorReason_ERROR_REASON_UNSPECIFIED.String() {
		reason := probev1.ErrorReason_ERROR_REASON_INTERNAL
		if bare, known := bareReasons[s.Code()]; known {
			reason = bare
		}
		details = append(details, info(reason))
	}
	complete, detailErr := s.WithDetails(append(details, &errdetails.RequestInfo{RequestId: requestID})...)
	if detailErr != nil { // a status of code OK, or a detail that does not marshal: the rest is still true
		return err
	}
	return complete.Err()
}

// reasonOf is the reason of a status, or OK.
func reasonOf(err error) string {
	if err == nil {
		return "OK"
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return probev1.ErrorReason_ERROR_REASON_UNSPECIFIED.String()
}

// jsonPath spells a field's path as JSON has it: buffer_size is bufferSize. Callers of gRPC find the contract's own
// spelling in the details.
func jsonPath(path string) string {
	var b strings.Builder
	up := false
	for _, r := range path {
		switch {
		case r == '_':
			up = true
		case up:
			b.WriteString(strings.ToUpper(string(r)))
			up = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
