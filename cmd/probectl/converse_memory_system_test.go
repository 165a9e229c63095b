//go:build system && linux && !race

package main

import (
	"regexp"
	"strconv"
	"testing"
)

// TestConverseHoldsNothing: a gigabyte, both ways, takes no more memory than a little of it.
func TestConverseHoldsNothing(t *testing.T) {
	t.Parallel()
	for where, flags := range servers(t) {
		most := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(carry(t, 1<<30, flags))
		if kib, err := strconv.Atoi(most[1]); err != nil || kib > 128<<10 {
			t.Errorf("%s: it held %d KiB, %v", where, kib, err)
		}
	}
}
