package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"probed/service/guard"
	"probed/service/policy"
)

// Every combination of what decides, against the rules said once more.
func TestExposure(t *testing.T) {
	t.Parallel()
	const (
		grpc = 1 << iota
		http
		certificates
		tokens
		roles
		tls
		clientCA
		hosts
		noAuth
		plaintext
		all
	)
	for bits := range all {
		has := func(bit int) bool { return bits&bit != 0 }
		c := new(config)
		e := exposure{config: c, insecureNoAuth: has(noAuth), insecurePlaintext: has(plaintext)}
		if has(grpc) {
			e.grpc = "192.0.2.1:50051"
		}
		if has(http) {
			e.http = "192.0.2.1:8080"
		}
		if has(certificates) {
			c.certificates = new(guard.CertificateConfig)
		}
		if has(tokens) {
			c.tokens = []guard.Token{{Name: "ci"}}
		}
		if has(roles) {
			c.policy = &policyConfig{roles: []policy.Role{{Name: "r"}}}
		}
		if has(tls) {
			c.grpc.tls = &tlsFiles{certificate: "tls.crt", key: "tls.key"}
			if has(clientCA) {
				c.grpc.tls.clientCA = "ca.crt"
			}
			c.http.tls = c.grpc.tls
		}
		if has(hosts) {
			c.allowedHosts = []string{"a.example.com"}
		}

		listeners := 0
		for _, bit := range []int{grpc, http} {
			if has(bit) {
				listeners++
			}
		}
		asks := has(certificates) || has(tokens)
		want := map[string]int{
			"leave one of them out":   of(asks && has(noAuth)),
			"auth is needed":          of(!asks && !has(noAuth)),
			"a policy with a role":    of(!has(roles) && !has(noAuth)),
			"in the clear":            listeners * of(has(tokens) && !has(tls) && !has(plaintext)),
			"the client_ca_file":      listeners * of(has(certificates) && (!has(tls) || !has(clientCA))),
			"allowed_hosts is needed": of(has(http) && !has(hosts)),
		}
		faults := 0
		for message, n := range want {
			if listeners == 0 {
				n, want[message] = 0, 0
			}
			faults += n
		}
		err := checkExposure(e)
		if (err != nil) != (faults > 0) {
			t.Errorf("%010b: %v, want %d faults", bits, err, faults)
			continue
		}
		if err == nil {
			continue
		}
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%010b: %T", bits, err)
		}
		for message, n := range want {
			if got := strings.Count(err.Error(), message); got != n {
				t.Errorf("%010b: %q %d times, want %d:\n%v", bits, message, got, n, err)
			}
		}
		if got := strings.Count(err.Error(), "\n  - "); got != faults {
			t.Errorf("%010b: %d faults, want %d:\n%v", bits, got, faults, err)
		}
	}
}

func of(holds bool) int {
	if holds {
		return 1
	}
	return 0
}

// Who has nothing but open listeners, and writes what the message shows, has a probed that starts.
func TestExposureShowsWhatStarts(t *testing.T) {
	t.Parallel()
	dir := configDir(t)
	for name, before := range map[string]string{
		"nothing":      "",
		"certificates": "auth: {certificates: {}}\n",
		"tokens":       "auth: {tokens: [{name: ci, sha256: 'sha256:" + strings.Repeat("ab", 32) + "'}]}\n",
	} {
		c, err := readText(t, dir, before+"drain: {}\n")
		if err != nil {
			t.Fatal(err)
		}
		e := exposure{config: c, grpc: "0.0.0.0:50051", http: "0.0.0.0:8080"}
		if err = checkExposure(e); err == nil {
			t.Fatalf("%s: it starts", name)
		}
		_, shown, _ := strings.Cut(err.Error(), "examples:\n\n")
		if e.config, err = readText(t, dir, before+shown); err != nil {
			t.Fatalf("%s: %v:\n%s", name, err, shown)
		}
		if err := checkExposure(e); err != nil || len(e.config.warnings) > 0 {
			t.Errorf("%s: %v, %v, with:\n%s", name, err, e.config.warnings, shown)
		}
	}
}

