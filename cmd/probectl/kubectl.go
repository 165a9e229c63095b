package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kubectl is the user's own kubectl, and with it how the user gets to the cluster: its configuration, its credentials,
// its proxies. What the environment says of these is left to it.
type kubectl struct {
	kubeconfig, context, namespace string // as kubectl has them; empty is what it takes by default

	tell func(command string) // is told what is run; nil: nobody wants to know
}

// command is a kubectl that ends with ctx, and with this process however that ends, where the system can see to it.
func (k kubectl) command(ctx context.Context, args ...string) *exec.Cmd {
	for _, flag := range []struct{ name, value string }{
		{"kubeconfig", k.kubeconfig}, {"context", k.context}, {"namespace", k.namespace},
	} {
		if flag.value != "" {
			args = append(args, "--"+flag.name+"="+flag.value)
		}
	}
	if k.tell != nil {
		k.tell("kubectl " + strings.Join(args, " "))
	}
	command := exec.CommandContext(ctx, "kubectl", args...) //nolint:gosec // the user's own, by design
	command.SysProcAttr = dieWithParent()
	// What kubectl started may have its outputs still: nobody waits for that.
	command.WaitDelay = time.Second
	return command
}

// run runs kubectl to its end and returns what it wrote. The error has kubectl's own words.
func (k kubectl) run(ctx context.Context, args ...string) ([]byte, error) {
	var stdout bytes.Buffer
	var stderr tail
	command := k.command(ctx, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	err := runTethered(command)
	if endedByInterrupt(err) {
		// It was on the terminal when Ctrl-C was pressed, so that its plugins could ask for what they need. So were we, and
		// will know in a moment.
		interrupted, cancel := context.WithTimeout(ctx, time.Second)
		<-interrupted.Done()
		cancel()
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, kubectlError(ctx, args[0]+" "+args[1], err, stderr.words())
	}
	return stdout.Bytes(), nil
}

// endedByInterrupt tells whether the error is that of a command that SIGINT has ended, itself or below a shell.
func endedByInterrupt(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && (exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGINT || exit.ExitCode() == 128+int(syscall.SIGINT))
}

// runTethered runs a command to its end, on one thread: on Linux it dies with the thread that started it, and one that
// nothing is locked to may end any time.
func runTethered(command *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return command.Run()
}

// kubectlError is why a kubectl did not do what it should, given its words.
func kubectlError(ctx context.Context, what string, err error, words string) error {
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, exec.ErrDot):
		return &exitError{exitFailed, "there is no kubectl on the PATH, which --kube goes by",
			"Install it, or name a probed that can be reached without it with --server."}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &exitError{exitFailed, strings.TrimSuffix(fmt.Sprintf("kubectl %s did not end in time: %s", what, words), ": "),
			"Is the cluster's API server slow or far away? --connect-timeout says how long to wait."}
	case ctx.Err() != nil:
		return ctx.Err()
	case words == "" && err == nil:
		return &exitError{exitFailed, fmt.Sprintf("kubectl %s ended, and does not say why", what), ""}
	case words == "":
		return &exitError{exitFailed, fmt.Sprintf("kubectl %s: %v", what, err), ""}
	}
	return &exitError{exitFailed, "kubectl: " + words, kubectlAdvice(words)}
}

// kubectlAdvice is what to do about a failure that kubectl told.
func kubectlAdvice(words string) string {
	switch {
	case strings.Contains(words, "is forbidden"): // all at once, since the next of these would be asked for after the first
		return "Ask whoever runs the cluster for a role in that namespace with get on services, get and list on pods, and create on\n" +
			"pods/portforward; --service-account takes create on serviceaccounts/token too."
	case strings.Contains(words, "services") && strings.Contains(words, "not found"):
		return "Is it in another namespace, or by another name? --kube NAMESPACE/SERVICE says both, and KEY=VALUE names pods by a label."
	}
	return ""
}

// tail is a writer that keeps the end of what was written.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const mostTail = 4 << 10

func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	if over := len(t.text) - mostTail; over > 0 {
		t.text = t.text[over:]
	}
	return len(text), nil
}

// A line of kubectl's log, and of that what the error is; and what stands before an error.
var (
	logLine     = regexp.MustCompile(`^[IWEF]\d{4} `)
	logError    = regexp.MustCompile(` err="((?:[^"\\]|\\.)*)"`)
	errorPrefix = regexp.MustCompile(`^(error: |Error from server( \(\w+\))?: )(error upgrading connection: )?(unable to upgrade connection: )?`)
)

// words is what a person has to know of a kubectl's stderr, on one line: what it says itself, or if it says nothing the
// last error of its log, which has the reason for a connection that is lost.
func (t *tail) words() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var said []string
	logged := ""
	for line := range strings.Lines(string(t.text)) {
		line = strings.TrimSpace(line)
		switch {
		case logLine.MatchString(line):
			if match := logError.FindStringSubmatch(line); match != nil {
				line = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(match[1])
			}
			logged = line
		case line != "":
			said = append(said, errorPrefix.ReplaceAllString(line, ""))
		}
	}
	if text := strings.Join(said, "; "); logged == "" || text != "" && text != "lost connection to pod" {
		return text
	}
	return logged
}
