package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace of the test's own, with nothing in it but a
// loopback interface that is up. It ends with the test.
type Netns struct {
	t     testing.TB
	file  *os.File // keeps the namespace alive and is the way into it
	links int
}

// Namespace makes a network namespace. It needs CAP_SYS_ADMIN: root, or the test
// binary run under `unshare -Urn`.
func Namespace(t testing.TB) *Netns {
	t.Helper()
	n := &Netns{t: t}
	inThread(t, func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatalf("nettest: a network namespace needs root (or unshare -Urn): %v", err)
		}
		n.file = threadNetns(t)
	})
	t.Cleanup(func() { n.file.Close() })
	n.Run("ip", "link", "set", "lo", "up")
	return n
}

// Do runs f in the namespace, in the calling goroutine. The sockets f opens
// belong to the namespace for good and may be used from any goroutine
// afterwards; goroutines that f starts are outside of it.
func (n *Netns) Do(f func()) {
	n.t.Helper()
	inThread(n.t, func() {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			n.t.Fatalf("nettest: setns: %v", err)
		}
		f()
	})
}

// Run runs a command in the namespace, such as `ip route add blackhole …` or
// `nft add …`, and fails the test with what it printed if it does not succeed.
func (n *Netns) Run(name string, args ...string) {
	n.t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		n.t.Fatalf("nettest: %v (Debian: apt-get install iproute2 nftables)", err)
	}
	n.Do(func() {
		// A child starts in the namespace of the thread that forks it.
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			n.t.Fatalf("nettest: %s %q: %v\n%s", name, args, err, out)
		}
	})
}

// Link joins two namespaces by a pair of virtual Ethernet interfaces, both up,
// and returns their names. Each prefix is an interface's own address and the
// length of the net it is on, as 10.0.0.1/24; IPv6 addresses are usable at once.
func Link(a *Netns, addrsA []netip.Prefix, b *Netns, addrsB []netip.Prefix) (ifA, ifB string) {
	a.t.Helper()
	ifA, ifB = fmt.Sprintf("veth%d", a.links), fmt.Sprintf("veth%d", b.links)
	a.links++
	b.links++
	netns := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), b.file.Fd())
	a.Run("ip", "link", "add", ifA, "type", "veth", "peer", "name", ifB, "netns", netns)
	a.up(ifA, addrsA)
	b.up(ifB, addrsB)
	a.awaitRunning(ifA)
	b.awaitRunning(ifB)
	return ifA, ifB
}

// awaitRunning waits until a link that is up carries packets. The kernel gets
// round to that later, by up to a second when many links change at once, and
// drops what is sent before.
func (n *Netns) awaitRunning(link string) {
	n.t.Helper()
	n.Do(func() {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			i, err := net.InterfaceByName(link)
			if err != nil {
				n.t.Fatalf("nettest: %s: %v", link, err)
			}
			if i.Flags&net.FlagRunning != 0 {
				return
			}
			if time.Now().After(deadline) {
				n.t.Fatalf("nettest: %s: up for 10 s and not running", link)
			}
		}
	})
}

func (n *Netns) up(link string, addrs []netip.Prefix) {
	n.t.Helper()
	n.Run("ip", "link", "set", link, "addrgenmode", "none", "up")
	for _, p := range addrs {
		args := []string{"addr", "add", p.String(), "dev", link}
		if p.Addr().Is6() {
			args = append(args, "nodad") // Duplicate detection would hold it back for a second.
		}
		n.Run("ip", args...)
	}
}

// inThread runs f with the goroutine's thread its own, and puts the thread back
// into the namespace it came from. A thread that cannot be put back stays locked,
// so that the runtime discards it with the goroutine.
func inThread(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home := threadNetns(t)
	defer func() {
		err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		home.Close()
		if err != nil {
			t.Errorf("nettest: back from a namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}

func threadNetns(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatalf("nettest: %v", err)
	}
	return f
}
