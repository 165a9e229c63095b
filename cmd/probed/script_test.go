package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The program as a user has it: a process, its files, its output, its signals and its exit code. Beside the commands of
// testscript the scripts have
//
//	ready FILE             waits until the ready file is there, and sets $grpc, $http, $ops and $echo from it
//	get URL [STATUS]       prints what a GET answers, and fails on another status than that (200)
//	post URL BODY [STATUS] the same for POST
//	listening ADDRESS      fails when nobody listens there
//	term                   sends SIGTERM to what runs in the background (kill knows INT and KILL alone)
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": func(ts *testscript.TestScript, _ bool, args []string) {
				text := await(ts, ts.MkAbs(args[0]))
				for line := range strings.Lines(text) {
					name, address, _ := strings.Cut(strings.TrimSpace(line), "=")
					ts.Setenv(name, address)
				}
			},
			"get": func(ts *testscript.TestScript, neg bool, args []string) {
				ask(ts, neg, http.MethodGet, args[0], "", args[1:])
			},
			"post": func(ts *testscript.TestScript, neg bool, args []string) {
				ask(ts, neg, http.MethodPost, args[0], args[1], args[2:])
			},
			"listening": func(ts *testscript.TestScript, neg bool, args []string) {
				conn, err := net.Dial("tcp", args[0])
				if err == nil {
					conn.Close()
				}
				if (err == nil) == neg {
					ts.Fatalf("%s: %v", args[0], err)
				}
			},
			"term": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, command := range ts.BackgroundCmds() {
					ts.Check(command.Process.Signal(syscall.SIGTERM))
				}
			},
		},
	})
}

// await returns the text of a file as soon as there is one.
func await(ts *testscript.TestScript, path string) string {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if text, err := os.ReadFile(path); err == nil {
			return string(text)
		}
	}
	ts.Fatalf("%s does not come", path)
	return ""
}

func ask(ts *testscript.TestScript, neg bool, method, url, body string, status []string) {
	want := "200"
	if len(status) > 0 {
		want = status[0]
	}
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	ts.Check(err)
	request.Close = true
	client := &http.Client{Timeout: patience, Transport: &http.Transport{}}
	response, err := client.Do(request)
	if err != nil {
		if !neg {
			ts.Fatalf("%v", err)
		}
		return
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	ts.Check(err)
	if _, err := ts.Stdout().Write(text); err != nil {
		ts.Fatalf("%v", err)
	}
	if got := fmt.Sprint(response.StatusCode); (got == want) == neg {
		ts.Fatalf("%s %s: %s: %s", method, url, response.Status, text)
	}
}
