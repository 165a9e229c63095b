package endurance

import (
	"testing"

	"go.uber.org/goleak"

	"probed/internal/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(nettest.InNamespace(m)) }
