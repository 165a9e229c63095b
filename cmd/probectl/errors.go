package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/service"
)

// The exit codes; the help of probectl itself tells them.
const (
	exitYes         = 0
	exitFailed      = 1
	exitNo          = 2
	exitUsage       = 64 // EX_USAGE of sysexits.h
	exitInterrupted = 130
)

// usageError is something wrong with the command line, found before anything was asked.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// flagError is something wrong with what a flag names, wherever it was said.
type flagError struct {
	flag string
	err  error // with the name of the flag
}

func (e *flagError) Error() string { return e.err.Error() }

func (e *flagError) Unwrap() error { return e.err }

// aboutFlag makes an error that of a flag.
func aboutFlag(flag string, err error) error {
	if err == nil {
		return nil
	}
	return &flagError{flag, fmt.Errorf("--%s: %w", flag, err)}
}

// exitError ends the program with a code. An empty text: what there is to say has been said. Advice is what to do next.
type exitError struct {
	code         int
	text, advice string
}

func (e *exitError) Error() string { return e.text }

// errNo is the answer no, told by what has been printed.
var errNo = &exitError{code: exitNo}

// explain turns the error of a command into an exit code, and into what to say on stderr; empty is nothing.
func explain(err error) (code int, text, advice string) {
	if err == nil {
		return exitYes, "", ""
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code, exit.text, exit.advice
	}
	if errors.Is(err, syscall.EPIPE) {
		return exitFailed, "", "" // nobody reads the answer any more, and whoever has stopped knows
	}
	s, ok := status.FromError(err)
	switch {
	case !ok:
		return exitFailed, err.Error(), ""
	case fromProbed(s):
		return codeOf(s), s.Message(), adviceOn(s)
	case s.Code() == codes.Unimplemented:
		return exitFailed, "the server does not know this question: " + s.Message(),
			"Is it a probed, and as new as this probectl?"
	case s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max"): // which gRPC finds, before the service
		return exitUsage, "the request is too large: " + sizeLimit(s.Message()), ""
	}
	return exitFailed, "the connection to the server broke: " + connectionText(s.Message()), ""
}

// codeOf is the exit code for a status of the service.
func codeOf(s *status.Status) int {
	switch s.Code() {
	case codes.InvalidArgument:
		return exitUsage
	case codes.NotFound:
		return exitNo
	}
	return exitFailed
}

// adviceOn is what to do about such a failure, or what it usually means; empty when there is nothing to say.
func adviceOn(s *status.Status) string {
	switch s.Code() {
	case codes.Unauthenticated:
		return "Say who you are: a token with --token-file, PROBECTL_TOKEN or, in a cluster, --service-account; or a certificate with --server-cert and --server-key."
	case codes.PermissionDenied:
		return "What you may do and what not, and by which rules, is told by: probectl policy explain TARGET"
	}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *probev1.ResolutionFailure:
			if detail.GetHint() != "" {
				return "hint: " + detail.GetHint()
			}
		case *errdetails.RetryInfo:
			const again = "try again in "
			if after := detail.GetRetryDelay().AsDuration(); after > 0 && !strings.Contains(s.Message(), again) {
				return again + max(after.Round(100*time.Millisecond), 100*time.Millisecond).String()
			}
		}
	}
	return ""
}

// advise tells what to do next, if there is anything.
func (t *tool) advise(advice string) {
	for line := range strings.Lines(advice) {
		t.stderr.aside("%s", strings.TrimSuffix(line, "\n"))
	}
}

// isInternal tells whether probed failed and does not say why.
func isInternal(err error) bool {
	s, ok := status.FromError(err)
	return err != nil && ok && s.Code() == codes.Internal && fromProbed(s)
}

// adviseInternal tells where the cause of a failure is, which no caller is told.
func (t *tool) adviseInternal(requestID string) {
	switch {
	case t.local() && !t.verbose:
		t.stderr.line("With --verbose the cause is told.")
	case requestID != "":
		t.stderr.line("request id: %s", requestID)
	}
}

// sizeLimit is how large a message may be, out of the words of gRPC: "… larger than max (N vs. LIMIT)".
func sizeLimit(message string) string {
	_, limit, _ := strings.Cut(message, " vs. ")
	if n, err := strconv.ParseUint(strings.TrimSuffix(limit, ")"), 10, 64); err == nil {
		return fmt.Sprintf("this server takes %d bytes in one message", n)
	}
	return "it has more than this server takes in one message"
}

// fromProbed tells whether a status was made by the service, rather than by gRPC on the way to it.
func fromProbed(s *status.Status) bool {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == service.ErrorDomain {
			return true
		}
	}
	return false
}

// connectionText takes the wrapping off what gRPC says of a connection: "connection error: desc = "transport: Error
// while dialing: dial tcp …: connect: connection refused"".
func connectionText(text string) string {
	if _, description, ok := strings.Cut(text, "desc = "); ok {
		text = description
		if unquoted, err := strconv.Unquote(description); err == nil {
			text = unquoted
		}
	}
	if strings.Contains(text, `debug data: "graceful_stop"`) {
		return "it has shut down"
	}
	return strings.TrimPrefix(strings.TrimPrefix(text, "transport: "), "Error while dialing: ")
}
