package guard

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// Token is a bearer token that an operator gave to a caller. Only its hash is kept, so that who reads the configuration
// cannot call. The hash has no salt and is fast, which is right for a token of 256 random bits, as [NewToken] makes them,
// and wrong for anything that a person made up.
type Token struct {
	// Name of whom it was given to: the subject is "token:" and the name. Two tokens may have one name, so that a new one
	// can be handed out before the old one is withdrawn.
	Name string
	// Hash is the SHA-256 of the token, see [ParseTokenHash].
	Hash [sha256.Size]byte
	// NotAfter is when it ends; zero: never.
	NotAfter time.Time
}

const (
	// tokenPrefix lets scanners for leaked secrets know a token when they see one.
	tokenPrefix = "probed_"
	hashPrefix  = "sha256:"
)

// NewToken makes a token of 256 random bits, and its hash in the form that [ParseTokenHash] reads.
func NewToken() (token, hash string) {
	random := make([]byte, 32)
	rand.Read(random) // crypto/rand: never fails
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(random)
	sum := sha256.Sum256([]byte(token))
	return token, hashPrefix + hex.EncodeToString(sum[:])
}

// ParseTokenHash reads the SHA-256 of a token: "sha256:" and 64 hexadecimal digits. The error does not repeat what it was
// given: that may be the token itself.
func ParseTokenHash(s string) ([sha256.Size]byte, error) {
	var hash [sha256.Size]byte
	digits, found := strings.CutPrefix(s, hashPrefix)
	if !found || len(digits) != hex.EncodedLen(len(hash)) {
		return hash, errTokenHash
	}
	if _, err := hex.Decode(hash[:], []byte(digits)); err != nil {
		return [sha256.Size]byte{}, errTokenHash
	}
	return hash, nil
}

var errTokenHash = errors.New(`not the hash of a token: want "sha256:" and 64 hexadecimal digits`)

// findToken returns the index of the token that was presented, or -1. It takes the same time whichever it is: all hashes
// are compared, each in constant time.
func findToken(tokens []Token, presented string) int {
	sum := sha256.Sum256([]byte(presented))
	found := -1
	for i := range tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], tokens[i].Hash[:]), i, found)
	}
	return found
}

// mostAuthorization is how many bytes an Authorization header may have: as many as all headers of a request.
const mostAuthorization = 16 << 10

// parseBearer returns the token in the value of an Authorization header: "Bearer", in whatever case (RFC 9110, section
// 11.1), at least one space, and a token68 (RFC 6750, section 2.1).
func parseBearer(header string) (token string, ok bool) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || len(header) > mostAuthorization {
		return "", false
	}
	token = strings.TrimLeft(rest, " ")
	body := strings.TrimRight(token, "=")
	return token, body != "" && !strings.ContainsFunc(body, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~+/", r)
	})
}
