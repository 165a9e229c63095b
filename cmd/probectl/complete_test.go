package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completed is what a shell is told, without the directive: run as each press of a key does.
func completed(t *testing.T, getenv func(string) string, args ...string) (candidates []string, directive string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), "probectl", append([]string{"__complete"}, args...), strings.NewReader(""), &stdout, &stderr, getenv)
	if code != 0 || strings.Contains(stderr.String(), "rror") {
		t.Errorf("%q: %d, %s", args, code, stderr.String())
	}
	lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	return lines[:len(lines)-1], strings.TrimPrefix(lines[len(lines)-1], ":")
}

const (
	noFiles  = "36" // no files, in this order
	goesOn   = "38" // and no space behind it
	anyFiles = "0"
)

// TestCompletion: what may stand at the cursor, with a word about it.
func TestCompletion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("servers: {shop: {server: 192.0.2.1}, cluster: {kube: net/probed}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "socket"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	getenv := func(name string) string {
		return map[string]string{"PROBECTL_CONFIG": config}[name]
	}
	for _, test := range []struct {
		typed, want, directive string
		never                  string
	}{
		// commands
		{typed: "exch", want: "exchange\tWhat comes back", directive: "4"},
		{typed: "config ", want: "use-server\tMake", directive: "4"},
		// tables
		{typed: "service ssh", want: "ssh\t22/tcp", directive: noFiles},
		{typed: "service postgr", want: "postgresql\t5432/tcp", directive: noFiles},
		{typed: "service ", want: "domain\t53/", never: "postgresql\t5432/udp,", directive: noFiles},
		{typed: "service ssh ", directive: "4"},
		{typed: "port 44", want: "443\thttps", never: "80\thttp", directive: noFiles},
		{typed: "protocol sct", want: "sctp\t132 ", directive: noFiles},
		{typed: "protocol 13", want: "132\tsctp", directive: noFiles},
		{typed: "constants ", want: "EAI_\terrors of getaddrinfo", never: "AF_INET", directive: goesOn},
		{typed: "constants AF_INE", want: "AF_INET\t2 ", never: "SOCK", directive: noFiles},
		{typed: "services --class ", want: "dynamic", directive: noFiles},
		{typed: "services --protocol ", want: "sctp", directive: noFiles},
		// targets
		{typed: "connect ", want: "tls://\tTCP, and TLS", directive: goesOn},
		{typed: "connect t", want: "tcp6://\t", never: "udp", directive: goesOn},
		{typed: "connect localh", want: "localhost:\t127", directive: goesOn},
		{typed: "connect db.shop:postgr", want: "db.shop:postgresql\t5432/tcp", directive: noFiles},
		{typed: "connect a:1 db.shop:postgr", want: "db.shop:postgresql\t5432/tcp", directive: noFiles},
		{typed: "exchange tls://db.shop:http", want: "tls://db.shop:https\t443/tcp", directive: noFiles},
		{typed: "exchange udp6://[2001:db8::1]:dom", want: "udp6://[2001:db8::1]:domain\t53/udp", directive: noFiles},
		{typed: "exchange udp6://[2001:db8::1:dom", never: "domain", directive: goesOn},
		{typed: "converse udp://localh", want: "udp://localhost:\t", directive: goesOn},
		{typed: "connect icmp://localh", want: "icmp://localhost\t", directive: noFiles},
		{typed: "connect unix://" + dir + "/so", want: "unix://" + dir + "/socket", directive: goesOn},
		{typed: "policy explain db:postgr", want: "db:postgresql\t", directive: noFiles},
		{typed: "exchange a:1 ", directive: "4"},
		// values of flags
		{typed: "connect --tls-min ", want: "1.3", directive: noFiles},
		{typed: "connect --alpn h2,http/1", want: "h2,http/1.1", directive: goesOn},
		{typed: "connect --interface l", want: "lo\t127.0.0.1", directive: noFiles},
		{typed: "connect --source 127", want: "127.0.0.1\tlo", directive: noFiles},
		{typed: "--server 192.0.2.1 connect --source ", never: "127", directive: noFiles},
		{typed: "connect --timeout ", want: "5s", directive: noFiles},
		{typed: "connect --cacert ", directive: anyFiles},
		{typed: "connect --file ", directive: anyFiles},
		{typed: "host --family ", want: "inet6\tIPv6", never: "unix", directive: noFiles},
		{typed: "host --family AF_I", want: "AF_INET6\tIPv6", directive: noFiles},
		{typed: "addrinfo x --type ", want: "stream\t", directive: noFiles},
		{typed: "addrinfo x --protocol sc", want: "sctp\t", directive: noFiles},
		{typed: "addrinfo x --flags ", want: "AI_PASSIVE\t", directive: goesOn},
		{typed: "addrinfo x --flags AI_PASSIVE,AI_C", want: "AI_PASSIVE,AI_CANONNAME\t", directive: goesOn},
		{typed: "addrinfo localhost htt", want: "https\t443/", directive: noFiles},
		{typed: "nameinfo ::1 44", want: "443\thttps", directive: noFiles},
		{typed: "nameinfo ::1 53 --flags NI_D", want: "NI_DGRAM\t", directive: goesOn},
		{typed: "dns x ", want: "MX\tmail servers", directive: noFiles},
		{typed: "dns x aa", want: "aaaa\t", directive: noFiles},
		{typed: "dns x MX --transport ", want: "tls", directive: noFiles},
		{typed: "exchange a:1 --step ", want: "expect-regex:\twait", directive: goesOn},
		{typed: "exchange a:1 --step receive:length=3,", want: "receive:length=3,idle=\t", directive: goesOn},
		{typed: "exchange a:1 --step send-file:" + dir + "/so", want: "send-file:" + dir + "/socket", directive: goesOn},
		{typed: "port 80 -o ", want: "yaml\t", directive: noFiles},
		{typed: "completion ", want: "powershell", directive: noFiles},
		// servers
		{typed: "--server ", want: "cluster\tkube net/probed", directive: noFiles},
		{typed: "--server=sh", want: "shop\t192.0.2.1", directive: noFiles},
		{typed: "config use-server ", want: "shop\t192.0.2.1", directive: noFiles},
		{typed: "config delete-server cl", want: "cluster\t", directive: noFiles},
		{typed: "config set-server shop --token-file ", directive: anyFiles},
		{typed: "help conf", want: "config\t", directive: "4"},
	} {
		candidates, directive := completed(t, getenv, strings.Split(test.typed, " ")...)
		begins := func(beginning string) bool {
			return slices.ContainsFunc(candidates, func(candidate string) bool { return strings.HasPrefix(candidate, beginning) })
		}
		switch {
		case test.want == "" && test.never == "" && len(candidates) > 0:
			t.Errorf("%q: %q, and nothing can be known", test.typed, candidates)
		case test.want != "" && !begins(test.want):
			t.Errorf("%q: no %q in %.1000q", test.typed, test.want, candidates)
		case test.never != "" && begins(test.never):
			t.Errorf("%q: %q is among them", test.typed, test.never)
		case directive != test.directive:
			t.Errorf("%q: directive %s, want %s", test.typed, directive, test.directive)
		}
	}
}

