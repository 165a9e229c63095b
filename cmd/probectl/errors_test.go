package main

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// TestAdvice: what is told beside an error, and with which code the program ends.
func TestAdvice(t *testing.T) {
	t.Parallel()
	probed := func(code codes.Code, message string, details ...protoadapt.MessageV1) error {
		s, err := status.New(code, message).WithDetails(append(details, &errdetails.ErrorInfo{Domain: "probed"})...)
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	retry := func(d time.Duration) protoadapt.MessageV1 {
		return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
	}
	const who = "Say who you are: a token with --token-file, PROBECTL_TOKEN or, in a cluster, --service-account; or a certificate with --server-cert and --server-key."
	const may = "What you may do and what not, and by which rules, is told by: probectl policy explain TARGET"
	for _, test := range []struct {
		err          error
		code         int
		text, advice string
	}{
		{nil, exitYes, "", ""},
		{errNo, exitNo, "", ""},
		{errors.New("other"), exitFailed, "other", ""},
		{probed(codes.Unauthenticated, "who?"), exitFailed, "who?", who},
		{probed(codes.PermissionDenied, "no"), exitFailed, "no", may},
		{probed(codes.ResourceExhausted, "full", retry(1520*time.Millisecond)), exitFailed, "full", "try again in 1.5s"},
		{probed(codes.ResourceExhausted, "full", retry(time.Millisecond)), exitFailed, "full", "try again in 100ms"},
		{probed(codes.ResourceExhausted, "full; try again in 1s", retry(time.Second)), exitFailed, "full; try again in 1s", ""},
		{probed(codes.ResourceExhausted, "full", retry(0)), exitFailed, "full", ""},
		{probed(codes.Internal, "failed"), exitFailed, "failed", ""},
		{probed(codes.NotFound, "none", &probev1.ResolutionFailure{Hint: "look"}), exitNo, "none", "hint: look"},
		{probed(codes.InvalidArgument, "field"), exitUsage, "field", ""},

		// Made by gRPC on the way: who stands there is unknown.
		{status.Error(codes.Unauthenticated, "some proxy"), exitFailed, "the connection to the server broke: some proxy", ""},
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (100011 vs. 65536)"), exitUsage,
			"the request is too large: this server takes 65536 bytes in one message", ""},
		{status.Error(codes.ResourceExhausted, "grpc: larger than max"), exitUsage,
			"the request is too large: it has more than this server takes in one message", ""},
	} {
		if code, text, advice := explain(test.err); code != test.code || text != test.text || advice != test.advice {
			t.Errorf("%v: %d, %s, %s", test.err, code, text, advice)
		}
	}
}

// TestAdviceOnInternal: where the cause is, which the error does not tell.
func TestAdviceOnInternal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		server  string
		verbose bool
		id      string
		want    string
	}{
		{"probed.shop", false, "0123", "request id: 0123\n"},
		{"probed.shop", false, "", ""},
		{"", false, "0123", "With --verbose the cause is told.\n"},
		{"", true, "0123", "request id: 0123\n"}, // which the log on stderr has
	} {
		var stderr bytes.Buffer
		(&tool{server: test.server, verbose: test.verbose, stderr: newPrinter(&stderr)}).adviseInternal(test.id)
		if stderr.String() != test.want {
			t.Errorf("%+v: %q", test, stderr.String())
		}
	}
}
