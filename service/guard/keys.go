package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// boundedClient returns a client like the operator's, whose answers have bounds and which stays with https.
func boundedClient(operators *http.Client) *http.Client { //nolint:forbidigo // the operator's, handed in; none is made here
	client := *operators
	client.Transport = boundedTransport{operators.Transport}
	client.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		switch {
		case to.URL.Scheme != "https": // there, anybody on the way could give the keys
			return errors.New("redirected away from https")
		case operators.CheckRedirect != nil:
			return operators.CheckRedirect(to, via)
		case len(via) > 3:
			return errors.New("redirected too often")
		}
		return nil
	}
	return &client
}

// boundedTransport ends a body that is longer than mostFetched with an error.
type boundedTransport struct{ http.RoundTripper }

func (b boundedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(request)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, mostFetched)
	}
	return response, err
}

// fetchKeys finds out where the issuer has its keys (OpenID Connect Discovery, section 4) and returns those that sign. It
// does both each time: where the keys are may change too. A panic on the way is an error, for nobody above would catch it.
func fetchKeys(ctx context.Context, client *http.Client, issuer string) (keys []jose.JSONWebKey, err error) { //nolint:forbidigo // as above
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v", value)
		}
		err = shortened(err)
	}()
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
	if err != nil {
		return nil, err
	}
	var found struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&found); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, found.Keys, http.NoBody)
	if err != nil {
		return nil, err
	}
	if request.URL.Scheme != "https" {
		return nil, fmt.Errorf("jwks_uri %q is not https", found.Keys)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", found.Keys, response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", found.Keys, err)
	}
	keys, err = parseKeys(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", found.Keys, err)
	}
	return keys, nil
}

// parseKeys reads a JWK set and returns the public keys in it that are for signatures. As RFC 7517, section 5, asks, keys
// that are not understood are passed over.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > mostKeys {
		return nil, fmt.Errorf("there are %d keys, more than %d", len(set.Keys), mostKeys)
	}
	var keys []jose.JSONWebKey
	for _, text := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(text, &key) == nil && key.IsPublic() && key.Valid() && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil, errors.New("there is no key that could be used")
	}
	return keys, nil
}

// mostText is how many bytes of an error are kept: the library puts whole answers into some.
const mostText = 300

func shortened(err error) error {
	if err == nil || len(err.Error()) <= mostText {
		return err
	}
	return errors.New(err.Error()[:mostText] + "...")
}
