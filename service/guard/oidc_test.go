package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestOIDCTokens(t *testing.T) {
	t.Parallel()
	x, other := newTestIssuer(t), newTestIssuer(t)
	rsaPrivate, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var (
		rs256    = &testKey{"rs256", jose.RS256, rsaPrivate}
		ps512    = &testKey{"ps512", jose.PS512, rsaPrivate}
		es256    = ecKey(t, "es256")
		es384    = &testKey{"es384", jose.ES384, p384}
		eddsa    = &testKey{"eddsa", jose.EdDSA, edPrivate}
		others   = ecKey(t, "others")
		leaked   = ecKey(t, "leaked")
		stranger = ecKey(t, "es256") // the id of another's key
		shared   = []byte("0123456789abcdef0123456789abcdef")
	)
	enc := ecKey(t, "enc")
	encrypting := enc.public()
	encrypting.Use = "enc"
	x.keys = []any{
		map[string]any{"kty": "future", "kid": "x"}, // keys that are not understood stand in nobody's way
		map[string]any{"kty": "EC", "kid": "bad", "crv": "P-256", "x": "AA", "y": "AA"},
		"no key at all",
		jose.JSONWebKey{Key: shared, KeyID: "shared", Algorithm: "HS256"},
		jose.JSONWebKey{Key: leaked.private, KeyID: "leaked", Algorithm: "ES256"},
		rs256.public(), ps512.public(), es256.public(), es384.public(), eddsa.public(), encrypting,
	}
	other.keys = []any{others.public()}
	a := authenticator(t, Config{
		Issuers: []Issuer{
			{URL: x.URL, Audience: "probed", Client: x.Client()},
			{Name: "other", URL: other.URL, Audience: "probed", Client: other.Client()},
		},
		Now: x.time,
	})

	right := x.claims()
	now := x.time()
	der, err := x509.MarshalPKIXPublicKey(rsaPrivate.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString([]byte(asJSON(v))) }
	signed := strings.Split(es256.sign(t, right), ".")
	service := "system:serviceaccount:network:prober"

	tests := map[string]struct{ token, want string }{
		"RS256":                {rs256.sign(t, right), "oidc:alice"},
		"PS512":                {ps512.sign(t, right), "oidc:alice"},
		"ES256":                {es256.sign(t, right), "oidc:alice"},
		"ES384":                {es384.sign(t, right), "oidc:alice"},
		"EdDSA":                {eddsa.sign(t, right), "oidc:alice"},
		"no key id":            {sign(t, jose.ES256, es256.private, "", right), "oidc:alice"},
		"a service account":    {es256.sign(t, right.with(claims{"sub": service})), "oidc:" + service},
		"of several audiences": {es256.sign(t, right.with(claims{"aud": []string{"a", "probed"}})), "oidc:alice"},
		"of the other issuer":  {others.sign(t, right.with(claims{"iss": other.URL})), "other:alice"},
		"nbf a little ahead":   {es256.sign(t, right.with(claims{"nbf": now.Add(time.Minute).Unix()})), "oidc:alice"},
		"about to expire":      {es256.sign(t, right.with(claims{"exp": now.Add(2 * time.Second).Unix()})), "oidc:alice"},

		"another audience":           {es256.sign(t, right.with(claims{"aud": "vault"})), "!" + ReasonAudience},
		"an audience that begins so": {es256.sign(t, right.with(claims{"aud": "probed2"})), "!" + ReasonAudience},
		"no audience":                {es256.sign(t, right.with(claims{"aud": nil})), "!" + ReasonAudience},
		"audience of another type":   {es256.sign(t, right.with(claims{"aud": 7})), "!" + ReasonUnknown},
		"expired":                    {es256.sign(t, right.with(claims{"exp": now.Add(-2 * time.Second).Unix()})), "!" + ReasonExpired},
		"without an end":             {es256.sign(t, right.with(claims{"exp": nil})), "!" + ReasonExpired},
		"expired, another audience":  {es256.sign(t, right.with(claims{"exp": 1, "aud": "vault"})), "!" + ReasonExpired},
		"nbf in the future":          {es256.sign(t, right.with(claims{"nbf": now.Add(10 * time.Minute).Unix()})), "!" + ReasonNotYetValid},
		"no subject":                 {es256.sign(t, right.with(claims{"sub": nil})), "!" + ReasonSubject},
		"an empty subject":           {es256.sign(t, right.with(claims{"sub": ""})), "!" + ReasonSubject},
		"control character":          {es256.sign(t, right.with(claims{"sub": "a\x1bb"})), "!" + ReasonSubject},
		"a subject too long":         {es256.sign(t, right.with(claims{"sub": strings.Repeat("a", 513)})), "!" + ReasonSubject},
		"subject of another type":    {es256.sign(t, right.with(claims{"sub": 7})), "!" + ReasonUnknown},

		"another issuer":               {es256.sign(t, right.with(claims{"iss": "https://issuer.example"})), "!" + ReasonUnknown},
		"issuer with a slash":          {es256.sign(t, right.with(claims{"iss": x.URL + "/"})), "!" + ReasonUnknown},
		"no issuer":                    {es256.sign(t, right.with(claims{"iss": nil})), "!" + ReasonUnknown},
		"of one issuer, as another":    {others.sign(t, right), "!" + ReasonUnknown},
		"of another issuer, as one":    {es256.sign(t, right.with(claims{"iss": other.URL})), "!" + ReasonUnknown},
		"the id of a key, and another": {stranger.sign(t, right), "!" + ReasonUnknown},
		"a key for encryption":         {enc.sign(t, right), "!" + ReasonUnknown},
		"a key kept secret no longer":  {leaked.sign(t, right), "!" + ReasonUnknown},
		"an unknown key":               {ecKey(t, "new").sign(t, right), "!" + ReasonUnknown},
		"the algorithm of another key": {sign(t, jose.RS512, rsaPrivate, "rs256", right), "!" + ReasonUnknown},
		"none":                         {part(claims{"alg": "none"}) + "." + part(right) + ".", "!" + ReasonUnknown},
		"none, with a signature":       {part(claims{"alg": "none"}) + "." + signed[1] + "." + signed[2], "!" + ReasonUnknown},
		"HS256, the public key (PEM)":  {sign(t, jose.HS256, publicPEM, "rs256", right), "!" + ReasonUnknown},
		"HS256, the public key (DER)":  {sign(t, jose.HS256, der, "rs256", right), "!" + ReasonUnknown},
		"HS256, a key of the set":      {sign(t, jose.HS256, shared, "shared", right), "!" + ReasonUnknown},
		"other claims":                 {signed[0] + "." + part(right.with(claims{"sub": "root"})) + "." + signed[2], "!" + ReasonUnknown},
		"no signature":                 {signed[0] + "." + signed[1] + ".", "!" + ReasonUnknown},
		"two parts":                    {signed[0] + "." + signed[1], "!" + ReasonUnknown},
		"four parts":                   {strings.Join(signed, ".") + ".a", "!" + ReasonUnknown},
		"not JSON":                     {"a.b.c", "!" + ReasonUnknown},
		"no token at all":              {"a", "!" + ReasonUnknown},
	}
	ask(t, a, es256.sign(t, right), "oidc:alice")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask(t, a, test.token, test.want)
		})
	}
}

