package tracing

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
)

// environment is what the variables of OpenTelemetry say about traces, as far as it is not left to its SDK. A value that cannot
// be meant is an error: the SDK would go on with another, and nobody would know why there are no spans.
type environment struct {
	getenv     func(string) string
	on         bool
	protocol   string // protocolGRPC or protocolHTTP
	endpoint   *url.URL
	timeout    time.Duration // for one request to the collector
	propagator propagation.TextMapPropagator
}

const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"
)

// Ends of the names of variables that may say something about OTLP in general, or about traces.
const (
	endpointVariable = "ENDPOINT"
	protocolVariable = "PROTOCOL"
	timeoutVariable  = "TIMEOUT"
)

const exporterVariable, samplerVariable = "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER"

// otlp is what is said about OTLP for traces, and where.
func (e *environment) otlp(what string) (value, variable string) {
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + what, "OTEL_EXPORTER_OTLP_" + what} {
		if value := strings.TrimSpace(e.getenv(variable)); value != "" {
			return value, variable
		}
	}
	return "", ""
}

func readEnvironment(getenv func(string) string) (*environment, error) {
	e := &environment{getenv: getenv}
	endpoint, endpointFrom := e.otlp(endpointVariable)
	switch exporter := strings.TrimSpace(getenv(exporterVariable)); exporter {
	case "":
		e.on = endpoint != ""
	case "otlp":
		e.on = true
	case "none":
	default:
		return nil, fmt.Errorf("%s %q: it is otlp or none", exporterVariable, exporter)
	}
	if e.on = e.on && !strings.EqualFold(strings.TrimSpace(getenv("OTEL_SDK_DISABLED")), "true"); !e.on {
		return e, nil
	}
	protocol, variable := e.otlp(protocolVariable)
	if e.protocol = cmp.Or(protocol, protocolHTTP); e.protocol != protocolGRPC && e.protocol != protocolHTTP {
		return nil, fmt.Errorf("%s %q: it is %s or %s", variable, protocol, protocolGRPC, protocolHTTP)
	}
	var err error
	if endpoint == "" {
		endpoint, endpointFrom = map[string]string{protocolGRPC: "http://localhost:4317", protocolHTTP: "http://localhost:4318"}[e.protocol], endpointVariable
	}
	if e.endpoint, err = readEndpoint(endpoint); err != nil {
		return nil, fmt.Errorf("%s %q: %w", endpointFrom, endpoint, err)
	}
	if endpointFrom != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" { // which is meant as it stands
		e.endpoint = e.endpoint.JoinPath("v1", "traces")
	}
	e.timeout = 10 * time.Second
	if text, variable := e.otlp(timeoutVariable); text != "" {
		milliseconds, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%s %q: it is a number of milliseconds", variable, text)
		}
		e.timeout = time.Duration(milliseconds) * time.Millisecond
	}
	e.propagator = propagation.TraceContext{}
	if which := getenv("OTEL_PROPAGATORS"); which != "" && !slices.Contains(strings.Split(strings.ReplaceAll(which, " ", ""), ","), "tracecontext") {
		e.propagator = propagation.NewCompositeTextMapPropagator() // of none
	}
	if err := e.checkSampler(); err != nil {
		return nil, err
	}
	return e, nil
}

func readEndpoint(text string) (*url.URL, error) {
	endpoint, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.Unwrap(err) // without the URL, which may have a password in it
	case endpoint.Scheme != "http" && endpoint.Scheme != "https", endpoint.Hostname() == "":
		return nil, errors.New("it is a URL, as http://HOST:PORT or https://HOST:PORT")
	}
	return endpoint, nil
}

// checkSampler refuses what the SDK would replace by another.
func (e *environment) checkSampler() error {
	sampler := strings.ToLower(strings.TrimSpace(e.getenv(samplerVariable)))
	ratio := sampler == "traceidratio" || sampler == "parentbased_traceidratio"
	switch {
	case sampler == "", sampler == "always_on", sampler == "always_off", sampler == "parentbased_always_on", sampler == "parentbased_always_off":
	case ratio:
		const argument = samplerVariable + "_ARG"
		text := strings.TrimSpace(e.getenv(argument))
		if share, err := strconv.ParseFloat(cmp.Or(text, "1"), 64); err != nil || !(share >= 0 && share <= 1) {
			return fmt.Errorf("%s %q: it is a number from 0 to 1", argument, text)
		}
	default:
		return fmt.Errorf("%s %q: it is always_on, always_off, traceidratio, or one of these behind parentbased_", samplerVariable, sampler)
	}
	return nil
}

// address is where the collector listens.
func (e *environment) address(port string) string {
	return net.JoinHostPort(e.endpoint.Hostname(), cmp.Or(e.endpoint.Port(), port))
}

// tls is how TLS is spoken with a collector by HTTP; for gRPC the exporter reads the same variables.
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
