package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryInterval is how often it is looked whether a burst is over.
	memoryInterval = 10 * time.Second
	// A burst is over when less than quiet was allocated in an interval (a scrape takes 1 MiB), and was one when that is
	// burst since memory was given back last.
	quiet, burst = 4 << 20, 16 << 20
)

// ballastSize is how much the garbage collector takes for used beside what is. It collects when the heap has doubled, and
// that of probed is small: a few MiB of garbage, which some hundred calls leave, and it went through all of them. So it
// waits for at least this much.
const ballastSize = 8 << 20

// giveMemoryBack gives back to the system, until ctx ends, what a burst of calls has left. The garbage collector waits for
// the heap to double, stacks counted, and keeps what it has had: of two thousand exchanges that only wait, a quarter of
// their memory was what opening them had taken.
func giveMemoryBack(ctx context.Context) {
	// Nobody ever writes to it, so the system has nothing to give for it: as long as it is made before a burst, behind which it
	// would lie in memory that was used and has to be cleared.
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	var t tide
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if t.ebbs(allocated()) {
				debug.FreeOSMemory()
			}
		}
	}
}

// tide is what is known of the bytes that are allocated.
type tide struct{ last, given uint64 }

// ebbs says whether a burst is over, at the end of an interval, given how much has been allocated ever.
func (t *tide) ebbs(allocated uint64) bool {
	over := allocated-t.last < quiet && allocated-t.given >= burst
	t.last = allocated
	if over {
		t.given = allocated
	}
	return over
}

// allocated is how many bytes have been allocated ever.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
