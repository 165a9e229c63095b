// Package metrics counts what probed does, in a registry of its own.
//
// A program makes one [Metrics], hands its hooks to the engines and its interceptors to the chain, and serves
// [Metrics.Handler] to Prometheus. The engines know nothing of it: they call optional functions.
//
// No label ever grows with input. Networks, reasons, kinds and decisions are closed sets; a target, a caller, a peer or
// free text is never a label.
package metrics

import (
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"

	"probed/service"
	"probed/service/echo"
	"probed/service/exchange"
	"probed/service/policy"
)

// Metrics is all that probed counts.
type Metrics struct {
	registry *prometheus.Registry
	rpcs     *rpcs
	server   *grpc.Server // whose RPCs there are; nil: it has not been told
	first    sync.Once    // scrape

	dials          *prometheus.CounterVec
	dialDuration   *prometheus.HistogramVec
	bytes          *prometheus.CounterVec
	active         *prometheus.GaugeVec
	sessions       *prometheus.CounterVec
	lookups        *prometheus.CounterVec
	lookupDuration *prometheus.HistogramVec
	decisions      *prometheus.CounterVec
	echoed         *prometheus.CounterVec
	echoStreams    *prometheus.CounterVec
	echoActive     *prometheus.GaugeVec
	limited        *prometheus.CounterVec
	insecure       prometheus.Gauge
	refused        prometheus.Counter
	reloads        *prometheus.CounterVec
	reloaded       prometheus.Gauge
	auditWrites    *prometheus.CounterVec
	issuers        *prometheus.CounterVec
	strangers      *prometheus.CounterVec
}

// New returns Metrics for this version of the program.
func New(version string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	// Buckets from a lookup in memory to a connection that times out. Those who scrape native histograms get these
	// instead, the others the classic ones.
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help,
			Buckets:                         []float64{.0001, .0005, .001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rpcs:     newRPCs(),

		dials:          counter("probed_dials_total", "Attempts to connect to one address, by the target's scheme and how they ended.", "network", "reason"),
		dialDuration:   histogram("probed_dial_duration_seconds", "How long an attempt to connect to one address took.", "network"),
		bytes:          counter("probed_session_bytes_total", "Bytes of targets, by direction as seen from here.", "network", "direction"),
		active:         prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "probed_sessions_active", Help: "Exchanges under way."}, []string{"network"}),
		sessions:       counter("probed_sessions_total", "Exchanges that have ended, by the reason of their outcome.", "network", "reason"),
		lookups:        counter("probed_lookups_total", "Lookups, by kind and how they ended.", "kind", "reason"),
		lookupDuration: histogram("probed_lookup_duration_seconds", "How long a lookup took.", "kind"),
		decisions:      counter("probed_policy_decisions_total", "Decisions of the policy, each about one address to connect to or one name or address to look up.", "decision"),
		echoed:         counter("probed_echo_bytes_total", "Bytes that the echo listeners have sent back.", "network"),
		echoStreams:    counter("probed_echo_connections_total", "Connections that the echo listeners have served or are serving.", "network"),
		echoActive:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "probed_echo_connections_active", Help: "Connections that the echo listeners are serving."}, []string{"network"}),
		insecure:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "probed_insecure_listeners", Help: "Listeners reachable from outside without authentication, because --insecure-no-auth said so."}),
		limited:        counter("probed_limits_reached_total", "Calls and dials that were refused because a limit is reached, by its name.", "limit"),
		refused:        prometheus.NewCounter(prometheus.CounterOpts{Name: "probed_connections_refused_total", Help: "Connections of callers that were closed at once, because there were too many."}),
		reloads:        counter("probed_config_reloads_total", "Times the configuration was read again, by whether it was put in force (ok) or has faults (error).", "result"),
		reloaded:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "probed_config_last_reload_successful", Help: "Whether the configuration in force is what its files say now."}),
		auditWrites:    counter("probed_audit_writes_total", "Writes to the audit log, by whether they succeeded (ok) or not (error).", "result"),
		issuers:        counter("probed_issuer_requests_total", "Times an issuer of tokens was asked for its keys, by whether it gave them (ok) or not (error).", "result"),
		strangers:      counter("probed_unauthenticated_total", "Calls that were refused because it was not known who called, by what was wrong with their credentials.", "reason"),
	}
	m.reloaded.Set(1) // what it began with
	for _, results := range []*prometheus.CounterVec{m.reloads, m.auditWrites, m.issuers} {
		results.WithLabelValues(resultOK)
		results.WithLabelValues(resultError)
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "probed_build_info", Help: "Always 1; the labels tell which build this is.",
	}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)

	m.registry.MustRegister(
		m.dials, m.dialDuration, m.bytes, m.active, m.sessions, m.lookups, m.lookupDuration, m.decisions,
		m.echoed, m.echoStreams, m.echoActive, m.insecure, m.limited, m.refused, m.reloads, m.reloaded, m.auditWrites, m.issuers, m.strangers, info, m.rpcs,
	)
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.InstrumentMetricHandler(m.registry, promhttp.HandlerFor(prometheus.GathererFunc(m.gather), promhttp.HandlerOpts{
		Registry: m.registry, EnableOpenMetrics: true,
	}))
}