// TestFlagsAreDescribed: each in one line, of words that are whole.
func TestFlagsAreDescribed(t *testing.T) {
	t.Parallel()
	root := newRootCommand(&tool{stdout: newPrinter(io.Discard), stderr: newPrinter(io.Discard), getenv: noEnvironment}, noEnvironment)
	for _, command := range append(subcommands(root), root) {
		path := strings.Fields(command.CommandPath())[1:]
		flags, _ := completed(t, noEnvironment, append(path, "--")...)
		for _, flag := range flags {
			name, usage, _ := strings.Cut(flag, "\t")
			if usage == "" || strings.ContainsAny(usage, "`;") || strings.HasSuffix(usage, ",") || strings.Count(usage, "(") != strings.Count(usage, ")") {
				t.Errorf("%s %s: %q", command.CommandPath(), name, usage)
			}
		}
		if len(flags) < 10 {
			t.Errorf("%s: %d flags", command.CommandPath(), len(flags))
		}
	}
	if flags, _ := completed(t, noEnvironment, "--serve"); !slices.Contains(flags, "--server\tthe probed to ask: SERVER is HOST[:PORT] of its gRPC listener (port 50051 unless given), or a name of the configuration file") {
		t.Errorf("%q", flags)
	}
}

// TestEverythingIsCompleted: no argument and no flag is left to a shell, which would offer files, unless a file is meant.
func TestEverythingIsCompleted(t *testing.T) {
	t.Parallel()
	files := []string{
		"kubeconfig", "server-ca", "server-cert", "server-key", "token-file", "file", "data-file", "cacert", "cert", "key",
	}
	root := newRootCommand(&tool{stdout: newPrinter(io.Discard), stderr: newPrinter(io.Discard), getenv: noEnvironment}, noEnvironment)
	named := 0
	for _, command := range append(subcommands(root), root) {
		if command.ValidArgsFunction == nil && !command.HasSubCommands() {
			t.Errorf("%s: nothing completes its arguments", command.CommandPath())
		}
		command.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Value.Type() == "bool" || flag.NoOptDefVal != "" || flag.Name == "help" {
				return
			}
			_, completes := command.GetFlagCompletionFunc(flag.Name)
			if file := slices.Contains(files, flag.Name); completes == file {
				t.Errorf("%s --%s: completed %v, a file %v", command.CommandPath(), flag.Name, completes, file)
			}
			named++
		})
	}
	if named < 30 {
		t.Errorf("%d flags", named)
	}
}

