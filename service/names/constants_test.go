package names

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestConstants(t *testing.T) {
	t.Parallel()
	all := Constants("")
	seen := make(map[string]bool)
	for i, c := range all {
		if seen[c.Name] || c.Description == "" || family(c.Name) < 0 {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
		if i == 0 {
			continue
		}
		before := all[i-1]
		if cmp.Or(cmp.Compare(family(before.Name), family(c.Name)), cmp.Compare(before.Value, c.Value), cmp.Compare(before.Name, c.Name)) >= 0 {
			t.Errorf("%s stands before %s", before.Name, c.Name)
		}
	}
	for prefix, want := range map[string][]string{
		"AF_INET":     {"AF_INET", "AF_INET6"},
		"SOCK_S":      {"SOCK_STREAM", "SOCK_SEQPACKET"},
		"IPPROTO_TCP": {"IPPROTO_TCP"},
		"af_inet":     nil,
		"NO_":         nil,
	} {
		var got []string
		for _, c := range Constants(prefix) {
			got = append(got, c.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("Constants(%q) = %v, want %v", prefix, got, want)
		}
	}
	if got := Platform(); got != runtime.GOOS+"/"+runtime.GOARCH || !strings.Contains(got, "/") {
		t.Errorf("Platform() = %s", got)
	}
}
