package main

import (
	"os"
	"strings"
	"testing"

	configv1 "probed/gen/probe/config/v1"
)

// What people copy from has no warning, whatever the files are that it names.
func TestShownConfigsCarryNoWarning(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	message := new(configv1.Config)
	d := parseText("README.md", []byte(text), message)
	if len(d.faults) > 0 || len(message.GetPolicy().GetRoles()) == 0 {
		t.Fatalf("%v in %s", d.faults, message)
	}
	r := &reader{document: d, now: now}
	r.config(message)
	for _, warning := range r.c.warnings {
		t.Error(warning)
	}
}

func TestConfigWarnings(t *testing.T) {
	t.Parallel()
	dir := configDir(t)
	c, err := readText(t, dir, `
listeners:
  http: {tls: {certificate_file: old.crt, key_file: old.key}}
auth:
  tokens: [{name: ci, sha256: "sha256:`+strings.Repeat("ab", 32)+`", expires: 2026-11-01T00:00:00Z}]
policy:
  roles:
    - name: a
      subjects: [mtls:x, token:ci, token:cd, "token:*", oidc:x, anonymous, "*"]
      rules:
        - {name: all, verbs: [connect]}
        - {name: zero, cidrs: ["::/0"], verbs: [connect]}
        - {name: named, hosts: [a.example.com], verbs: [connect]}
        - {name: useless, cidrs: [10.0.0.0/8], verbs: [resolve, send]}
        - {name: names, verbs: [resolve]}
        - {name: sockets, networks: [unix], verbs: [connect]}
        - {name: right, hosts: [a.example.com], cidrs: [10.0.0.0/8], verbs: [connect]}
        - {name: within, cidrs: [10.0.0.0/8], ports: [443], verbs: [resolve, connect]}
        - {name: some, hosts: [a.example.com], verbs: [resolve]}
        - {name: path, unix_paths: [/run/x], verbs: [resolve, connect]}
    - name: b
      subjects: [token:ci]
      rules:
        - {name: addresses, cidrs: [10.0.0.0/8], verbs: [resolve]}
        - {name: names, hosts: ["*"], verbs: [resolve]}
    - name: c
      subjects: [token:ci]
      rules:
        - {name: lookups, verbs: [resolve]}
        - {name: anything, hosts: ["*"], cidrs: [10.0.0.0/8], verbs: [connect]}
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.warnings {
		got = append(got, strings.ReplaceAll(w.String(), dir+"/", ""))
	}
	const anyName = `resolve without hosts: every name may be looked up, and cidrs and ports do not narrow that; give it hosts, ["*"] if every name is meant`
	want := []string{
		`probed.yaml:3:34: listeners.http.tls.certificate_file: old.crt: the certificate of "CN=old" expired on 2026-11-22T12:00:00Z`,
		`probed.yaml:5:115: auth.tokens[0].expires: the token ci has expired`,
		`probed.yaml:9:18: policy.roles[0].subjects[0]: nobody is mtls:x: auth.certificates is not there`,
		`probed.yaml:9:36: policy.roles[0].subjects[2]: nobody is token:cd: there is no token of that name`,
		`probed.yaml:9:57: policy.roles[0].subjects[4]: nobody is oidc:x: there is no issuer of the name oidc`,
		`probed.yaml:9:65: policy.roles[0].subjects[5]: callers are asked who they are, so nobody is anonymous`,
		`probed.yaml:11:11: policy.roles[0].rules[0]: it admits every address that is not denied for good`,
		`probed.yaml:12:11: policy.roles[0].rules[1]: it admits every address that is not denied for good`,
		`probed.yaml:13:11: policy.roles[0].rules[2]: it admits whatever address these names lead to, which is for who answers for them to say: bound it with cidrs`,
		`probed.yaml:14:55: policy.roles[0].rules[3].verbs: ` + anyName,
		`probed.yaml:14:55: policy.roles[0].rules[3].verbs: send without connect grants nothing more`,
		`probed.yaml:15:32: policy.roles[0].rules[4].verbs: ` + anyName,
		`probed.yaml:16:11: policy.roles[0].rules[5]: it matches nothing: there are no unix_paths in it`,
		`probed.yaml:18:68: policy.roles[0].rules[7].verbs: ` + anyName,
		`probed.yaml:29:34: policy.roles[2].rules[0].verbs: ` + anyName,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c, err := readText(t, dir, "auth: {}\npolicy: {}\n"); err != nil || len(c.warnings) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}