// The subject of a token is the same as long as the token is valid, and nobody's afterwards.
func TestOIDCTokenEndsWhileInUse(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	key := ecKey(t, "1")
	x.keys = []any{key.public()}
	a := x.authenticator()
	token := key.sign(t, x.claims().with(claims{"exp": x.time().Add(time.Minute).Unix()}))
	ask(t, a, token, "oidc:alice")
	x.after(50 * time.Second)
	ask(t, a, token, "oidc:alice")
	x.after(20 * time.Second)
	ask(t, a, token, "!"+ReasonExpired)
	x.checkFetches(1)
}

func TestOIDCAlgorithms(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	key := ecKey(t, "1")
	x.keys = []any{key.public()}
	ask(t, x.authenticator(func(i *Issuer) { i.Algorithms = []string{"RS256"} }), key.sign(t, x.claims()), "!"+ReasonUnknown)
	ask(t, x.authenticator(func(i *Issuer) { i.Algorithms = []string{"ES256"} }), key.sign(t, x.claims()), "oidc:alice")
}

func TestOIDCKeyRotation(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	first, second := ecKey(t, "1"), ecKey(t, "2")
	x.keys = []any{first.public()}
	a := x.authenticator()
	ask(t, a, first.sign(t, x.claims()), "oidc:alice")

	// Unknown keys are not asked for again and again, since anybody can write a token that has one.
	x.set(func() { x.keys = []any{first.public(), second.public()} })
	for range 100 {
		ask(t, a, second.sign(t, x.claims()), "!"+ReasonUnknown)
	}
	x.checkFetches(1)
	x.after(unknownPause)
	ask(t, a, second.sign(t, x.claims()), "oidc:alice")
	ask(t, a, first.sign(t, x.claims()), "oidc:alice")
	x.checkFetches(2)

	// A key that was withdrawn is used until the keys are looked at again, and no longer.
	x.set(func() { x.keys = []any{second.public()} })
	x.after(keysFresh)
	ask(t, a, first.sign(t, x.claims()), "oidc:alice")
	x.checkFetches(2)
	x.checkObserved()
	x.checkObserved()
	x.after(time.Second)
	ask(t, a, second.sign(t, x.claims()), "oidc:alice") // begins the look, and does not wait for it
	x.checkObserved()
	ask(t, a, first.sign(t, x.claims()), "!"+ReasonUnknown)
	ask(t, a, second.sign(t, x.claims()), "oidc:alice")
	x.checkFetches(3)
}

