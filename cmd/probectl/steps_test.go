package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

func receiving(r *probev1.Receive) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_Receive{Receive: r}}
}

func textStep(text string) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: text}}}}
}

func expecting(e *probev1.Expect) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_Expect{Expect: e}}
}

func startingTLS(name string) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{ServerName: name}}}
}

// oneFile is a file system with one file.
func oneFile(name string) ([]byte, error) {
	if name != "greeting" {
		return nil, os.ErrNotExist
	}
	return []byte("EHLO x\r\n"), nil
}

func TestParseStep(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text    string
		want    *probev1.Step
		problem string
	}{
		{text: `send:GET / HTTP/1.0\r\n`, want: textStep("GET / HTTP/1.0\r\n")},
		{text: "send:a:b,c=d", want: textStep("a:b,c=d")},
		{text: `send:\u{20ac} ${1} \x24{2}`, want: textStep("€ ${1} ${2}")},
		{text: `send:\xff`, want: sendStep([]byte{0xff})},
		{text: "send", want: textStep("")},
		{text: "send-file:greeting", want: sendStep([]byte("EHLO x\r\n"))},
		{text: "send-data:AP8=", want: sendStep([]byte{0, 0xff})},
		{text: `expect:250 a:b\r\n`, want: expecting(&probev1.Expect{Pattern: &probev1.Expect_Text{Text: "250 a:b\r\n"}})},
		{text: `expect:\xff`, want: expecting(&probev1.Expect{Pattern: &probev1.Expect_Data{Data: []byte{0xff}}})},
		{text: `expect-regex:^a: (\d+)\q`, want: expecting(&probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: `^a: (\d+)\q`}})},
		{text: "expect-data:AP8=", want: expecting(&probev1.Expect{Pattern: &probev1.Expect_Data{Data: []byte{0, 0xff}}})},
		{text: "start-tls", want: startingTLS("")},
		{text: "start-tls:a.test", want: startingTLS("a.test")},
		{text: "half-close", want: &probev1.Step{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}},
		{text: "receive", want: receiving(&probev1.Receive{})},
		{text: "receive:eof", want: receiving(&probev1.Receive{})},
		{text: "receive:length=9223372036854775807", want: receiving(&probev1.Receive{Length: 1<<63 - 1})},
		{text: "receive:idle=0.3s,max-bytes=100", want: receiving(&probev1.Receive{Idle: durationpb.New(300 * time.Millisecond), MaxBytes: 100})},
		{text: "receive:count=4294967295", want: receiving(&probev1.Receive{Count: 1<<32 - 1})},
		{text: `receive:delimiter=\r\n`, want: receiving(&probev1.Receive{Delimiter: "\r\n"})},
		{text: `receive:delimiter=a\x2cb=c`, want: receiving(&probev1.Receive{Delimiter: "a,b=c"})},
		{text: "", problem: `there is no step ""`},
		{text: "Send:x", problem: `there is no step "Send"`},
		{text: "expect", problem: "it takes what to wait for"},
		{text: "expect:", problem: "it takes what to wait for"},
		{text: `expect:\q`, problem: `there is no escape \q`},
		{text: "expect-regex:", problem: "it takes what to wait for"},
		{text: "expect-data:!", problem: "illegal base64"},
		{text: "start-tls:", problem: "takes a name"},
		{text: "starttls", problem: `there is no step "starttls"`},
		{text: `send:\q`, problem: `there is no escape \q`},
		{text: "send-file:nonesuch", problem: "does not exist"},
		{text: "send-data:!", problem: "illegal base64"},
		{text: "half-close:", problem: "takes no argument"},
		{text: "receive:", problem: "there are length, delimiter"},
		{text: "receive:length", problem: "a number, 1 or more"},
		{text: "receive:length=0", problem: "a number, 1 or more"},
		{text: "receive:length=-1", problem: "a number, 1 or more"},
		{text: "receive:length=9223372036854775808", problem: "a number, 1 or more"},
		{text: "receive:count=4294967296", problem: "a number, 1 or more"},
		{text: "receive:idle=0s", problem: "a time, as 300ms"},
		{text: "receive:idle=2", problem: "a time, as 300ms"},
		{text: "receive:delimiter=", problem: "it takes a text, in UTF-8"},
		{text: `receive:delimiter=\xff`, problem: "UTF-8"},
		{text: "receive:length=1,length=2", problem: "length is given twice"},
		{text: "receive:eof,length=2", problem: "it goes with no other"},
		{text: "receive:eof=1", problem: "it has no value"},
		{text: "receive:length=1,", problem: `rule ""`},
	} {
		step, err := parseStep(test.text, oneFile)
		if test.problem == "" && (err != nil || !proto.Equal(step, test.want)) {
			t.Errorf("%s: %v, %v, want %v", test.text, step, err, test.want)
		}
		if test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%s: %v, %v, want an error with %q", test.text, step, err, test.problem)
		}
	}
}

