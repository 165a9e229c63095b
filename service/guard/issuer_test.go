package guard

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A testIssuer is an OpenID Connect issuer on loopback, over TLS.
type testIssuer struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	keys    []any                                    // of its JWK set
	answer  func(http.ResponseWriter, *http.Request) // instead of the right ones, unless nil
	fetches int                                      // how many times the discovery document was asked for
	now     time.Time                                // what the clock of who asks it says

	observed chan error // what came of each attempt
}

func newTestIssuer(t *testing.T) *testIssuer {
	t.Helper()
	x := &testIssuer{t: t, now: time.Now(), observed: make(chan error, 1000)}
	x.Server = httptest.NewUnstartedServer(x)
	x.Config.ErrorLog = log.New(io.Discard, "", 0)
	x.StartTLS()
	t.Cleanup(x.Close)
	return x
}

func (x *testIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.mu.Lock()
	answer, keys := x.answer, x.keys
	if r.URL.Path == "/.well-known/openid-configuration" {
		x.fetches++
	}
	x.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case r.URL.Path == "/.well-known/openid-configuration":
		x.discovery(w, x.URL+"/keys")
	case r.URL.Path == "/keys":
		fmt.Fprint(w, asJSON(map[string]any{"keys": keys}))
	default:
		http.NotFound(w, r)
	}
}

func (x *testIssuer) discovery(w io.Writer, keys string) {
	fmt.Fprint(w, asJSON(map[string]any{"issuer": x.URL, "jwks_uri": keys}))
}

// set changes the issuer while nobody is answered.
func (x *testIssuer) set(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
}

func (x *testIssuer) after(d time.Duration) {
	x.set(func() { x.now = x.now.Add(d) })
}

func (x *testIssuer) time() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.now
}

func (x *testIssuer) authenticator(set ...func(*Issuer)) *Authenticator {
	x.t.Helper()
	i := Issuer{URL: x.URL, Audience: "probed", Client: x.Client()}
	for _, s := range set {
		s(&i)
	}
	return authenticator(x.t, Config{
		Issuers: []Issuer{i}, Now: x.time, Observe: func(_ string, err error) { x.observed <- err },
	})
}

// checkFetches says how often the issuer should have been asked until now.
func (x *testIssuer) checkFetches(want int) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fetches != want {
		x.t.Errorf("the issuer was asked %d times, want %d", x.fetches, want)
	}
}

// checkObserved waits for the end of an attempt, which should be a good one.
func (x *testIssuer) checkObserved() {
	x.t.Helper()
	if err := <-x.observed; err != nil {
		x.t.Errorf("observed %v, want success", err)
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// A testKey signs tokens.
type testKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func (k *testKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(k.algorithm), Use: "sig"}
}

func ecKey(t *testing.T, id string) *testKey { return &testKey{id, jose.ES256, newKey(t)} }

// sign makes a token of claims.
func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, id string, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(asJSON(claims)))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (k *testKey) sign(t *testing.T, claims any) string {
	t.Helper()
	return sign(t, k.algorithm, k.private, k.id, claims)
}

type claims map[string]any

// with returns the claims with some changed; nil: left out.
func (c claims) with(changes claims) claims {
	changed := maps.Clone(c)
	maps.Copy(changed, changes)
	maps.DeleteFunc(changed, func(_ string, value any) bool { return value == nil })
	return changed
}

func (x *testIssuer) claims() claims {
	now := x.time()
	return claims{
		"iss": x.URL, "aud": "probed", "sub": "alice", "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(),
	}
}

// ask authenticates a token and holds the answer against what is wanted: a subject, or "!" and a reason.
func ask(t *testing.T, a *Authenticator, token, want string) {
	t.Helper()
	askWith(t.Context(), t, a, token, want)
}

func askWith(ctx context.Context, t *testing.T, a *Authenticator, token, want string) {
	t.Helper()
	caller, err := a.Authenticate(ctx, Credentials{Authorization: "Bearer " + token})
	reason, refused := strings.CutPrefix(want, "!")
	if !refused {
		reason = ""
	}
	checkReason(t, err, reason)
	if !refused && caller != (Caller{want, MethodOIDC, want}) {
		t.Errorf("caller %+v, want %s", caller, want)
	}
	if refused && caller != (Caller{}) {
		t.Errorf("refused, and the caller is %+v", caller)
	}
}
