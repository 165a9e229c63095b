package main

import (
	"fmt"
	"strings"
)

// row is a row of the dashboard: one question of whoever looks.
type row struct {
	title  string
	graphs []graph
}

// graph is a panel.
type graph struct {
	kind        string // timeseries, stat or heatmap
	title       string
	description string
	unit        string // as Grafana names it
	stacked     bool
	below       string      // the colour below all steps; empty: green
	steps       []threshold // of a stat
	queries     []query
}

type threshold struct {
	color string
	from  float64
}

type query struct {
	expr, legend string
	exemplars    bool
}

// selection are the series that are looked at.
const selection = `job=~"$job",namespace=~"$namespace",node=~"$node",instance=~"$instance"`

// over puts the selection into a query, where it says $S.
func over(expr string) string { return strings.ReplaceAll(expr, "$S", selection) }

// one is the queries of a panel that has one.
func one(expr, legend string) []query { return []query{{expr: over(expr), legend: legend}} }

// quantiles are of a histogram, by some labels. A Prometheus that scrapes native histograms may keep no classic ones, and the
// other way round.
func quantiles(name, matchers, by, legend string, of ...float64) (queries []query) {
	labels := selection
	if matchers != "" {
		labels += "," + matchers
	}
	le := "le"
	if by != "" {
		le += ", " + by
	}
	for _, q := range of {
		queries = append(queries, query{
			expr: fmt.Sprintf("histogram_quantile(%[1]g, sum by (%[2]s) (rate(%[3]s_bucket{%[4]s}[$__rate_interval]))) or histogram_quantile(%[1]g, sum by (%[5]s) (rate(%[3]s{%[4]s}[$__rate_interval])))",
				q, le, name, labels, by),
			legend:    strings.TrimSpace(fmt.Sprintf("%s p%g", legend, q*100)),
			exemplars: true,
		})
	}
	return queries
}

// failed are the reasons of outcomes that tell of the network or of the target: the others tell of callers, or of probed.
const failed = `reason!~"OK|POLICY_DENIED|LIMIT_REACHED|CANCELLED|DRAINED"`

// judged are the outcomes of which some are failed.
const judged = `reason!~"POLICY_DENIED|LIMIT_REACHED|CANCELLED|DRAINED"`