func TestExposureMessage(t *testing.T) {
	t.Parallel()
	err := checkExposure(exposure{config: new(config), http: "[::]:8080", insecurePlaintext: true})
	const want = `REST on [::]:8080 would be reachable from outside of this host:
  - nobody would be asked who they are: auth is needed (or --insecure-no-auth, if all who can reach it may use this probe)
  - it is not said who may do what: a policy with a role is needed
  - REST would answer under any name: listeners.http.allowed_hosts is needed
Listen on loopback, or have in the file of --config, with what is yours in place of the examples:

listeners:
  http:
    allowed_hosts: [probed.example.com] # the names it is called by
auth:
  tokens: # probed new-token ci prints a token, and this line for it
    - name: ci
      sha256: "sha256:0000000000000000000000000000000000000000000000000000000000000000"
policy:
  roles:
    - name: checks
      subjects: ["token:ci"]
      rules:
        - name: names
          hosts: ["*.example.com"]
          verbs: [resolve]
        - name: services
          cidrs: [10.0.0.0/8]
          ports: [80, 443]
          verbs: [connect, send]
`
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestExposed(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1:80": false, "127.1.2.3:80": false, "[::1]:80": false, "[::ffff:127.0.0.1]:80": false, "localhost:80": false, "": false,
		":80": true, "0.0.0.0:80": true, "[::]:80": true, "192.0.2.1:80": true, "probed.example.com:80": true,
	} {
		if got := (listenerConfig{address: &address}).exposed(); (got != "") != want {
			t.Errorf("%s: %q", address, got)
		}
	}
	if got := (listenerConfig{}).exposed(); got != "" {
		t.Errorf("unset: %q", got)
	}
}

