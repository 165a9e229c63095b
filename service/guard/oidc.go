package guard

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// Issuer is an OpenID Connect issuer, or what acts as one, as a Kubernetes API server does for the tokens of service
// accounts. Of a token, which is a JWT (RFC 7519), the signature, iss, aud, exp and nbf have to be right and sub has to
// be there; nbf may be up to five minutes ahead.
type Issuer struct {
	// Name stands before the subject: NAME:SUB. Letters, digits, ".", "_" and "-"; empty: "oidc". No two issuers have the
	// same, and none has that of another way to be known ("mtls", "token").
	Name string
	// URL is the issuer as its tokens name it in iss, to the letter. It begins with https://. Below it lies
	// .well-known/openid-configuration.
	URL string
	// Audience is what aud has to have in it. It is required: without it, a token that a caller gave to somebody else could
	// be used here by them.
	Audience string
	// Client is what the issuer is asked with. It is required and has to have a Transport: which certificates are trusted
	// and how the issuer is dialled is for who sets probed up; no caller has a say in it.
	Client *http.Client //nolint:forbidigo // the operator's, handed in; none is made here
	// Algorithms are the signatures taken (RFC 7518, section 3.1); empty: RS, ES and PS with 256, 384 and 512, and EdDSA.
	// None but these can be named: "none" is no signature, and HS256 would make a secret of a public key.
	Algorithms []string
}

const (
	// fetchTime is how long an attempt to get an issuer's keys may take.
	fetchTime = 10 * time.Second
	// mostFetched is how many bytes each of the issuer's answers may have, and mostKeys how many keys it may have.
	mostFetched, mostKeys = 1 << 20, 100
	// failurePause lies between an attempt that failed and the next.
	failurePause = time.Second
	// unknownPause lies between an attempt that succeeded and the next, which a token with an unknown key asks for. It is
	// longer than failurePause, since anybody can write such a token.
	unknownPause = 10 * time.Second
	// keysFresh is how long keys are used without asking for them again, so that one that was withdrawn goes.
	keysFresh = 5 * time.Minute
	// keysUsable is how long they are used while the issuer does not answer: about as long as tokens are valid.
	keysUsable = time.Hour
)

var (
	algorithms = []string{
		oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512,
		oidc.EdDSA,
	}
	issuerName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// issuer holds tokens against an issuer's keys. The library has a set of keys that fetches them by itself; it does so
// whenever somebody sends a token with an unknown key, in a goroutine that nobody waits for, and keeps them for ever. So
// the keys are kept here, and what a token claims is held against the configuration there.
type issuer struct {
	name     string
	url      string
	observe  func(string, error)
	given    *http.Client //nolint:forbidigo // the operator's
	client   *http.Client //nolint:forbidigo // the same, with bounds
	expected oidc.Config
	signed   []jose.SignatureAlgorithm // those of expected, as the library below has them

	life context.Context // ends with close
	end  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	keys    []jose.JSONWebKey
	fetched time.Time     // when the keys were; zero: never
	tried   time.Time     // when the last attempt ended; zero: there was none
	failed  bool          // whether it failed
	flight  chan struct{} // closed at the end of the attempt that is under way; nil: none is
}

func newIssuer(c Issuer, now func() time.Time, observe func(string, error)) (*issuer, error) {
	name := cmp.Or(c.Name, MethodOIDC)
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("its URL is not of the form https://host/path")
	case !issuerName.MatchString(name):
		return nil, fmt.Errorf("its name %q has other characters than letters, digits, \".\", \"_\" and \"-\"", name)
	case c.Audience == "":
		return nil, errors.New("the audience is missing: without it, tokens made for others would be taken")
	case c.Client == nil || c.Client.Transport == nil: //nolint:forbidigo // asked whether it is there
		return nil, errors.New("there is no HTTP client, or none with a transport")
	}
	i := &issuer{
		name:     name,
		url:      c.URL,
		observe:  observe,
		given:    c.Client,
		client:   boundedClient(c.Client),
		expected: oidc.Config{ClientID: c.Audience, SupportedSigningAlgs: c.Algorithms, Now: now},
	}
	if len(c.Algorithms) == 0 {
		i.expected.SupportedSigningAlgs = algorithms
	}
	for _, algorithm := range i.expected.SupportedSigningAlgs {
		if !slices.Contains(algorithms, algorithm) {
			return nil, fmt.Errorf("algorithm %q is not one of %s", algorithm, strings.Join(algorithms, ", "))
		}
		i.signed = append(i.signed, jose.SignatureAlgorithm(algorithm))
	}
	i.life, i.end = context.WithCancel(context.Background())
	return i, nil
}

