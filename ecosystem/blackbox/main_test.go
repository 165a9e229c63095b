// Package blackbox holds GET /probe to the real blackbox_exporter: both have one file of modules and the same targets, which
// are real servers, and what they answer is compared series by series.
package blackbox

import (
	"os"
	"testing"

	"probed/internal/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.CheckLeaks(nettest.InNamespace(m)).Run()) }