var rows = []row{
	{"Now", []graph{
		{
			kind: "stat", title: "Ready", unit: "short", below: "red", steps: []threshold{{"green", 1}},
			description: "Instances that take calls. What is missing here is starting, ending, or not scraped.",
			queries:     one(`sum(probed_ready{$S})`, ""),
		},
		{
			kind: "stat", title: "Failed sessions", unit: "percentunit", steps: []threshold{{"yellow", .1}, {"red", .5}},
			description: "The share of exchanges of the last hour in which the network or the target failed. It says as much about what is asked as about the network.",
			queries:     one(`sum(increase(probed_sessions_total{$S,`+failed+`}[1h])) / (sum(increase(probed_sessions_total{$S,`+judged+`}[1h])) > 0)`, ""),
		},
		{
			kind: "stat", title: "Faults of probed", unit: "short", steps: []threshold{{"red", 1}},
			description: "Outcomes and RPCs of the last hour that ended with INTERNAL: a bug, or a panic. The log has the request.",
			queries:     one(`sum(increase(probed_sessions_total{$S,reason="INTERNAL"}[1h])) + sum(increase(grpc_server_handled_total{$S,grpc_code=~"Internal|Unknown|DataLoss",grpc_method!~"GetAddressInfo|GetNameInfo"}[1h]))`, ""),
		},
		{
			kind: "stat", title: "Open listeners", unit: "short", steps: []threshold{{"red", 1}},
			description: "Listeners that whoever reaches them may use, because --insecure-no-auth said so.",
			queries:     one(`sum(probed_insecure_listeners{$S})`, ""),
		},
		{
			kind: "stat", title: "Faulty configurations", unit: "short", steps: []threshold{{"red", 1}},
			description: "Instances whose files of configuration have faults, so that an older state of them is in force. The log has the fault.",
			queries:     one(`count(probed_config_last_reload_successful{$S} == 0) or sum(0 * probed_config_last_reload_successful{$S})`, ""),
		},
		{
			kind: "stat", title: "Certificates expire in", unit: "s", below: "red", steps: []threshold{{"yellow", 3 * 86400}, {"green", 7 * 86400}},
			description: "Until the first certificate of a listener expires. Empty where no listener speaks TLS.",
			queries:     one(`min(probed_certificate_expiration_timestamp_seconds{$S}) - time()`, ""),
		},
	}},
	{"What is asked", []graph{
		{
			kind: "timeseries", title: "RPCs", unit: "reqps", stacked: true,
			description: "Calls that have ended, by method. REST and the programs' own calls are among them.",
			queries:     one(`sum by (grpc_method) (rate(grpc_server_handled_total{$S}[$__rate_interval])) > 0`, "{{grpc_method}}"),
		},
		{
			kind: "timeseries", title: "RPCs that failed", unit: "reqps", stacked: true,
			description: "By status. A target that cannot be reached is an answer and not among them; a name that does not exist is NotFound.",
			queries:     one(`sum by (grpc_code) (rate(grpc_server_handled_total{$S,grpc_code!="OK"}[$__rate_interval])) > 0`, "{{grpc_code}}"),
		},
		{
			kind: "timeseries", title: "How long unary RPCs take", unit: "s",
			description: "Most of it is what the network takes, for a Connect or a lookup of a host.",
			queries:     quantiles("grpc_server_handling_seconds", `grpc_type="unary"`, "grpc_method", "{{grpc_method}}", .5, .99),
		},
	}},
	{"What was found", []graph{
		{
			kind: "timeseries", title: "Sessions by reason", unit: "ops", stacked: true,
			description: "Exchanges that have ended. What each reason usually means is its hint, which probectl prints.",
			queries:     one(`sum by (reason) (rate(probed_sessions_total{$S}[$__rate_interval])) > 0`, "{{reason}}"),
		},
		{
			kind: "timeseries", title: "Dials that failed", unit: "ops", stacked: true,
			description: "Attempts to connect, each to one address: a session with several may succeed though one fails, an IPv6 that leads nowhere for instance.",
			queries:     one(`sum by (network, reason) (rate(probed_dials_total{$S,reason!="OK"}[$__rate_interval])) > 0`, "{{network}} {{reason}}"),
		},
		{
			kind: "timeseries", title: "Lookups that failed", unit: "ops", stacked: true,
			description: "Those of names and addresses, and those in tables. NAME_NOT_FOUND is an answer of the name servers; DNS_* and EAI_AGAIN are not having one.",
			queries:     one(`sum by (kind, reason) (rate(probed_lookups_total{$S,reason!="OK"}[$__rate_interval])) > 0`, "{{kind}} {{reason}}"),
		},
		{
			kind: "timeseries", title: "How long dials take", unit: "s",
			description: "Round trips of a handshake, and what was refused or timed out. Steps at 1 s and 3 s are lost SYNs.",
			queries:     quantiles("probed_dial_duration_seconds", "", "network", "{{network}}", .5, .99),
		},
		{
			kind: "heatmap", title: "Dials by duration", unit: "short",
			description: "How many dials took how long. Two bands are two kinds of target, or two ways there.",
			queries:     one(`sum by (le) (increase(probed_dial_duration_seconds_bucket{$S}[$__rate_interval])) or on () sum(increase(probed_dial_duration_seconds{$S}[$__rate_interval]))`, "{{le}}"),
		},
		{
			kind: "timeseries", title: "How long lookups take", unit: "s",
			description: "Those of a host are name servers; the tables answer at once. A step at 5 s is a name server that does not answer.",
			queries:     quantiles("probed_lookup_duration_seconds", "", "kind", "{{kind}}", .5, .99),
		},
	}},
	{"Node against node", []graph{
		{
			kind: "timeseries", title: "Failed sessions by place", unit: "percentunit",
			description: "The share of exchanges in which the network or the target failed. One place above the others, asked the same, has a network of its own.",
			queries:     one(`sum by (node, instance) (rate(probed_sessions_total{$S,`+failed+`}[$__rate_interval])) / (sum by (node, instance) (rate(probed_sessions_total{$S,`+judged+`}[$__rate_interval])) > 0)`, "{{node}} {{instance}}"),
		},
		{
			kind: "timeseries", title: "Why, by place", unit: "ops", stacked: true,
			description: "The reasons of these, of each place.",
			queries:     one(`sum by (node, instance, reason) (rate(probed_sessions_total{$S,`+failed+`}[$__rate_interval])) > 0`, "{{node}} {{instance}} {{reason}}"),
		},
		{
			kind: "timeseries", title: "How long dials take, by place", unit: "s",
			description: "To what was asked from there. Compare places that are asked the same.",
			queries:     quantiles("probed_dial_duration_seconds", "", "node, instance", "{{node}} {{instance}}", .9),
		},
	}},
	{"Bytes", []graph{
		{
			kind: "timeseries", title: "Bytes of targets", unit: "Bps",
			description: "What sessions sent to targets and received from them.",
			queries:     one(`sum by (network, direction) (rate(probed_session_bytes_total{$S}[$__rate_interval]))`, "{{network}} {{direction}}"),
		},
		{
			kind: "timeseries", title: "Echo", unit: "Bps",
			description: "What the echo listeners sent back.",
			queries:     one(`sum by (network) (rate(probed_echo_bytes_total{$S}[$__rate_interval]))`, "{{network}}"),
		},
		{
			kind: "timeseries", title: "Connections to echo", unit: "short",
			description: "Those that the echo listeners serve. Datagrams have none.",
			queries:     one(`sum by (network) (probed_echo_connections_active{$S})`, "{{network}}"),
		},
	}},
	{"Saturation", []graph{
		{
			kind: "timeseries", title: "Limits in use", unit: "percentunit",
			description: "How much of what a limit allows in all is in use, on the fullest instance. At 100 % calls are refused.",
			queries:     one(`max by (limit) (probed_limit_used{$S} / probed_limit_max{$S})`, "{{limit}}"),
		},
		{
			kind: "timeseries", title: "Refused at a limit", unit: "ops", stacked: true,
			description: "Calls and dials, by the limit; connections are those closed at once. A limit per caller touches only who reached it.",
			queries: []query{
				{expr: over(`sum by (limit) (rate(probed_limits_reached_total{$S}[$__rate_interval]))`), legend: "{{limit}}"},
				{expr: over(`sum(rate(probed_connections_refused_total{$S}[$__rate_interval]))`), legend: "connections"},
			},
		},
		{
			kind: "timeseries", title: "Sessions under way", unit: "short", stacked: true,
			description: "Exchanges and conversations, by the scheme of the target.",
			queries:     one(`sum by (network) (probed_sessions_active{$S}) > 0 or on () sum(probed_sessions_active{$S})`, "{{network}}"),
		},
	}},
	{"Who is refused, and what is written down", []graph{
		{
			kind: "timeseries", title: "Unauthenticated calls", unit: "ops", stacked: true,
			description: "By what was wrong with the credentials: expired is somebody who forgot, unknown may be somebody who guesses.",
			queries:     one(`sum by (reason) (rate(probed_unauthenticated_total{$S}[$__rate_interval]))`, "{{reason}}"),
		},
		{
			kind: "timeseries", title: "Denied by the policy", unit: "ops", stacked: true,
			description: "By the rule. deny-metadata and deny-own-listener are nothing anybody asks for by mistake often. Who it was is in the audit log.",
			queries:     one(`sum by (decision) (rate(probed_policy_decisions_total{$S,decision=~"deny-.*"}[$__rate_interval]))`, "{{decision}}"),
		},
		{
			kind: "timeseries", title: "Failures beside calls", unit: "ops",
			description: "Writes of the audit log (no session begins while they fail), requests to issuers of tokens, reloads of the configuration.",
			queries: []query{
				{expr: over(`sum(rate(probed_audit_writes_total{$S,result="error"}[$__rate_interval]))`), legend: "audit log"},
				{expr: over(`sum(rate(probed_issuer_requests_total{$S,result="error"}[$__rate_interval]))`), legend: "issuer"},
				{expr: over(`sum(rate(probed_config_reloads_total{$S,result="error"}[$__rate_interval]))`), legend: "configuration"},
			},
		},
	}},
	{"Process", []graph{
		{
			kind: "timeseries", title: "Memory", unit: "bytes",
			description: "Resident. It follows sessions under way and goes back after them.",
			queries:     one(`process_resident_memory_bytes{$S}`, "{{node}} {{instance}}"),
		},
		{
			kind: "timeseries", title: "CPU", unit: "short",
			description: "Processors in use, of those that there are.",
			queries:     one(`rate(process_cpu_seconds_total{$S}[$__rate_interval])`, "{{node}} {{instance}}"),
		},
		{
			kind: "timeseries", title: "Descriptors and goroutines", unit: "short",
			description: "Both go back to where they were when nobody asks anything; what stays up leaks.",
			queries: []query{
				{expr: over(`process_open_fds{$S}`), legend: "descriptors {{node}} {{instance}}"},
				{expr: over(`go_goroutines{$S}`), legend: "goroutines {{node}} {{instance}}"},
			},
		},
		{
			kind: "timeseries", title: "Up since", unit: "s",
			description: "How long each has been running. What goes back to zero again and again crashes.",
			queries:     one(`time() - process_start_time_seconds{$S}`, "{{node}} {{instance}}"),
		},
		{
			kind: "timeseries", title: "Versions", unit: "short", stacked: true,
			description: "Instances by what they run.",
			queries:     one(`count by (version, goversion) (probed_build_info{$S})`, "{{version}} {{goversion}}"),
		},
		{
			kind: "timeseries", title: "Scrapes", unit: "s",
			description: "How long Prometheus takes to get these metrics.",
			queries:     one(`scrape_duration_seconds{$S}`, "{{node}} {{instance}}"),
		},
	}},
}
