package main

import (
	"slices"
	"testing"
)

// Memory is given back once behind each burst, not within it, and not for what is allocated all the time.
func TestTide(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		grows  []uint64 // MiB in each interval
		giving []int    // the intervals at whose end memory is given back
	}{
		{"nothing", []uint64{0, 0, 0}, nil},
		{"the start", []uint64{20, 0, 0, 0}, []int{1}},
		{"a long burst", []uint64{100, 100, 100, 3, 0}, []int{3}},
		{"two bursts", []uint64{100, 0, 0, 30, 0, 0}, []int{1, 4}},
		{"a small one", []uint64{10, 0, 0}, nil},
		{"scrapes", []uint64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{15}},
		{"steady load", []uint64{5, 5, 5, 5, 5, 5}, nil},
	} {
		var at tide
		var all uint64
		var giving []int
		for i, mib := range tt.grows {
			all += mib << 20
			if at.ebbs(all) {
				giving = append(giving, i)
			}
		}
		if !slices.Equal(giving, tt.giving) {
			t.Errorf("%s: given back after %v, want %v", tt.name, giving, tt.giving)
		}
	}
	if before := allocated(); before == 0 || allocated() < before {
		t.Error("what is allocated is not known")
	}
}
