package nettest

import (
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// settling is how long what has ended may take to be gone.
const settling = 2 * time.Second

// CheckLeaks is m, which fails if within 2 s of the last test there are not as few
// goroutines and file descriptors (as FDs counts them) as before the first. Every
// package whose tests open sockets has it:
//
//	func TestMain(m *testing.M) { os.Exit(nettest.CheckLeaks(m).Run()) }
func CheckLeaks(m runner) interface{ Run() int } { return leakChecked{m} }

type leakChecked struct{ runner }

// Run runs the tests.
func (l leakChecked) Run() int {
	usePoller()
	before, err := descriptors()
	code := 1
	if err == nil {
		code = l.runner.Run()
		for deadline := time.Now().Add(settling); ; {
			err = leaked(before)
			if err == nil || time.Now().After(deadline) {
				break
			}
		}
	}
	if err != nil && code == 0 {
		code = 1
		fmt.Fprintln(os.Stderr, "nettest: after the last test:", err)
	}
	return code
}

func leaked(before []string) error {
	if err := goleak.Find(); err != nil { // which waits for half a second
		return err
	}
	after, err := descriptors()
	if err == nil && len(after) > len(before) {
		time.Sleep(5 * time.Millisecond) // between one look and the next: who calls has a deadline
		err = tooMany(before, after)
	}
	return err
}

func tooMany(before, after []string) error {
	return fmt.Errorf("file descriptors: %d before, %d after\nbefore:\n\t%s\nafter:\n\t%s", len(before), len(after),
		strings.Join(before, "\n\t"), strings.Join(after, "\n\t"))
}

// usePoller has the runtime's poller open its own descriptors, which it does when
// it is used first.
func usePoller() {
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil {
		l.Close()
	}
}

// FDs returns how many file descriptors the process has open, pipes left out: to
// splice from socket to socket the standard library keeps a pool of them, which
// only the garbage collector empties, and that closes leaked sockets as well.
func FDs(t testing.TB) int {
	t.Helper()
	return len(mustList(t))
}

func mustList(t testing.TB) []string {
	t.Helper()
	open, err := descriptors()
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	return open
}

// CheckFDs fails the test if, within 2 s of its end, the process has not come
// back to as many file descriptors (as FDs counts them) as it has now. Call it
// first, so that its cleanup runs last, and not in a parallel test: descriptors
// belong to the process.
func CheckFDs(t testing.TB) {
	t.Helper()
	usePoller()
	before := mustList(t)
	t.Cleanup(func() {
		var after []string
		// Sleeps between one look and the next, until the deadline.
		for deadline := time.Now().Add(settling); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if after = mustList(t); len(after) <= len(before) {
				return
			}
		}
		t.Errorf("%v", tooMany(before, after))
	})
}

// descriptors lists what is open as "number → file". The one that reads the list
// is gone by the time it is looked up, and so is left out.
func descriptors() ([]string, error) {
	const dir = "/proc/self/fd"
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return nil, err
	}
	var open []string
	for _, name := range names {
		if file, err := os.Readlink(dir + "/" + name); err == nil && !strings.HasPrefix(file, "pipe:") {
			open = append(open, name+" → "+file)
		}
	}
	sort.Strings(open)
	return open, nil
}
