//go:build system

package names

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// These tests ask the C library of this machine, through Python, what it
// answers. They need python3 and unshare (util-linux), and the right to bind a
// file over /etc/services in a mount namespace of their own.

//go:embed testdata/oracle.py
var oracle string

// ask runs the oracle once. With files, the C library sees them in place of
// /etc/services and /etc/protocols.
func ask(t *testing.T, request, answer any, files ...string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is missing: apt-get install python3")
	}
	args := []string{python, "-I", "-c", oracle}
	if len(files) > 0 {
		const bind = `mount --bind "$0" /etc/services && mount --bind "$1" /etc/protocols && shift && exec "$@"`
		args = append([]string{"unshare", "--mount", "sh", "-c", bind}, append(files, args...)...)
		if os.Geteuid() != 0 {
			args = slices.Insert(args, 1, "--map-root-user")
		}
	}
	input, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\nPython and util-linux are needed (apt-get install python3 util-linux), and namespaces", err, &stderr)
	}
	if err := json.Unmarshal(output, answer); err != nil {
		t.Fatal(err)
	}
}

type byName struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
}

type byPort struct {
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
}

// questions are sent to the oracle; the answers come in the same order.
type questions struct {
	ByName    []byName `json:"by_name"`
	ByPort    []byPort `json:"by_port"`
	Protocols []string `json:"protocols"`
}

// answers hold -1 and "" for what the C library does not know.
type answers struct {
	ByName    []int    `json:"by_name"`
	ByPort    []string `json:"by_port"`
	Protocols []int    `json:"protocols"`
}

// words returns the words of each line of a file that is not a comment. It is
// deliberately not the parser under test.
func words(t *testing.T, path string) [][]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: apt-get install netbase", err)
	}
	var all [][]string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) >= 2 {
			all = append(all, fields)
		}
	}
	return all
}

// TestGlibcAgreesOnThisHost asks for every name, alias and number in this
// machine's files, and in the embedded tables, with every protocol.
func TestGlibcAgreesOnThisHost(t *testing.T) {
	t.Parallel()
	var q questions
	asked := make(map[any]bool)
	protocols := []string{"", "tcp", "udp", "sctp", "ddp", "TCP"}
	addName := func(name string) {
		for _, protocol := range protocols {
			if n := (byName{name, protocol}); !asked[n] {
				asked[n] = true
				q.ByName = append(q.ByName, n)
			}
		}
	}
	addPort := func(port uint16) {
		for _, protocol := range protocols {
			if p := (byPort{port, protocol}); !asked[p] {
				asked[p] = true
				q.ByPort = append(q.ByPort, p)
			}
		}
	}
	lines := words(t, "/etc/services")
	for _, line := range lines {
		for _, name := range slices.Concat(line[:1], line[2:]) {
			addName(name)
			addName(strings.ToUpper(name))
		}
		var port uint16
		if _, err := fmt.Sscanf(line[1], "%d/", &port); err == nil {
			addPort(port)
		}
	}
	for _, s := range parseServices(embeddedServices, SourceIANA) {
		addName(s.Name)
		addPort(s.Port)
	}
	protocolLines := words(t, "/etc/protocols")
	for _, line := range protocolLines {
		q.Protocols = append(q.Protocols, slices.Concat(line[:1], line[2:])...)
	}
	for _, p := range parseProtocols(embeddedProtocols, SourceIANA) {
		q.Protocols = append(q.Protocols, allNames(p.Name, p.Aliases)...)
	}
	if len(lines) < 200 || len(protocolLines) < 50 {
		t.Fatalf("%d services and %d protocols: are these the files of netbase?", len(lines), len(protocolLines))
	}
	var a answers
	ask(t, q, &a)
	check(t, Open(Config{}), q, a)
}

// check compares the C library's answers with those of the tables.
func check(t *testing.T, tables *Tables, q questions, a answers) {
	t.Helper()
	ofFile := func(services []Service) []Service {
		return slices.DeleteFunc(services, func(s Service) bool { return s.Source != SourceFile })
	}
	known := 0
	for i, n := range q.ByName {
		got := -1
		if s, ok := tables.GetServByName(n.Name, n.Protocol); ok {
			got, known = int(s.Port), known+1
		}
		if got != a.ByName[i] {
			t.Errorf("GetServByName(%q, %q) = %d, the C library says %d", n.Name, n.Protocol, got, a.ByName[i])
		}
		found := ofFile(tables.Service(n.Name, n.Protocol))
		switch {
		case (len(found) > 0) != (a.ByName[i] >= 0),
			n.Protocol != "" && len(found) > 0 && int(found[0].Port) != a.ByName[i],
			len(found) > 0 && !slices.ContainsFunc(found, func(s Service) bool { return int(s.Port) == a.ByName[i] }):
			t.Errorf("Service(%q, %q) has %+v of the file, the C library says %d", n.Name, n.Protocol, found, a.ByName[i])
		}
	}
	for i, p := range q.ByPort {
		got := ""
		if s, ok := tables.GetServByPort(p.Port, p.Protocol); ok {
			got, known = s.Name, known+1
		}
		if got != a.ByPort[i] {
			t.Errorf("GetServByPort(%d, %q) = %q, the C library says %q", p.Port, p.Protocol, got, a.ByPort[i])
		}
		found := ofFile(tables.Port(p.Port, p.Protocol))
		switch {
		case (len(found) > 0) != (a.ByPort[i] != ""),
			p.Protocol != "" && len(found) > 0 && found[0].Name != a.ByPort[i],
			len(found) > 0 && !slices.ContainsFunc(found, func(s Service) bool { return s.Name == a.ByPort[i] }):
			t.Errorf("Port(%d, %q) has %+v of the file, the C library says %q", p.Port, p.Protocol, found, a.ByPort[i])
		}
	}
	for i, name := range q.Protocols {
		got := -1
		if p, ok := tables.Protocol(name); ok && p.Source == SourceFile {
			got, known = int(p.Number), known+1
		}
		if got != a.Protocols[i] {
			t.Errorf("Protocol(%q) = %d, the C library says %d", name, got, a.Protocols[i])
		}
	}
	t.Logf("%d questions, %d with an answer", len(q.ByName)+len(q.ByPort)+len(q.Protocols), known)
	if known < 1000 {
		t.Errorf("only %d questions had an answer", known)
	}
}

