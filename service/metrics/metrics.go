// Package metrics counts what probed does, in a registry of its own.
//
// A program makes one [Metrics], hands its hooks to the engines and its interceptors to the chain, and serves
// [Metrics.Handler] to Prometheus. The engines know nothing of it: they call optional functions.
//
// No label ever grows with input. Networks, reasons, kinds and decisions are closed sets; a target, a caller, a peer or
// free text is never a label.
package metrics

import (
	"context"
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
	"probed/service/guard"
	"probed/service/policy"
)

// Metrics is all that probed counts.
type Metrics struct {
	registry  *prometheus.Registry
	rpcs      *rpcs
	server    *grpc.Server // whose RPCs there are; nil: it has not been told
	first     sync.Once    // scrape
	exemplars bool         // durations name the trace of their call

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
	most           *prometheus.GaugeVec
	reloaded       prometheus.Gauge
	reloadedAt     prometheus.Gauge
	auditWrites    *prometheus.CounterVec
	issuers        *prometheus.CounterVec
	strangers      *prometheus.CounterVec
	expirations    *prometheus.GaugeVec
	spansLost      prometheus.Counter
	answers        *prometheus.CounterVec
}

const (
	// Those who scrape native histograms get these, the others the classic ones.
	nativeFactor = 1.1
	nativeMost   = 100
	nativeReset  = time.Hour
	// ruleOfRole stands for all rules of roles: how many there are is the operator's to say.
	ruleOfRole = "allow-role"
)

// buckets are from a lookup in memory to a connection that times out.
var buckets = []float64{.0001, .0005, .001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New returns Metrics for this version of the program.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rpcs:     newRPCs(),

		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_dials_total", Help: "Attempts to connect to one address, by the target's scheme and how they ended.",
		}, []string{"network", "reason"}),
		dialDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "probed_dial_duration_seconds", Help: "How long an attempt to connect to one address took.",
			Buckets: buckets, NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeMost, NativeHistogramMinResetDuration: nativeReset,
		}, []string{"network"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_session_bytes_total", Help: "Bytes of targets, by direction as seen from here.",
		}, []string{"network", "direction"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "probed_sessions_active", Help: "Exchanges under way.",
		}, []string{"network"}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_sessions_total", Help: "Exchanges that have ended, by the reason of their outcome.",
		}, []string{"network", "reason"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_lookups_total", Help: "Lookups, by kind and how they ended.",
		}, []string{"kind", "reason"}),
		lookupDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "probed_lookup_duration_seconds", Help: "How long a lookup took.",
			Buckets: buckets, NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeMost, NativeHistogramMinResetDuration: nativeReset,
		}, []string{"kind"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_policy_decisions_total", Help: "Decisions of the policy, each about one address to connect to or one name or address to look up.",
		}, []string{"decision"}),
		echoed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_echo_bytes_total", Help: "Bytes that the echo listeners have sent back.",
		}, []string{"network"}),
		echoStreams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_echo_connections_total", Help: "Connections that the echo listeners have served or are serving.",
		}, []string{"network"}),
		echoActive: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "probed_echo_connections_active", Help: "Connections that the echo listeners are serving.",
		}, []string{"network"}),
		insecure: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "probed_insecure_listeners", Help: "Listeners reachable from outside without authentication, because --insecure-no-auth said so.",
		}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_limits_reached_total", Help: "Calls and dials that were refused because a limit is reached, by its name.",
		}, []string{"limit"}),
		most: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "probed_limit_max", Help: "How much a limit allows, by its name; one that is not here is unlimited.",
		}, []string{"limit"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "probed_connections_refused_total", Help: "Connections of callers that were closed at once, because there were too many.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_config_reloads_total", Help: "Times the configuration was read again, by whether it was put in force (ok) or has faults (error).",
		}, []string{"result"}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "probed_config_last_reload_successful", Help: "Whether the configuration in force is what its files say now.",
		}),
		reloadedAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "probed_config_last_reload_success_timestamp_seconds", Help: "When the configuration in force was put there.",
		}),
		auditWrites: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_audit_writes_total", Help: "Writes to the audit log, by whether they succeeded (ok) or not (error).",
		}, []string{"result"}),
		issuers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_issuer_requests_total", Help: "Times an issuer of tokens was asked for its keys, by whether it gave them (ok) or not (error).",
		}, []string{"result"}),
		strangers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_unauthenticated_total", Help: "Calls that were refused because it was not known who called, by what was wrong with their credentials.",
		}, []string{"reason"}),
		expirations: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "probed_certificate_expiration_timestamp_seconds", Help: "When the certificate that a listener shows will have expired, or the first of its chain.",
		}, []string{"listener"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "probed_http_answers_total", Help: "Answers to REST requests that became no RPC, by the class of their HTTP status.",
		}, []string{"status"}),
		spansLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "probed_trace_spans_lost_total", Help: "Spans that the collector of traces did not take, or that found no room to wait for it.",
		}),
	}
	m.reloaded.Set(1) // what it began with
	m.reloadedAt.SetToCurrentTime()
	// What is there from the start is seen to grow by the first one. Where the labels are few all are there, else those
	// that somebody may be woken by.
	for _, scheme := range exchange.Schemes() {
		m.active.WithLabelValues(scheme)
		m.sessions.WithLabelValues(scheme, reasonLabel(exchange.None))
		m.sessions.WithLabelValues(scheme, reasonLabel(exchange.Internal))
	}
	for _, rule := range policy.Rules() {
		m.decisions.WithLabelValues(rule)
	}
	m.decisions.WithLabelValues(ruleOfRole)
	for _, limit := range guard.LimitNames() {
		m.limited.WithLabelValues(limit)
	}
	for _, reason := range guard.Reasons() {
		m.strangers.WithLabelValues(reason)
	}
	for _, results := range []*prometheus.CounterVec{m.reloads, m.auditWrites, m.issuers} {
		results.WithLabelValues(resultOK)
		results.WithLabelValues(resultError)
	}
	for _, class := range classes {
		m.answers.WithLabelValues(class)
	}
	m.rpcs.observe = m.observe
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "probed_build_info", Help: "Always 1; the labels tell which build this is.",
	}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)

	m.registry.MustRegister(
		m.dials, m.dialDuration, m.bytes, m.active, m.sessions, m.lookups, m.lookupDuration, m.decisions,
		m.echoed, m.echoStreams, m.echoActive, m.insecure, m.limited, m.most, m.refused,
		m.reloads, m.reloaded, m.reloadedAt, m.auditWrites, m.issuers, m.strangers, m.expirations, m.answers, m.spansLost, info, m.rpcs,
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

// Initialize makes the series of every RPC of probe.v1 exist from the first scrape on, so that a rate over them is right from
// the first call on. Call it when all services are registered, and before the first scrape.
func (m *Metrics) Initialize(server *grpc.Server) { m.server = server }

// Exemplars makes the duration of a call, or of something in it, name the trace that the call is recorded in, if it is in one.
// It is to be called before the first call.
func (m *Metrics) Exemplars() { m.exemplars = true }

// observe observes a duration in the call of ctx.
func (m *Metrics) observe(ctx context.Context, histogram prometheus.Observer, duration time.Duration) {
	if m.exemplars {
		if id := service.SampledTrace(ctx); id != "" {
			if histogram, ok := histogram.(prometheus.ExemplarObserver); ok {
				histogram.ObserveWithExemplar(duration.Seconds(), prometheus.Labels{"trace_id": id})
				return
			}
		}
	}
	histogram.Observe(duration.Seconds())
}

// ServiceHooks counts lookups, the decisions of the policy, and limits that were reached.
func (m *Metrics) ServiceHooks() service.Hooks {
	return service.Hooks{
		Lookup: func(ctx context.Context, kind, reason string, duration time.Duration) {
			// The contract's prefix tells enums apart; here the label does.
			m.lookups.WithLabelValues(kind, strings.TrimPrefix(reason, "ERROR_REASON_")).Inc()
			m.observe(ctx, m.lookupDuration.WithLabelValues(kind), duration)
		},
		Decided: func(decision policy.Decision) {
			rule := decision.Rule
			if strings.Contains(rule, "/") { // ROLE/RULE
				rule = ruleOfRole
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
		m.reloadedAt.SetToCurrentTime()
	}
}

// Limit tells how much the limit of this name allows, of the names that limits are told by when they are reached; zero or
// less: any number. used tells, when it is asked, how much is in use; nil: that is of each caller, or a rate.
func (m *Metrics) Limit(name string, most int, used func() int) {
	if most > 0 {
		m.most.WithLabelValues(name).Set(float64(most))
	}
	if used == nil {
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "probed_limit_used", Help: "How much of a limit is in use, by its name.", ConstLabels: prometheus.Labels{"limit": name},
	}, func() float64 { return float64(used()) }))
}

// Ready tells by ready, when it is asked, whether new calls are welcome. Call it once.
func (m *Metrics) Ready(ready func() bool) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "probed_ready", Help: "Whether new calls are welcome, as /readyz says: 0 before probed serves, and while it ends.",
	}, func() float64 {
		if ready() {
			return 1
		}
		return 0
	}))
}

