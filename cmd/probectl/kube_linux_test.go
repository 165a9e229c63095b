package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"probed/internal/nettest"
)

// TestNoKubectlIsLeft ends probectl in every way there is, in the midst of a call and while kubectl is asked for the pods:
// no kubectl outlives it. After a Ctrl-C, of which kubectl is not to know, there is still a way to the pod for the last
// words.
func TestNoKubectlIsLeft(t *testing.T) {
	t.Parallel()
	server := serve(t, nettest.UDP(t, nettest.SilentPacket))
	peer := nettest.TCP(t, speakAndHold("hello\n")).String()
	signalled := func(signal syscall.Signal) func(*testing.T, *terminal, *exec.Cmd) {
		return func(t *testing.T, _ *terminal, command *exec.Cmd) {
			t.Helper()
			if err := command.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
		}
	}
	ends := map[string]func(*testing.T, *terminal, *exec.Cmd){
		"Ctrl-C":  func(t *testing.T, p *terminal, _ *exec.Cmd) { t.Helper(); p.typeText(t, "\x03") },
		"SIGTERM": signalled(syscall.SIGTERM), "SIGHUP": signalled(syscall.SIGHUP), "SIGKILL": signalled(syscall.SIGKILL),
	}
	for _, test := range []struct {
		name  string
		args  []string
		pods  []string // whose kubectl there is
		await string   // so that it is in the midst of it
		told  string   // by an end in order
	}{
		{"exchange", []string{"--kube", "shop/mesh=well", "exchange", peer}, []string{"m-1"}, `hello`, `interrupted: 6 bytes in 1 chunk received by then\n$`},
		{"converse", []string{"--kube", "shop/mesh=well", "converse", peer}, []string{"m-1"}, `hello`, `\noutcome +ok, ended by LAST_STEP\n`},
		{
			"connect", []string{"--kube", "shop/mesh=well", "connect", nettest.Backlog(t).String()},
			[]string{"m-1"}, `\r0 of 1 targets`, `interrupted: 0 of 1 targets answered by then\n$`,
		},
		{
			"each", []string{"--kube", "shop/mesh=well", "--each", "exchange", peer},
			[]string{"m-1", "m-2"}, `\r0 of 2 pods`, `m-1 +node1 .* not answered (?s:.*)interrupted: 0 of 2 pods answered by then\n$`,
		},
		{
			"each connect", []string{"--kube", "shop/mesh=well", "--each", "connect", nettest.Backlog(t).String(), peer},
			[]string{"m-1", "m-2"}, `\r0 of 2 pods`,
			`m-1 +node1 +\S+ +- +not answered (?s:.*)m-2 +node2 +\S+ +\S+ +ok (?s:.*)\nprobectl: interrupted: 0 of 2 pods answered by then\n$`,
		},
		{"find", []string{"--kube", "shop/probed", "port", "80"}, []string{"service", "pods"}, `\rwaiting for kubectl`, `\nprobectl: interrupted\n$`},
	} {
		for name, end := range ends {
			t.Run(test.name+" "+name, func(t *testing.T) {
				t.Parallel()
				files := clusterFiles(map[string]string{"SERVER": server})
				if test.name == "find" {
					files["fault"] = "hang"
				}
				dir := t.TempDir()
				for name, content := range files {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				p := openTerminal(t)
				command := p.command(t, test.args...)
				command.Env = append(command.Env, "CLUSTER="+dir)
				if err := command.Start(); err != nil {
					t.Fatal(err)
				}
				p.await(t, test.await)
				end(t, p, command)
				err := command.Wait()
				if name != "SIGKILL" {
					if code := exitCode(t, err); code != exitInterrupted {
						t.Errorf("exit code %d, want %d", code, exitInterrupted)
					}
					p.await(t, test.told)
				}
				for _, pod := range test.pods {
					if err := ended(dir, pod); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}
