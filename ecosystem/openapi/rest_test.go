package openapi

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"probed/ecosystem/transcript"
	"probed/internal/probetest"
)

// What docs/rest.md shows is what happens.
func TestREST(t *testing.T) {
	t.Parallel()
	const page = "../../docs/rest.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	p := probetest.Start(t, probetest.Options{Args: []string{"--echo=tcp://127.0.0.1:0"}})
	toReal := strings.NewReplacer("127.0.0.1:8080", p.HTTPAddress, "127.0.0.1:7007", p.EchoAddress)
	toPage := strings.NewReplacer(p.HTTPAddress, "127.0.0.1:8080", p.EchoAddress, "127.0.0.1:7007")
	dir, ran := t.TempDir(), 0
	for _, b := range transcript.Blocks(string(text)) {
		if b.Kind != "console" {
			continue
		}
		for _, c := range b.Commands() {
			ran++
			shell := exec.CommandContext(t.Context(), "bash", "-c", toReal.Replace(c.Text))
			shell.Dir = dir
			out, err := shell.CombinedOutput() // that a command fails is said by what it prints
			if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
				t.Fatal(err)
			}
			printed := toPage.Replace(strings.ReplaceAll(string(out), "\r\n", "\n"))
			if !transcript.Matches(c.Printed, printed) {
				t.Errorf("%s:%d: %sprinted\n%s\nand on the page stands\n%s", page, c.Line, c.Text, printed, c.Printed)
			}
		}
	}
	if ran < 12 {
		t.Errorf("only %d commands are on the page", ran)
	}
}
