package prometheus

import (
	"os"
	"testing"

	"probed/internal/nettest"
)

// In a network of its own, no lookup leaves the machine, and no name server answers.
func TestMain(m *testing.M) { os.Exit(nettest.InNamespace(m).Run()) }
