package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What is committed is what would be generated.
func TestGenerated(t *testing.T) {
	t.Parallel()
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its source says: run go generate in deploy/observability, and commit what it changed", name)
		}
	}
}

func read(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Grafana finds every panel by an id of its own, where nothing else is, and whoever looks at it what it means.
func TestPanels(t *testing.T) {
	t.Parallel()
	d := read(t)
	var cells [200][width]int
	ids, titles := map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" || titles[p.Title] {
			t.Errorf("panel %d %q is not the only one", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > width {
			t.Errorf("%s is out of the grid: %+v", p.Title, g)
			continue
		}
		for y := g.Y; y < g.Y+g.H; y++ {
			for x := g.X; x < g.X+g.W; x++ {
				if other := cells[y][x]; other != 0 {
					t.Fatalf("%s covers panel %d", p.Title, other)
				}
				cells[y][x] = p.ID
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Description) < 20 || !strings.HasSuffix(p.Description, ".") || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%s has no description, no unit or no query: %+v", p.Title, p)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || strings.Contains(target.Expr, "$S") {
				t.Errorf("%s: %+v", p.Title, target)
			}
		}
	}
}

// Every variable that a query uses is there, and every series is of what is selected.
func TestVariables(t *testing.T) {
	t.Parallel()
	d := read(t)
	known := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		known[v.Name] = true
	}
	variables, series := regexp.MustCompile(`\$\{?(\w+)`), regexp.MustCompile(`\b((?:probed|grpc|process|go|scrape)_\w+)(\{[^}]*)?`)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			for _, used := range variables.FindAllStringSubmatch(target.Expr, -1) {
				if !known[used[1]] {
					t.Errorf("%s uses $%s, which is not there", p.Title, used[1])
				}
			}
			for _, s := range series.FindAllStringSubmatch(target.Expr, -1) {
				if strings.HasPrefix(s[1], "grpc_method") || strings.HasPrefix(s[1], "grpc_code") || strings.HasPrefix(s[1], "grpc_type") {
					continue // labels
				}
				if !strings.Contains(s[2], selection) {
					t.Errorf("%s: %s of all there are", p.Title, s[1])
				}
			}
		}
	}
}

// What an alert says, and what is to be done, is there for each.
func TestAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Record, Expr, For string
				Labels, Annotations      map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &rules); err != nil {
		t.Fatal(err)
	}
	runbooks, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			alerts++
			if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", rule.Alert, s)
			}
			for _, name := range []string{"summary", "description"} {
				if !strings.HasSuffix(rule.Annotations[name], ".") {
					t.Errorf("%s has no %s", rule.Alert, name)
				}
			}
			if want := "docs/observability.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook"] != want {
				t.Errorf("%s: the runbook is %q, want %q", rule.Alert, rule.Annotations["runbook"], want)
			}
			if !bytes.Contains(runbooks, []byte("\n### "+rule.Alert+"\n")) {
				t.Errorf("%s has no section in docs/observability.md", rule.Alert)
			}
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (Probed\w+)$`).FindAllSubmatch(runbooks, -1) {
		if !bytes.Contains(text, append([]byte("- alert: "), append(heading[1], '\n')...)) {
			t.Errorf("docs/observability.md has a section %s, and there is no such alert", heading[1])
		}
	}
	if alerts < 10 {
		t.Errorf("there are %d alerts", alerts)
	}
}
