package prometheus

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/yeya24/promlinter"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/observability.md")

// A probed that has just begun and one that has done everything, as promtool, promlinter, two servers of Prometheus and the
// readers of the documentation see it.
func TestProbed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fresh := w.text(t)
	check(t, fresh)
	if n := len(samples(fresh)); n > 600 {
		t.Errorf("%d series at first", n)
	}
	servers := []*server{
		startServer(t, "classic", w.OpsAddress, "exemplar-storage"),
		startServer(t, "native", w.OpsAddress, "native-histograms", "exemplar-storage"),
	}
	for _, s := range servers {
		s.ready(t)
	}
	w.everyQuery(t, servers)
	for _, s := range servers {
		s.rules(t)
	}
	histograms(t, servers[0], servers[1])
	servers[0].exemplars(t, w.traces, "_bucket")
	servers[1].exemplars(t, w.traces, "")
	limits(t, w, servers[0])
	for _, expr := range asked(t) {
		if found := servers[0].query(t, expr); len(found) == 0 {
			t.Errorf("nothing is found by %s", expr)
		}
	}
	text := w.text(t)
	w.held.Close()
	w.held.Rest()
	check(t, text)
	families := parse(t, text)
	seenByLinter(t, families)
	documented(t, families)
}

// text is what is scraped, as text.
func (w *world) text(t *testing.T) []byte {
	t.Helper()
	return []byte(strings.Join(w.Metrics(), "\n") + "\n")
}

