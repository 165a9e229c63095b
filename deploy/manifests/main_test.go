package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// probed is the program as it is built, for what only it can tell: whether a configuration is right.
var probed string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		directory, err := os.MkdirTemp("", "manifests-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(directory) }()
		probed = filepath.Join(directory, "probed")
		if out, err := exec.Command("go", "build", "-C", "../..", "-o", probed, "./cmd/probed").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building probed: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}
