package tracing

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// environment is what the variables of OpenTelemetry say about traces, as far as it is not left to its SDK.
//
// Others than who runs probed may set them, for all programs of a place at once, so what cannot be meant keeps nothing from
// starting: it is told in the log, and left out, as OpenTelemetry's specification has it. Where it cannot be known what is
// meant there are no traces. What is wrong with the files of TLS is an error: one goes on with no less trust than is asked for.
type environment struct {
	getenv     func(string) string
	log        *slog.Logger
	on         bool
	protocol   string // protocolGRPC or protocolHTTP
	endpoint   *url.URL
	timeout    time.Duration // for one request to the collector
	gzip       bool
	queue      int // the most spans that wait
	propagator propagation.TextMapPropagator
}

const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"
)

// Ends of the names of variables that may say something about OTLP in general, or about traces.
const (
	endpointVariable    = "ENDPOINT"
	protocolVariable    = "PROTOCOL"
	timeoutVariable     = "TIMEOUT"
	headersVariable     = "HEADERS"
	compressionVariable = "COMPRESSION"
)

const (
	exporterVariable, disabledVariable = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
	samplerVariable                    = "OTEL_TRACES_SAMPLER"
	resourceVariable                   = "OTEL_RESOURCE_ATTRIBUTES"
	queueVariable                      = "OTEL_BSP_MAX_QUEUE_SIZE"
)

// numbers are the variables of which the SDK takes another number when they are none.
var numbers = []string{
	"OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", queueVariable, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
	"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
	"OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
}

// get is what a variable says.
func (e *environment) get(variable string) string { return strings.TrimSpace(e.getenv(variable)) }

// otlp is what is said about OTLP for traces, and where.
func (e *environment) otlp(what string) (value, variable string) {
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + what, "OTEL_EXPORTER_OTLP_" + what} {
		if value := e.get(variable); value != "" {
			return value, variable
		}
	}
	return "", ""
}

// warn tells what is wrong with a variable. The value is to be in the text only where it can be no secret.
func (e *environment) warn(variable, text string) {
	e.log.Warn("tracing", "variable", variable, "warning", text)
}

func readEnvironment(getenv func(string) string, log *slog.Logger) *environment {
	e := &environment{getenv: getenv, log: log}
	if e.on = e.wanted(); !e.on {
		return e
	}
	protocol, variable := e.otlp(protocolVariable)
	switch e.protocol = strings.ToLower(protocol); e.protocol {
	case protocolGRPC, protocolHTTP:
	default:
		e.protocol = protocolHTTP
		if protocol != "" {
			e.warn(variable, fmt.Sprintf("%.40q is neither %s nor %s, and is taken for the second", protocol, protocolGRPC, protocolHTTP))
		}
	}
	if !e.readEndpoint() {
		e.on = false
		return e
	}
	e.timeout = 10 * time.Second
	if text, variable := e.otlp(timeoutVariable); text != "" {
		if milliseconds, err := strconv.ParseUint(text, 10, 31); err == nil {
			e.timeout = time.Duration(milliseconds) * time.Millisecond
		} else {
			e.warn(variable, fmt.Sprintf("%.40q is no number of milliseconds: it is %s", text, e.timeout))
		}
	}
	switch compression, variable := e.otlp(compressionVariable); strings.ToLower(compression) {
	case "", "none":
	case "gzip":
		e.gzip = true
	default:
		e.warn(variable, fmt.Sprintf("%.40q is neither gzip nor none: there is none", compression))
	}
	if headers, variable := e.otlp(headersVariable); !arePairs(headers) {
		e.warn(variable, "it is NAME=VALUE,NAME=VALUE, the values escaped as in a URL: what is not is left out")
	}
	if !arePairs(e.get(resourceVariable)) {
		e.warn(resourceVariable, "it is NAME=VALUE,NAME=VALUE, the values escaped as in a URL: what is not is left out")
	}
	e.propagator = propagation.TraceContext{}
	if which := strings.ToLower(e.getenv("OTEL_PROPAGATORS")); which != "" && !slices.Contains(strings.Split(strings.ReplaceAll(which, " ", ""), ","), "tracecontext") {
		e.propagator = propagation.NewCompositeTextMapPropagator() // of none
	}
	e.checkSampler()
	for _, variable := range numbers {
		if text := e.get(variable); text != "" {
			if _, err := strconv.Atoi(text); err != nil {
				e.warn(variable, fmt.Sprintf("%.40q is no number, and is left out", text))
			}
		}
	}
	if e.queue, _ = strconv.Atoi(e.get(queueVariable)); e.queue <= 0 {
		e.queue = sdk.DefaultMaxQueueSize
	}
	return e
}

