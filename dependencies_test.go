package probed_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

// Below these there are known holes in what faces callers: denial of service by HTTP/2 frames and by headers in grpc-go, and
// ways around the mux in grpc-gateway.
var leastVersions = map[string][2]int{
	"google.golang.org/grpc":                    {1, 85},
	"github.com/grpc-ecosystem/grpc-gateway/v2": {2, 33},
}

func TestLeastVersions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for module, least := range leastVersions {
		found := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` v(\d+)\.(\d+)\.`).FindSubmatch(text)
		if found == nil {
			t.Errorf("go.mod does not name %s", module)
			continue
		}
		var major, minor int
		if _, err := fmt.Sscanf(string(found[1])+" "+string(found[2]), "%d %d", &major, &minor); err != nil {
			t.Fatal(err)
		}
		if major < least[0] || major == least[0] && minor < least[1] {
			t.Errorf("%s is v%d.%d, below v%d.%d there are known holes", module, major, minor, least[0], least[1])
		}
		if regexp.MustCompile(`(?m)^replace\s.*` + regexp.QuoteMeta(module) + `\s`).Match(text) {
			t.Errorf("%s is replaced: what is built is of another version", module)
		}
	}
}
