package blackbox

import (
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	configv1 "probed/gen/probe/config/v1"
	probev1 "probed/gen/probe/v1"
)

// Result is what came of a probe.
type Result struct {
	module   *Module
	target   string
	timeout  time.Duration
	begun    time.Time
	took     time.Duration
	success  bool
	outcome  *probev1.Outcome
	judged   error    // what was wrong with an answer that came; nil: nothing
	answer   *dns.Msg // nil: there is none
	received []byte   // of a DNS server
	// When a question was sent, and when the last of the answer came, counted from the beginning.
	sent, answered time.Duration

	debug  bool
	events []string // with debug
}

// Success tells whether the target is as the module wants it.
func (r *Result) Success() bool { return r.success }

// series are metrics that are gathered once. Which they are is known only afterwards, so nothing is described.
type series struct {
	metrics []prometheus.Metric
	seen    map[string]bool
}

// Describe is for prometheus.Collector.
func (s *series) Describe(chan<- *prometheus.Desc) {}

// Collect is for prometheus.Collector.
func (s *series) Collect(to chan<- prometheus.Metric) {
	for _, metric := range s.metrics {
		to <- metric
	}
}

// add adds a gauge; labels are names and values in turn. Of two with the same labels the first counts.
func (s *series) add(name, help string, value float64, labels ...string) {
	var key strings.Builder
	key.WriteString(name)
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		text := strings.ToValidUTF8(labels[i+1], "\uFFFD")
		names, values = append(names, labels[i]), append(values, text)
		fmt.Fprintf(&key, ",%s=%q", labels[i], text)
	}
	if s.seen[key.String()] {
		return
	}
	if s.seen == nil {
		s.seen = make(map[string]bool)
	}
	s.seen[key.String()] = true
	desc := prometheus.NewDesc(name, help, names, nil)
	metric, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, values...)
	if err != nil { // a name of a label that is none, which New has refused
		metric = prometheus.NewInvalidMetric(desc, err)
	}
	s.metrics = append(s.metrics, metric)
}

// phases adds the durations of phases, names and durations in turn.
func (s *series) phases(name, help string, durations map[string]time.Duration) {
	for phase, took := range durations {
		s.add(name, help, max(took, 0).Seconds(), "phase", phase)
	}
}

// Gatherer has the series of the result, those of blackbox_exporter with its names, labels, help and types.
func (r *Result) Gatherer() (prometheus.Gatherer, error) {
	registry := prometheus.NewRegistry()
	err := registry.Register(r.series())
	return registry, err
}

func (r *Result) series() *series {
	s := new(series)
	s.add("probe_success", "Displays whether or not the probe was a success", truth(r.success))
	s.add("probe_duration_seconds", "Returns how long the probe took to complete in seconds", r.took.Seconds())
	s.add("probe_timeout_seconds", "Returns how long the probe timeout is in seconds", r.timeout.Seconds())
	protocol, hash := 0.0, 0.0
	if address := r.address(); address.IsValid() {
		protocol = 6
		if address.Is4() {
			protocol = 4
		}
		digest := fnv.New32a()
		_, _ = digest.Write(address.AsSlice())
		hash = float64(digest.Sum32())
	}
	s.add("probe_dns_lookup_time_seconds", "Returns the time taken for probe dns lookup in seconds", r.outcome.GetTimings().GetResolve().AsDuration().Seconds())
	s.add("probe_ip_protocol", "Specifies whether probe ip protocol is IP4 or IP6", protocol)
	s.add("probe_ip_addr_hash", "Specifies the hash of IP address. It's useful to detect if the IP address changes.", hash)
	if r.module.dns != nil {
		r.ofDNS(s)
	} else {
		r.ofTCP(s)
	}
	r.ofTLS(s)
	if !r.success {
		reason, phase, layer := r.failure()
		s.add("probe_failure_info", "Why the probe failed, as a reason of a closed list", 1, "reason", reason, "phase", phase, "layer", layer)
	}
	return s
}

func truth(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}

