//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// The ports of probed.
const (
	grpcPort = "50051"
	httpPort = "8080"
	opsPort  = "9464"
)

// forwards are kubectl port-forward of pods, one for all tests that ask a pod, since each takes a while to start.
type forwards struct {
	ctx     context.Context //nolint:containedctx // they last beyond the test that is first
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	of      map[string]func() (map[string]string, error)
}

func newForwards(ctx context.Context) *forwards {
	f := &forwards{of: make(map[string]func() (map[string]string, error))}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// to returns where gRPC and REST of a pod are on this machine.
func (f *forwards) to(namespace, pod string) (map[string]string, error) {
	f.mu.Lock()
	once, ok := f.of[namespace+"/"+pod]
	if !ok {
		once = sync.OnceValues(func() (map[string]string, error) { return f.begin(namespace, pod, grpcPort, httpPort) })
		f.of[namespace+"/"+pod] = once
	}
	f.mu.Unlock()
	return once()
}

// end ends all.
func (f *forwards) end() {
	f.cancel()
	f.running.Wait()
}

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> (\d+)`)

func (f *forwards) begin(namespace, pod string, ports ...string) (map[string]string, error) {
	args := []string{"port-forward", "--namespace", namespace, "pod/" + pod, "--address", "127.0.0.1"}
	for _, port := range ports {
		args = append(args, ":"+port)
	}
	command := exec.CommandContext(f.ctx, "kubectl", args...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 5 * time.Second
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	lines := make(chan []string, 2*len(ports)) // of both families, if it likes
	f.running.Go(func() {
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			if found := forwarding.FindStringSubmatch(scanner.Text()); found != nil {
				lines <- found
			}
		}
		close(lines)
		_ = command.Wait() // which says that it was ended
	})
	forwarded := make(map[string]string)
	patience := time.After(20 * time.Second)
	for len(forwarded) < len(ports) {
		select {
		case line, ok := <-lines:
			if !ok {
				return nil, fmt.Errorf("kubectl port-forward of %s in %s has ended", pod, namespace)
			}
			forwarded[line[2]] = line[1]
		case <-patience:
			return nil, fmt.Errorf("kubectl port-forward of %s in %s forwards nothing", pod, namespace)
		}
	}
	return forwarded, nil
}
