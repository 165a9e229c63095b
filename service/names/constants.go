package names

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
)

// Constant is one constant of the C socket API, with the value that it has on
// the platform that this program was built for.
type Constant struct {
	// Name is the name in C, such as "AF_INET".
	Name string
	// Value is the value on this platform; others may number it otherwise.
	Value int64
	// Description says in a few words what it stands for. It is never empty.
	Description string
}

// Platform names the platform whose values [Constants] returns, as Go writes
// it: "linux/amd64".
func Platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// Constants returns the constants whose name begins with prefix, compared
// exactly; an empty prefix means all. They come by family, AF_, SOCK_,
// IPPROTO_, AI_, NI_ and EAI_, and within one by value, then by name. Platforms
// other than Linux have the handful that Go's syscall package knows everywhere.
func Constants(prefix string) []Constant {
	found := slices.DeleteFunc(constants(), func(c Constant) bool { return !strings.HasPrefix(c.Name, prefix) })
	slices.SortFunc(found, func(a, b Constant) int {
		return cmp.Or(cmp.Compare(family(a.Name), family(b.Name)), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Name, b.Name))
	})
	return found
}

// family returns the place of a constant's family in the order of Constants.
func family(name string) int {
	prefix, _, _ := strings.Cut(name, "_")
	return slices.Index([]string{"AF", "SOCK", "IPPROTO", "AI", "NI", "EAI"}, prefix)
}
