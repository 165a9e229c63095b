package policy

import (
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// naive evaluates one listener, one exact lift, and roles.
func (x trial) naive(roles []Role) string {
	switch x.network {
	default:
		return "deny-unparsable"
	case "unix", "unixgram", "unixpacket":
		switch {
		case !regexp.MustCompile(`^(/[^/\x00]+)+$`).MatchString(latin(x.path)), regexp.MustCompile(`/\.\.?(/|$)`).MatchString(latin(x.path)):
			return "deny-unix-path"
		case x.has(flagOpen) && x.path == "/run/open.sock":
			return "allow-unix-path"
		case x.has(flagOpen):
			return "deny-unix-path"
		}
		return x.naiveRoles(roles, "connect", []string{""}, func(rule Rule, _ string) bool {
			return naiveNetwork(rule, x.network) && len(rule.Hosts)+len(rule.Prefixes)+len(rule.Ports) == 0 && naivePath(rule, x.path)
		})
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	case "icmp", "icmp4", "icmp6":
	}
	if len(x.target) != 4 && len(x.target) != 16 {
		return "deny-unparsable"
	}
	all := naiveReadings(x.target)
	for _, a := range all {
		if x.port != 8080 {
			break
		}
		l := digits(x.listener)
		wild := l == "00000000" || l == strings.Repeat("0", 32) || len(x.listener) != 4 && len(x.listener) != 16
		if a == l || naiveClass(a) == "unspecified" || wild && (naiveClass(a) == "loopback" || naiveLocal(a)) {
			return "deny-own-listener"
		}
	}
	for _, a := range all {
		class := naiveClass(a)
		switch {
		case class == "":
		case x.has(flagLoopback) && (class == "loopback" || class == "unspecified"):
		case (len(x.lift) == 4 || len(x.lift) == 16) && digits(x.lift) == a:
		default:
			return "deny-" + class
		}
	}
	if x.has(flagOpen) {
		return "allow-all"
	}
	return x.naiveRoles(roles, "connect", all, func(rule Rule, a string) bool {
		family := map[int]string{8: "4", 32: "6"}[len(a)]
		transport := regexp.MustCompile("^(tcp|udp|icmp)").FindString(x.network)
		return naiveNetwork(rule, transport, transport+family) && naiveHost(rule, x.host) && naivePrefix(rule, a) &&
			(transport == "icmp" && len(rule.Ports) == 0 || transport != "icmp" && naivePort(rule, x.port)) && len(rule.UnixPaths) == 0
	})
}

func (x trial) naiveName(roles []Role) string {
	if x.has(flagOpen) {
		return "allow-all"
	}
	return x.naiveRoles(roles, "resolve", []string{""}, func(rule Rule, _ string) bool {
		return naiveHost(rule, x.host) && len(rule.UnixPaths) == 0
	})
}

func (x trial) naiveAddress(roles []Role) string {
	switch {
	case len(x.target) != 4 && len(x.target) != 16:
		return "deny-unparsable"
	case x.has(flagOpen):
		return "allow-all"
	}
	return x.naiveRoles(roles, "resolve", naiveReadings(x.target), func(rule Rule, a string) bool {
		return len(rule.Hosts)+len(rule.UnixPaths) == 0 && naivePrefix(rule, a)
	})
}

// naiveRoles finds a rule for each of the readings, and returns that for the first.
func (x trial) naiveRoles(roles []Role, verb string, readings []string, matches func(Rule, string) bool) string {
	needed := []string{verb}
	if verb == "connect" && x.has(flagSend) {
		needed = append(needed, "send")
	}
	if verb == "connect" && x.has(flagSkip) {
		needed = append(needed, "skip-verify")
	}
	var found []string
	for _, reading := range readings {
		for _, role := range roles {
			in := false
			for _, pattern := range role.Subjects {
				expression := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(latin(pattern)), `\*`, ".*") + "$"
				in = in || x.subject != "" && regexp.MustCompile(expression).MatchString(latin(x.subject))
			}
			for _, rule := range role.Rules {
				grants := in && matches(rule, reading)
				for _, verb := range needed {
					grants = grants && strings.Contains(","+rule.Verbs.String()+",", ","+verb+",")
				}
				if grants {
					found = append(found, reading+" "+role.Name+"/"+rule.Name)
				}
			}
		}
	}
	for _, reading := range readings {
		if !strings.Contains("\n"+strings.Join(found, "\n"), "\n"+reading+" ") {
			return "deny-default"
		}
	}
	_, rule, _ := strings.Cut(found[0], " ")
	return rule
}

