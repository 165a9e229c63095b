package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// All that is wrong is told, each at its place. FILE stands for the file itself.
func TestConfigFaults(t *testing.T) {
	t.Parallel()
	hash := "sha256:" + strings.Repeat("ab", 32)
	tests := []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{`FILE: it is empty`}},
		{"comments alone", "# nothing\n", []string{`FILE: it is empty`}},
		{"a document without anything", "---\n", []string{`FILE: it is empty`}},
		{"a list", "- a\n", []string{`FILE:1:1: keys are expected here, each with a value`}},
		{"not UTF-8", "audit: {path: \xff}\n", []string{`FILE: it is not UTF-8`}},
		{"an odd end of line", "drain: {}\n# a\rudit: {}\n", []string{`FILE:2: there is a character at which lines end for some programs alone; end lines with a newline`}},
		{"a tab", "drain:\n\tdelay: 5s\n", []string{`FILE:2: there is a tab; YAML is indented with spaces`}},
		{"no YAML", "drain: {delay: 5s\n", []string{`FILE:1: did not find expected ',' or '}'`}},
		{"a second document", "drain: {delay: 5s}\n---\ndrain: {}\n", []string{`FILE:2:1: a second document begins; there is one to a file`}},
		{"a key twice", "drain:\n  delay: 5s\n  timeout: 1s\n  delay: 6s\n", []string{`FILE:4:3: drain.delay: the key stands twice; first in line 2`}},
		{"a key in both spellings", "limits:\n  dialTimeout: 5s\n  dial_timeout: 6s\n", []string{`FILE:3:3: limits.dial_timeout: the key stands twice; first in line 2`}},
		{"an unknown key", "policy:\n  rolez: []\n", []string{`FILE:2:3: policy.rolez: there is no such key; there are lift, roles`}},
		{"a key by its number", "1: {}\n", []string{`FILE:1:1: 1: there is no such key; there are listeners, auth, policy, limits, drain, audit, modules`}},
		{"a key without a value", "listeners:\n  grpc:\n    address:\n", []string{`FILE:3:5: listeners.grpc.address: there is no value; leave the key out or give it one`}},
		{"an alias", "listeners:\n  grpc: &a {address: ':1'}\n  ops: *a\n", []string{`FILE:3:8: listeners.ops: aliases are not read: write it out`}},
		{"a mapping for a list", "policy:\n  roles:\n    reader: {}\n", []string{`FILE:3:5: policy.roles: a list is expected here`}},
		{"a list for a word", "audit:\n  path: [a]\n", []string{`FILE:2:9: audit.path: a single value is expected here`}},
		{"a duration without a unit", "limits:\n  dial_timeout: 10\n", []string{`FILE:2:17: limits.dial_timeout: it is a duration, as 250ms, 5s or 1m30s`}},
		{"a negative number", "limits:\n  sessions: -1\n", []string{`FILE:2:13: limits.sessions: it is a whole number; bytes also as 64Ki, 1Mi, 1Gi`}},
		{"numbers out of range", "limits:\n  sessions: 1000001\n  streams_per_connection: 0\n  message_bytes: 1Gi\n  dial_timeout: 0s\n  exchange_timeout_max: 11m\n  conversation_idle: -5s\n", []string{
			`FILE:2:13: limits.sessions: must be less than or equal to 1000000`,
			`FILE:3:27: limits.streams_per_connection: must be greater than or equal to 1 and less than or equal to 100000`,
			`FILE:4:18: limits.message_bytes: must be greater than or equal to 1024 and less than or equal to 67108864`,
			`FILE:5:17: limits.dial_timeout: must be greater than or equal to 0.001s and less than or equal to 600s`,
			`FILE:6:25: limits.exchange_timeout_max: must be greater than or equal to 0.001s and less than or equal to 600s`,
			`FILE:7:22: limits.conversation_idle: must be greater than or equal to 0.001s and less than or equal to 600s`,
		}},
		{"shares of less", "limits:\n  sessions_per_caller: 257\n", []string{`FILE:2:3: limits: sessions_per_caller is more than sessions, which is 256 unless set`}},
		{"a share of more calls", "limits:\n  calls_per_caller: 1025\n", []string{`FILE:2:3: limits: calls_per_caller is more than calls, which is 1024 unless set`}},
		{"shares and times", "limits: {sessions: 5, sessions_per_caller: 6, calls: 5, calls_per_caller: 6, connections: 7, connections_per_address: 8, exchange_timeout: 2s, exchange_timeout_max: 1s}\n", []string{
			`FILE:1:9: limits: sessions_per_caller is more than sessions, which is 256 unless set`,
			`FILE:1:9: limits: calls_per_caller is more than calls, which is 1024 unless set`,
			`FILE:1:9: limits: connections_per_address is more than connections, which is 512 unless set`,
			`FILE:1:9: limits: exchange_timeout is longer than exchange_timeout_max`,
		}},
		{"addresses", "listeners:\n  grpc: {address: 127.0.0.1}\n  http: {address: '::1:80', allowed_hosts: ['a:80']}\n  ops: {address: ':x'}\n  echo: [127.0.0.1:7, 'tcp://']\n", []string{
			`FILE:2:19: listeners.grpc.address: an address is HOST:PORT, as 127.0.0.1:50051, [::1]:50051, or :50051 for every address of this host`,
			`FILE:3:19: listeners.http.address: an address is HOST:PORT, as 127.0.0.1:8080, [::1]:8080, or :8080 for every address of this host`,
			`FILE:3:45: listeners.http.allowed_hosts[0]: an allowed host is a name without a port, as probed.example.com`,
			`FILE:4:18: listeners.ops.address: an address is HOST:PORT, as 127.0.0.1:9464, [::1]:9464, or :9464 for every address of this host`,
			`FILE:5:10: listeners.echo[0]: an echo listener is tcp://HOST:PORT, udp://HOST:PORT or unix://PATH`,
			`FILE:5:23: listeners.echo[1]: "tcp://" is not tcp://HOST:PORT, udp://HOST:PORT or unix://PATH: missing port in address`,
		}},
		{"TLS", "listeners:\n  grpc:\n    tls: {certificate_file: tls.crt}\n  http:\n    tls:\n", []string{
			`FILE:3:10: listeners.grpc.tls.key_file: value is required`,
			`FILE:5:9: listeners.http.tls.certificate_file: value is required`,
			`FILE:5:9: listeners.http.tls.key_file: value is required`,
		}},
		{"files of TLS", `
listeners:
  grpc:
    tls:
      certificate_file: tls.crt
      key_file: other.key
      client_ca_file: empty.crt
      minimum_version: "1.1"
  http:
    tls:
      certificate_file: broken.crt
      key_file: tls.key
auth: {certificates: {subject_from: cn}}
`, []string{
			`FILE:6:17: listeners.grpc.tls.key_file: DIR/other.key: it is not the key of the certificate in DIR/tls.crt`,
			`FILE:7:23: listeners.grpc.tls.client_ca_file: DIR/empty.crt: there is no certificate in PEM in it`,
			`FILE:8:24: listeners.grpc.tls.minimum_version: the oldest version is "1.2" or "1.3"`,
			`FILE:11:25: listeners.http.tls.certificate_file: DIR/broken.crt: certificate 1: x509: malformed certificate`,
			`FILE:13:37: auth.certificates.subject_from: the name stands in "uri", "dns", "email" or "common-name", or "first" of these`,
		}},
		{"files of TLS that are not there", `
listeners:
  grpc: {tls: {certificate_file: none.crt, key_file: tls.key, client_ca_file: tls.crt}}
  http: {tls: {certificate_file: tls.crt, key_file: .}}
  ops: {}
`, []string{
			`FILE:3:34: listeners.grpc.tls.certificate_file: DIR/none.crt: no such file or directory`,
			`FILE:3:79: listeners.grpc.tls.client_ca_file: it is for auth.certificates, which is not there: no caller would be asked for a certificate`,
			`FILE:4:53: listeners.http.tls.key_file: DIR: it is a directory`,
		}},
		{"no key", "listeners: {grpc: {tls: {certificate_file: tls.crt, key_file: tls.crt}}}\n", []string{
			`FILE:1:63: listeners.grpc.tls.key_file: DIR/tls.crt: it is no private key in PEM`,
		}},
		{"tokens", `
auth:
  tokens:
    - {name: ci, sha256: ` + hash + `}
    - {name: cd, sha256: sha256:` + strings.Repeat("AB", 32) + `}
    - {sha256: probed_secret, expires: tomorrow}
  tokens_file: bad-tokens.yaml
`, []string{
			`FILE:5:26: auth.tokens[1].sha256: "` + hash + `" stands twice, first as auth.tokens[0].sha256 in line 4`,
			`FILE:6:7: auth.tokens[2].name: a token has a name of letters, digits, '.', '_' and '-', at most 128`,
			`FILE:6:16: auth.tokens[2].sha256: a token stands here as sha256: and 64 hexadecimal digits; probed new-token makes one`,
			`FILE:6:40: auth.tokens[2].expires: it is a time, as 2027-01-31T00:00:00Z (RFC 3339)`,
			`DIR/bad-tokens.yaml:2:11: tokens[0].name: a token has a name of letters, digits, '.', '_' and '-', at most 128`,
		}},
		{"a file of tokens that is not there", "auth: {tokens_file: none.yaml}\n", []string{`DIR/none.yaml: no such file or directory`}},
		{"issuers", `
auth:
  issuers:
    - {url: "http://login.example.com", audience: probed}
    - {url: "https://login.example.com", ca_file: none.crt, bearer_token_file: two-words, algorithms: [HS256]}
    - {url: "https://login.example.com", audience: a, name: mtls, bearer_token_file: none}
`, []string{
			`FILE:4:13: auth.issuers[0].url: an issuer has a url that begins with https://`,
			`FILE:5:7: auth.issuers[1].audience: value is required`,
			`FILE:5:7: auth.issuers[1].name: "oidc" stands twice, first as auth.issuers[0].name in line 4`,
			`FILE:5:51: auth.issuers[1].ca_file: DIR/none.crt: no such file or directory`,
			`FILE:5:80: auth.issuers[1].bearer_token_file: DIR/two-words: it is not a token alone`,
			`FILE:5:104: auth.issuers[1].algorithms[0]: an algorithm is one of RS256 RS384 RS512 ES256 ES384 ES512 PS256 PS384 PS512 EdDSA`,
			`FILE:6:61: auth.issuers[2].name: mtls, token and anonymous are what other callers are called by`,
			`FILE:6:86: auth.issuers[2].bearer_token_file: DIR/none: no such file or directory`,
		}},
		{"a policy", `
policy:
  lift: [169.254.0.0/16]
  roles:
    - name: a
      subjects: [ci, "token:ci "]
      rules:
        - name: r
          networks: [sctp]
          hosts: ["*.*", 10.0.0.1]
          cidrs: [10.0.0.1/8, fe80::1%eth0, x]
          ports: [80-70, 65536, http, ""]
          verbs: [read]
        - name: r
      operations: [channelz, pprof]
    - name: a
      subjects: []
`, []string{
			`FILE:3:10: policy.lift[0]: one address is lifted at a time, as 169.254.20.10/32 or fd00::1/128`,
			`FILE:6:18: policy.roles[0].subjects[0]: "ci": it is no subject: mtls:NAME, token:NAME, ISSUER:SUB or anonymous, with * for any run of characters`,
			`FILE:6:22: policy.roles[0].subjects[1]: "token:ci ": there is a space at its beginning or end`,
			`FILE:9:22: policy.roles[0].rules[0].networks[0]: a network is one of tcp tcp4 tcp6 udp udp4 udp6 icmp icmp4 icmp6 unix unixgram unixpacket`,
			`FILE:10:19: policy.roles[0].rules[0].hosts[0]: "*.*": a * is all of the pattern, or its first label, as in *.example.com`,
			`FILE:10:26: policy.roles[0].rules[0].hosts[1]: "10.0.0.1": it ends like an address; addresses and prefixes belong under cidrs`,
			`FILE:11:19: policy.roles[0].rules[0].cidrs[0]: addresses are a prefix without a bit behind its length, as 10.0.0.0/8 or fd00::/8, or a single address`,
			`FILE:11:31: policy.roles[0].rules[0].cidrs[1]: "fe80::1%eth0": an address has no zone here`,
			`FILE:11:45: policy.roles[0].rules[0].cidrs[2]: addresses are a prefix without a bit behind its length, as 10.0.0.0/8 or fd00::/8, or a single address`,
			`FILE:12:19: policy.roles[0].rules[0].ports[0]: the range "80-70" ends before it begins`,
			`FILE:12:26: policy.roles[0].rules[0].ports[1]: there is no port 65536: the last is 65535`,
			`FILE:12:33: policy.roles[0].rules[0].ports[2]: "http" is no port: give a number (80) or a range (8000-8100)`,
			`FILE:12:39: policy.roles[0].rules[0].ports[3]: "" is no port: give a number (80) or a range (8000-8100)`,
			`FILE:13:19: policy.roles[0].rules[0].verbs[0]: a verb is one of resolve connect send skip-verify`,
			`FILE:14:11: policy.roles[0].rules[1].verbs: must contain at least 1 item(s)`,
			`FILE:14:17: policy.roles[0].rules[1].name: "r" stands twice, first as policy.roles[0].rules[0].name in line 8`,
			`FILE:15:30: policy.roles[0].operations[1]: an operation is channelz`,
			`FILE:16:7: policy.roles[1]: a role has rules, or operations, or both: it would grant next to nothing`,
			`FILE:16:13: policy.roles[1].name: "a" stands twice, first as policy.roles[0].name in line 5`,
			`FILE:17:17: policy.roles[1].subjects: must contain at least 1 item(s)`,
		}},
		{"paths", `
policy:
  roles:
    - name: a
      subjects: ["*"]
      rules:
        - {name: r, unix_paths: ["@x", x/y, /a//b, /a/*b], verbs: [connect]}
        - {name: s, unix_paths: [/run/x], ports: [80], verbs: [connect]}
`, []string{
			`FILE:7:34: policy.roles[0].rules[0].unix_paths[0]: "@x": abstract sockets have no permissions, and are never reached`,
			`FILE:7:40: policy.roles[0].rules[0].unix_paths[1]: "x/y": it is an absolute path, or DIR/* for every socket directly in DIR`,
			`FILE:7:45: policy.roles[0].rules[0].unix_paths[2]: "/a//b": the path is /a/b`,
			`FILE:7:52: policy.roles[0].rules[0].unix_paths[3]: "/a/*b": a * is all of the name behind the last slash`,
			`FILE:8:11: policy.roles[0].rules[1]: a rule with unix_paths has no hosts, cidrs or ports: it would match nothing`,
		}},
		{"audit", "audit: {}\ndrain: {delay: -1s, timeout: 2h}\n", []string{
			`FILE:1:8: audit.path: value is required`,
			`FILE:2:16: drain.delay: must be greater than or equal to 0s and less than or equal to 600s`,
			`FILE:2:30: drain.timeout: must be greater than or equal to 0s and less than or equal to 3600s`,
		}},
		{"a key that drives terminals", `"\e[2J": 1` + "\n", []string{`FILE:1:1: ` + "\ufffd" + `[2J: there is no such key; there are listeners, auth, policy, limits, drain, audit, modules`}},
	}
	dirs := configDir(t)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dirs, fmt.Sprintf("%d.yaml", i))
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readConfigAt([]string{file}, noEnv, now)
			if _, ok := errors.AsType[*configError](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			got := strings.ReplaceAll(strings.ReplaceAll(err.Error(), file, "FILE"), dirs, "DIR")
			if want := strings.Join(test.want, "\n"); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// The first faults are enough.
func TestConfigWithManyFaults(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("listeners:\n  echo: ["+strings.Repeat("[],", 20_000)+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := readConfig([]string{file}, noEnv)
	if err == nil {
		t.Fatal("there are faults")
	}
	lines := strings.Split(err.Error(), "\n")
	if want := file + ": there is more; these come first"; len(lines) != mostFaults+1 || lines[mostFaults] != want {
		t.Errorf("%d lines, the last %s, want %d, %s", len(lines), lines[len(lines)-1], mostFaults+1, want)
	}
}

// What is no file of a few pages is not read.
func TestConfigIsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("# x\n", maxDocument/4)+"#"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		dir:                     "it is a directory",
		big:                     "it is larger than 1048576 bytes",
		filepath.Join(dir, "x"): "no such file or directory",
		"/dev/zero":             "it is no regular file",
		pipe:                    "it is no regular file", // and nobody waits for a writer
	} {
		if _, err := readConfig([]string{file}, noEnv); err == nil || err.Error() != file+": "+want {
			t.Errorf("%v, want %s: %s", err, file, want)
		}
	}
}
