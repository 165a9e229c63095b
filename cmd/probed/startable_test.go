package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"probed/internal/nettest"
	"probed/service/echo"
)

// What the start would fail with is told when the file is read.
func TestConfigThatCannotStart(t *testing.T) {
	t.Parallel()
	dir := nettest.SocketDir(t)
	nettest.Listen(t, "unix", filepath.Join(dir, "socket"), nettest.Echo)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600), os.Mkdir(filepath.Join(dir, "dir"), 0o700)); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 200)
	const form = "is not tcp://HOST:PORT, udp://HOST:PORT or unix://PATH"
	for _, test := range []struct{ text, want string }{
		// What an address is.
		{`listeners: {echo: [tcp://127.0.0.1]}`, `1:20: listeners.echo[0]: "tcp://127.0.0.1" ` + form + `: missing port in address`},
		{`listeners: {echo: ["tcp://127.0.0.1:"]}`, `1:20: listeners.echo[0]: "tcp://127.0.0.1:" ` + form + `: a port is a number from 0 to 65535, not ""`},
		{`listeners: {echo: [udp://127.0.0.1:65536]}`, `1:20: listeners.echo[0]: "udp://127.0.0.1:65536" ` + form + `: a port is a number from 0 to 65535, not "65536"`},
		{`listeners: {echo: [tcp://127.0.0.1:7/x]}`, `1:20: listeners.echo[0]: "tcp://127.0.0.1:7/x" ` + form + `: a port is a number from 0 to 65535, not "7/x"`},
		{`listeners: {echo: ["tcp://::1:7"]}`, `1:20: listeners.echo[0]: "tcp://::1:7" ` + form + `: too many colons in address`},
		{`listeners: {echo: ["unix://"]}`, `1:20: listeners.echo[0]: "unix://" ` + form + `: there is no path`},
		{`listeners: {echo: [unix://none/x]}`, `1:20: listeners.echo[0]: DIR/none: no such file or directory`},
		{`listeners: {echo: [unix://file/x]}`, `1:20: listeners.echo[0]: DIR/file: it is no directory`},
		{`listeners: {echo: [unix://file]}`, `1:20: listeners.echo[0]: DIR/file: it is there, and is no socket`},
		{`listeners: {echo: [unix://DIR/` + long + `]}`, `1:20: listeners.echo[0]: "unix://DIR/` + long + `" ` + form + `: the path is longer than 107 bytes`},
		{`listeners: {echo: ["tcp://:0", "tcp://:0", "udp://127.0.0.1:0", unix://DIR/new, unix://socket, "unix://@abstract"]}`, ""},

		// Two at one address.
		{`listeners: {grpc: {address: "127.0.0.1:1"}, http: {address: "127.0.0.1:1"}}`, `1:61: listeners.http.address: listeners.grpc.address listens there already`},
		{`listeners: {http: {address: ":1"}, ops: {address: "127.0.0.1:1"}}`, `1:51: listeners.ops.address: listeners.http.address listens there already`},
		{`listeners: {grpc: {address: "[::1]:1"}, ops: {address: "0.0.0.0:1"}}`, `1:56: listeners.ops.address: listeners.grpc.address listens there already`},
		{`listeners: {grpc: {address: "[::ffff:127.0.0.1]:1"}, ops: {address: "127.0.0.1:1"}}`, `1:69: listeners.ops.address: listeners.grpc.address listens there already`},
		{`listeners: {grpc: {address: "localhost:1"}, echo: ["tcp://LOCALHOST:1"]}`, `1:52: listeners.echo[0]: listeners.grpc.address listens there already`},
		{`listeners: {echo: ["udp://[0:0::1]:1", "udp://[::1]:1", "udp://[::]:1"]}`, "" +
			"1:40: listeners.echo[1]: listeners.echo[0] listens there already\n1:57: listeners.echo[2]: listeners.echo[0] listens there already"},
		{`listeners: {echo: [unix://new, unix://DIR/./new]}`, `1:32: listeners.echo[1]: "DIR/new" stands twice, first as listeners.echo[0] in line 1`},
		{`listeners: {grpc: {address: "127.0.0.1:1"}, http: {address: "127.0.0.2:1"}, ops: {address: "[::1]:1"}, echo: ["udp://127.0.0.1:1", "tcp://127.0.0.1:2"]}`, ""},
		{`listeners: {grpc: {address: ""}, http: {address: ""}, ops: {address: ""}}`, ""},

		// Where the audit log is.
		{`audit: {path: none/audit.log}`, `1:15: audit.path: DIR/none: no such file or directory`},
		{`audit: {path: file/audit.log}`, `1:15: audit.path: DIR/file: it is no directory`},
		{`audit: {path: dir}`, `1:15: audit.path: DIR/dir: it is a directory`},
		{`audit: {path: DIR/new/}`, `1:15: audit.path: DIR/new/: no such file or directory`},
		{`audit: {path: file}`, ""},
		{`audit: {path: dir/new}`, ""},
		{`audit: {path: "-"}`, ""},
	} {
		file := filepath.Join(dir, "probed.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(test.text, "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readConfigAt([]string{file}, noEnv, now)
		var got string
		if err != nil {
			got = strings.ReplaceAll(strings.ReplaceAll(err.Error(), file+":", ""), dir, "DIR")
		}
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.text, got, test.want)
		}
	}
}

// The kernel holds the same of two addresses.
func TestAddressesThatExclude(t *testing.T) {
	t.Parallel()
	hosts := []string{"127.0.0.1", "0.0.0.0", "[::]", "[::1]", ""}
	for _, network := range []string{"tcp", "udp"} {
		for _, first := range hosts {
			for _, second := range hosts {
				l, err := echo.Listen(t.Context(), echo.Config{Address: network + "://" + first + ":0"})
				if err != nil {
					t.Fatal(err)
				}
				_, port, _ := net.SplitHostPort(strings.TrimPrefix(l.Addr(), network+"://"))
				a, errA := parseListenAddress(network, first+":"+port)
				b, errB := parseListenAddress(network, second+":"+port)
				if errA != nil || errB != nil {
					t.Fatal(errA, errB)
				}
				address := fmt.Sprintf("%s://%s:%s", network, second, port)
				other, err := echo.Listen(t.Context(), echo.Config{Address: address})
				if err == nil {
					other.Close()
				}
				if a.excludes(b) != b.excludes(a) || a.excludes(b) && err == nil {
					t.Errorf("%s %q and %q: %v, yet %v", network, first, second, a.excludes(b), err)
				}
				l.Close()
			}
		}
	}
}
