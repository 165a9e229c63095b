//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	probev1 "probed/gen/probe/v1"
)

// TestMetrics scrapes as Prometheus does, from within the cluster.
func TestMetrics(t *testing.T) {
	t.Parallel()
	testenv.Test(t, features.New("metrics").
		Assess("count what is asked", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p := at(ctx, t, "base")
			pod := p.pods(ctx, t, probedLabels)[1] // another than the one that is asked elsewhere
			callers := p.ask(ctx, t, &pod)
			before := scrape(ctx, t, net.JoinHostPort(pod.Status.PodIP, opsPort), "/metrics")
			for _, c := range callers {
				if _, _, err := c.Exchange(ctx, &probev1.ExchangeRequest{Target: join(pod.Status.PodIP, "1")}); err != nil {
					t.Errorf("%s: %v", c, err)
				}
				if _, err := c.LookupHost(ctx, &probev1.LookupHostRequest{Host: "kubernetes.default"}); err != nil {
					t.Errorf("%s: %v", c, err)
				}
				if _, err := c.With("").Vantage(ctx); err == nil {
					t.Errorf("%s: is answered without a token", c)
				}
			}
			after := scrape(ctx, t, net.JoinHostPort(pod.Status.PodIP, opsPort), "/metrics")
			for _, name := range []string{"probed_sessions_total", "probed_dials_total", "probed_lookups_total", "probed_unauthenticated_total"} {
				if got := sum(after[name]) - sum(before[name]); got < float64(len(callers)) {
					t.Errorf("%s grew by %v", name, got)
				}
			}
			return ctx
		}).
		Feature())
}

// scrapedAsSaid is that what a PodMonitor says to scrape can be scraped.
func scrapedAsSaid(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
	for _, target := range at(ctx, t, "shared").monitored(ctx, t) {
		families := scrape(ctx, t, target.address, target.path)
		if build := families["probed_build_info"]; build == nil || sum(build) != 1 {
			t.Errorf("probed_build_info of %s: %v", target.address, build)
		}
		if insecure := families["probed_insecure_listeners"]; insecure == nil || sum(insecure) != 0 {
			t.Errorf("probed_insecure_listeners of %s: %v", target.address, insecure)
		}
	}
	return ctx
}

type scrapeTarget struct{ address, path string }

// monitored does the Prometheus Operator's work: it finds what the PodMonitors of a place say.
func (p *place) monitored(ctx context.Context, t *testing.T) (targets []scrapeTarget) {
	t.Helper()
	var list unstructured.UnstructuredList
	list.SetAPIVersion("monitoring.coreos.com/v1")
	list.SetKind("PodMonitorList")
	if err := p.resources.List(ctx, &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		var spec struct {
			Selector            metav1.LabelSelector `json:"selector"`
			PodMetricsEndpoints []struct {
				Port        string           `json:"port"`
				Path        string           `json:"path"`
				Relabelings []map[string]any `json:"relabelings"`
			} `json:"podMetricsEndpoints"`
		}
		if err := decode(item, &spec); err != nil {
			t.Fatal(err)
		}
		for _, pod := range p.pods(ctx, t, metav1.FormatLabelSelector(&spec.Selector)) {
			for _, endpoint := range spec.PodMetricsEndpoints {
				ports := slices.Collect(portsOf(&pod, endpoint.Port))
				if len(ports) != 1 {
					t.Fatalf("%s has %d ports of the name %s", pod.Name, len(ports), endpoint.Port)
				}
				targets = append(targets, scrapeTarget{net.JoinHostPort(pod.Status.PodIP, ports[0]), endpoint.Path})
			}
		}
	}
	if len(targets) < 2 {
		t.Fatalf("the PodMonitors of %s say to scrape %v", p.namespace, targets)
	}
	return targets
}

func portsOf(pod *corev1.Pod, name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.Name == name && !yield(strconv.Itoa(int(port.ContainerPort))) {
					return
				}
			}
		}
	}
}

// scrape gets metrics through an exchange of a probed in another namespace.
func scrape(ctx context.Context, t *testing.T, address, path string) map[string]*dto.MetricFamily {
	t.Helper()
	p := at(ctx, t, "namespace")
	asker := p.pods(ctx, t, probedLabels)[0]
	c := p.ask(ctx, t, &asker)[0]
	request := fmt.Sprintf("GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, address)
	data, outcome, err := c.Exchange(ctx, &probev1.ExchangeRequest{
		Target: "tcp://" + address, Payload: &probev1.ExchangeRequest_Text{Text: request}, HoldOpen: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !outcome.GetOk() {
		t.Fatalf("scraping %s: %v: %s", address, outcome.GetReason(), outcome.GetError())
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(data)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("scraping %s: %s: %s", address, response.Status, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// sum is over all series of a counter or a gauge.
func sum(family *dto.MetricFamily) (sum float64) {
	for _, metric := range family.GetMetric() {
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
	}
	return sum
}
