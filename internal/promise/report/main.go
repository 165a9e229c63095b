// Command report reads what `go test -json` prints, and tells at the end which promises were kept: a table in Markdown, on
// standard output. What fails meanwhile is shown as it happens, on standard error, and so is each promise that was kept. It
// ends with 1 when a test failed or a promise was kept by none.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"probed/internal/promise"
)

func main() {
	ok, err := run(os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// event is one of go test -json, see `go doc test2json`.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
	Key     string // of an attribute
	Value   string
}

// test is what is known of one test.
type test struct {
	output  strings.Builder
	reports []promise.Report
	failed  bool
}

type results struct {
	progress io.Writer
	tests    map[string]*test // by package and name; a package's own output is under an empty name
	order    []string
	failed   []string
}

func run(in io.Reader, out, progress io.Writer) (ok bool, err error) {
	r := &results{progress: progress, tests: make(map[string]*test)}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Action == "" { // of the build, or of a script around it
			fmt.Fprintln(progress, lines.Text())
			continue
		}
		if err := r.take(e); err != nil {
			return false, err
		}
	}
	if err := lines.Err(); err != nil {
		return false, err
	}
	return r.table(out), nil
}

func (r *results) take(e event) error {
	name := e.Package + " " + e.Test
	t := r.tests[name]
	if t == nil {
		t = &test{}
		r.tests[name], r.order = t, append(r.order, name)
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "attr":
		if e.Key != promise.Attribute {
			return nil
		}
		var report promise.Report
		if err := json.Unmarshal([]byte(e.Value), &report); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, e.Value)
		}
		t.reports = append(t.reports, report)
	case "pass":
		for _, report := range t.reports {
			fmt.Fprintf(r.progress, "%7.1f s  %s: %s\n", e.Elapsed, report.Promise, report.Reached)
		}
	case "fail":
		t.failed = true
		r.failed = append(r.failed, strings.TrimSpace(name))
		fmt.Fprintf(r.progress, "%7.1f s  FAILED: %s\n%s", e.Elapsed, name, t.output.String())
	}
	return nil
}

// table prints the promises and says whether all were kept.
func (r *results) table(out io.Writer) bool {
	kept := len(r.failed) == 0
	fmt.Fprint(out, "| promise | asked | reached | kept |\n|---|---|---|---|\n")
	for _, p := range promise.All() {
		var reached []string
		failed := false
		for _, name := range r.order {
			t := r.tests[name]
			for _, report := range t.reports {
				if report.Promise == p.String() {
					reached = append(reached, report.Reached)
					failed = failed || t.failed
				}
			}
		}
		slices.Sort(reached)
		verdict := "yes"
		if failed || len(reached) == 0 {
			verdict, kept = "**no**", false
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", p, p.Asked(), cmp.Or(strings.Join(reached, "; "), "not run"), verdict)
	}
	for _, name := range r.failed {
		fmt.Fprintf(out, "\nFAILED: %s\n", name)
	}
	return kept
}
