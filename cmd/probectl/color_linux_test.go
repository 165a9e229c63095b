package main

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"probed/internal/nettest"
)

// TestColors: on a terminal that has them, and where nobody says no; and never in what a machine reads.
func TestColors(t *testing.T) {
	t.Parallel()
	echo, refused := nettest.TCP(t, nettest.Echo).String(), nettest.Refused(t).String()
	for _, test := range []struct {
		name        string
		environment map[string]string
		args        []string
		pipe        bool
		want, never []string
	}{
		{name: "what went well", environment: map[string]string{"TERM": "xterm"}, args: []string{"connect", echo}, want: []string{"\x1b[1mTARGET\x1b[0m", "\x1b[32mok\x1b[0m", "\x1b[2mas seen from"}},
		{name: "what did not", environment: map[string]string{"TERM": "xterm"}, args: []string{"connect", refused}, want: []string{"\x1b[31mCONNECTION_REFUSED\x1b[0m", "\x1b[31mfailed:\x1b[0m ", "\x1b[2mhint:\x1b[0m "}},
		{name: "an outcome", environment: map[string]string{"TERM": "xterm"}, args: []string{"exchange", echo, "--text", "x"}, want: []string{"outcome    \x1b[32mok,\x1b[0m ended by"}},
		{name: "an error", environment: map[string]string{"TERM": "xterm"}, args: []string{"port", "http"}, want: []string{"\x1b[31mprobectl:\x1b[0m a port is a number"}},
		{name: "NO_COLOR", environment: map[string]string{"TERM": "xterm", "NO_COLOR": "0"}, args: []string{"connect", refused}, never: []string{"\x1b"}},
		{name: "NO_COLOR without a value", environment: map[string]string{"TERM": "xterm", "NO_COLOR": ""}, args: []string{"connect", refused}, want: []string{"\x1b[31m"}},
		{name: "no colours there", environment: map[string]string{"TERM": "dumb"}, args: []string{"connect", refused}, never: []string{"\x1b"}},
		{name: "nobody knows", args: []string{"connect", refused}, never: []string{"\x1b"}},
		{name: "a pipe", environment: map[string]string{"TERM": "xterm"}, args: []string{"connect", refused}, pipe: true, never: []string{"\x1b"}},
		{name: "never", environment: map[string]string{"TERM": "xterm"}, args: []string{"connect", refused, "--color", "never"}, never: []string{"\x1b"}},
		{name: "always", environment: map[string]string{"NO_COLOR": "1"}, args: []string{"--color=always", "connect", refused}, pipe: true, want: []string{"\x1b[31mfailed:"}},
		{name: "JSON", environment: map[string]string{"TERM": "xterm"}, args: []string{"connect", refused, "--json", "--color", "always"}, pipe: true, never: []string{"\x1b"}},
		{name: "YAML on a terminal", environment: map[string]string{"TERM": "xterm"}, args: []string{"-o", "yaml", "port", "80"}, never: []string{"\x1b"}},
		{name: "the peer's bytes", environment: map[string]string{"TERM": "xterm"}, args: []string{"exchange", echo, "--raw", "--text", `\x1b[31mred`}, want: []string{`\x1b[31mred`}, never: []string{"\x1b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			getenv := func(name string) string { return test.environment[name] }
			var text string
			if test.pipe {
				var out bytes.Buffer
				run(t.Context(), "probectl", test.args, strings.NewReader(""), &out, &out, getenv)
				text = out.String()
			} else {
				p := openTerminal(t)
				run(t.Context(), "probectl", test.args, strings.NewReader(""), p.end, p.end, getenv)
				text = p.closed(t)
			}
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%q", want, text)
				}
			}
			for _, never := range test.never {
				if strings.Contains(text, never) {
					t.Errorf("%q in\n%q", never, text)
				}
			}
		})
	}
}

// TestColorsOfNobodyElse: a server that does its worst drives no terminal that has colours, and says the same with them
// as without.
func TestColorsOfNobodyElse(t *testing.T) {
	t.Parallel()
	for _, fail := range []codes.Code{codes.OK, codes.NotFound} {
		server := hostileServer(t, fail)
		for _, command := range [][]string{{"service", "x"}, {"host", "x", "--trace"}, {"dns", "x"}, {"connect", "x", "y"}, {"exchange", "x"}, {"policy", "explain", "x"}, {"vantage"}} {
			p := openTerminal(t)
			getenv := func(name string) string { return map[string]string{"TERM": "xterm"}[name] }
			run(t.Context(), "probectl", append([]string{"--server", server}, command...), strings.NewReader(""), p.end, p.end, getenv)
			text := p.closed(t)
			if r, bad := uncontrolled(ourColors.Replace(text), "\n\t"); bad {
				t.Errorf("%v of %q: %U got to the terminal:\n%q", fail, command, r, text)
			}
			if !strings.Contains(text, "\x1b[") {
				t.Errorf("%v of %q: there are no colours:\n%q", fail, command, text)
			}
		}
	}
}
