//go:build system && !race

package resolve

import (
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSpeed runs LookupHost and Python's getaddrinfo in turn against the same
// server, with as many callers each.
func TestSpeed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.named()
		const host = "www.example.test"
		for _, callers := range []int{1, 16, 64} {
			each := 6000 / callers
			var ours, theirs float64
			var ourCPU, theirCPU time.Duration
			for range 3 { // the best of three of each
				python := exec.Command("python3", "testdata/threads.py", strconv.Itoa(callers), strconv.Itoa(each), host)
				out, err := python.Output()
				must(t, err)
				theirCPU = (python.ProcessState.UserTime() + python.ProcessState.SystemTime()) / time.Duration(callers*each)
				rate, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
				must(t, err)
				theirs = max(theirs, rate)

				r := New(Config{})
				var wg sync.WaitGroup
				began, used := time.Now(), cpuTime()
				for range callers {
					wg.Go(func() {
						for range each {
							if _, err := r.LookupHost(t.Context(), host, AF_UNSPEC); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				ourCPU = (cpuTime() - used) / time.Duration(callers*each)
				ours = max(ours, float64(callers*each)/time.Since(began).Seconds())
			}
			t.Logf("%2d callers: %.0f look-ups a second (%v of CPU each), Python %.0f (%v): %.2f times", callers, ours, ourCPU, theirs, theirCPU, ours/theirs)
			// The rate is bound by the server and by who else is on the machine;
			// what a look-up costs is not.
			if ourCPU > theirCPU {
				t.Errorf("%d callers: a look-up costs %v, Python's %v", callers, ourCPU, theirCPU)
			}
		}
	})
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
