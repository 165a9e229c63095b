//go:build unix

package names

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFilesThatAreNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, "/dev/zero", os.DevNull, filepath.Join(dir, "missing"), "a\x00b"} {
		tables := Open(Config{ServicesFile: path, ProtocolsFile: path})
		if got, want := brief(tables.Service("ssh", "tcp")), join("ssh 22/tcp [] iana"); got != want {
			t.Errorf("%q as services: %s", path, got)
		}
		if p, ok := tables.Protocol("6"); !ok || p.Name != "tcp" {
			t.Errorf("%q as protocols: %+v", path, p)
		}
	}
}
