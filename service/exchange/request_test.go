package exchange

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDefaultSteps(t *testing.T) {
	t.Parallel()
	data := []byte("x")
	send, half, all, one := Send{Data: data}, HalfClose{}, Receive{}, Receive{Count: 1}
	for _, tt := range []struct {
		scheme string
		data   []byte
		hold   bool
		want   []Step
	}{
		{"tcp", data, false, []Step{send, half, all}},
		{"tcp", data, true, []Step{send, all}},
		{"tcp", nil, false, []Step{half, all}},
		{"tcp", []byte{}, true, []Step{all}},
		{"tls", data, false, []Step{send, half, all}},
		{"unix", data, false, []Step{send, half, all}},
		{"unixpacket", data, false, []Step{send, half, all}},
		{"unixpacket", nil, false, []Step{half, all}},
		{"udp", data, false, []Step{send, one}},
		{"udp", nil, false, []Step{Send{}, one}},
		{"udp6", data, true, []Step{send, one}},
		{"unixgram", nil, false, []Step{Send{}, one}},
		{"icmp", data, false, []Step{send, one}},
		{"icmp6", nil, false, []Step{Send{}, one}},
	} {
		target := Target{Scheme: tt.scheme}
		got := DefaultSteps(target, tt.data, tt.hold)
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s, %q, hold %v: %+v, want %+v", tt.scheme, tt.data, tt.hold, got, tt.want)
		}
		request := Request{Target: target, Steps: got}
		if err := request.Validate(); err != nil {
			t.Errorf("%s: the default steps are not valid: %v", tt.scheme, err)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const length = "length is for streams; messages (%s) end by count or idle"
	const delimiter = "delimiter is for streams; messages (%s) end by count or idle"
	const count = "count is for messages; a stream (%s) has no borders to count: use length, delimiter or idle"
	for _, tt := range []struct {
		scheme string
		step   Step
		field  string // empty: valid
		reason string // %s: the scheme
	}{
		{"tcp", Send{}, "", ""},
		{"udp", Send{}, "", ""},
		{"tcp", HalfClose{}, "", ""},
		{"unixpacket", HalfClose{}, "", ""},
		{"udp", HalfClose{}, "half_close", "a datagram socket (%s) has no half-close"},
		{"unixgram", HalfClose{}, "half_close", "a datagram socket (%s) has no half-close"},
		{"icmp", HalfClose{}, "half_close", "a datagram socket (%s) has no half-close"},
		{"icmp", StartTLS{}, "start_tls", "TLS goes over streams, not over messages (%s)"},
		{"icmp", Expect{Literal: []byte("x")}, "expect", "expect is for streams; messages (%s) come whole"},
		{"icmp6", Receive{Length: 1}, "receive.length", length},
		{"icmp4", Receive{Count: 1, Idle: time.Second}, "", ""},

		{"tcp", Receive{}, "", ""},
		{"unix", Receive{Length: 1}, "", ""},
		{"tls", Receive{Length: 1, Idle: time.Second}, "", ""},
		{"tcp6", Receive{Delimiter: "x", MaxBytes: 1, Idle: time.Second}, "", ""},
		{"udp", Receive{Count: 1, MaxBytes: 1, Idle: time.Second}, "", ""},
		{"unixpacket", Receive{Count: 1}, "", ""},
		{"udp4", Receive{}, "", ""},

		{"udp", Receive{Length: 1}, "receive.length", length},
		{"unixgram", Receive{Length: 1}, "receive.length", length},
		{"unixpacket", Receive{Length: 1}, "receive.length", length},
		{"udp6", Receive{Delimiter: "x"}, "receive.delimiter", delimiter},
		{"unixpacket", Receive{Delimiter: "x"}, "receive.delimiter", delimiter},
		{"tcp", Receive{Count: 1}, "receive.count", count},
		{"unix", Receive{Count: 1}, "receive.count", count},
		{"tcp", Receive{Length: 1, Delimiter: "x"}, "receive.delimiter", "length and delimiter exclude each other"},
		{"tcp", Receive{Length: 1, MaxBytes: 2}, "receive.max_bytes", "length and maxBytes exclude each other"},
		{"tcp", Receive{Length: 1, Count: 2}, "receive.count", count},
		{"udp", Receive{Delimiter: "x", Count: 2}, "receive.delimiter", delimiter},
	} {
		// The step that is wrong is found behind ones that are right.
		request := Request{Target: Target{Scheme: tt.scheme}, Steps: []Step{Send{}, Receive{Idle: 1}, tt.step}}
		wantsStepError(t, request, 2, tt.field, tt.reason)
	}
	for _, tt := range []struct {
		steps  []Step
		step   int
		field  string
		reason string
	}{
		{[]Step{HalfClose{}, Receive{}, Send{}}, 2, "send", "the sending side is closed already"},
		{[]Step{Send{}, HalfClose{}, HalfClose{}}, 2, "half_close", "the sending side is closed already"},
		{[]Step{Send{}, HalfClose{}, Receive{}, Receive{}}, 0, "", ""},
		{nil, 0, "", ""},
	} {
		wantsStepError(t, Request{Target: Target{Scheme: "tcp"}, Steps: tt.steps}, tt.step, tt.field, tt.reason)
	}
}

func wantsStepError(t *testing.T, request Request, step int, field, reason string) {
	t.Helper()
	err := request.Validate()
	if field == "" {
		if err != nil {
			t.Errorf("%s %+v: %v", request.Target.Scheme, request.Steps, err)
		}
		return
	}
	reason = strings.ReplaceAll(reason, "%s", request.Target.Scheme)
	var bad *StepError
	if !errors.As(err, &bad) || *bad != (StepError{Step: step, Field: field, Reason: reason}) || err.Error() != reason {
		t.Errorf("%s %+v: %+v\nwant step %d, %s: %s", request.Target.Scheme, request.Steps, err, step, field, reason)
	}
}
