package main

import (
	"strings"
	"testing"

	configv1 "probed/gen/probe/config/v1"
	"probed/internal/ruletest"
)

// What the rules of the configuration find is what protovalidate finds.
func TestRulesOfConfig(t *testing.T) {
	t.Parallel()
	hash := "sha256:" + strings.Repeat("0aF", 22)
	label := strings.Repeat("a", 63)
	texts := []string{
		"", "a", "reader", "mtls", "token", "anonymous", "oidc", hash[:71], hash,
		"tcp://", "udp://127.0.0.1:7", "unix:///run/x", "tcp", "tcp4", "udp6", "unixgram", "resolve", "skip-verify", "RS256", "EdDSA", "1.2", "1.3",
		"first", "common-name",
		":50051", "127.0.0.1:50051", "[::1]:50051", "localhost:0", "[fe80::1%lo]:1", "h:65535", "h:65536", "h:080", "[1.2.3.4]:1",
		"[::ffff:192.0.2.1]:1", "a.b.:1", "1.2.3:4", "[::1]", "::1:80", "host", "a-b.example.com.", "a..b", "-a", "a-", "0x1", "1.2", "1.2a",
		label, label + "." + label + "." + label + "." + label[:61], label + "." + label + "." + label + "." + label[:62], label + "a",
		"10.0.0.0/8", "10.0.0.1/8", "192.0.2.7", "192.0.2.7/32", "fd00::/8", "fd00::1/128", "::/0", "fe80::1%lo", "fe80::1%lo/64", "::ffff:192.0.2.1/128",
		"::ffff:192.0.2.0/120", "1.2.3.4/08", "1.2.3.4/33", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "1:2:3:4:5:6:1.2.3.4",
		"https://", "https://a", "https://login.example.com/realms/x?a=b#c", "https://u:p@h:443/", "https://[::1]:8443/x", "https://[::1%25lo]/", "https://[v1.x]/",
		"https://a%20b/", "https://%ff/", "https://h/%zz", "https://h:/", "https:///x", "https://h//x", "https://h/a b", "https://ä/", "http://h",
	}
	ruletest.Compare(t, schemaOfConfig, 3000, texts, new(configv1.GrpcListener), new(configv1.HttpListener), new(configv1.OpsListener), new(configv1.Issuer),
		new(configv1.Token), new(configv1.Rule), new(configv1.Policy), new(configv1.Limits), new(configv1.Config), new(configv1.Tokens))
}
