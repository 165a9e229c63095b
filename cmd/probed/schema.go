package main

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/policy"
	"probed/service/schema"
)

// schemaOfConfig has the rules that stand on the fields of a configuration.
var schemaOfConfig = schema.New(schema.Expressions{
	Texts: map[string]func(string) bool{
		"echo.url": func(s string) bool {
			return strings.HasPrefix(s, "tcp://") || strings.HasPrefix(s, "udp://") || strings.HasPrefix(s, "unix://")
		},
		"listener.address":          func(s string) bool { return s == "" || isHostAndPort(s) || isHostAndPort("h"+s) },
		"allowed_hosts.name":        isHostname,
		"tls.minimum_version":       oneOf("", "1.2", "1.3"),
		"certificates.subject_from": oneOf("", "first", "uri", "dns", "email", "common-name"),
		"token.name":                func(s string) bool { return isName(s, 128) },
		"token.sha256":              isTokenHash,
		"issuer.name":               func(s string) bool { return s == "" || isName(s, 32) },
		"issuer.name_taken":         func(s string) bool { return s != "mtls" && s != "token" && s != "anonymous" },
		"issuer.url":                isHTTPS,
		"issuer.algorithms":         oneOf("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"),
		"policy.lift": func(s string) bool {
			prefix, err := netip.ParsePrefix(s)
			return err == nil && prefix.IsSingleIP()
		},
		"role.name":       func(s string) bool { return isName(s, 64) },
		"role.operations": oneOf(policy.OperationChannelz),
		"rule.name":       func(s string) bool { return isName(s, 64) },
		"rule.networks":   oneOf("tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "icmp", "icmp4", "icmp6", "unix", "unixgram", "unixpacket"),
		"rule.cidrs": func(s string) bool {
			prefix, err := netip.ParsePrefix(s)
			return err == nil && prefix == prefix.Masked() || schema.IsIP(s)
		},
		"rule.verbs": oneOf("resolve", "connect", "send", "skip-verify"),
	},
	Messages: map[string]func(proto.Message) bool{
		"role.grants": schema.Of(func(r *configv1.Role) bool { return len(r.GetRules())+len(r.GetOperations()) > 0 }),
		"rule.unix_paths": schema.Of(func(r *configv1.Rule) bool {
			return len(r.GetUnixPaths()) == 0 || len(r.GetHosts())+len(r.GetCidrs())+len(r.GetPorts()) == 0
		}),
		"limits.sessions_per_caller":     partOf((*configv1.Limits).GetSessionsPerCaller, func(l *configv1.Limits) *uint32 { return l.Sessions }, 256),
		"limits.calls_per_caller":        partOf((*configv1.Limits).GetCallsPerCaller, func(l *configv1.Limits) *uint32 { return l.Calls }, 1024),
		"limits.connections_per_address": partOf((*configv1.Limits).GetConnectionsPerAddress, func(l *configv1.Limits) *uint32 { return l.Connections }, 512),
		"limits.exchange_timeout": schema.Of(func(l *configv1.Limits) bool {
			return l.GetExchangeTimeout() == nil || l.GetExchangeTimeoutMax() == nil || l.GetExchangeTimeout().AsDuration() <= l.GetExchangeTimeoutMax().AsDuration()
		}),
	},
})

// partOf is a rule about a limit that is part of another one, of which 0 is no limit.
func partOf(of func(*configv1.Limits) uint32, whole func(*configv1.Limits) *uint32, unset uint32) func(proto.Message) bool {
	return schema.Of(func(l *configv1.Limits) bool {
		most := unset
		if set := whole(l); set != nil {
			most = *set
		}
		return whole(l) != nil && most == 0 || of(l) <= most
	})
}

func oneOf(texts ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(texts, s) }
}

// isName tells whether a text is a name of letters, digits, '.', '_' and '-', at most so many.
func isName(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return !isAlphanumeric(r) && r != '.' && r != '_' && r != '-'
	})
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

func isTokenHash(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdefABCDEF") == ""
}

// isHostname tells whether a text is a name of labels of letters, digits and inner hyphens, which is no number (RFC 1123,
// section 2.1), maybe with a dot at its end.
func isHostname(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		last = label
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return !isAlphanumeric(r) && r != '-' }) {
			return false
		}
	}
	return strings.Trim(last, "0123456789") != ""
}

// isHostAndPort tells whether a text is a name or an address, of IPv6 in brackets, and a port.
func isHostAndPort(s string) bool {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || !isPort(s[colon+1:]) {
		return false
	}
	host := s[:colon]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && schema.IsIP(inner) && strings.Contains(inner, ":")
	}
	return isHostname(host) || schema.IsIP(host) && !strings.Contains(host, ":")
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// httpsURL is the form of a URL (RFC 3986, appendix A) that begins with https://, with the address of IPv6 that is its host,
// or the name, in a group of its own.
var httpsURL = sync.OnceValue(func() *regexp.Regexp {
	const (
		unreserved = `A-Za-z0-9._~-`
		delimiters = `!$&'()*+,;=`
		escaped    = `%[0-9A-Fa-f]{2}`
	)
	characters := func(more string) string { return `(?:[` + delimiters + more + unreserved + `]|` + escaped + `)*` }
	return regexp.MustCompile(`^https://(?:` + characters(":") + `@)?` +
		`(?:\[([0-9A-Fa-f:]+)(?:%25(?:[` + unreserved + `]|` + escaped + `)+)?\]|\[v[0-9A-Fa-f]+\.[` + delimiters + `:` + unreserved + `]+\]|(` + characters("") + `))` +
		`(?::[0-9]*)?(?:/` + characters(":@/") + `)?(?:\?` + characters(":@/?") + `)?(?:#` + characters(":@/?") + `)?$`)
})

func isHTTPS(s string) bool {
	parts := httpsURL().FindStringSubmatch(s)
	if parts == nil {
		return false
	}
	name, err := url.PathUnescape(parts[2])
	return err == nil && utf8.ValidString(name) && (parts[1] == "" || schema.IsIP(parts[1]))
}
