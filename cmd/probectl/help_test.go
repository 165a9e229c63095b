package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"probed/service"
	"probed/service/policy"
)

// TestExamplesAreRight: each line of each example, and each command of the documentation, is of a command that there is,
// and a server has nothing against it. What it may not do, it says.
func TestExamplesAreRight(t *testing.T) {
	t.Parallel()
	server := deny(t)
	root := testRoot("")
	ran := 0
	for _, command := range append(subcommands(root), root) {
		for _, args := range commandLines(t, command.Example) {
			if got := parsed(t, "", args); got != nil && command.HasParent() && !strings.HasPrefix(got.CommandPath(), command.CommandPath()) && command.Name() != "help" && command.Name() != "config" {
				t.Errorf("%s has an example of %s", command.CommandPath(), got.CommandPath())
			}
			carryOut(t, server, args)
			ran++
		}
	}
	help, _, err := root.Find([]string{"help"})
	if err != nil || len(commandLines(t, help.Example)) == 0 {
		t.Errorf("help: %v, %q", err, help.Example)
	}
	for _, args := range commandLines(t, strings.ReplaceAll(testRoot("probectl").Example, "kubectl probectl", "probectl")) {
		parsed(t, "probectl", args)
		ran++
	}
	text, err := os.ReadFile("../../docs/probectl.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1)
	for _, block := range blocks {
		for _, args := range commandLines(t, string(block[1])) {
			parsed(t, "", args)
			carryOut(t, server, args)
			ran++
		}
	}
	if ran < 80 || len(blocks) < 5 {
		t.Errorf("%d examples, %d blocks of the documentation", ran, len(blocks))
	}
}

// TestFlagsSayWhatTheyTake: each has its words, and what it takes a name or a type that says more than string or int.
func TestFlagsSayWhatTheyTake(t *testing.T) {
	t.Parallel()
	root := testRoot("")
	for _, command := range append(subcommands(root), root) {
		command.Flags().VisitAll(func(flag *pflag.Flag) {
			what, usage := pflag.UnquoteUsage(flag)
			if usage == "" || slices.Contains([]string{"string", "strings", "stringArray", "int", "int32"}, what) {
				t.Errorf("%s --%s takes %q: %s", command.CommandPath(), flag.Name, what, usage)
			}
			if flag.Value.Type() == "duration" && flag.DefValue == "0s" && !strings.Contains(usage, "default") {
				t.Errorf("%s --%s does not tell its default: %s", command.CommandPath(), flag.Name, usage)
			}
		})
	}
}

func testRoot(plugin string) *cobra.Command {
	t := &tool{stdin: strings.NewReader(""), stdout: newPrinter(io.Discard), stderr: newPrinter(io.Discard), getenv: noEnvironment, plugin: plugin}
	return newRootCommand(t, noEnvironment)
}

// deny is a probed with a policy that allows nothing.
func deny(t *testing.T) string {
	t.Helper()
	none := &policy.Policy{}
	return listen(t, service.Config{Policy: func() *policy.Policy { return none }}, service.Vantage{Hostname: "here"})
}

// parsed is the command that a command line is of, which must be right up to where it would be carried out.
func parsed(t *testing.T, plugin string, args []string) *cobra.Command {
	t.Helper()
	root := testRoot(plugin)
	command, rest, err := root.Find(args)
	if err == nil {
		err = command.ParseFlags(rest)
	}
	if err == nil {
		err = errors.Join(command.ValidateArgs(command.Flags().Args()), command.ValidateFlagGroups())
	}
	if err != nil {
		t.Errorf("%q: %v", args, err)
		return nil
	}
	return command
}

// carryOut runs a command line: with a server that allows nothing in place of the one that it names, and with files and a
// configuration that are there.
func carryOut(t *testing.T, server string, args []string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("current-server: shop\nservers: {shop: {server: 192.0.2.1}, cluster: {kube: net/probed}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := map[string]string{"PROBECTL_CONFIG": config}
	own := slices.ContainsFunc(args, func(arg string) bool { return arg == "config" || arg == "completion" || arg == "help" })
	if !own {
		args = append([]string{"--server", server}, withoutFlags(t, dir, args)...)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), "probectl", args, strings.NewReader(""), &stdout, &stderr, func(name string) string { return environment[name] })
	if code == exitUsage || code == exitInterrupted || own && code != exitYes || strings.Contains(stderr.String(), "INTERNAL") {
		t.Errorf("%q: %d, %s", args, code, stderr.String())
	}
}

// withoutFlags takes out of a command line which server it asks and how, and makes the files that it names.
func withoutFlags(t *testing.T, dir string, args []string) (kept []string) {
	t.Helper()
	drop := []string{"--server", "-s", "--kube", "-n", "--namespace", "--context", "--service-account", "--token-file", "--server-ca", "--server-cert", "--server-key"}
	for i := 0; i < len(args); i++ {
		flag, _, hasValue := strings.Cut(args[i], "=")
		switch {
		case slices.Contains(drop, flag):
			if !hasValue {
				i++
			}
		case flag == "--each":
		case slices.Contains([]string{"-f", "--file", "--data-file"}, flag) && args[i+1] != "-":
			name := filepath.Join(dir, filepath.Base(args[i+1]))
			if err := os.WriteFile(name, []byte("192.0.2.1:1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			kept = append(kept, args[i], name)
			i++
		default:
			kept = append(kept, args[i])
		}
	}
	return kept
}

// commandLines is the arguments of each probectl in lines of a shell, of which they use little: quotes, pipes, comments,
// redirections, and lines that go on in the next one.
func commandLines(t *testing.T, text string) (all [][]string) {
	t.Helper()
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		for _, words := range simpleCommands(line) {
			for len(words) > 0 && strings.Contains(words[0], "=") {
				words = words[1:] // variables for this command
			}
			if len(words) > 1 && words[0] == "kubectl" {
				words = words[1:]
			}
			if len(words) > 0 && words[0] == "probectl" {
				all = append(all, words[1:])
			}
		}
	}
	return all
}

// simpleCommands is the words of each command in a line, without redirections.
func simpleCommands(line string) [][]string {
	commands := [][]string{nil}
	add := func(word string) {
		last := len(commands) - 1
		commands[last] = append(commands[last], word)
	}
	var word strings.Builder
	inWord, quote, skip := false, rune(0), false
	end := func() {
		if inWord && !skip {
			add(word.String())
		}
		if inWord {
			skip = false
		}
		word.Reset()
		inWord = false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			return commands
		case r == '|' || r == ';':
			end()
			commands = append(commands, nil)
		case r == '>' || r == '<':
			end()
			skip = true
		case r == ' ' || r == '\n' || r == '\t':
			end()
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	end()
	return commands
}

func TestSimpleCommands(t *testing.T) {
	t.Parallel()
	got := fmt.Sprintf("%q", simpleCommands(`a --b='c d' "e"f > g h | i 'j|k' # l`))
	if want := `[["a" "--b=c d" "ef" "h"] ["i" "j|k"]]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
