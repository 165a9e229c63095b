// Command observability writes what is generated of this directory: dashboard.json, of the panels in panels.go, and
// deploy/k8s/components/prometheusrule, of alerts.yaml. What users load is committed; a test tells when it is not what this gives.
package main

//go:generate go run .

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

const (
	dashboardFile = "dashboard.json"
	alertsFile    = "alerts.yaml"
	ruleFile      = "../k8s/components/prometheusrule/prometheusrule.yaml"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	files, err := generate()
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the generated files, by their paths from here.
func generate() (map[string][]byte, error) {
	dashboard, err := encode(newDashboard())
	if err != nil {
		return nil, err
	}
	alerts, err := os.ReadFile(alertsFile)
	if err != nil {
		return nil, err
	}
	rule, err := prometheusRule(alerts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", alertsFile, err)
	}
	return map[string][]byte{dashboardFile: dashboard, ruleFile: rule}, nil
}

// encode writes JSON to be read in a diff, with the < and > of queries as they are.
func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return text.Bytes(), err
}

// prometheusRule makes an object of the Prometheus Operator out of a file of rules. The lines of the file stay as they are,
// comments too: they are moved to the right.
func prometheusRule(alerts []byte) ([]byte, error) {
	var rules struct {
		Groups []any `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(alerts, &rules); err != nil {
		return nil, err
	}
	text := bytes.NewBufferString(`# Generated from deploy/observability/alerts.yaml: edit that, and run go generate there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: probed
  labels:
    app.kubernetes.io/name: probed
    app.kubernetes.io/component: probe
    app.kubernetes.io/part-of: probed
spec:
`)
	for line := range bytes.Lines(alerts) {
		if len(bytes.TrimSpace(line)) > 0 {
			text.WriteString("  ")
		}
		text.Write(line)
	}
	return text.Bytes(), nil
}