func TestCheckConfig(t *testing.T) {
	t.Parallel()
	dir := configDir(t)
	hash := "sha256:" + strings.Repeat("ab", 32)
	tests := []struct {
		name, text     string
		args           []string
		stdout, stderr string
		want           error
	}{
		{
			name: "loopback", text: "audit: {path: '-'}\n",
			stdout: `FILE: ok
  grpc     as the flags say
  http     as the flags say
  ops      as the flags say
  callers  nobody is asked who they are (anonymous)
  policy   none: every caller may do what nothing forbids for good
  audit    stdout
`,
		},
		{
			name: "reachable", args: []string{"--insecure-plaintext"},
			text: `
listeners: {grpc: {address: ":50051"}, http: {address: ""}, echo: ["tcp://127.0.0.1:7"]}
auth: {tokens: [{name: ci, sha256: "` + hash + `"}], issuers: [{url: "https://login.example.com", audience: probed}]}
policy: {roles: [{name: r, subjects: ["token:ci", "oidc:*"], rules: [{name: all, verbs: [connect]}]}]}
`,
			stdout: `FILE: ok
  grpc     :50051
  http     not served
  ops      as the flags say
  echo     tcp://127.0.0.1:7
  callers  1 token (token:NAME), tokens of https://login.example.com (oidc:SUB)
  role     r: 1 rule for token:ci, oidc:*
`,
			stderr: "warning: FILE:4:70: policy.roles[0].rules[0]: it admits every address that is not denied for good\n",
		},
		{
			name: "would not start", text: "listeners: {grpc: {address: ':50051'}}\nauth: {tokens: [{name: ci, sha256: '" + hash + "'}]}\npolicy: {roles: [{name: r, subjects: ['token:ci'], rules: [{name: a, hosts: ['*'], verbs: [resolve]}]}]}\n",
			stderr: `FILE: gRPC on :50051 would be reachable from outside of this host:
  - bearer tokens would come over listeners.grpc in the clear: its tls is needed (or --insecure-plaintext, if something in front of it speaks TLS)
Listen on loopback, or have in the file of --config, with what is yours in place of the examples:

listeners:
  grpc:
    tls:
      certificate_file: tls.crt
      key_file: tls.key

`,
			want: errReported,
		},
		{
			name: "wrong", text: "policy: {rolez: 1}\ndrain: {delay: 5}\n",
			stderr: "FILE:1:10: policy.rolez: there is no such key; there are lift, roles\nFILE:2:16: drain.delay: it is a duration, as 250ms, 5s or 1m30s\n",
			want:   errReported,
		},
	}
	for _, test := range tests {
		_, err := readText(t, dir, test.text)
		_ = err // what it says is what the command says
		file := dir + "/probed.yaml"
		var stdout, stderr bytes.Buffer
		command := checkConfigCommand(noEnv)
		command.SetArgs(append(test.args, file))
		command.SetOut(&stdout)
		command.SetErr(&stderr)
		command.SilenceErrors, command.SilenceUsage = true, true
		if err := command.Execute(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		for _, stream := range []struct{ name, got, want string }{{"stdout", stdout.String(), test.stdout}, {"stderr", stderr.String(), test.stderr}} {
			if got := strings.ReplaceAll(stream.got, file, "FILE"); got != stream.want {
				t.Errorf("%s: %s\n got %s\nwant %s", test.name, stream.name, got, stream.want)
			}
		}
	}
	command := checkConfigCommand(noEnv)
	command.SetArgs(nil)
	command.SilenceErrors, command.SilenceUsage = true, true
	if _, ok := errors.AsType[usageError](command.Execute()); !ok {
		t.Error("without a file it is no wrong usage")
	}
}

// What new-token prints on stdout is a token, and what it prints on stderr lets this token in.
func TestNewToken(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	command := newTokenCommand()
	command.SetArgs([]string{"ci", "--expires", "90d"})
	command.SetOut(&stdout)
	command.SetErr(&stderr)
	if err := command.Execute(); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^probed_[A-Za-z0-9_-]{43}\n$`).MatchString(stdout.String()) {
		t.Errorf("stdout %q", stdout.String())
	}
	c, err := readText(t, t.TempDir(), "auth:\n  tokens:\n"+stderr.String())
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if len(c.tokens) != 1 || c.tokens[0].Name != "ci" {
		t.Fatalf("%+v", c.tokens)
	}
	if left := time.Until(c.tokens[0].NotAfter); left < 89*24*time.Hour || left > 91*24*time.Hour {
		t.Errorf("it expires in %v", left)
	}
	if hash := sha256.Sum256(bytes.TrimSpace(stdout.Bytes())); c.tokens[0].Hash != hash {
		t.Errorf("%x is not the hash of the token, %x", c.tokens[0].Hash, hash)
	}
}

func TestExpires(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                     "0001-01-01T00:00:00Z",
		"90d":                  "2027-02-21T12:00:00Z",
		"1h30m":                "2026-11-23T13:30:00Z",
		"2027-01-31":           "2027-01-31T00:00:00Z",
		"2027-01-31T10:00:00Z": "2027-01-31T10:00:00Z",
		"0d":                   "that is over",
		"-5m":                  "that is over",
		"2026-11-23":           "that is over",
		"-1d":                  "it is a number of days as 90d, at most 65535",
		"99999d":               "it is a number of days as 90d, at most 65535",
		"d":                    "it is a number of days as 90d, at most 65535",
		"soon":                 "it is a time from now as 90d or 12h, or a date as 2027-02-21",
	} {
		until, err := parseExpires(text, now)
		got := until.Format(time.RFC3339)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	for _, name := range []string{"", "a b", "a:b", "-\n", strings.Repeat("a", 129)} {
		if err := (newToken{name: name}).make(now, new(bytes.Buffer), new(bytes.Buffer)); err == nil {
			t.Errorf("%q is no name", name)
		}
	}
	if err := (newToken{name: "ci"}).make(now, closedWriter{}, new(bytes.Buffer)); err == nil {
		t.Error("a token that nobody has is no success")
	}
}

type closedWriter struct{}

func (closedWriter) Write([]byte) (int, error) { return 0, fmt.Errorf("closed") }
