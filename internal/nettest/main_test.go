package nettest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(CheckLeaks(m).Run()) }
