package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// stepsHelp tells what parseStep takes.
const stepsHelp = `Steps (--step, given as often as needed, carried out in the order given):
  send:TEXT           send TEXT, with the escapes of --text. Behind an expect-regex, ${1},
                      ${2}, ... and ${NAME} in it are what the groups matched and ${0} the
                      whole match. Escapes are read first, so \x24{1} is a capture as well;
                      ${1} itself is sent by send-data. Captures work in UTF-8 only: a TEXT
                      with both ${ and a byte that is none, as \xff, is refused there.
  send-file:FILE      send the bytes of a file; - is standard input
  send-data:BASE64    send these bytes
  expect:TEXT         wait until TEXT has come, with the same escapes
  expect-regex:RE     wait until this regular expression (RE2) matches a line, whose borders
                      are ^ and $, or else all that has come
  expect-data:BASE64  wait until these bytes have come
  start-tls           go on with TLS, whose certificate is for the host, or --tls-name
  start-tls:NAME      the same, for this name
  half-close          close the sending side, so that the peer reads end of file
  receive             receive until the peer closes
  receive:RULES       receive until the first of these rules holds, or the peer closes:
                        length=N         exactly N bytes have come
                        delimiter=TEXT   TEXT has come (a comma in it is \x2c)
                        idle=DURATION    nothing has come for so long, as 0.3s
                        count=N          N messages have come (udp, unixgram, unixpacket)
                        max-bytes=N      at most N bytes
                        eof              the peer closes; the same as no rule
                      several are separated by commas`

// parseSteps reads the steps of an exchange, as stepsHelp tells. File reads the file of a name.
func parseSteps(texts []string, file func(name string) ([]byte, error)) ([]*probev1.Step, error) {
	var steps []*probev1.Step
	captures := false
	for _, text := range texts {
		step, err := parseStep(text, file)
		if err == nil && captures && strings.HasPrefix(text, "send:") && bytes.Contains(step.GetSend().GetData(), []byte("${")) {
			err = errors.New("captures work in UTF-8 only, and it has bytes that are none; to send ${ itself, use send-data")
		}
		if err != nil {
			return nil, fmt.Errorf("--step %s: %w", text, err)
		}
		captures = captures || step.GetExpect().GetRegex() != ""
		steps = append(steps, step)
	}
	return steps, nil
}

// parseStep reads one step.
func parseStep(text string, file func(name string) ([]byte, error)) (*probev1.Step, error) {
	kind, argument, hasArgument := strings.Cut(text, ":")
	switch kind {
	case "send":
		data, err := unescape(argument)
		if err == nil && utf8.Valid(data) {
			// Only in text are captures replaced. Where there are none it is sent as it is, like data.
			return &probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: string(data)}}}}, nil
		}
		return sendStep(data), err
	case "send-file":
		data, err := file(argument)
		return sendStep(data), err
	case "send-data":
		data, err := base64.StdEncoding.DecodeString(argument)
		return sendStep(data), err
	case "expect", "expect-regex", "expect-data":
		expect, err := parseExpect(kind, argument)
		return &probev1.Step{Step: &probev1.Step_Expect{Expect: expect}}, err
	case "start-tls":
		if hasArgument && argument == "" {
			return nil, errors.New("start-tls: takes a name; without the colon it is the target's host")
		}
		return &probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{ServerName: argument}}}, nil
	case "half-close":
		if hasArgument {
			return nil, errors.New("half-close takes no argument")
		}
		return &probev1.Step{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}, nil
	case "receive":
		receive := &probev1.Receive{}
		if hasArgument {
			if err := parseRules(receive, argument); err != nil {
				return nil, err
			}
		}
		return &probev1.Step{Step: &probev1.Step_Receive{Receive: receive}}, nil
	}
	return nil, fmt.Errorf("there is no step %q: there are send:TEXT, send-file:FILE, send-data:BASE64, expect:TEXT, "+
		"expect-regex:RE, expect-data:BASE64, start-tls, start-tls:NAME, half-close, receive and receive:RULES", kind)
}

func sendStep(data []byte) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Data{Data: data}}}}
}

// parseExpect reads what to wait for. A regular expression has escapes of its own, and is for the server to read.
func parseExpect(kind, argument string) (*probev1.Expect, error) {
	if argument == "" {
		return nil, errors.New("it takes what to wait for")
	}
	if kind == "expect-regex" {
		return &probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: argument}}, nil
	}
	data, err := unescape(argument)
	if kind == "expect-data" {
		data, err = base64.StdEncoding.DecodeString(argument)
	}
	if err == nil && kind == "expect" && utf8.Valid(data) {
		return &probev1.Expect{Pattern: &probev1.Expect_Text{Text: string(data)}}, nil
	}
	return &probev1.Expect{Pattern: &probev1.Expect_Data{Data: data}}, err
}

// parseRules reads the end rules of a receive. Which of them go together is for the server to say.
func parseRules(receive *probev1.Receive, text string) error {
	given := make(map[string]bool)
	for rule := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(rule, "=")
		if given[name] {
			return fmt.Errorf("the rule %s is given twice", name)
		}
		given[name] = true
		if err := parseRule(receive, name, value); err != nil {
			return fmt.Errorf("rule %q: %w", rule, err)
		}
	}
	if given["eof"] && len(given) > 1 {
		return errors.New("eof is what ends a receive without a rule: it goes with no other")
	}
	return nil
}

func parseRule(receive *probev1.Receive, name, value string) (err error) {
	switch name {
	case "eof":
		if value != "" {
			return errors.New("it has no value")
		}
	case "length":
		receive.Length, err = parseCount(value, 63)
	case "max-bytes":
		receive.MaxBytes, err = parseCount(value, 63)
	case "count":
		var n int64
		n, err = parseCount(value, 32)
		receive.Count = uint32(n)
	case "delimiter":
		var delimiter []byte
		if delimiter, err = unescape(value); err == nil && (len(delimiter) == 0 || !utf8.Valid(delimiter)) {
			err = errors.New(`it takes a text, in UTF-8, as delimiter=\r\n`)
		}
		receive.Delimiter = string(delimiter)
	case "idle":
		var idle time.Duration
		if idle, err = time.ParseDuration(value); err != nil || idle <= 0 {
			return errors.New("it takes a time, as 300ms or 2s")
		}
		receive.Idle = durationpb.New(idle)
	default:
		err = errors.New("there are length, delimiter, idle, count, max-bytes and eof")
	}
	return err
}

// parseCount reads a number that is not 0: to the contract that would be no rule at all.
func parseCount(text string, bits int) (int64, error) {
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil || n == 0 {
		return 0, errors.New("it takes a number, 1 or more")
	}
	return int64(n), nil
}
