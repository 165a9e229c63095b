package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// forward is a kubectl port-forward that runs.
type forward struct {
	address string // where it listens, on loopback
	stderr  *tail
	ended   chan struct{} // closed when it has ended
	stop    func()        // ends it, and waits
}

// startForward starts to forward to a port of a pod, and returns when that is listened for. With ctx ends the wait, and
// not the forward.
func (k kubectl) startForward(ctx context.Context, to pod) (*forward, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	k.namespace = to.namespace
	f := &forward{stderr: &tail{}, ended: make(chan struct{})}
	f.stop = func() { end(); <-f.ended }
	stdout := &forwardOutput{listening: make(chan string, 1)}
	command := k.command(life, "port-forward", "--address=127.0.0.1", "pod/"+to.name, fmt.Sprintf(":%d", to.port))
	command.Stdout, command.Stderr = stdout, f.stderr
	// A Ctrl-C of the terminal is for probectl, which may have something to finish.
	ofItsOwn(command)
	var err error
	go func() {
		defer close(f.ended)
		err = runTethered(command)
	}()
	select {
	case f.address = <-stdout.listening:
		return f, nil
	case <-f.ended:
		end()
		return nil, kubectlError(ctx, "port-forward", err, f.stderr.words())
	case <-ctx.Done():
		f.stop()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, ctx.Err()
		}
		if said := stdout.said(); said != "" {
			return nil, &exitError{exitFailed, "kubectl port-forward does not say where it listens; it says: " + said, ""}
		}
		text := fmt.Sprintf("kubectl port-forward does not get through to pod %s/%s in time", to.namespace, to.name)
		advice := "The API server asks the kubelet of " + to.node + ": perhaps that node is cut off, or loses packets.\n" +
			"More is told by: kubectl describe node " + to.node + "; --connect-timeout waits longer."
		if words := f.stderr.words(); words != "" {
			text += ": " + words
		} else {
			advice += "\nIf a plugin of kubectl asks who you are, it cannot do so here: log in first, as with kubectl get pods."
		}
		return nil, &exitError{exitFailed, text, advice}
	}
}

// lastWords is what kubectl says of a connection that broke; it may take it a moment to find out. Empty: nothing.
func (f *forward) lastWords() string {
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	select {
	case <-f.ended:
	case <-patience.C:
	}
	return f.stderr.words()
}

// refused tells whether the connection was refused in the pod. A kubectl says so, and ends.
func (f *forward) refused() bool { return strings.Contains(f.lastWords(), "connection refused") }

// forwardOutput is the stdout of a kubectl port-forward, of which one line is waited for.
type forwardOutput struct {
	listening chan string // gets the address, once

	mu   sync.Mutex
	done bool
	line []byte // what has come of the one that is coming
	last string // the one before
}

// mostLine is how long a line may be, in bytes, that is waited for; of others the end is taken for one.
const mostLine = 4 << 10

func (o *forwardOutput) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for rest := text; len(rest) > 0 && !o.done; {
		part, after, complete := bytes.Cut(rest, []byte("\n"))
		rest = after
		if len(o.line)+len(part) > mostLine {
			o.line = o.line[:0]
			part = part[max(0, len(part)-mostLine):]
		}
		if o.line = append(o.line, part...); !complete {
			break
		}
		o.last = string(o.line)
		o.line = o.line[:0]
		if address, ok := forwardingFrom(o.last); ok {
			o.done = true
			o.listening <- address
		}
	}
	return len(text), nil
}

// said is the last line.
func (o *forwardOutput) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1):([1-9]\d{0,4}) -> \d+\r?$`)

// forwardingFrom is the address that a line of kubectl port-forward says it listens on.
func forwardingFrom(line string) (string, bool) {
	match := forwarding.FindStringSubmatch(line)
	if match == nil {
		return "", false
	}
	if _, err := strconv.ParseUint(match[2], 10, 16); err != nil {
		return "", false
	}
	return match[1] + ":" + match[2], true
}
