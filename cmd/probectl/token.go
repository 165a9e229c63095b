package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// mostToken is how long a token may be, in bytes: a server takes no more in all headers of a request.
const mostToken = 16 << 10

// bearerToken is the token to show, or "". A file that a flag names counts more than the environment.
func (g *guarded) bearerToken() (string, error) {
	switch {
	case g.flags.Changed("token-file") && g.tokenFile == "":
		return "", nil
	case g.flags.Changed("token-file"):
		token, err := readToken(g.tokenFile)
		return token, aboutFlag("token-file", err)
	case g.tokenFile != "" && g.token != "":
		return "", errors.New("PROBECTL_TOKEN and PROBECTL_TOKEN_FILE are both set: unset the one that is not meant")
	case g.tokenFile != "":
		token, err := readToken(g.tokenFile)
		return token, prefixed("PROBECTL_TOKEN_FILE", err)
	case g.token != "":
		token, err := checkToken("it", g.token)
		return token, prefixed("PROBECTL_TOKEN", err)
	}
	return "", nil
}

func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readToken reads a token from a file. Standard input is not for it: that is what is sent.
func readToken(name string) (string, error) {
	if name == "-" {
		return "", errors.New("a token is not read from standard input: name a file")
	}
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, mostToken+3)) // with a newline of two bytes and one more
	if err != nil {
		return "", err
	}
	return checkToken(name, string(text))
}

// checkToken takes the newline off a token. The errors never repeat any of it: a token is secret, and so is what somebody
// took for one.
func checkToken(name, text string) (string, error) {
	token := strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	body := strings.TrimRight(token, "=")
	switch at := strings.IndexFunc(body, notOfToken); {
	case strings.TrimSpace(body) == "":
		return "", fmt.Errorf("%s is empty", name)
	case len(token) > mostToken:
		return "", fmt.Errorf("%s is longer than 16 KiB, which no token is", name)
	case at >= 0:
		return "", fmt.Errorf("%s is not a token alone: byte %d is none that tokens have, which are letters, digits, -._~+/ and = at the end", name, at+1)
	}
	return token, nil
}

// notOfToken tells the characters that a bearer token has not (RFC 6750, section 2.1).
func notOfToken(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~+/", r)
}

// bearer shows a token with each call. That gRPC would hold it back without TLS is left to [transport], which knows where
// the connection leads.
type bearer struct {
	token  string
	secure bool
}

// GetRequestMetadata is the header that has the token (RFC 6750, section 2.1).
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity makes gRPC look after a connection that is to be secure.
func (b bearer) RequireTransportSecurity() bool { return b.secure }
