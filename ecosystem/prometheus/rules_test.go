package prometheus

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const observability = "../../deploy/observability"

// promtool runs it on files of deploy/observability.
func promtool(dir string, args ...string) (string, error) {
	command := exec.Command("promtool", args...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	return string(out), err
}

// Every alert fires when it should and does not when it should not.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		if out, err := promtool(observability, args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// The rules that the documentation shows are rules.
func TestRulesOfDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/blackbox.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(- alert: .*?)```").FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("docs/blackbox.md has no rules")
	}
	rules := []byte("groups:\n- name: docs\n  rules:\n")
	for _, block := range blocks {
		rules = append(rules, "  "+strings.ReplaceAll(strings.TrimSpace(string(block[1])), "\n", "\n  ")+"\n"...)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docs.yaml"), rules, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(dir, "check", "rules", "docs.yaml"); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, rules)
	}
}

// Alerts that never fire, and such that always do, are all found by their tests.
func TestRulesCanFail(t *testing.T) {
	t.Parallel()
	alerts, err := os.ReadFile(filepath.Join(observability, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(observability, "alerts_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	alert := regexp.MustCompile(`(?s)( +- alert: (\w+)\n +expr: )(.*?)(\n +(?:for|labels): )`)
	names := alert.FindAllSubmatch(alerts, -1)
	if len(names) != bytes.Count(alerts, []byte("- alert: ")) {
		t.Fatalf("%d alerts are broken, of %d", len(names), bytes.Count(alerts, []byte("- alert: ")))
	}
	for what, expr := range map[string]string{"never": "vector(1) > 2", "always": "vector(1)"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range map[string][]byte{"alerts.yaml": alert.ReplaceAll(alerts, []byte("${1}"+expr+"${4}")), "alerts_test.yaml": tests} {
				if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := promtool(dir, "test", "rules", "alerts_test.yaml")
			if err == nil || !strings.Contains(out, "FAILED") {
				t.Fatalf("no test fails: %v\n%s", err, out)
			}
			for _, name := range names {
				if !strings.Contains(out, "alertname: "+string(name[2])+",") {
					t.Errorf("%s fires %s, and no test fails", name[2], what)
				}
			}
		})
	}
}

// rules are all evaluated without an error, those of the recording too.
func (s *server) rules(t *testing.T) {
	t.Helper()
	type rule struct{ Name, Type, Health, LastError, State string }
	var all []rule
	s.eventually(t, "every rule has been evaluated", func() bool {
		var data struct{ Groups []struct{ Rules []rule } }
		if err := s.get(t, "/api/v1/rules", url.Values{}, &data); err != nil {
			t.Error(err)
		}
		all = nil
		for _, group := range data.Groups {
			all = append(all, group.Rules...)
		}
		for _, r := range all {
			if r.Health == "unknown" {
				return false
			}
		}
		return len(all) > 0
	})
	for _, r := range all {
		if r.Health != "ok" {
			t.Errorf("%s: %s is %s: %s", s.name, r.Name, r.Health, r.LastError)
		}
	}
	// Limits were reached all the time, and for less than it takes to fire.
	s.eventually(t, "ProbedLimitReached is pending", func() bool {
		return len(s.query(t, `ALERTS{alertname="ProbedLimitReached",alertstate="pending"}`)) == 1
	})
	s.eventually(t, "some sessions have failed, and not all", func() bool {
		found := s.query(t, `instance:probed_sessions_failed:ratio_rate10m`)
		return len(found) == 1 && found[0].Value.float() > 0 && found[0].Value.float() < 1
	})
}

// panelQuery is a query of a panel, with values in place of the variables.
type panelQuery struct{ title, expr string }

func dashboard(t *testing.T) (queries []panelQuery) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(observability, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	// As Grafana has it with all selected.
	values := strings.NewReplacer("$job", "probed", "$namespace", ".*", "$node", ".*", "$instance", ".+", "$__rate_interval", "10m")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			queries = append(queries, panelQuery{p.Title, values.Replace(target.Expr)})
		}
	}
	return queries
}
