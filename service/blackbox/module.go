// Package blackbox answers Prometheus as blackbox_exporter does: a module of its configuration and a target in, series with
// its names, labels and meanings out, and beside them what it does not tell: the phases of a probe by TCP, and why one failed.
//
// A module becomes one call of the contract ([Module.Probe]): a connection (Connect) or an exchange with steps (Exchange), of
// which the outcome is read. So nothing is dialled here, and who may reach what, how much of it, and what is written down is
// decided where it is for every other call.
//
// [New] reads a module, and says what in it cannot be done. What differs from blackbox_exporter stands in docs/blackbox.md.
package blackbox

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	configv1 "probed/gen/probe/config/v1"
	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
)

const (
	// mostEntries of a query_response make fewer steps than an exchange may have.
	mostEntries = 64
	// mostExpression, mostBytes and mostSent are what the contract takes.
	mostExpression = 4096
	mostBytes      = 65536
	mostSent       = 1 << 20
	mostName       = 255
)

// Modules are those of a configuration, by name.
type Modules map[string]*Module

// Module is one way to probe. It is not changed once it is made.
type Module struct {
	name    string
	config  *configv1.Module
	broken  bool // it cannot be used
	timeout time.Duration

	family   probev1.AddressFamily // whose addresses are taken
	fallback bool                  // to the other family
	source   string
	tls      *probev1.TlsOptions // nil: as the defaults say
	secured  bool                // from the beginning

	steps   []step // by TCP
	expects bool   // series about bytes that were expected are told
	dns     *question
}

// step is one of an exchange.
type step struct {
	message    *probev1.Step
	entry      int            // of query_response
	expression *regexp.Regexp // that it expects; nil: none
	labels     []*configv1.ExpectLabel
	bytes      bool // it expects bytes
}

// TLSFiles are what the files say that a module names, each in PEM, empty where it names none.
type TLSFiles struct {
	CA, Certificate, Key string
	// Err is why one of them could not be read; nil: all could. The module is there, and a probe with it fails.
	Err error
}

// Problem is something in a module that is wrong, or cannot be done here.
type Problem struct {
	Field string // below the module, as tcp.query_response[0].expect
	Text  string
}

// probers are those of blackbox_exporter; true: they are served.
var probers = map[string]bool{"tcp": true, "dns": true, "http": false, "icmp": false, "grpc": false, "unix": false, "websocket": false}

// Served tells whether probed does what the module asks for.
func (m *Module) Served() bool { return probers[m.config.GetProber()] }

// maker makes a module, and notes what is wrong with it.
type maker struct {
	*Module
	problems []Problem
}

func (m *maker) wrong(field, format string, args ...any) {
	m.problems = append(m.problems, Problem{field, fmt.Sprintf(format, args...)})
}

// New makes a module of its configuration, which it keeps and does not change. Where there are problems it is not to be used.
func New(name string, config *configv1.Module, files TLSFiles) (*Module, []Problem) {
	m := &maker{Module: &Module{name: name, config: config, timeout: config.GetTimeout().AsDuration(), broken: files.Err != nil}}
	if m.timeout < 0 {
		m.wrong("timeout", "it is less than nothing")
	}
	served, known := probers[config.GetProber()]
	switch {
	case !known:
		m.wrong("prober", "it is one of %s", strings.Join(slices.Sorted(maps.Keys(probers)), ", "))
	case !served:
	case config.GetProber() == "tcp":
		m.tcp(config.GetTcp(), files)
	default:
		m.ofDNS(config.GetDns(), files)
	}
	return m.Module, m.problems
}

// addresses is what the probers have in common.
type addresses interface {
	GetPreferredIpProtocol() string
	GetSourceIpAddress() string
}

func (m *maker) addresses(prober string, c addresses, fallback *bool) {
	switch c.GetPreferredIpProtocol() {
	case "", "ip6":
		m.family = probev1.AddressFamily_AF_INET6
	case "ip4":
		m.family = probev1.AddressFamily_AF_INET
	default:
		m.wrong(prober+".preferred_ip_protocol", "it is ip4 or ip6")
	}
	m.fallback = fallback == nil || *fallback
	if m.source = c.GetSourceIpAddress(); m.source != "" {
		if _, err := netip.ParseAddr(m.source); err != nil {
			m.wrong(prober+".source_ip_address", "it is no address")
		}
	}
}

