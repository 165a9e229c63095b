package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// Several files are one configuration.
func TestConfigOfSeveralFiles(t *testing.T) {
	t.Parallel()
	hash := func(digit string) string { return `"sha256:` + strings.Repeat(digit, 64) + `"` }
	base := `
-- a/base.yaml --
auth:
  tokens: [{name: ci, sha256: ` + hash("1") + `}]
  tokens_file: more.yaml
policy:
  roles:
    - {name: first, subjects: ["token:ci"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}
limits: {sessions: 7}
-- a/more.yaml --
tokens: [{name: more, sha256: ` + hash("2") + `}]
`
	getenv := func(name string) string { return map[string]string{"PROBED_NAMESPACE": "shop"}[name] }
	for _, test := range []struct {
		name, files string
		want        []string // faults, or, if there is none, the summary and the warnings
	}{
		{"lists are appended, messages filled in", base + `
-- b/next.yaml --
listeners: {ops: {address: ":9464"}}
auth:
  tokens: [{name: cd, sha256: ` + hash("3") + `}]
policy:
  roles:
    - {name: second, subjects: ["token:cd"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}
limits: {calls: 9}
`, []string{
			"ops :9464", "callers 3 tokens (token:NAME)",
			"role first: 1 rule for token:ci", "role second: 1 rule for token:cd",
		}},
		{"a value stands in one of them", base + `
-- b/next.yaml --
limits:
  calls: 9
  sessions: 8
auth: {tokens_file: more.yaml}
`, []string{
			"b/next.yaml:3:3: limits.sessions: it stands in a/base.yaml:7 too; say it in one of the files",
			"b/next.yaml:4:8: auth.tokens_file: it stands in a/base.yaml:3 too; say it in one of the files",
		}},
		{"each fault is told of its file", base + `
-- b/next.yaml --
policy:
  roles:
    - name: second
      subjects: ["token:ci"]
      rules: [{name: db, cidrs: [10.0.0.1/8], verbs: [connect]}]
    - {name: first, subjects: ["token:ci"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}
auth:
  tokens: [{name: cd, sha256: ` + hash("1") + `}]
  issuers: [{name: sso}]
limits: {sessions: x}
`, []string{
			"b/next.yaml:5:34: policy.roles[1].rules[0].cidrs[0]: addresses are a prefix without a bit behind its length, as 10.0.0.0/8 or fd00::/8, or a single address",
			`b/next.yaml:6:14: policy.roles[2].name: "first" stands twice, first as policy.roles[0].name in line 6 of a/base.yaml`,
			`b/next.yaml:8:31: auth.tokens[1].sha256: "sha256:` + strings.Repeat("1", 64) + `" stands twice, first as auth.tokens[0].sha256 in line 2 of a/base.yaml`,
			"b/next.yaml:9:13: auth.issuers[0].url: an issuer has a url that begins with https://",
			"b/next.yaml:9:13: auth.issuers[0].audience: value is required",
			"b/next.yaml:10:10: limits.sessions: it stands in a/base.yaml:7 too; say it in one of the files",
			"b/next.yaml:10:20: limits.sessions: it is a whole number; bytes also as 64Ki, 1Mi, 1Gi",
		}},
		{"what a file leaves out another says", `
-- a/roles.yaml --
policy:
  roles:
    - {name: first, subjects: ["token:ci"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}
-- b/tokens.yaml --
auth:
  tokens: [{name: ci, sha256: ` + hash("1") + `}]
`, []string{"callers 1 token (token:NAME)", "role first: 1 rule for token:ci"}},
		{"a file that is none", `
-- a/empty.yaml --
# nothing
-- b/next.yaml --
limits: {session: 1}
`, []string{
			"a/empty.yaml: it is empty",
			"b/next.yaml:1:10: limits.session: there is no such key; there are ",
		}},
		{"variables of the environment", `
-- a/base.yaml --
listeners: {http: {allowed_hosts: [probed, probed.$(PROBED_NAMESPACE).svc]}}
auth:
  tokens: [{name: ci, sha256: ` + hash("1") + `}]
policy: {roles: [{name: first, subjects: ["token:ci", "sa:$(PROBED_NAMESPACE):$(PROBED_NAMESPACE)", "token:$(HOME)", "token:$(PROBED_x)"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}]}
`, []string{
			"callers 1 token (token:NAME)", "role first: 1 rule for token:ci, sa:shop:shop, token:$(HOME), token:$(PROBED_x)",
			"a/base.yaml:4:55: policy.roles[0].subjects[1]: nobody is sa:shop:shop: there is no issuer of the name sa",
			"a/base.yaml:4:101: policy.roles[0].subjects[2]: nobody is token:$(HOME): there is no token of that name",
			"a/base.yaml:4:118: policy.roles[0].subjects[3]: nobody is token:$(PROBED_x): there is no token of that name",
		}},
		{"a variable that is not set", `
-- a/base.yaml --
auth:
  tokens: [{name: ci, sha256: ` + hash("1") + `}]
policy: {roles: [{name: first, subjects: ["token:$(PROBED_POD)"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}]}
`, []string{"a/base.yaml:3:43: policy.roles[0].subjects[0]: PROBED_POD: there is no such variable in the environment, or it is empty"}},
		{"tokens that are missing, and nothing else", `
-- a/base.yaml --
auth: {tokens_file: none.yaml}
-- b/next.yaml --
auth: {tokens_file_optional: true}
`, []string{"a/base.yaml:1:21: auth.tokens_file: a/none.yaml is not there, and there is no other way to prove who calls: nobody could"}},
		{"tokens that are missing beside another way", `
-- a/base.yaml --
auth:
  tokens_file: none.yaml
  tokens_file_optional: true
  tokens: [{name: ci, sha256: ` + hash("1") + `}]
policy: {roles: [{name: first, subjects: ["token:ci", "token:operator"], rules: [{name: db, cidrs: [10.0.0.0/8], verbs: [connect]}]}]}
`, []string{
			"callers 1 token (token:NAME), tokens of a/none.yaml, when it is there (token:NAME)", "role first: 1 rule for token:ci, token:operator",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var files []string
			for _, file := range txtar.Parse([]byte(test.files)).Files {
				name := filepath.Join(dir, file.Name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, file.Data, 0o600); err != nil {
					t.Fatal(err)
				}
				if !strings.HasSuffix(name, "/more.yaml") {
					files = append(files, name)
				}
			}
			c, err := readConfigAt(files, getenv, now)
			var got []string
			if err != nil {
				got = strings.Split(strings.ReplaceAll(err.Error(), dir+"/", ""), "\n")
			} else {
				for _, line := range c.summary() {
					if text := line[0] + " " + strings.ReplaceAll(line[1], dir+"/", ""); !strings.Contains(text, "as the flags say") {
						got = append(got, text)
					}
				}
				for _, warning := range c.warnings {
					got = append(got, strings.ReplaceAll(warning.String(), dir+"/", ""))
				}
			}
			if len(got) != len(test.want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for i, want := range test.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("got  %s\nwant %s", got[i], want)
				}
			}
		})
	}
}