// TestParseSteps: captures that the service would not see are no captures.
func TestParseSteps(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		texts   []string
		problem string
	}{
		{texts: []string{"expect-regex:(.)", "send:${1}"}},
		{texts: []string{"expect-regex:(.)", `send:\xff`}},
		{texts: []string{"expect-regex:(.)", "send-data:JHsxff8="}},
		{texts: []string{`send:${1}\xff`, "expect-regex:(.)"}},
		{texts: []string{"expect:x", `send:${1}\xff`}},
		{texts: []string{"expect-regex:(.)", "receive:length=1", `send:${1}\xff`}, problem: `--step send:${1}\xff: captures work in UTF-8 only`},
		{texts: []string{"half-close", "jump"}, problem: "--step jump: there is no step"},
	} {
		steps, err := parseSteps(test.texts, oneFile)
		if test.problem == "" && (err != nil || len(steps) != len(test.texts)) {
			t.Errorf("%q: %v, %v", test.texts, steps, err)
		}
		if test.problem != "" && (err == nil || !strings.HasPrefix(err.Error(), test.problem)) {
			t.Errorf("%q: %v, want an error with %q", test.texts, err, test.problem)
		}
	}
}

// FuzzParseStep: a step that is read can travel, says something, and has no rule that means none.
func FuzzParseStep(f *testing.F) {
	f.Add(`send:GET / HTTP/1.0\r\n`)
	f.Add("send-data:AP8=")
	f.Add(`receive:delimiter=\r\n,idle=0.3s,max-bytes=100`)
	f.Add("receive:length=5,count=1,eof")
	f.Add("half-close")
	f.Add(`expect:250 \xff`)
	f.Add(`expect-regex:^PING :([^ ]+)`)
	f.Add("expect-data:AP8=")
	f.Add("start-tls:a.test")
	f.Fuzz(func(t *testing.T, text string) {
		step, err := parseStep(text, func(string) ([]byte, error) { return nil, errors.ErrUnsupported })
		if err != nil {
			if _, bad := uncontrolled(visible(err.Error()), ""); bad || err.Error() == "" {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		wire, err := proto.Marshal(step)
		if err != nil && !utf8.ValidString(text) {
			return // a regular expression or a name that checkText refuses
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		back := &probev1.Step{}
		if err := proto.Unmarshal(wire, back); err != nil || !proto.Equal(back, step) {
			t.Errorf("%q: %v came back as %v, %v", text, step, back, err)
		}
		r := step.GetReceive()
		if step.GetStep() == nil || r.GetLength() < 0 || r.GetMaxBytes() < 0 || r.GetIdle().AsDuration() < 0 {
			t.Errorf("%q: %v", text, step)
		}
		if e := step.GetExpect(); e != nil && len(e.GetData())+len(e.GetText())+len(e.GetRegex()) == 0 {
			t.Errorf("%q waits for nothing", text)
		}
		if _, rules, given := strings.Cut(text, ":"); r != nil && given && rules != "eof" && proto.Equal(r, &probev1.Receive{}) {
			t.Errorf("%q has a rule and means none", text)
		}
	})
}