// wanted tells whether there are to be traces.
func (e *environment) wanted() bool {
	endpoint, _ := e.otlp(endpointVariable)
	on := endpoint != ""
	if exporters := e.get(exporterVariable); exporters != "" {
		on = false
		for exporter := range strings.SplitSeq(exporters, ",") {
			switch exporter = strings.TrimSpace(exporter); strings.ToLower(exporter) {
			case "otlp":
				on = true
			case "none", "":
			default:
				e.warn(exporterVariable, fmt.Sprintf("%.40q is neither otlp nor none, and is left out", exporter))
			}
		}
	}
	switch disabled := e.get(disabledVariable); strings.ToLower(disabled) {
	case "true":
		return false
	case "", "false":
	default:
		e.warn(disabledVariable, fmt.Sprintf("%.40q is neither true nor false, and is taken for the second", disabled))
	}
	return on
}

// readEndpoint finds out where the collector is. There may be a password in what is said about it, and anywhere if it is
// misspelt.
func (e *environment) readEndpoint() bool {
	endpoint, variable := e.otlp(endpointVariable)
	if endpoint == "" {
		endpoint = map[string]string{protocolGRPC: "http://localhost:4317", protocolHTTP: "http://localhost:4318"}[e.protocol]
	}
	var err error
	e.endpoint, err = url.Parse(endpoint)
	if err != nil || e.endpoint.Scheme != "http" && e.endpoint.Scheme != "https" || e.endpoint.Hostname() == "" {
		e.warn(variable, "it is no URL, as http://HOST:PORT or https://HOST:PORT: there are no traces")
		return false
	}
	if variable != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" { // which is meant as it stands
		e.endpoint = e.endpoint.JoinPath("v1", "traces")
	}
	return true
}

// arePairs tells whether the SDK will read all of a list of pairs.
func arePairs(text string) bool {
	if text == "" {
		return true
	}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, found := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(value); err != nil || !found || !isToken(strings.TrimSpace(name)) {
			return false
		}
	}
	return true
}

// isToken tells whether name is one of a header (RFC 9110, section 5.6.2).
func isToken(name string) bool {
	for _, c := range name {
		if !strings.ContainsRune("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c) {
			return false
		}
	}
	return name != ""
}

// checkSampler tells what the SDK replaces by another.
func (e *environment) checkSampler() {
	sampler := e.get(samplerVariable)
	switch strings.ToLower(sampler) {
	case "", "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
	case "traceidratio", "parentbased_traceidratio":
		const argument = samplerVariable + "_ARG"
		text := e.get(argument)
		if share, err := strconv.ParseFloat(cmp.Or(text, "1"), 64); err != nil || !(share >= 0 && share <= 1) {
			e.warn(argument, fmt.Sprintf("%.40q is no number from 0 to 1: it is 1", text))
		}
	default:
		e.warn(samplerVariable, fmt.Sprintf("%.40q is none of always_on, always_off, traceidratio, and these behind parentbased_: it is parentbased_always_on", sampler))
	}
}

// address is where the collector listens.
func (e *environment) address(port string) string {
	return net.JoinHostPort(e.endpoint.Hostname(), cmp.Or(e.endpoint.Port(), port))
}

// tls is how TLS is spoken with a collector.
func (e *environment) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file, variable := e.otlp("CERTIFICATE"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", variable, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: %s: there is no certificate in it", variable, file)
		}
	}
	certificate, variable := e.otlp("CLIENT_CERTIFICATE")
	key, _ := e.otlp("CLIENT_KEY")
	if certificate != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cmp.Or(variable, "OTEL_EXPORTER_OTLP_CLIENT_KEY"), err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
