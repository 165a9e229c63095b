package guard

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func authenticator(t *testing.T, config Config) *Authenticator {
	t.Helper()
	a, err := NewAuthenticator(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// checkReason holds an error against the reason there should be; "": none.
func checkReason(t *testing.T, err error, want string) {
	t.Helper()
	e, _ := errors.AsType[*UnauthenticatedError](err)
	switch {
	case want == "" && err != nil:
		t.Errorf("error %v, want none", err)
	case want == "":
	case e == nil:
		t.Errorf("error %v, want reason %s", err, want)
	case e.Reason != want || e.Unavailable != (want == ReasonIssuerUnavailable):
		t.Errorf("reason %s, unavailable %v, want %s", e.Reason, e.Unavailable, want)
	case reasonTexts[want] == "" || e.Error() != reasonTexts[want]:
		t.Errorf("reason %s has the text %q", want, e.Error())
	}
}

func TestStaticTokens(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := authenticator(t, Config{
		Tokens: []Token{
			{Name: "old", Hash: sha256.Sum256([]byte("token-1")), NotAfter: now},
			{Name: "alice", Hash: sha256.Sum256([]byte("token-2")), NotAfter: now.Add(time.Hour)},
			{Name: "alice", Hash: sha256.Sum256([]byte("token-3"))},
			{Name: "gone", Hash: sha256.Sum256([]byte("token-4")), NotAfter: now.Add(-1)},
			{Name: "padded", Hash: sha256.Sum256([]byte("dG9rZW4="))},
		},
		Now: func() time.Time { return now },
	})
	tests := map[string]struct{ subject, reason string }{
		"Bearer token-1":                  {subject: "token:old"}, // up to and with its last instant
		"Bearer token-2":                  {subject: "token:alice"},
		"bearer token-3":                  {subject: "token:alice"},
		"BEARER   token-3":                {subject: "token:alice"},
		"Bearer dG9rZW4=":                 {subject: "token:padded"},
		"Bearer token-4":                  {reason: ReasonExpired},
		"Bearer token-5":                  {reason: ReasonUnknown},
		"Bearer token":                    {reason: ReasonUnknown},
		"Bearer TOKEN-2":                  {reason: ReasonUnknown},
		"Bearer a.b.c":                    {reason: ReasonUnknown},
		"":                                {reason: ReasonNone},
		"Bearer":                          {reason: ReasonMalformed},
		"Bearer ":                         {reason: ReasonMalformed},
		" ":                               {reason: ReasonMalformed},
		"token-2":                         {reason: ReasonMalformed},
		"Bearertoken-2":                   {reason: ReasonMalformed},
		"Bearer\ttoken-2":                 {reason: ReasonMalformed},
		"Bearer token-2 ":                 {reason: ReasonMalformed},
		" Bearer token-2":                 {reason: ReasonMalformed},
		"Bearer token-2\r\n":              {reason: ReasonMalformed},
		"Bearer token-2, Bearer token-3":  {reason: ReasonMalformed},
		", Bearer token-2":                {reason: ReasonMalformed},
		"Basic dG9rZW4tMjo=":              {reason: ReasonMalformed},
		"Token token-2":                   {reason: ReasonMalformed},
		"Bearer \"token-2\"":              {reason: ReasonMalformed},
		"Bearer token-2\x00":              {reason: ReasonMalformed},
		"Bearer " + long:                  {reason: ReasonMalformed},
		"Bearer " + long[:len(long)-2000]: {reason: ReasonUnknown},
	}
	for header, want := range tests {
		caller, err := a.Authenticate(t.Context(), Credentials{Authorization: header})
		t.Logf("%.40q", header)
		checkReason(t, err, want.reason)
		if want.reason == "" && caller != (Caller{want.subject, MethodToken, want.subject}) {
			t.Errorf("%q: caller %+v, want %s", header, caller, want.subject)
		}
		if err != nil && (caller != Caller{} || strings.Contains(err.Error(), "token-")) {
			t.Errorf("%q: caller %+v, error %v", header, caller, err)
		}
	}
}

var long = strings.Repeat("a", 16<<10)

func TestTokenEndsWhileInUse(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := authenticator(t, Config{
		Tokens: []Token{{Name: "a", Hash: sha256.Sum256([]byte("x")), NotAfter: now.Add(time.Minute)}},
		Now:    func() time.Time { return now },
	})
	_, err := a.Authenticate(t.Context(), Credentials{Authorization: "Bearer x"})
	checkReason(t, err, "")
	now = now.Add(2 * time.Minute)
	_, err = a.Authenticate(t.Context(), Credentials{Authorization: "Bearer x"})
	checkReason(t, err, ReasonExpired)
}

// What a request gets, by what is configured and what it brings.
func TestCombinations(t *testing.T) {
	t.Parallel()
	root := newAuthority(t, nil, time.Now().Add(time.Hour))
	server := &tls.Config{
		Certificates: []tls.Certificate{root.issue(t, named("localhost"))},
		ClientCAs:    root.pool(), ClientAuth: tls.VerifyClientCertIfGiven,
	}
	good := handshake(t, server, root.issue(t, named("host")))
	nameless := handshake(t, server, root.issue(t, func(*x509.Certificate) {}))
	none := handshake(t, server)

	certificates := &CertificateConfig{}
	tokens := []Token{{Name: "a", Hash: sha256.Sum256([]byte("x"))}}
	nobody := Config{Anonymous: true}
	both := Config{Certificates: certificates, Tokens: tokens}
	optional := Config{Certificates: certificates, Tokens: tokens, Anonymous: true}
	remote := netip.MustParseAddr("192.0.2.7")
	unasked := Caller{Anonymous, MethodNone, "192.0.2.7/32"}
	byToken := Caller{"token:a", MethodToken, "token:a"}
	byCertificate := Caller{"mtls:host", MethodCertificate, "mtls:host"}

	tests := map[string]struct {
		config Config
		tls    *tls.ConnectionState
		header string
		want   Caller
		reason string
	}{
		"nobody is asked":                      {nobody, nil, "", unasked, ""},
		"nobody is asked, header":              {nobody, nil, "Basic dTpw", unasked, ""},
		"nobody is asked, certificate":         {nobody, good, "", unasked, ""},
		"both, nothing":                        {both, nil, "", Caller{}, ReasonNone},
		"both, TLS alone":                      {both, none, "", Caller{}, ReasonNone},
		"both, token":                          {both, none, "Bearer x", byToken, ""},
		"both, certificate":                    {both, good, "", byCertificate, ""},
		"both, both: the token says":           {both, good, "Bearer x", byToken, ""},
		"both, certificate and bad token":      {both, good, "Bearer y", Caller{}, ReasonUnknown},
		"both, certificate and bad header":     {both, good, "Basic dTpw", Caller{}, ReasonMalformed},
		"both, bad certificate and token":      {both, nameless, "Bearer x", Caller{}, ReasonSubject},
		"certificates, token":                  {Config{Certificates: certificates}, none, "Bearer x", Caller{}, ReasonUnknown},
		"certificates, certificate and token":  {Config{Certificates: certificates}, good, "Bearer x", Caller{}, ReasonUnknown},
		"tokens, certificate":                  {Config{Tokens: tokens}, good, "", Caller{}, ReasonNone},
		"tokens, certificate and token":        {Config{Tokens: tokens}, nameless, "Bearer x", byToken, ""},
		"optional, nothing":                    {optional, none, "", unasked, ""},
		"optional, token":                      {optional, none, "Bearer x", byToken, ""},
		"optional, bad token is not anonymous": {optional, none, "Bearer y", Caller{}, ReasonUnknown},
		"optional, bad certificate is neither": {optional, nameless, "", Caller{}, ReasonSubject},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := authenticator(t, test.config)
			caller, err := a.Authenticate(t.Context(), Credentials{TLS: test.tls, Authorization: test.header, Remote: remote})
			checkReason(t, err, test.reason)
			if caller != test.want {
				t.Errorf("caller %+v, want %+v", caller, test.want)
			}
		})
	}
}

