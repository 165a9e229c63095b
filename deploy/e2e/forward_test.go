//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// The ports of probed.
const (
	grpcPort = "50051"
	httpPort = "8080"
	opsPort  = "9464"
)

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> (\d+)`)

// forward has kubectl forward ports of a pod to this machine until the test ends, and returns the address of each.
func (s *stage) forward(ctx context.Context, t testing.TB, namespace, pod string, ports ...string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	args := []string{"port-forward", "--namespace", namespace, "pod/" + pod, "--address", "127.0.0.1"}
	for _, port := range ports {
		args = append(args, ":"+port)
	}
	command := exec.CommandContext(ctx, "kubectl", args...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 5 * time.Second
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	addresses := make(chan [2]string)
	read := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-read
		_ = command.Wait() // which says that it was ended
	})
	go func() {
		defer close(read)
		defer close(addresses)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if found := forwarding.FindStringSubmatch(lines.Text()); found != nil {
				select {
				case addresses <- [2]string{found[2], found[1]}:
				case <-ctx.Done():
				}
			}
		}
	}()
	forwarded := make(map[string]string)
	for len(forwarded) < len(ports) {
		select {
		case a, ok := <-addresses:
			if !ok {
				t.Fatalf("kubectl port-forward of %s in %s ended", pod, namespace)
			}
			forwarded[a[0]] = a[1]
		case <-time.After(20 * time.Second):
			t.Fatalf("kubectl port-forward of %s in %s forwards nothing", pod, namespace)
		}
	}
	return forwarded
}