// samples are the lines that have one.
func samples(text []byte) (lines []string) {
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// asked are the queries of docs/observability.md.
func asked(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```promql\n")
	block, _, _ := strings.Cut(rest, "```")
	queries := samples([]byte(block))
	if len(queries) < 3 {
		t.Errorf("the documentation has the queries %q", queries)
	}
	return queries
}

// check lints a scrape.
func check(t *testing.T, text []byte) {
	t.Helper()
	command := exec.Command("promtool", "check", "metrics")
	command.Stdin = bytes.NewReader(text)
	if out, err := command.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// neverHere are parts of queries about what does not happen in this test: they find zeros.
var neverHere = []string{`"INTERNAL"`, "probed_insecure_listeners", "probed_audit_writes_total", "probed_connections_refused_total"}

// everyQuery works until each query of the dashboard finds something, on each server.
func (w *world) everyQuery(t *testing.T, servers []*server) {
	t.Helper()
	type asked struct {
		server      *server
		title, expr string
	}
	missing := make(map[asked]string)
	for _, q := range dashboard(t) {
		for _, s := range servers {
			missing[asked{s, q.title, q.expr}] = "nothing"
		}
	}
	if len(missing) < 60 {
		t.Fatalf("the dashboard has only %d queries", len(missing)/len(servers))
	}
	faulty := false
	for deadline := time.Now().Add(patience); len(missing) > 0 && !t.Failed(); {
		w.work(t)
		faulty = !faulty
		w.reload(t, faulty)
		for q := range missing {
			zeros := slices.ContainsFunc(neverHere, func(part string) bool { return strings.Contains(q.expr, part) })
			found := q.server.query(t, q.expr)
			if slices.ContainsFunc(found, func(s sample) bool {
				v := s.Value.float()
				return s.Histogram != nil || !math.IsNaN(v) && (v != 0) != zeros
			}) {
				delete(missing, q)
				t.Logf("%s, %s: %v", q.server.name, q.title, found)
			} else {
				missing[q] = fmt.Sprint(found)
			}
		}
		if time.Now().After(deadline) {
			for q, found := range missing {
				t.Errorf("%s: %s finds %s: %s", q.server.name, q.title, found, q.expr)
			}
		}
	}
	if faulty {
		w.reload(t, false)
	}
}

// histograms are there in both forms, and tell the same.
func histograms(t *testing.T, classic, native *server) {
	t.Helper()
	for _, name := range []string{"probed_dial_duration_seconds", "probed_lookup_duration_seconds", "grpc_server_handling_seconds"} {
		count := map[*server]float64{}
		for s, expr := range map[*server]string{
			classic: `histogram_quantile(0.9, sum by (le) (` + name + `_bucket))`,
			native:  `histogram_quantile(0.9, sum(` + name + `))`,
		} {
			quantile := s.query(t, expr)
			if len(quantile) != 1 || !(quantile[0].Value.float() > 0 && quantile[0].Value.float() < 60) {
				t.Errorf("%s: %s: %v", s.name, expr, quantile)
				continue
			}
			count[s] = quantile[0].Value.float()
		}
		t.Logf("p90 of %s: %v s of the classic, %v s of the native", name, count[classic], count[native])
		if found := native.query(t, name+`_bucket`); len(found) > 0 {
			t.Errorf("the native server has classic buckets: %v", found[0])
		}
	}
}

// limits can be held against what is in use, and a listener's certificate against the time.
func limits(t *testing.T, w *world, s *server) {
	t.Helper()
	for expr, want := range map[string]float64{
		`probed_limit_max{limit="sessions"}`:                                      mostSessions,
		`count(probed_limit_used / probed_limit_max)`:                             3,
		`probed_certificate_expiration_timestamp_seconds{listener="http"}`:        float64(w.expires.Unix()),
		`count(probed_certificate_expiration_timestamp_seconds)`:                  1,
		`probed_limit_used{limit="sessions"}`:                                     1,
		`sum(probed_sessions_active)`:                                             1,
		`sum(probed_echo_connections_active)`:                                     1,
		`probed_ready`:                                                            1,
		`time() - probed_config_last_reload_success_timestamp_seconds < bool 600`: 1,
		`max_over_time(probed_limit_used{limit="connections"}[10m]) > bool 0`:     1,
	} {
		s.eventually(t, fmt.Sprintf("%s is %v", expr, want), func() bool {
			got := s.query(t, expr)
			return len(got) == 1 && got[0].Value.float() == want
		})
	}
}

// seenByLinter: golangci-lint runs promlinter over the code. A metric whose name it cannot read off would be linted by nobody.
func seenByLinter(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	files, err := filepath.Glob("../../service/metrics/*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var parsed []*ast.File
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	seen := map[string]bool{}
	for _, metric := range promlinter.RunList(set, parsed, true) {
		seen[metric.MetricFamily.GetName()] = true
	}
	for name := range families {
		if !ofOthers(name) && !seen[name] {
			t.Errorf("promlinter does not see %s", name)
		}
	}
	for _, issue := range promlinter.RunLint(set, parsed, promlinter.Setting{Strict: true}) {
		t.Errorf("%s: %s: %s", issue.Pos, issue.Metric, issue.Text)
	}
}

// ofOthers are the metrics of the library, of Go and of the process, which have their own documentation.
func ofOthers(name string) bool {
	return slices.ContainsFunc([]string{"go_", "process_", "promhttp_"}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// documented: docs/observability.md has a table of exactly these metrics, as they tell of themselves.
func documented(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	const (
		file  = "../../docs/observability.md"
		begin = "| metric | type | labels | what it is |\n|---|---|---|---|\n"
	)
	var table strings.Builder
	var names []string
	for name := range families {
		if !ofOthers(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		family := families[name]
		var labels []string
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if quoted := "`" + label.GetName() + "`"; !slices.Contains(labels, quoted) {
					labels = append(labels, quoted)
				}
			}
		}
		slices.Sort(labels)
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(family.GetType().String()), strings.Join(labels, " "), family.GetHelp())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	if !ok {
		t.Fatalf("%s has no table of metrics", file)
	}
	written, after, _ := strings.Cut(rest, "\n\n")
	if written+"\n" == table.String() {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+table.String()+"\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for line := range strings.Lines(table.String()) {
		if !strings.Contains(written+"\n", line) {
			t.Errorf("%s does not have, or has otherwise: %s", file, line)
		}
	}
	for line := range strings.Lines(written + "\n") {
		if !strings.Contains(table.String(), line) {
			t.Errorf("%s has, and probed does not: %s", file, line)
		}
	}
	t.Error("go -C ecosystem test ./prometheus -update writes the table")
}
