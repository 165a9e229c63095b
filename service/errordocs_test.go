package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/policy"
	"probed/service/resolve"
	"probed/service/schema"
)

// documented is a row of the table of docs/errors.md, and what is found of it. A name in parentheses is of some errors.
type documented struct{ codes, http, details, metadata string }

// The table of docs/errors.md says of each reason what the program makes of it, and the contract says the same codes.
func TestErrorsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]documented)
	quoted := regexp.MustCompile("`([A-Z_]+)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cell, "`", ""))
		}
		if cells[5] == "" {
			t.Errorf("%s: there is nothing to do", cells[0])
		}
		for _, reason := range quoted.FindAllStringSubmatch(strings.SplitN(line, "|", 3)[1], -1) {
			if _, twice := rows[reason[1]]; twice {
				t.Errorf("%s stands there twice", reason[1])
			}
			rows[reason[1]] = documented{cells[1], cells[2], cells[3], cells[4]}
		}
	}
	found := make(map[string][]*status.Status)
	for _, err := range everyError() {
		s := status.Convert(complete(statusOf(err), "id"))
		found[reasonOf(s.Err())] = append(found[reasonOf(s.Err())], s)
	}
	for code := range bareReasons {
		s := status.Convert(complete(status.Error(code, "of a library"), "id"))
		found[reasonOf(s.Err())] = append(found[reasonOf(s.Err())], s)
	}
	for reason, statuses := range found {
		want := describe(t, statuses)
		if got := rows[reason]; got != want {
			t.Errorf("%s: the table says %q, the program %q", reason, got, want)
		}
	}
	contract := commentedCodes(t)
	for reason, row := range rows {
		if want, ours := contract[reason]; ours && row.codes != want {
			t.Errorf("%s: the table says %s, the contract %s", reason, row.codes, want)
		}
		if len(found[reason]) == 0 && reason != "ERROR_REASON_HTTP_REQUEST" { // which package gateway makes
			t.Errorf("%s: nothing fails so", reason)
		}
	}
	for _, names := range []map[int32]string{probev1.ErrorReason_name, probev1.AddressInfoError_name} {
		for number, name := range names {
			if _, ok := rows[name]; !ok && number != 0 {
				t.Errorf("%s is not in the table", name)
			}
		}
	}
}

// commentedCodes are the codes that the contract tells of each reason.
func commentedCodes(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../api/proto/probe/v1/error_reason.proto")
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Collect(maps.Keys(codeNames()))
	word := regexp.MustCompile(`[A-Z_]{5,}`)
	all := make(map[string]string)
	var comment string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, _, isValue := strings.Cut(line, " = ")
		switch {
		case strings.HasPrefix(line, "//"):
			comment += line
		case isValue:
			var codes []string
			for _, w := range word.FindAllString(comment, -1) {
				if slices.Contains(names, w) {
					codes = append(codes, w)
				}
			}
			if all[name] = strings.Join(codes, ", "); len(codes) == 0 {
				delete(all, name)
			}
			comment = ""
		default:
			comment = ""
		}
	}
	if len(all) < 20 {
		t.Errorf("the contract tells of %d reasons", len(all))
	}
	return all
}

// codeNames are the codes by the names that the contract has for them.
func codeNames() map[string]codes.Code {
	all := make(map[string]codes.Code)
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		all[codeName(status.Error(code, ""))] = code
	}
	all["CANCELLED"] = codes.Canceled
	return all
}

// describe tells of statuses with one reason what a row of the table does. Each has the two details that all have.
func describe(t *testing.T, statuses []*status.Status) documented {
	t.Helper()
	var codes, https []string
	details, metadata := make(map[string]int), make(map[string]int)
	for _, s := range statuses {
		if name := codeName(s.Err()); !slices.Contains(codes, name) {
			codes = append(codes, name)
		}
		if http := fmt.Sprint(runtime.HTTPStatusFromCode(s.Code())); !slices.Contains(https, http) {
			https = append(https, http)
		}
		var always []string
		for _, detail := range s.Details() {
			message, ok := detail.(proto.Message)
			if !ok {
				t.Fatalf("%v: %v", s, detail)
			}
			name := strings.TrimPrefix(string(message.ProtoReflect().Descriptor().FullName()), "google.rpc.")
			switch detail := detail.(type) {
			case *errdetails.ErrorInfo:
				always = append(always, name)
				for key, value := range detail.GetMetadata() {
					if metadata[key]++; value == "" {
						t.Errorf("%v: nothing under %s", s, key)
					}
				}
				if detail.GetDomain() != ErrorDomain {
					t.Errorf("%v: domain %q", s, detail.GetDomain())
				}
				continue
			case *errdetails.RequestInfo:
				if always = append(always, name); detail.GetRequestId() == "" {
					t.Errorf("%v: no id", s)
				}
				continue
			case *errdetails.BadRequest:
				for _, violation := range detail.GetFieldViolations() {
					if !regexp.MustCompile(`^[A-Z][A-Z0-9_]+[A-Z0-9]$`).MatchString(violation.GetReason()) { // as google.rpc wants it
						t.Errorf("%v: the reason %q", s, violation.GetReason())
					}
				}
			}
			details[name]++
		}
		if slices.Sort(always); !slices.Equal(always, []string{"ErrorInfo", "RequestInfo"}) {
			t.Errorf("%v has %q, want each once", s, always)
		}
	}
	slices.Sort(codes)
	return documented{inOrder(codes), strings.Join(slices.Sorted(slices.Values(https)), ", "), some(details, len(statuses)), some(metadata, len(statuses))}
}

func inOrder(codes []string) string {
	for i, code := range codes {
		if code == "CANCELLED" || code == "CANCELED" {
			codes[i] = "CANCELLED"
		}
	}
	return strings.Join(codes, ", ")
}

// some are names, those in parentheses that not all have.
func some(counts map[string]int, all int) string {
	var each, others []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if counts[name] < all {
			others = append(others, "("+name+")")
		} else {
			each = append(each, name)
		}
	}
	return strings.Join(append(each, others...), ", ")
}

// everyError are errors of each kind that statusOf knows, with and without what some have.
func everyError() []error {
	all := []error{
		&fieldError{field: "a_b", problem: "is wrong"},
		&exchange.FieldError{Field: "family", Reason: "is wrong"},
		&exchange.FrameError{Field: "half_close", Reason: "is wrong"},
		&exchange.StepError{Field: "receive.count", Reason: "is wrong"},
		&exchange.TargetError{Reason: "is wrong"},
		&schema.InvalidError{Violations: []schema.Violation{{Field: "name", Rule: "string.max_len", Message: "is too long"}}},
		&encodingError{"probe.v1.ConnectRequest", errors.New("cut off")},
		&notFoundError{reason: probev1.ErrorReason_ERROR_REASON_SERVICE_NOT_FOUND, kind: "service", name: "x"},
		&notFoundError{reason: probev1.ErrorReason_ERROR_REASON_PROTOCOL_NOT_FOUND, kind: "protocol", name: "x"},
		&guard.UnauthenticatedError{Reason: guard.ReasonExpired},
		&guard.UnauthenticatedError{Reason: guard.ReasonIssuerUnavailable, Unavailable: true},
		&guard.ForbiddenError{Method: "/probe.v1.ExchangeService/Connect", Rule: policy.RuleDenyDefault},
		&guard.LimitError{Limit: guard.LimitSessions, Max: 1, RetryAfter: time.Second},
		&dial.LimitError{Limit: "50 dials a second"},
		&guard.AuditError{Err: errors.New("it is full")},
		&deniedError{target: "x:1", cause: &policy.DeniedError{Rule: "deny-default"}},
		&policy.DeniedError{Rule: "deny-default"},
		&revokedError{cause: &policy.DeniedError{Rule: "deny-default"}},
		&unknownMethodError{"/a/b"},
		context.Canceled, context.DeadlineExceeded,
		errors.New("a bug"),
	}
	for reason := resolve.ReasonNone; reason <= resolve.Looped; reason++ {
		causes := map[resolve.Reason]error{
			resolve.Denied: &policy.DeniedError{Rule: "deny-default"}, resolve.Limited: &dial.LimitError{Limit: "50 dials a second"},
		}
		all = append(all, &resolve.Error{Name: "x.test", Reason: reason, Err: causes[reason]})
	}
	for code := resolve.EAI(-1000); code < 1000; code++ {
		if probev1.AddressInfoError_value[code.String()] == 0 {
			continue
		}
		all = append(all, &resolve.GAIError{Code: code})
		if code == resolve.EAI_NONAME || code == resolve.EAI_NODATA {
			all = append(all, &resolve.GAIError{Code: code, Err: &resolve.Error{Name: "x.test", Reason: resolve.NotFound}})
		}
	}
	return all
}