func (r *Result) ofTCP(s *series) {
	t := r.outcome.GetTimings()
	resolve, connect, tls := t.GetResolve().AsDuration(), t.GetConnect().AsDuration(), t.GetTls().AsDuration()
	talk := time.Duration(0)
	if len(r.module.steps) > 0 && (r.outcome.GetOk() || r.outcome.FailedStep != nil) { // else it did not get to the first of them
		talk = t.GetTotal().AsDuration() - resolve - connect - tls
	}
	s.phases("probe_tcp_duration_seconds", "Duration of TCP probe by phase", map[string]time.Duration{
		"resolve": resolve, "connect": connect, "tls": tls, "query_response": talk,
	})
	failed := r.failedStep()
	s.add("probe_failed_due_to_regex", "Indicates if probe failed due to regex", truth(failed != nil && failed.expression != nil && r.mismatched()))
	if r.module.expects {
		s.add("probe_failed_due_to_bytes", "Indicates if probe failed due to bytes", truth(failed != nil && failed.bytes && r.mismatched()))
	}
	if failed != nil {
		s.add("probe_failed_query_response_index", "Index, from 0, of the entry of query_response that the probe failed at", float64(failed.entry))
	}
	for _, match := range r.outcome.GetMatches() {
		if i := int(match.GetStep()); i < len(r.module.steps) && len(r.module.steps[i].labels) > 0 {
			s.add("probe_expect_info", "Explicit content matched", 1, r.module.steps[i].expanded(match.GetGroups())...)
		}
	}
}

// failedStep is the one at which a probe by TCP failed; nil: none.
func (r *Result) failedStep() *step {
	if i := int(r.outcome.GetFailedStep()); r.outcome != nil && r.outcome.FailedStep != nil && i < len(r.module.steps) {
		return &r.module.steps[i]
	}
	return nil
}

// mismatched tells whether what a step expected did not come although the peer has said all it had to say. That it was not
// given the time is another failure.
func (r *Result) mismatched() bool {
	switch r.outcome.GetReason() {
	case probev1.Reason_REASON_EXPECT_FAILED, probev1.Reason_REASON_PEER_CLOSED_EARLY:
		return r.outcome.GetEndedBy() != probev1.EndedBy_ENDED_BY_DEADLINE
	default:
		return false
	}
}

// expanded are the labels of a step, names and values in turn, with what its groups matched.
func (s *step) expanded(groups [][]byte) (labels []string) {
	// Expand wants them as places in one text.
	var text []byte
	var places []int
	for _, group := range groups {
		places = append(places, len(text), len(text)+len(group))
		text = append(text, group...)
	}
	for _, label := range s.labels {
		labels = append(labels, label.GetName(), string(s.expression.Expand(nil, []byte(label.GetValue()), text, places)))
	}
	return labels
}

// ofTLS tells of the certificates, also of those that were not accepted.
func (r *Result) ofTLS(s *series) {
	info := r.outcome.GetTls()
	chain := info.GetChain()
	if len(chain) == 0 {
		return
	}
	earliest := int64(math.MaxInt64)
	for _, certificate := range chain {
		earliest = min(earliest, certificate.GetNotAfter().GetSeconds())
	}
	s.add("probe_ssl_earliest_cert_expiry", "Returns last SSL chain expiry in unixtime", float64(earliest))
	s.add("probe_tls_version_info", "Returns the TLS version used or NaN when unknown", 1, "version", info.GetVersion())
	s.add("probe_tls_cipher_info", "Returns the TLS cipher negotiated during handshake", 1, "cipher", info.GetCipher())
	switch {
	case r.module.tls.GetInsecureSkipVerify(): // who verifies nothing has no chain, which the zero time says
		s.add("probe_ssl_last_chain_expiry_timestamp_seconds", "Returns last SSL chain expiry in timestamp", float64(time.Time{}.Unix()))
	case info.GetVerified():
		s.add("probe_ssl_last_chain_expiry_timestamp_seconds", "Returns last SSL chain expiry in timestamp", float64(info.GetVerifiedUntil().GetSeconds()))
	}
	leaf := chain[0]
	s.add("probe_ssl_last_chain_info", "Contains SSL leaf certificate information", 1,
		"fingerprint_sha256", leaf.GetSha256(), "subject", leaf.GetSubject(), "issuer", leaf.GetIssuer(),
		"subjectalternative", strings.Join(leaf.GetDnsNames(), ","), "serialnumber", leaf.GetSerialNumber())
}

