//go:build system

package dial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"probed/internal/nettest"
)

// Whoever may have a user namespace can have a socket under any path there, and
// /proc leads into it. That path is not the one on the list.
func TestOtherMountNamespaceIsNotReached(t *testing.T) {
	t.Parallel()
	root := nettest.SocketDir(t)
	for _, dir := range []string{"listed", "forbidden"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	forbidden, listed := root+"/forbidden/s", root+"/listed/s"
	var tally nettest.Tally
	nettest.Listen(t, "unix", forbidden, tally.Count(nettest.Echo))
	if err := os.WriteFile(listed, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	if _, err := exec.LookPath("unshare"); err != nil {
		t.Fatalf("%v (Debian: apt-get install util-linux mount)", err)
	}
	attacker := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", `mount --bind "$0" "$1" && cd "${1%/*}" && echo ready && read line`, forbidden, listed)
	stdin, err := attacker.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := attacker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	attacker.Stderr = t.Output()
	if err := attacker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		attacker.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("read %q, %v from it; want it to be ready", line, err)
	}

	want, err := os.Stat(forbidden)
	if err != nil {
		t.Fatal(err)
	}
	process := fmt.Sprintf("/proc/%d", attacker.Process.Pid)
	for _, path := range []string{
		process + "/root" + listed,
		process + "/cwd/s",
		fmt.Sprintf("%s/task/%d/root%s", process, attacker.Process.Pid, listed),
	} {
		if got, err := os.Stat(path); err != nil || !os.SameFile(got, want) {
			t.Errorf("%s: %v; want it to lead to the forbidden socket", path, err)
		}
		d := Dialer{Policy: func(_ context.Context, to Destination) error {
			if to.Path == listed {
				return nil
			}
			return errors.New("not listed")
		}}
		c, err := d.Dial(t.Context(), Request{Network: "unix", Path: path})
		if c != nil {
			c.Close()
		}
		denied, _ := errors.AsType[*DeniedError](err)
		if denied == nil || denied.Destination.Path != path {
			t.Errorf("%s: %v, %+v; want it denied as it is written", path, err, denied)
		}
		// Nor is it told what is there.
		for _, nothing := range []string{path + "s", "/proc/none/root/s"} {
			_, err := d.Dial(t.Context(), Request{Network: "unix", Path: nothing})
			if want := "dial unix " + nothing + ": denied: not listed"; err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", nothing, err, want)
			}
		}
	}
	if n := tally.Conns.Load(); n != 0 {
		t.Errorf("%d connections to the forbidden socket", n)
	}
}
