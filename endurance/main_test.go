package endurance

import (
	"os"
	"testing"

	"probed/internal/nettest"
)

func TestMain(m *testing.M) {
	if attacks, code := attackMain(); attacks { // a process that TestHTTP2Abuse has started
		os.Exit(code)
	}
	os.Exit(nettest.CheckLeaks(nettest.InNamespace(m)).Run())
}