func TestOIDCIssuerIsDown(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	key := ecKey(t, "1")
	x.keys = []any{key.public()}
	x.answer = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }
	a := x.authenticator()
	token := key.sign(t, x.claims())

	for range 100 {
		ask(t, a, token, "!"+ReasonIssuerUnavailable)
	}
	x.checkFetches(1)
	if err := <-x.observed; err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("observed %v, want 503", err)
	}
	x.after(failurePause)
	ask(t, a, token, "!"+ReasonIssuerUnavailable)
	x.checkFetches(2)

	x.set(func() { x.answer = nil })
	ask(t, a, token, "!"+ReasonIssuerUnavailable) // too early to know
	x.after(failurePause)
	ask(t, a, token, "oidc:alice")
	x.checkFetches(3)

	// Down again, its keys are used on; a new one cannot be told from none.
	x.set(func() { x.answer = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) } })
	x.after(unknownPause)
	ask(t, a, ecKey(t, "2").sign(t, x.claims()), "!"+ReasonIssuerUnavailable)
	x.after(keysUsable - unknownPause)
	ask(t, a, token, "oidc:alice")
	x.after(time.Second)
	ask(t, a, token, "!"+ReasonIssuerUnavailable)
}

// While the issuer takes its time, one attempt serves all that wait, and who no longer waits takes nothing from others.
func TestOIDCIssuerIsSlow(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	key := ecKey(t, "1")
	asked, goOn := make(chan struct{}, 10), make(chan struct{})
	x.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			fmt.Fprint(w, asJSON(map[string]any{"keys": []any{key.public()}}))
			return
		}
		asked <- struct{}{}
		<-goOn
		x.discovery(w, x.URL+"/keys")
	}
	a := x.authenticator()
	token := key.sign(t, x.claims())

	impatient, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		askWith(impatient, t, a, token, "!"+ReasonIssuerUnavailable)
	}()
	<-asked
	var patient sync.WaitGroup
	for range 20 {
		patient.Go(func() { ask(t, a, token, "oidc:alice") })
	}
	leave()
	<-left
	close(goOn)
	patient.Wait()
	x.checkFetches(1)
}

// blackHole is a transport whose other end never answers.
type blackHole struct{}

func (blackHole) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestOIDCAttemptsEnd(t *testing.T) {
	t.Parallel()
	key := ecKey(t, "1")
	token := key.sign(t, claims{"iss": "https://issuer.example"})
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		a := authenticator(t, Config{Issuers: []Issuer{
			{URL: "https://issuer.example", Audience: "probed", Client: &http.Client{Transport: blackHole{}}},
		}})
		ask(t, a, token, "!"+ReasonIssuerUnavailable)
		if took := time.Since(begin); took != fetchTime {
			t.Errorf("an attempt took %v, want %v", took, fetchTime)
		}
	})
	synctest.Test(t, func(t *testing.T) { // with the Authenticator
		begin := time.Now()
		a := authenticator(t, Config{Issuers: []Issuer{
			{URL: "https://issuer.example", Audience: "probed", Client: &http.Client{Transport: blackHole{}}},
		}})
		done := make(chan struct{})
		go func() {
			defer close(done)
			ask(t, a, token, "!"+ReasonIssuerUnavailable)
		}()
		synctest.Wait()
		a.Close()
		<-done
		ask(t, a, token, "!"+ReasonIssuerUnavailable)
		if took := time.Since(begin); took != 0 {
			t.Errorf("it ended after %v", took)
		}
	})
}