// versions are those of TLS, as Prometheus calls them.
var versions = map[string]probev1.TlsVersion{
	"": 0, "TLS10": probev1.TlsVersion_TLS_VERSION_1_0, "TLS11": probev1.TlsVersion_TLS_VERSION_1_1,
	"TLS12": probev1.TlsVersion_TLS_VERSION_1_2, "TLS13": probev1.TlsVersion_TLS_VERSION_1_3,
}

func (m *maker) tlsOptions(field string, c *configv1.ModuleTls, files TLSFiles) {
	if c == nil {
		return
	}
	m.tls = &probev1.TlsOptions{ServerName: c.GetServerName(), InsecureSkipVerify: c.GetInsecureSkipVerify()}
	if len(c.GetServerName()) > mostName || strings.ContainsFunc(c.GetServerName(), func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		m.wrong(field+".server_name", "it is no name")
	}
	for _, one := range []struct {
		name, text, file, content string
		into                      *string
	}{
		{"ca", c.GetCa(), c.GetCaFile(), files.CA, &m.tls.CaBundle},
		{"cert", c.GetCert(), c.GetCertFile(), files.Certificate, &m.tls.Certificate},
		{"key", c.GetKey(), c.GetKeyFile(), files.Key, &m.tls.PrivateKey},
	} {
		if one.text != "" && one.file != "" {
			m.wrong(field+"."+one.name, "it and %s_file exclude each other", one.name)
		}
		*one.into = one.text + one.content
	}
	if c.GetCa() != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.GetCa())) {
		m.wrong(field+".ca", "there is no certificate in it, in PEM")
	}
	hasCertificate, hasKey := c.GetCert()+c.GetCertFile() != "", c.GetKey()+c.GetKeyFile() != ""
	if hasCertificate != hasKey {
		m.wrong(field, "a client's certificate goes with its key: one of the two is missing")
	}
	if c.GetCert() != "" && c.GetKey() != "" {
		if _, err := tls.X509KeyPair([]byte(c.GetCert()), []byte(c.GetKey())); err != nil {
			m.wrong(field+".cert", "it and its key cannot be used: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	var known bool
	if m.tls.MinVersion, known = versions[c.GetMinVersion()]; !known {
		m.wrong(field+".min_version", "it is one of TLS10, TLS11, TLS12, TLS13")
	}
	if m.tls.MaxVersion, known = versions[c.GetMaxVersion()]; !known {
		m.wrong(field+".max_version", "it is one of TLS10, TLS11, TLS12, TLS13")
	}
	least := m.tls.GetMinVersion()
	if least == 0 {
		least = probev1.TlsVersion_TLS_VERSION_1_2
	}
	if most := m.tls.GetMaxVersion(); most != 0 && most < least {
		m.wrong(field+".max_version", "it is below the lowest version, which is TLS12 unless min_version says")
	}
}

func (m *maker) tcp(c *configv1.TcpModule, files TLSFiles) {
	m.addresses("tcp", c, optional(c, func(c *configv1.TcpModule) *bool { return c.IpProtocolFallback }))
	m.tlsOptions("tcp.tls_config", c.GetTlsConfig(), files)
	m.secured = c.GetTls()
	if len(c.GetQueryResponse()) > mostEntries {
		m.wrong("tcp.query_response", "it has more than %d entries", mostEntries)
		return
	}
	secured := m.secured
	for i, entry := range c.GetQueryResponse() {
		field := fmt.Sprintf("tcp.query_response[%d]", i)
		m.entry(field, i, entry)
		if entry.GetStarttls() {
			if secured {
				m.wrong(field+".starttls", "TLS is spoken already")
			}
			secured = true
			m.step(step{entry: i, message: &probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{}}}})
		}
	}
	if !secured {
		m.tls = nil // what is said of TLS that nobody speaks, blackbox_exporter passes by as well
	}
}

func optional[T any](c *T, get func(*T) *bool) *bool {
	if c == nil {
		return nil
	}
	return get(c)
}

func (m *maker) step(s step) { m.steps = append(m.steps, s) }

