package blackbox

import (
	"os"
	"testing"

	"probed/internal/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.CheckLeaks(m).Run()) }