// Interceptors counts RPCs. They are the one source of RPC metrics.
func (m *Metrics) Interceptors() service.Interceptors { return m.rpcs.interceptors() }

// gather is what a scrape gets. What takes a while to make and nobody sees before, the first one makes.
func (m *Metrics) gather() ([]*dto.MetricFamily, error) {
	m.first.Do(func() {
		m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		if m.server != nil {
			m.rpcs.initialize(m.server)
		}
	})
	return m.registry.Gather()
}

// Initialize makes the series of every RPC of server exist from the first scrape on, so that a rate over them is right from
// the first call on. Call it when all services are registered, and before the first scrape.
func (m *Metrics) Initialize(server *grpc.Server) { m.server = server }

// ServiceHooks counts lookups, the decisions of the policy, and limits that were reached.
func (m *Metrics) ServiceHooks() service.Hooks {
	return service.Hooks{
		Lookup: func(kind, reason string, duration time.Duration) {
			m.lookups.WithLabelValues(kind, reason).Inc()
			m.lookupDuration.WithLabelValues(kind).Observe(duration.Seconds())
		},
		Decided: func(decision policy.Decision) {
			rule := decision.Rule
			if strings.Contains(rule, "/") { // ROLE/RULE: how many there are is the operator's to say
				rule = "allow-role"
			}
			m.decisions.WithLabelValues(rule).Inc()
		},
		Limited: func(limit string) { m.limited.WithLabelValues(limit).Inc() },
	}
}

const (
	resultOK    = "ok"
	resultError = "error"
)

func result(ok bool) string {
	if ok {
		return resultOK
	}
	return resultError
}

// Reloaded counts that the configuration was read again; ok: and put in force.
func (m *Metrics) Reloaded(ok bool) {
	m.reloads.WithLabelValues(result(ok)).Inc()
	m.reloaded.Set(0)
	if ok {
		m.reloaded.Set(1)
	}
}

// AuditWritten counts a write to the audit log.
func (m *Metrics) AuditWritten(ok bool) { m.auditWrites.WithLabelValues(result(ok)).Inc() }

// IssuerAsked counts that an issuer of tokens was asked for its keys.
func (m *Metrics) IssuerAsked(ok bool) { m.issuers.WithLabelValues(result(ok)).Inc() }

// Unauthenticated counts a call of which it was not known who called.
func (m *Metrics) Unauthenticated(reason string) { m.strangers.WithLabelValues(reason).Inc() }

// ConnectionRefused counts a connection that was closed because there were too many.
func (m *Metrics) ConnectionRefused() { m.refused.Inc() }

// ExchangeHooks counts exchanges, their attempts and their bytes.
func (m *Metrics) ExchangeHooks() *exchange.Hooks {
	return &exchange.Hooks{
		SessionStart: func(scheme string) { m.active.WithLabelValues(scheme).Inc() },
		SessionEnd: func(scheme string, outcome *exchange.Outcome) {
			m.active.WithLabelValues(scheme).Dec()
			m.sessions.WithLabelValues(scheme, reasonLabel(outcome.Reason)).Inc()
		},
		Dialled: func(scheme string, reason exchange.Reason, duration time.Duration) {
			m.dials.WithLabelValues(scheme, reasonLabel(reason)).Inc()
			m.dialDuration.WithLabelValues(scheme).Observe(duration.Seconds())
		},
		Sent:     func(scheme string, n int) { m.bytes.WithLabelValues(scheme, "sent").Add(float64(n)) },
		Received: func(scheme string, n int) { m.bytes.WithLabelValues(scheme, "received").Add(float64(n)) },
	}
}

// reasonLabel is a reason as label value: OK for none, since an empty reason reads like a missing one.
func reasonLabel(reason exchange.Reason) string {
	if reason == exchange.None {
		return "OK"
	}
	return reason.String()
}

// EchoHooks counts what the echo listeners do.
func (m *Metrics) EchoHooks() *echo.Hooks {
	return &echo.Hooks{
		Opened: func(network string) {
			m.echoStreams.WithLabelValues(network).Inc()
			m.echoActive.WithLabelValues(network).Inc()
		},
		Closed: func(network string) { m.echoActive.WithLabelValues(network).Dec() },
		Echoed: func(network string, n int) { m.echoed.WithLabelValues(network).Add(float64(n)) },
	}
}

// Insecure tells how many listeners are reachable from outside without authentication.
func (m *Metrics) Insecure(listeners int) { m.insecure.Set(float64(listeners)) }
