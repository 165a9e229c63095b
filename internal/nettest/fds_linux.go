package nettest

import (
	"net"
	"os"
	"sort"
	"strings"
	"testing"
	"time"
)

// FDs returns how many file descriptors the process has open, pipes left out: to
// splice from socket to socket the standard library keeps a pool of them, which
// only the garbage collector empties, and that closes leaked sockets as well.
func FDs(t testing.TB) int {
	t.Helper()
	return len(descriptors(t))
}

// CheckFDs fails the test if, within 2 s of its end, the process has not come
// back to as many file descriptors (as FDs counts them) as it has now. Call it
// first, so that its cleanup runs last, and not in a parallel test: descriptors
// belong to the process.
func CheckFDs(t testing.TB) {
	t.Helper()
	// The runtime's poller opens descriptors of its own the first time it is used.
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	before := descriptors(t)
	t.Cleanup(func() {
		var after []string
		for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if after = descriptors(t); len(after) <= len(before) {
				return
			}
		}
		t.Errorf("file descriptors: %d before, %d after\nbefore:\n\t%s\nafter:\n\t%s", len(before), len(after),
			strings.Join(before, "\n\t"), strings.Join(after, "\n\t"))
	})
}

// descriptors lists what is open as "number → file". The one that reads the list
// is gone by the time it is looked up, and so is left out.
func descriptors(t testing.TB) []string {
	t.Helper()
	const dir = "/proc/self/fd"
	d, err := os.Open(dir)
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	var open []string
	for _, name := range names {
		if file, err := os.Readlink(dir + "/" + name); err == nil && !strings.HasPrefix(file, "pipe:") {
			open = append(open, name+" → "+file)
		}
	}
	sort.Strings(open)
	return open
}