// What an issuer, or who stands in for it, may answer, and no key is taken from it.
func TestOIDCBadAnswers(t *testing.T) {
	t.Parallel()
	key := ecKey(t, "1")
	keys := asJSON(map[string]any{"keys": []any{key.public()}})
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, keys) }))
	t.Cleanup(plain.Close)
	huge := strings.Repeat(" ", mostFetched+1)
	tests := map[string]struct {
		discovery, keys func(x *testIssuer, w http.ResponseWriter, r *http.Request)
		want            string
	}{
		"huge discovery": {discovery: func(x *testIssuer, w http.ResponseWriter, _ *http.Request) {
			x.discovery(w, x.URL+"/keys")
			fmt.Fprint(w, huge)
		}, want: "too large"},
		"huge keys": {keys: func(_ *testIssuer, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, keys)
			fmt.Fprint(w, huge)
		}, want: "too large"},
		"too many keys": {keys: func(_ *testIssuer, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[1`+strings.Repeat(",1", mostKeys)+`]}`)
		}, want: "there are 101 keys"},
		"no keys":       {keys: func(_ *testIssuer, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) }, want: "no key that could be used"},
		"keys, no JSON": {keys: func(_ *testIssuer, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) }, want: "invalid character"},
		"keys, 404":     {keys: func(_ *testIssuer, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, want: "404"},
		"of another issuer": {discovery: func(x *testIssuer, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, asJSON(map[string]any{"issuer": "https://issuer.example", "jwks_uri": x.URL + "/keys"}))
		}, want: "did not match"},
		"a long page": {discovery: func(_ *testIssuer, w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("x", 1000), http.StatusNotFound)
		}, want: "xxx..."},
		"keys without TLS": {discovery: func(x *testIssuer, w http.ResponseWriter, _ *http.Request) { x.discovery(w, plain.URL) }, want: "is not https"},
		"keys nowhere":     {discovery: func(x *testIssuer, w http.ResponseWriter, _ *http.Request) { x.discovery(w, "") }, want: "is not https"},
		"redirected away from TLS": {keys: func(_ *testIssuer, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, plain.URL, http.StatusFound)
		}, want: "redirected away from https"},
		"redirected for ever": {keys: func(_ *testIssuer, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/keys", http.StatusFound)
		}, want: "redirected too often"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newTestIssuer(t)
			x.answer = func(w http.ResponseWriter, r *http.Request) {
				answer := test.discovery
				if r.URL.Path == "/keys" {
					answer = test.keys
				}
				switch {
				case answer != nil:
					answer(x, w, r)
				case r.URL.Path == "/keys":
					fmt.Fprint(w, keys)
				default:
					x.discovery(w, x.URL+"/keys")
				}
			}
			ask(t, x.authenticator(), key.sign(t, x.claims()), "!"+ReasonIssuerUnavailable)
			if err := <-x.observed; err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > mostText+3 {
				t.Errorf("observed %v, want %q", err, test.want)
			}
		})
	}
}

// A certificate nobody trusts is not an issuer's.
func TestOIDCIssuerIsNotTrusted(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	key := ecKey(t, "1")
	x.keys = []any{key.public()}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	a := x.authenticator(func(i *Issuer) { i.Client = &http.Client{Transport: transport} })
	ask(t, a, key.sign(t, x.claims()), "!"+ReasonIssuerUnavailable)
	err := <-x.observed
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); !unknown {
		t.Errorf("observed %v, want an unknown authority", err)
	}
	x.checkFetches(0)
}

// panicking is a transport that does.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("boo") }

func TestOIDCPanicIsAnOutage(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	a := x.authenticator(func(i *Issuer) { i.Client = &http.Client{Transport: panicking{}} })
	ask(t, a, ecKey(t, "1").sign(t, x.claims()), "!"+ReasonIssuerUnavailable)
	if err := <-x.observed; err == nil || err.Error() != "panic: boo" {
		t.Errorf("observed %v", err)
	}
}

func FuzzClaimedIssuer(f *testing.F) {
	for _, token := range []string{"", "a.b.c", "e30.e30.e30", "..", "e30.eyJpc3MiOiJhIn0.", "e30.eyJpc3MiOjd9.e30", "a.a.a.a"} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if claimedIssuer(token) != "" && strings.Count(token, ".") != 2 {
			t.Errorf("%q has an issuer", token)
		}
	})
}

// What takes the place of another has its keys, if it asks the same issuer in the same way, and needs none from it.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	x := newTestIssuer(t)
	key := ecKey(t, "k")
	x.set(func() { x.keys = []any{key.public()} })
	token := sign(t, key.algorithm, key.private, key.id, map[string]any{
		"iss": x.URL, "aud": "probed", "sub": "ann", "exp": time.Now().Add(time.Hour).Unix(),
	})
	client := x.Client()
	with := func(client *http.Client, before *Authenticator) *Authenticator {
		return authenticator(t, Config{Issuers: []Issuer{{URL: x.URL, Audience: "probed", Client: client}}, Before: before})
	}
	first := with(client, nil)
	ask(t, first, token, "oidc:ann")
	x.set(func() {
		x.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	})
	second := with(client, first)
	first.Close()
	ask(t, second, token, "oidc:ann")
	ask(t, with(client, second), token, "oidc:ann")
	// Another client may trust others.
	another := *client
	ask(t, with(&another, second), token, "!"+ReasonIssuerUnavailable)
}