// entry is what an entry of query_response expects and sends.
func (m *maker) entry(field string, i int, c *configv1.QueryResponse) {
	var expression *regexp.Regexp
	if text := c.GetExpect(); text != "" {
		var err error
		if expression, err = exchange.CompileExpect(text); err == nil && len(text) > mostExpression {
			err = fmt.Errorf("it has more than %d bytes", mostExpression)
		}
		if err != nil {
			m.wrong(field+".expect", "%v", err)
			return
		}
		m.step(step{
			entry: i, expression: expression, labels: c.GetLabels(),
			message: &probev1.Step{Step: &probev1.Step_Expect{Expect: &probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: text}}}},
		})
		m.labels(field, c.GetLabels())
	}
	if data := c.GetExpectBytes(); len(data) > 0 {
		switch {
		case c.GetExpect() != "":
			m.wrong(field+".expect_bytes", "it and expect exclude each other")
		case len(data) > mostBytes:
			m.wrong(field+".expect_bytes", "it has more than %d bytes", mostBytes)
		}
		m.expects = true
		m.step(step{
			entry: i, bytes: true,
			message: &probev1.Step{Step: &probev1.Step_Expect{Expect: &probev1.Expect{Pattern: &probev1.Expect_Data{Data: data}}}},
		})
	}
	data := c.GetSend()
	if len(data) == 0 {
		return
	}
	if len(data) >= mostSent {
		m.wrong(field+".send", "it has more than %d bytes with the newline behind it", mostSent)
		return
	}
	send := &probev1.Send{Content: &probev1.Send_Data{Data: append(slices.Clone(data), '\n')}}
	if expression != nil {
		var err error
		if send, err = sendOf(string(data)+"\n", expression); err != nil {
			m.wrong(field+".send", "%v", err)
			return
		}
	}
	m.step(step{entry: i, message: &probev1.Step{Step: &probev1.Step_Send{Send: send}}})
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (m *maker) labels(field string, labels []*configv1.ExpectLabel) {
	seen := make(map[string]bool)
	for i, label := range labels {
		switch name := label.GetName(); {
		case !labelName.MatchString(name) || strings.HasPrefix(name, "__"):
			m.wrong(fmt.Sprintf("%s.labels[%d].name", field, i), "it is no name of a label")
		case seen[name]:
			m.wrong(fmt.Sprintf("%s.labels[%d].name", field, i), "there is a label of that name already")
		}
		seen[label.GetName()] = true
	}
}

var (
	errNotUTF8 = errors.New("behind expect it is a text, which is UTF-8")
	errLiteral = errors.New("behind expect a literal ${…} cannot be sent")
)

// sendOf is the step that sends a template of [regexp.Regexp.Expand], of which the contract knows ${name} alone.
func sendOf(template string, expression *regexp.Regexp) (*probev1.Send, error) {
	var text, literal strings.Builder
	references := 0
	flush := func() error {
		defer literal.Reset()
		if reference.MatchString(literal.String()) {
			return errLiteral
		}
		text.WriteString(literal.String())
		return nil
	}
	for template != "" {
		before, rest, found := strings.Cut(template, "$")
		literal.WriteString(before)
		if !found {
			break
		}
		template = rest
		if strings.HasPrefix(template, "$") {
			template = template[1:]
			literal.WriteByte('$')
			continue
		}
		names := variable.FindStringSubmatch(template)
		if names == nil {
			literal.WriteByte('$')
			continue
		}
		template = template[len(names[0]):]
		if name := names[1] + names[2]; hasGroup(expression, name) {
			if err := flush(); err != nil {
				return nil, err
			}
			text.WriteString("${" + name + "}")
			references++
		}
	}
	plain := literal.String()
	if references == 0 {
		return &probev1.Send{Content: &probev1.Send_Data{Data: []byte(plain)}}, nil
	}
	if err := flush(); err != nil {
		return nil, err
	}
	if !isUTF8(text.String()) {
		return nil, errNotUTF8
	}
	return &probev1.Send{Content: &probev1.Send_Text{Text: text.String()}}, nil
}

var (
	// reference is what the contract takes for a group in a text to send.
	reference = regexp.MustCompile(`\$\{[0-9A-Za-z_]+\}`)
	// variable is what Expand takes for one behind a $. A name of other letters is none that a group can have.
	variable = regexp.MustCompile(`^(?:\{([0-9\pL\p{Nd}_]+)\}|([0-9\pL\p{Nd}_]+))`)
)

// hasGroup tells whether an expression has a group of a number or a name. Where it has not, Expand puts nothing.
func hasGroup(expression *regexp.Regexp, name string) bool {
	if expression.SubexpIndex(name) >= 0 {
		return true
	}
	for i := range expression.NumSubexp() + 1 {
		if name == fmt.Sprint(i) {
			return true
		}
	}
	return false
}