// TestGlibcAgreesOnStrangeFiles gives the C library files of lines put
// together at random out of what its parser treats specially.
func TestGlibcAgreesOnStrangeFiles(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(22, 80))
	services := strangeFile(random, "/", 30_000)
	protocols := strangeFile(random, " ", 30_000)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "services"), services)
	write(t, filepath.Join(dir, "protocols"), protocols)

	type entry struct {
		Name     string   `json:"name"`
		Number   int      `json:"number"`
		Protocol string   `json:"protocol"`
		Aliases  []string `json:"aliases"`
	}
	var gotServices, gotProtocols []entry
	for _, s := range parseServices(services, SourceFile) {
		gotServices = append(gotServices, entry{s.Name, int(s.Port), s.Protocol, s.Aliases})
	}
	for _, p := range parseProtocols(protocols, SourceFile) {
		gotProtocols = append(gotProtocols, entry{p.Name, int(p.Number), "", p.Aliases})
	}
	q := questions{}
	for range 1000 {
		name, protocol := pick(random, "a", "b", "tcp", "é", "x/y"), pick(random, "", "tcp", "udp", "x/y")
		q.ByName = append(q.ByName, byName{name, protocol})
		q.ByPort = append(q.ByPort, byPort{uint16(random.IntN(40)), protocol})
		q.Protocols = append(q.Protocols, name)
	}
	var a struct {
		answers
		AllServices  []entry `json:"all_services"`
		AllProtocols []entry `json:"all_protocols"`
	}
	ask(t, q, &a, filepath.Join(dir, "services"), filepath.Join(dir, "protocols"))
	compareEntries := func(what string, got, want []entry) {
		for i := range min(len(got), len(want)) {
			if len(want[i].Aliases) == 0 {
				want[i].Aliases = nil
			}
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("%s: entry %d is %#v, the C library says %#v", what, i, got[i], want[i])
			}
		}
		if len(got) != len(want) || len(want) < 1000 {
			t.Errorf("%s: %d entries, the C library says %d", what, len(got), len(want))
		}
		t.Logf("%s: %d entries of 30,000 lines", what, len(want))
	}
	compareEntries("services", gotServices, a.AllServices)
	compareEntries("protocols", gotProtocols, a.AllProtocols)
	check(t, Open(Config{ServicesFile: filepath.Join(dir, "services"), ProtocolsFile: filepath.Join(dir, "protocols")}), q, a.answers)
}

func pick(random *rand.Rand, from ...string) string { return from[random.IntN(len(from))] }

// strangeFile returns lines that are mostly entries, with separator between
// number and protocol, and something odd in many of them.
func strangeFile(random *rand.Rand, separator string, lines int) string {
	space := func() string {
		return pick(random, " ", " ", " ", "\t", "  ", " \t ", "\v", "\f", "\r")
	}
	seldom := func(s string) string {
		if random.IntN(8) > 0 {
			return ""
		}
		return s
	}
	number := func() string {
		return pick(random, "", "", "", "", "+", "-", "0", "0x", "0X", "00") +
			pick(random, "0", "1", "7", "8", "9", "17", "22", "31", "80", "a", "1f", "65535", "65536", "70000",
				"4294967295", "4294967296", "18446744073709551594", "18446744073709551615", "18446744073709551616", "99999999999999999999999")
	}
	word := func() string { return pick(random, "a", "b", "tcp", "udp", "é", "x/y", "0x5", "#", "\x00", "\u00a0") }
	var b strings.Builder
	for range lines {
		line := word() + space() + number() + seldom(word()) + seldom(space()) + separator + seldom(separator) + seldom(space()) + word()
		for range random.IntN(3) {
			line += space() + word()
		}
		line += seldom("# "+word()) + seldom("\r")
		// A NUL ends a line without a newline: see parse.go on why such lines
		// are not indented.
		if !strings.Contains(line, "\x00") {
			line = seldom(space()) + line
		}
		b.WriteString(line + "\n")
	}
	b.WriteString("last 1" + separator + "tcp end")
	return b.String()
}

// TestPythonKnowsTheseConstants compares every constant of Python's socket
// module that belongs to one of our families.
func TestPythonKnowsTheseConstants(t *testing.T) {
	t.Parallel()
	var a struct {
		Constants map[string]int64 `json:"constants"`
	}
	ask(t, questions{}, &a)
	compared := 0
	for name, want := range a.Constants {
		if family(name) < 0 {
			continue
		}
		compared++
		got := slices.DeleteFunc(Constants(name), func(c Constant) bool { return c.Name != name })
		if len(got) != 1 || got[0].Value != want {
			t.Errorf("%s = %+v, Python says %d", name, got, want)
		}
	}
	t.Logf("%d constants", compared)
	if compared < 80 {
		t.Errorf("only %d constants in common", compared)
	}
}