// latin makes a character of each byte, since expressions work on characters.
func latin(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

func naiveNetwork(rule Rule, names ...string) bool {
	for _, network := range rule.Networks {
		if slices.Contains(names, network) {
			return true
		}
	}
	return len(rule.Networks) == 0
}

func naiveHost(rule Rule, host string) bool {
	if len(rule.Hosts) == 0 {
		return true
	}
	lower := func(s string) string {
		return strings.Map(func(r rune) rune {
			if i := strings.IndexRune("ABCDEFGHIJKLMNOPQRSTUVWXYZ", r); i >= 0 {
				return rune("abcdefghijklmnopqrstuvwxyz"[i])
			}
			return r
		}, s)
	}
	const label = `[A-Za-z0-9_-]+`
	plain := regexp.MustCompile(`^(` + label + `)(\.` + label + `)*\.?$`).MatchString(host)
	name := lower(strings.TrimSuffix(host, "."))
	for _, pattern := range rule.Hosts {
		if pattern == "*" && host != "" {
			return true
		}
		expression := "^" + regexp.QuoteMeta(lower(latin(strings.TrimSuffix(pattern, ".")))) + "$"
		expression = strings.Replace(expression, `^\*\.`, `^(`+label+`\.)+`, 1)
		if plain && regexp.MustCompile(expression).MatchString(name) {
			return true
		}
	}
	return false
}

func naivePrefix(rule Rule, a string) bool {
	if len(rule.Prefixes) == 0 {
		return true
	}
	binary := func(hexDigits string) string {
		var b strings.Builder
		for _, d := range hexDigits {
			n, _ := strconv.ParseUint(string(d), 16, 8)
			fmt.Fprintf(&b, "%04b", n)
		}
		return b.String()
	}
	for _, p := range rule.Prefixes {
		if !p.IsValid() {
			continue
		}
		whole, bits := binary(hex.EncodeToString(p.Addr().AsSlice())), p.Bits()
		if mapped := strings.Repeat("0", 80) + strings.Repeat("1", 16); len(whole) == 128 && bits >= 96 && whole[:96] == mapped {
			whole, bits = whole[96:], bits-96
		}
		if digits := binary(a); len(digits) == len(whole) && digits[:bits] == whole[:bits] && (bits == 0 || naiveClass(a) != "unspecified") {
			return true
		}
	}
	return false
}

func naivePort(rule Rule, port uint16) bool {
	for _, r := range rule.Ports {
		for p := int(r.First); p <= int(r.Last); p++ {
			if p == int(port) {
				return true
			}
		}
	}
	return len(rule.Ports) == 0
}

func naivePath(rule Rule, path string) bool {
	i := strings.LastIndex(path, "/")
	for _, listed := range rule.UnixPaths {
		if listed == path || listed == path[:i]+"/*" {
			return true
		}
	}
	return false
}

// naiveReadings is what an address may turn out to be, as 8 or 32 digits each.
func naiveReadings(address []byte) []string {
	x := digits(address)
	if len(x) == 32 {
		return append([]string{x}, naiveEmbedded(x)...)
	}
	return []string{x}
}

// digits gives an address as hexadecimal digits, an IPv4-mapped one as IPv4.
func digits(b []byte) string {
	return strings.TrimPrefix(hex.EncodeToString(b), "00000000000000000000ffff")
}

func naiveEmbedded(x string) []string {
	var found []string
	last := x[24:]
	zeros := strings.Repeat("0", 31)
	switch {
	case x[:31] == zeros && (x[31] == '0' || x[31] == '1'):
	case x[:24] == zeros[:24], x[:24] == "0000000000000000ffff0000", x[:24] == "0064ff9b0000000000000000":
		found = append(found, last)
	case x[:12] == "0064ff9b0001":
		rest := x[12:]
		for _, at := range []string{
			rest[0:4] + rest[6:10], // after 48 bits, around the reserved octet
			rest[2:4] + rest[6:12], // after 56
			rest[6:14],             // after 64
			rest[12:20],            // after 96
		} {
			if at[:2] != "00" {
				found = append(found, at)
			}
		}
		if found == nil {
			found = append(found, last)
		}
	case x[:4] == "2002":
		found = append(found, x[4:12])
	case x[:8] == "20010000":
		inverted := ""
		for _, d := range last {
			inverted += string("fedcba9876543210"[strings.IndexRune("0123456789abcdef", d)])
		}
		found = append(found, x[8:16], inverted)
	}
	if id := x[16:24]; id == "00005efe" || id == "02005efe" {
		found = append(found, last)
	}
	return found
}

func naiveClass(x string) string {
	has := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(x, p) {
				return true
			}
		}
		return false
	}
	if len(x) == 8 {
		switch {
		case has("00"):
			return "unspecified"
		case has("7f"):
			return "loopback"
		case has("a9fea9fe", "a83f8110", "646464c8"):
			return "metadata"
		case has("a9fe"):
			return "link-local"
		case has("e"):
			return "multicast"
		case has("ffffffff"):
			return "broadcast"
		}
		return ""
	}
	switch {
	case x == strings.Repeat("0", 32):
		return "unspecified"
	case x == strings.Repeat("0", 31)+"1":
		return "loopback"
	case has("fd000ec2000000000000000000000254", "fd000ec2000000000000000000000023", "fd2000ce000000000000000000000254"):
		return "metadata"
	case has("fe8", "fe9", "fea", "feb"):
		return "link-local"
	case has("ff"):
		return "multicast"
	}
	return ""
}

func naiveLocal(x string) bool {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if digits(a.(*net.IPNet).IP.To16()) == x {
			return true
		}
	}
	return false
}