// Certificate tells when the certificate that a listener shows from now on expires.
func (m *Metrics) Certificate(listener string, expires time.Time) {
	m.expirations.WithLabelValues(listener).Set(float64(expires.Unix()))
}

// AuditWritten counts a write to the audit log.
func (m *Metrics) AuditWritten(ok bool) { m.auditWrites.WithLabelValues(result(ok)).Inc() }

// IssuerAsked counts that an issuer of tokens was asked for its keys.
func (m *Metrics) IssuerAsked(ok bool) { m.issuers.WithLabelValues(result(ok)).Inc() }

// Unauthenticated counts a call of which it was not known who called.
func (m *Metrics) Unauthenticated(reason string) { m.strangers.WithLabelValues(reason).Inc() }

// classes are those of a status of HTTP that an answer has in the end.
var classes = [...]string{"2xx", "3xx", "4xx", "5xx"}

// Answered counts the answer to a REST request that became no RPC.
func (m *Metrics) Answered(status int) {
	m.answers.WithLabelValues(classes[min(max(status/100-2, 0), len(classes)-1)]).Inc()
}

// SpansLost counts spans that nobody gets.
func (m *Metrics) SpansLost(spans int) { m.spansLost.Add(float64(spans)) }

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
		Dialled: func(ctx context.Context, scheme string, reason exchange.Reason, duration time.Duration) {
			m.dials.WithLabelValues(scheme, reasonLabel(reason)).Inc()
			m.observe(ctx, m.dialDuration.WithLabelValues(scheme), duration)
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
