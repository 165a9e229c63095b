package service

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/policy"
)

// While the way to a socket is swapped to and fro between one that a role lists and one that it does not, ten thousand
// times, callers reach the one or are denied; nobody reaches the other.
func TestSwappedSockets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		// paths returns what to ask for, and the two ends of a link that it is swapped between; the first is the allowed one.
		paths func(dir, allowed, forbidden string) (target, swapped string, ends [2]string)
	}{
		{"a directory on the way", func(dir, allowed, forbidden string) (string, string, [2]string) {
			swapped := filepath.Join(dir, "current")
			return filepath.Join(swapped, "s"), swapped, [2]string{filepath.Dir(allowed), filepath.Dir(forbidden)}
		}},
		{"a directory further up", func(dir, allowed, forbidden string) (string, string, [2]string) {
			swapped := filepath.Join(dir, "current")
			return filepath.Join(swapped, "inner", "s"), swapped, [2]string{filepath.Dir(filepath.Dir(allowed)), filepath.Dir(filepath.Dir(forbidden))}
		}},
		{"the socket", func(_, allowed, forbidden string) (string, string, [2]string) {
			return allowed, allowed, [2]string{"", forbidden}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := nettest.SocketDir(t)
			sink := func(name string, tally *nettest.Tally) string {
				inner := filepath.Join(dir, name, "inner")
				if err := os.MkdirAll(inner, 0o700); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(inner, "s")
				nettest.Listen(t, "unix", path, tally.Count(nettest.CloseAtOnce))
				return path
			}
			var reached, never nettest.Tally
			allowed, forbidden := sink("allowed", &reached), sink("forbidden", &never)
			rules := &policy.Policy{Roles: []policy.Role{{Name: "r", Subjects: []string{"token:a"}, Rules: []policy.Rule{
				{Name: "s", UnixPaths: []string{allowed}, Verbs: policy.Connect},
			}}}}
			// Whoever swaps all the while leaves the writer of an audit log no time.
			w := newWorld(t, withRoles(rules, "a"), func(s *settings) { s.Audit = nil })
			target, swapped, ends := test.paths(dir, allowed, forbidden)
			kept, next := filepath.Join(dir, "kept"), filepath.Join(dir, "next")
			if err := os.Link(allowed, kept); err != nil {
				t.Fatal(err)
			}
			swap := func(end string) error {
				link := func() error { return os.Symlink(end, next) }
				if end == "" { // the socket itself
					link = func() error { return os.Link(kept, next) }
				}
				_ = os.Remove(next) // a rename onto the very same file leaves it there
				if err := link(); err != nil {
					return err
				}
				return os.Rename(next, swapped)
			}
			if err := swap(ends[0]); err != nil {
				t.Fatal(err)
			}

			var through, denied atomic.Int64
			var over atomic.Bool
			var callers sync.WaitGroup
			for _, c := range append(w.by("a"), w.by("a")...) {
				callers.Go(func() {
					for !over.Load() {
						switch a := c.call(t.Context(), t, &probev1.ConnectRequest{Target: "unix://" + target}); {
						case status.Code(a.err) == codes.PermissionDenied:
							denied.Add(1)
						case a.err != nil:
							t.Errorf("%v: %v", c, a.err)
							return
						case a.outcome().GetOk():
							through.Add(1)
						case a.outcome().GetReason() == probev1.Reason_REASON_SOCKET_NOT_FOUND: // the link itself, which is not followed
							denied.Add(1)
						default:
							t.Errorf("%v: %v", c, a.outcome())
							return
						}
					}
				})
			}
			swaps := 0
			for ; swaps < 10_000 || through.Load() < 100 || denied.Load() < 100; swaps++ {
				if err := swap(ends[swaps%2]); err != nil {
					t.Error(err)
					break
				}
				if t.Failed() || swaps == 2_000_000 {
					break
				}
			}
			over.Store(true)
			callers.Wait()
			t.Logf("%d swaps: %d through, %d not", swaps, through.Load(), denied.Load())
			if through.Load() < 100 || denied.Load() < 100 {
				t.Error("too few to tell")
			}
			// Connections are accepted in the order in which they came, and this is the last.
			c, err := net.Dial("unix", forbidden)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			soon(t, "the last connection", func() bool { return never.Conns.Load() >= 1 })
			if n := never.Conns.Load() - 1; n != 0 {
				t.Errorf("%d connects to the forbidden socket", n)
			}
		})
	}
}
