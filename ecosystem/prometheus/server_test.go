package prometheus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// patience is for what should take a moment, on a machine that is busy.
const patience = time.Minute

// server is a Prometheus that scrapes.
type server struct {
	name, url string
	client    *http.Client
}

// startServer starts a Prometheus that scrapes target, and has the alerts. Native histograms are what its features say.
func startServer(t *testing.T, name, target string, features ...string) *server {
	t.Helper()
	dir := t.TempDir()
	alerts, err := filepath.Abs("../../deploy/observability/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [%s]
scrape_configs:
  - job_name: probed
    static_configs: [{targets: [%q]}]
    relabel_configs: [{target_label: node, replacement: here}]
`, alerts, target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freePort(t)
	var log bytes.Buffer
	args := []string{
		"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--web.listen-address=" + address, "--log.level=warn",
	}
	for _, feature := range features {
		args = append(args, "--enable-feature="+feature)
	}
	command := exec.Command("prometheus", args...)
	command.Stderr = &log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil || t.Failed() {
			t.Logf("%s ended: %v\n%s", name, err, &log)
		}
	})
	return &server{name: name, url: "http://" + address, client: &http.Client{Transport: transport, Timeout: patience}}
}

// ready waits until it has scraped.
func (s *server) ready(t *testing.T) {
	t.Helper()
	s.eventually(t, "it scrapes", func() bool {
		found := s.query(t, `up{job="probed"}`)
		return len(found) == 1 && found[0].Value.float() == 1
	})
}

// freePort is an address of loopback that nobody listens on. Prometheus is not told to choose: it would not say what.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (s *server) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: waited %v until %s", s.name, patience, what)
		}
	}
}

var errStarting = errors.New("the server is about to start")

// get asks the API. What it says is put into data.
func (s *server) get(t *testing.T, path string, values url.Values, data any) error {
	t.Helper()
	response, err := s.client.Get(s.url + path + "?" + values.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusServiceUnavailable {
		return errStarting
	}
	answer := struct {
		Status, Error string
		Warnings      []string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" || len(answer.Warnings) > 0 {
		return fmt.Errorf("%s: %s %q", answer.Status, answer.Error, answer.Warnings)
	}
	return nil
}

// sample is one of an instant vector: a number, or a native histogram.
type sample struct {
	Metric    map[string]string
	Value     value
	Histogram []any
}

// value is a time and a number.
type value [2]any

func (v value) float() float64 {
	text, _ := v[1].(string)
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// query evaluates an expression now. There is nothing while the server is about to start; an expression that is wrong is an
// error of the test.
func (s *server) query(t *testing.T, expr string) []sample {
	t.Helper()
	var data struct{ Result []sample }
	err := s.get(t, "/api/v1/query", url.Values{"query": {expr}}, &data)
	if _, away := errors.AsType[*net.OpError](err); err != nil && !away && !errors.Is(err, errStarting) {
		t.Errorf("%s: %s: %v", s.name, expr, err)
	}
	return data.Result
}