// TestCompletionStaysHere: whatever server is named, a press of a key connects to none.
func TestCompletionStaysHere(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan struct{}, 1)
	go func() {
		if c, err := listener.Accept(); err == nil {
			c.Close()
			connected <- struct{}{}
		}
		close(connected)
	}()
	root := newRootCommand(&tool{stdout: newPrinter(io.Discard), stderr: newPrinter(io.Discard), getenv: noEnvironment}, noEnvironment)
	asked := 0
	for _, command := range subcommands(root) {
		path := strings.Fields(command.CommandPath())[1:]
		for _, arg := range []string{"", "a", "db:", "-"} {
			completed(t, noEnvironment, append(append([]string{"--server", listener.Addr().String()}, path...), arg)...)
			asked++
		}
	}
	listener.Close()
	if _, ok := <-connected; ok {
		t.Error("a completion connected to the server")
	}
	if asked < 60 {
		t.Errorf("%d questions", asked)
	}
}

// TestCompletionByKubectl: what it knows, for as long as a user waits for a key.
func TestCompletionByKubectl(t *testing.T) {
	t.Parallel()
	cluster := t.TempDir()
	for name, text := range map[string]string{
		"list-services": "service/probed\nservice/web\n", "list-namespaces": "namespace/net\nnamespace/shop\n",
		"list-get-contexts": "dev\nprod\nprod$(id>ran)\npro;id\n", "list-serviceaccounts": "serviceaccount/probe-user\n",
	} {
		if err := os.WriteFile(filepath.Join(cluster, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	complete := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "probectl", args...)
		// A program under the race detector waits a second before it exits, and kubectl has no more.
		command.Env = append(os.Environ(), "CLUSTER="+cluster, "GORACE=atexit_sleep_ms=0")
		out, err := command.Output()
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return string(out)
	}
	for typed, want := range map[string]string{
		"--kube ":                         "probed\nweb\nnet/\ta namespace\nshop/\ta namespace\n:38\n",
		"--kube ne":                       "net/\ta namespace\n:38\n",
		"--kube net/pr":                   "net/probed\n:36\n",
		"--namespace ":                    "net\nshop\n:36\n",
		"--context ":                      "dev\nprod\n:36\n",
		"--kube net/x --service-account ": "probe-user\n:36\n",
	} {
		got := ""
		for range 10 { // a machine with much to do may take longer than a user has patience for: then it is pressed again
			if got = complete(append([]string{"__complete"}, strings.Split(typed, " ")...)...); got == want {
				break
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
	log, err := os.ReadFile(filepath.Join(cluster, "log"))
	if err != nil || !strings.Contains(string(log), "get serviceaccounts --output=name --namespace=net\n") {
		t.Errorf("%v, %s", err, log)
	}
	for _, fault := range []string{"hang", "refused", "garbage"} {
		if err := os.WriteFile(filepath.Join(cluster, "fault"), []byte(fault), 0o600); err != nil {
			t.Fatal(err)
		}
		got := complete("__complete", "-n", "")
		if fault != "garbage" && got != ":36\n" {
			t.Errorf("%s: %q", fault, got)
		}
		if r, bad := uncontrolled(got, "\n\t"); bad {
			t.Errorf("%s: %U came out", fault, r)
		}
	}
}

// TestCompletionScripts: each shell has its own, and they all ask in the same way.
func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for _, shell := range shells {
		for _, plain := range []bool{false, true} {
			var stdout bytes.Buffer
			code := run(t.Context(), "probectl", []string{"completion", shell, fmt.Sprintf("--no-descriptions=%v", plain)}, nil, &stdout, io.Discard, noEnvironment)
			if code != 0 || !strings.Contains(stdout.String(), cobra.ShellCompRequestCmd) ||
				strings.Contains(stdout.String(), cobra.ShellCompNoDescRequestCmd) != plain {
				t.Errorf("%s, plain %v: %d, %d bytes", shell, plain, code, stdout.Len())
			}
			if n := strings.Count(stdout.String(), "__probectl_quote "); shell == "bash" && n != 3 {
				t.Errorf("cobra's script is another one: %d places quote as ours does, want 3", n)
			}
		}
	}
}