func (r *Result) ofDNS(s *series) {
	t := r.outcome.GetTimings()
	request := time.Duration(0)
	if r.sent > 0 {
		end := r.answered
		if end < r.sent { // there was none
			end = t.GetTotal().AsDuration()
		}
		request = end - r.sent
	}
	s.phases("probe_dns_duration_seconds", "Duration of DNS request by phase", map[string]time.Duration{
		"resolve": t.GetResolve().AsDuration(), "connect": t.GetConnect().AsDuration() + t.GetTls().AsDuration(), "request": request,
	})
	answer := r.answer
	if answer == nil {
		answer = new(dns.Msg)
	}
	s.add("probe_dns_answer_rrs", "Returns number of entries in the answer resource record list", float64(len(answer.Answer)))
	s.add("probe_dns_authority_rrs", "Returns number of entries in the authority resource record list", float64(len(answer.Ns)))
	s.add("probe_dns_additional_rrs", "Returns number of entries in the additional resource record list", float64(len(answer.Extra)))
	s.add("probe_dns_query_succeeded", "Displays whether or not the query was executed successfully", truth(r.answer != nil))
	if r.answer != nil && r.module.dns.qtype == dns.TypeSOA {
		serial := uint32(0)
		for _, record := range answer.Answer {
			if soa, ok := record.(*dns.SOA); ok {
				serial = soa.Serial
			}
		}
		s.add("probe_dns_serial", "Returns the serial number of the zone", float64(serial))
	}
}

// Debug writes all there is to know of the probe, for a person.
func (r *Result) Debug(w io.Writer) error {
	fmt.Fprintf(w, "Logs for the probe:\nmodule=%q target=%q timeout=%v\n", r.module.name, r.target, r.timeout)
	for _, event := range r.events {
		fmt.Fprintln(w, event)
	}
	fmt.Fprintln(w, compact(r.outcome))
	if r.answer != nil {
		fmt.Fprintf(w, "%q\n", r.answer.String())
	}
	switch {
	case r.success:
		fmt.Fprintln(w, "the probe succeeded")
	case r.judged != nil:
		fmt.Fprintf(w, "the probe failed: %v\n", r.judged)
	default:
		reason, phase, _ := r.failure()
		fmt.Fprintf(w, "the probe failed in %s, %s: %s\n%s\n", phase, reason, printable(r.outcome.GetError()), r.outcome.GetHint())
	}
	fmt.Fprint(w, "\n\n\nMetrics that would have been returned:\n")
	gatherer, err := r.Gatherer()
	if err != nil {
		return err
	}
	families, err := gatherer.Gather()
	if err != nil {
		return err
	}
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(w, family); err != nil {
			return err
		}
	}
	text, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(withoutSecrets(r.module.config))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n\n\nModule configuration, without what it sends and its secrets:\n%s\n", text)
	return err
}

// hidden stands for what is not shown.
const hidden = "<hidden>"

// withoutSecrets is a module that may be shown to who probes with it: what it sends, who it says that it is, and where the
// files are, is the operator's alone.
func withoutSecrets(config *configv1.Module) *configv1.Module {
	shown := proto.CloneOf(config)
	for _, entry := range shown.GetTcp().GetQueryResponse() {
		entry.Send = nil
	}
	for _, tls := range []*configv1.ModuleTls{shown.GetTcp().GetTlsConfig(), shown.GetDns().GetTlsConfig()} {
		if tls == nil {
			continue
		}
		for _, text := range []*string{&tls.Cert, &tls.Key, &tls.CaFile, &tls.CertFile, &tls.KeyFile} {
			if *text != "" {
				*text = hidden
			}
		}
	}
	return shown
}
