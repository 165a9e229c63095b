//go:build system

package gateway

import (
	"log/slog"
	"net"
	"net/http/httptest"
	"os/exec"
	"testing"

	"probed/service"
	"probed/service/policy"
)

// CPython's own tests of the socket module's lookups hold when REST answers them in place of the C library, on the files
// and the resolver of this machine. Left out are, of the tests that look something up: testRefCountGetNameInfo, which
// counts references in C code, test_sethostname, and those that Linux or a host without the internet skip
// (test_idna, …_scopeid_numeric).
func TestCPythonSocketTests(t *testing.T) {
	t.Parallel()
	chain, err := service.Chain(service.ChainConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	open := func() *policy.Policy { return &policy.Policy{Loopback: true, Open: true} }
	local := service.Local(chain, service.New(service.Config{Policy: open}).Register)
	rest, err := New(Config{Conn: local})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(rest)
	t.Cleanup(func() {
		web.Close()
		_ = rest.Close()
	})
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// Debian's own interpreter, which its package of the test suite belongs to.
	command := exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/cpython_socket.py", port,
		"testGetServBy", "testGetaddrinfo", "testHostnameRes", "test_flowinfo", "test_getaddrinfo_ipv6_basic",
		"test_getaddrinfo_ipv6_scopeid_symbolic", "test_getfqdn_filter_localhost", "test_getnameinfo",
		"test_getnameinfo_ipv6_scopeid_symbolic", "test_host_resolution", "test_host_resolution_bad_address")
	output, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("%v (without the suite: apt-get install libpython3.11-testsuite)\n%s", err, output)
	}
}