// takeOver takes the keys that before has, if it asks the same server in the same way; before may be nil.
func (i *issuer) takeOver(before *issuer) {
	if before == nil || before.given != i.given {
		return
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	i.keys, i.fetched, i.tried, i.failed = before.keys, before.fetched, before.tried, before.failed
}

// close ends the attempt that is under way, and waits for it.
func (i *issuer) close() {
	i.mu.Lock()
	i.closed = true
	flight := i.flight
	i.mu.Unlock()
	i.end()
	if flight != nil {
		<-flight
	}
}

// claimedIssuer returns what a token says of its issuer, or "" when it is no JWT or says nothing. Nothing is verified.
func claimedIssuer(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// identify returns the subject of a token that the issuer made for this audience.
func (i *issuer) identify(ctx context.Context, token string) (string, error) {
	s := &signature{issuer: i}
	verify := func(expected oidc.Config) (*oidc.IDToken, error) {
		return oidc.NewVerifier(i.url, s, &expected).Verify(ctx, token)
	}
	claims, err := verify(i.expected)
	if err == nil {
		if !usableName(claims.Subject) {
			return "", unauthenticated(ReasonSubject)
		}
		return i.name + ":" + claims.Subject, nil
	}
	switch {
	case s.err != nil:
		return "", s.err
	case s.payload == nil: // no JWS, or none with a signature that is taken
		return "", unauthenticated(ReasonUnknown)
	}
	// It is signed, so whose it is may know what is wrong with it. Of all that can be, the library gives only one a type.
	forAnybody, atAnyTime := i.expected, i.expected
	forAnybody.ClientID, forAnybody.SkipClientIDCheck = "", true
	atAnyTime.SkipExpiryCheck = true
	_, err = verify(forAnybody)
	if _, expired := errors.AsType[*oidc.TokenExpiredError](err); expired {
		return "", unauthenticated(ReasonExpired)
	}
	if err == nil {
		return "", unauthenticated(ReasonAudience)
	}
	if _, err = verify(atAnyTime); err == nil {
		return "", unauthenticated(ReasonNotYetValid)
	}
	return "", unauthenticated(ReasonUnknown)
}

// signature is the oidc.KeySet for one token. It keeps what came of its signature, of which the library makes a text, and
// looks at it once.
type signature struct {
	issuer  *issuer
	payload []byte
	err     error // an *UnauthenticatedError
}

// VerifySignature returns what is signed, if it is signed by a key of the issuer.
func (s *signature) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	if s.payload == nil && s.err == nil {
		s.payload, s.err = s.issuer.verify(ctx, token)
	}
	return s.payload, s.err
}

func (i *issuer) verify(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, i.signed)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, unauthenticated(ReasonUnknown)
	}
	if payload := payloadSignedBy(i.known(), jws); payload != nil {
		return payload, nil
	}
	// No key fits. There may be new ones (OpenID Connect Core, section 10.1.1).
	certain := i.refresh(ctx)
	if payload := payloadSignedBy(i.known(), jws); payload != nil {
		return payload, nil
	}
	if !certain {
		return nil, unauthenticated(ReasonIssuerUnavailable)
	}
	return nil, unauthenticated(ReasonUnknown)
}

// payloadSignedBy returns what is signed, if it is by one of the keys, and else nil.
func payloadSignedBy(keys []jose.JSONWebKey, jws *jose.JSONWebSignature) []byte {
	header := jws.Signatures[0].Header
	for n := range keys {
		key := &keys[n]
		if header.KeyID != "" && header.KeyID != key.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload
		}
	}
	return nil
}

// known returns the keys that are at hand, and asks for them anew, without waiting, when they are no longer fresh.
func (i *issuer) known() []jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	age := i.expected.Now().Sub(i.fetched)
	if i.fetched.IsZero() || age > keysUsable {
		return nil
	}
	if age > keysFresh {
		i.attempt()
	}
	return i.keys
}

// refresh asks for the keys and waits for them, unless it was done just now. It returns whether the keys at hand are those
// that the issuer has.
func (i *issuer) refresh(ctx context.Context) (certain bool) {
	i.mu.Lock()
	flight := i.attempt()
	i.mu.Unlock()
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return false
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.tried.IsZero() && !i.failed
}

// attempt begins to get the keys, or finds it under way, and returns what is closed when it has ended; nil when it is too
// early for another. The mutex is held. The attempt is not tied to the request that asks for it, since others wait for it
// too: it ends in its time, or with close.
func (i *issuer) attempt() <-chan struct{} {
	now := i.expected.Now
	pause := unknownPause
	if i.failed {
		pause = failurePause
	}
	switch {
	case i.flight != nil:
		return i.flight
	case i.closed || !i.tried.IsZero() && now().Sub(i.tried) < pause:
		return nil
	}
	flight := make(chan struct{})
	i.flight = flight
	go func() {
		defer close(flight)
		ctx, cancel := context.WithTimeout(i.life, fetchTime)
		defer cancel()
		keys, err := fetchKeys(ctx, i.client, i.url)
		i.mu.Lock()
		i.flight, i.tried, i.failed = nil, now(), err != nil
		if err == nil {
			i.keys, i.fetched = keys, i.tried
		}
		tell := i.observe != nil && !i.closed
		i.mu.Unlock()
		if tell {
			i.observe(i.name, err)
		}
	}()
	return flight
}