func TestAnonymousKeys(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.7":              "192.0.2.7/32",
		"::ffff:192.0.2.7":       "192.0.2.7/32",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::":    "2001:db8:1:2::/64",
		"2001:db8:1:3::":         "2001:db8:1:3::/64",
		"fe80::1%eth0":           "fe80::/64",
		"::1":                    "::/64",
		"":                       Anonymous,
		"2001:db8:1:2:3:4:5:6%0": "2001:db8:1:2::/64",
	} {
		var address netip.Addr
		if remote != "" {
			address = netip.MustParseAddr(remote)
		}
		if got := anonymous(address); got != (Caller{Anonymous, MethodNone, want}) {
			t.Errorf("%s: %+v, want key %s", remote, got, want)
		}
	}
}

func TestNewAuthenticatorRefuses(t *testing.T) {
	t.Parallel()
	hash := sha256.Sum256([]byte("x"))
	client := &http.Client{Transport: &http.Transport{}}
	issuer := func(set func(*Issuer)) Config {
		i := Issuer{URL: "https://issuer.example", Audience: "probed", Client: client}
		set(&i)
		return Config{Issuers: []Issuer{i}}
	}
	tests := map[string]struct {
		config Config
		want   string
	}{
		"nobody could call":        {Config{}, "nobody could call"},
		"source of names":          {Config{Certificates: &CertificateConfig{SubjectFrom: 9}}, "numbered 9"},
		"token without a name":     {Config{Tokens: []Token{{Hash: hash}}}, "its name is empty"},
		"token with a bad name":    {Config{Tokens: []Token{{Name: "a\nb", Hash: hash}}}, "cannot be seen"},
		"token without a hash":     {Config{Tokens: []Token{{Name: "a"}}}, "has no hash"},
		"one token, two names":     {Config{Tokens: []Token{{Name: "a", Hash: hash}, {Name: "b", Hash: hash}}}, "the same hash"},
		"issuer without a URL":     {issuer(func(i *Issuer) { i.URL = "" }), "not of the form https://host/path"},
		"issuer without TLS":       {issuer(func(i *Issuer) { i.URL = "http://issuer.example" }), "not of the form"},
		"issuer with a user":       {issuer(func(i *Issuer) { i.URL = "https://a:b@issuer.example" }), "not of the form"},
		"issuer with a query":      {issuer(func(i *Issuer) { i.URL = "https://issuer.example?a" }), "not of the form"},
		"issuer without audience":  {issuer(func(i *Issuer) { i.Audience = "" }), "the audience is missing"},
		"issuer without client":    {issuer(func(i *Issuer) { i.Client = nil }), "no HTTP client"},
		"issuer without transport": {issuer(func(i *Issuer) { i.Client = &http.Client{} }), "no HTTP client"},
		"issuer's name":            {issuer(func(i *Issuer) { i.Name = "a:b" }), "other characters"},
		"issuer named mtls":        {issuer(func(i *Issuer) { i.Name = "mtls" }), "is taken"},
		"issuer named token":       {issuer(func(i *Issuer) { i.Name = "token" }), "is taken"},
		"issuer named anonymous":   {issuer(func(i *Issuer) { i.Name = "anonymous" }), "is taken"},
		"algorithm none":           {issuer(func(i *Issuer) { i.Algorithms = []string{"none"} }), `"none" is not one of`},
		"algorithm HS256":          {issuer(func(i *Issuer) { i.Algorithms = []string{"RS256", "HS256"} }), `"HS256" is not one of`},
		"two issuers, one name": {Config{Issuers: []Issuer{
			{URL: "https://a.example", Audience: "a", Client: client}, {URL: "https://b.example", Audience: "a", Client: client},
		}}, `"oidc" is taken`},
		"one issuer twice": {Config{Issuers: []Issuer{
			{URL: "https://a.example", Audience: "a", Client: client},
			{Name: "other", URL: "https://a.example", Audience: "b", Client: client},
		}}, "there twice"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := NewAuthenticator(test.config); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
