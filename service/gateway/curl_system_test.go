//go:build system

package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"probed/internal/nettest"
)

// curl gets the peer's bytes, and fails (18: partial file) when the exchange did.
func TestCurl(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatalf("%v: apt-get install curl", err)
	}
	w := newWorld(t)
	for _, tt := range []struct {
		name, target, rest string
		want               []byte
		code               int
	}{
		{"whole", nettest.TCP(t, nettest.Reply(nettest.Data(3_000_001))).String(), "", nettest.Data(3_000_001), 0},
		{"nothing", nettest.TCP(t, nettest.Reply(nil)).String(), "", nil, 0},
		{"refused", nettest.Refused(t).String(), "", nil, 18},
		{"reset", nettest.TCP(t, nettest.SendThenReset(1, []byte("half a li"))).String(), `, "text": "x", "holdOpen": true`, []byte("half a li"), 18},
		{"denied", "169.254.169.254:80", "", nil, 22}, // --fail: the status is 403
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			command := exec.CommandContext(t.Context(), curl, "--silent", "--fail", "--max-time", "30",
				"-H", "Accept: application/octet-stream", "-d", fmt.Sprintf(`{"target": %q%s}`, tt.target, tt.rest), "http://"+w.address+"/v1/exchange")
			got, err := command.Output()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != tt.code || !bytes.Equal(got, tt.want) {
				t.Errorf("exit code %d, %d bytes; want %d, %d", code, len(got), tt.code, len(tt.want))
			}
		})
	}
}
