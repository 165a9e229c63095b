package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestOtherServers: where a host does not answer whose name the file does not have, perhaps another was meant.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("servers: {shop: {server: 192.0.2.1}, net: {kube: probed}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for server, want := range map[string]string{
		"shpo": "The configuration file has no server of that name: it has shop, net.", "shpo:1": "", "192.0.2.1": "", "shop": "It is the server shop of " + config + ".",
	} {
		tool := &tool{stdin: strings.NewReader(""), stdout: newPrinter(&strings.Builder{}), stderr: newPrinter(&strings.Builder{}), getenv: noEnvironment, serversPath: config}
		root := newRootCommand(tool, noEnvironment)
		if err := root.ParseFlags([]string{"--server", server}); err != nil {
			t.Fatal(err)
		}
		if err := tool.checkServer(); err != nil {
			t.Fatal(err)
		}
		if got := tool.aboutNames(&exitError{}).advice; got != want {
			t.Errorf("%s: %q, want %q", server, got, want)
		}
	}
}

// TestChangesAtTheSameTime: none of them is lost.
func TestChangesAtTheSameTime(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "new", "config.yaml")
	getenv := func(name string) string { return map[string]string{"PROBECTL_CONFIG": config}[name] }
	const changes = 20
	var changing sync.WaitGroup
	for i := range changes {
		changing.Go(func() {
			var stderr strings.Builder
			args := []string{"config", "set-server", fmt.Sprintf("s%d", i), "--server", "192.0.2.1"}
			if code := run(t.Context(), "probectl", args, nil, io.Discard, &stderr, getenv); code != exitYes {
				t.Errorf("%d: %d, %s", i, code, stderr.String())
			}
		})
	}
	changing.Wait()
	if f, err := readServers(config); err != nil || len(f.servers) != changes {
		t.Errorf("%d servers, want %d; %v", len(f.servers), changes, err)
	}
}

// FuzzServersFile: whatever is in the file, it is read or refused, and what has been read can be changed, written and read
// again.
func FuzzServersFile(f *testing.F) {
	for _, text := range []string{
		"", "# nothing", "version: 1\nservers: {a: {server: b}}\ncurrent-server: a\n", "servers:\n  a: # one\n    kube: b/c\n    context: d\n", "servers: {a: {server: b, server: c}}",
		"servers: &x {a: {server: b}}", "servers: *x", "[]", "a: b: c", "---\n---", "servers: {a: {server: \"b\\e[2J\"}}", "? {a: b}\n: c",
	} {
		f.Add(text)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		file := &serversFile{path: filepath.Join(dir, "config.yaml"), text: []byte(text)}
		if file.parse() != nil {
			return
		}
		before := len(file.servers)
		known := file.find("added") != nil
		file.set("added", []setting{{key: "server", value: "192.0.2.1"}})
		file.setCurrent("added")
		if err := file.write(); err != nil {
			if known || strings.Contains(err.Error(), "added") {
				return // what it had before does not go with that
			}
			t.Fatalf("%q cannot be written: %v", text, err)
		}
		again, err := readServers(file.path)
		if err != nil || again.current != "added" || again.find("added").get("server") != "192.0.2.1" || !known && len(again.servers) != before+1 {
			t.Errorf("%q became %q, %v", text, again.text, err)
		}
	})
}
