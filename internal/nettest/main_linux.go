package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is in the environment of a test binary that InNamespace has started.
const inside = "NETTEST_NAMESPACE"

// runner is a *testing.M, or what stands around one.
type runner interface{ Run() int }

// InNamespace is m in a network namespace of its own: the tests of the package, and the programs they start, find a
// loopback interface that is up and nothing else, may make namespaces and links, drop packets, and listen on any port. Their
// only name server is 127.0.0.1, where a test may be one. So nothing they do, however much of it, leaves the test.
//
//	func TestMain(m *testing.M) { os.Exit(nettest.CheckLeaks(nettest.InNamespace(m)).Run()) }
//
// Where the machine lets nobody make a namespace, the tests fail and say so.
func InNamespace(m runner) interface{ Run() int } { return namespaced{m} }

type namespaced struct{ runner }

// Run runs the tests: in a second process, since a thread can change its namespace and a process cannot.
func (n namespaced) Run() int {
	if os.Getenv(inside) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "nettest: in the new namespace:", err)
			return 1
		}
		return n.runner.Run()
	}
	code, err := again(false)
	if errors.Is(err, syscall.EPERM) { // not root: as the root of a user namespace, then
		code, err = again(true)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "nettest: these tests run in a network namespace of their own, and this machine does not let them make one: %v\n"+
			"Run them as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=1000\n", err)
		return 1
	}
	return code
}

// again runs this test binary once more, with the same arguments, in new namespaces.
func again(asUser bool) (code int, err error) {
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), inside+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if asUser {
		child.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err = child.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if exit.ExitCode() < 0 {
			return 1, exit
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// furnish makes the namespaces that this process was started in usable.
func furnish() error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	file, err := os.CreateTemp("", "resolv.conf-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // the mount keeps it
	defer file.Close()
	if _, err := file.WriteString("nameserver 127.0.0.1\n"); err != nil {
		return err
	}
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	if err := unix.Mount(file.Name(), "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/etc/resolv.conf: %w", err)
	}
	return nil
}

// ResolvConf lets /etc/resolv.conf have the text, in place of the one name server, until the test ends. It is for packages
// whose tests run InNamespace: there the file is nobody else's.
func ResolvConf(t testing.TB, text string) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Fatal("nettest: not InNamespace: /etc/resolv.conf is the machine's")
	}
	const path = "/etc/resolv.conf"
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(path, text, 0); err != nil { // it is there
			t.Errorf("nettest: %v", err)
		}
	}
	write([]byte(text))
	t.Cleanup(func() { write(before) })
}

// loopbackUp sets lo up, which no program has to be there for.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
