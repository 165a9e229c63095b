package service

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
)

// An error travels in the trailers of its call, and of those many take no more than 8 KiB: gRPC's C core, Java, proxies. What
// is beyond costs a caller the whole error. So what has no bound of its own gets one, such that all of it fits together: the
// message stands there twice, once with up to three bytes for one (RFC 3986, section 2.1), and the details in base64.
const (
	mostMessage    = 768  // bytes
	mostTrace      = 2304 // bytes of a ResolutionFailure with its trace
	mostViolations = 8
	mostWords      = 128 // bytes of what one violation says
	mostAnswers    = 4   // of one step
)

// shortened is s if it has at most so many bytes, else its beginning and an ellipsis.
func shortened(s string, most int) string {
	const ellipsis = "…"
	if len(s) <= most {
		return s
	}
	s = s[:most-len(ellipsis)]
	for !utf8.ValidString(s) { // a rune was cut
		s = s[:len(s)-1]
	}
	return s + ellipsis
}

// shortTrace returns failure with a trace that fits into trailers: of too many steps, those at both ends, and between them one
// that says how many were left out.
func shortTrace(failure *probev1.ResolutionFailure) *probev1.ResolutionFailure {
	if proto.Size(failure) <= mostTrace {
		return failure
	}
	trace := failure.GetTrace()
	for _, step := range trace {
		if n := len(step.GetAnswers()); n > mostAnswers {
			step.Answers = append(step.Answers[:mostAnswers:mostAnswers], fmt.Sprintf("… and %d more", n-mostAnswers))
		}
		for i, answer := range step.GetAnswers() {
			step.Answers[i] = shortened(answer, mostWords)
		}
	}
	const around = 4   // bytes of a step's tag and length
	const leftOut = 64 // of the step that stands for others
	failure.Trace = nil
	room := mostTrace - proto.Size(failure) - leftOut
	head, tail := 0, len(trace)
	for next := 0; head < tail; {
		if room -= proto.Size(trace[next]) + around; room < 0 {
			break
		}
		if next == head {
			head++
			next = tail - 1
		} else {
			tail--
			next = head
		}
	}
	if failure.Trace = trace; head < tail {
		note := &probev1.TraceStep{Error: fmt.Sprintf("%d steps are left out", tail-head)}
		failure.Trace = slices.Concat(trace[:head], []*probev1.TraceStep{note}, trace[tail:])
	}
	return failure
}

// fewViolations returns the first of many.
func fewViolations(violations []*errdetails.BadRequest_FieldViolation) []*errdetails.BadRequest_FieldViolation {
	violations = violations[:min(len(violations), mostViolations)]
	for _, violation := range violations {
		violation.Field, violation.Description = shortened(violation.GetField(), mostWords), shortened(violation.GetDescription(), mostWords)
	}
	return violations
}
