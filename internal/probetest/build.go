package probetest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built are the programs by whether the race detector is in them.
var built [2]struct {
	once sync.Once
	path string
	err  error
}

// Binary is the path of a probed of this tree, for tests of what it prints.
func Binary(t testing.TB) string {
	t.Helper()
	return build(t, false)
}

// build returns a probed of this tree. The go command keeps what it has compiled, so that it takes a moment but once.
func build(t testing.TB, race bool) string {
	t.Helper()
	flavour, args := &built[0], []string{"build", "-trimpath"}
	if race {
		flavour, args = &built[1], append(args, "-race")
	}
	flavour.once.Do(func() {
		var root string
		if root, flavour.err = moduleRoot(); flavour.err != nil {
			return
		}
		if flavour.err = noteSources(root); flavour.err != nil {
			return
		}
		flavour.path = filepath.Join(root, ".build", "probetest", "probed")
		if race {
			flavour.path += "-race"
		}
		command := exec.Command("go", append(args, "-o", flavour.path, "./cmd/probed")...)
		command.Dir = root
		command.Env = append(os.Environ(), "GOFLAGS=") // what the test runs under is not what it builds
		if !race {
			command.Env = append(command.Env, "CGO_ENABLED=0") // as it is shipped
		}
		var out []byte
		if out, flavour.err = command.CombinedOutput(); flavour.err != nil {
			t.Logf("%s", out)
		}
	})
	if flavour.err != nil {
		t.Fatalf("go build ./cmd/probed: %v; in a namespace without a network the modules have to be there: go mod download", flavour.err)
	}
	return flavour.path
}

// moduleRoot is where probed's module is, also for the tests of another that has it by a replace.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "probed").Output()
	return strings.TrimSpace(string(out)), err
}

// noteSources looks at every file that probed may be made of. So the go command knows, which keeps the results of tests,
// that this one depends on them.
func noteSources(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		_, err = os.Stat(path)
		return err
	})
}
