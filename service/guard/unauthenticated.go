package guard

import (
	"fmt"
	"maps"
	"slices"
)

// Why a caller is not identified: the values of UnauthenticatedError.Reason. They are few and stable, fit for a metric's
// label.
const (
	ReasonNone              = "none"               // No credentials were sent, and some are wanted.
	ReasonMalformed         = "malformed"          // The header or the token cannot be read.
	ReasonUnknown           = "unknown"            // Nobody known issued or signed it.
	ReasonExpired           = "expired"            // Its time is over.
	ReasonNotYetValid       = "not-yet-valid"      // Its time has not begun.
	ReasonAudience          = "audience"           // It is a token for somebody else.
	ReasonSubject           = "subject"            // It is valid and names nobody.
	ReasonCertificate       = "certificate"        // The certificate was not verified.
	ReasonIssuerUnavailable = "issuer-unavailable" // The issuer's keys cannot be had at present.
)

var reasonTexts = map[string]string{
	ReasonNone:              "no credentials: send a bearer token or a client certificate",
	ReasonMalformed:         "the authorization header cannot be read: send it once, as \"Bearer TOKEN\"",
	ReasonUnknown:           "the bearer token is not one that is accepted here",
	ReasonExpired:           "the credentials have expired: get new ones",
	ReasonNotYetValid:       "the credentials are not valid yet: compare the clocks",
	ReasonAudience:          "the bearer token is for another audience: get one for this service",
	ReasonSubject:           "the credentials are valid and name no usable subject",
	ReasonCertificate:       "the client certificate is not signed by an authority that is trusted here",
	ReasonIssuerUnavailable: "the bearer token cannot be checked, its issuer does not answer: try again later",
}

// Reasons are all of them.
func Reasons() []string { return slices.Sorted(maps.Keys(reasonTexts)) }

// UnauthenticatedError says why it is not known who sent a request. Its text is fit for the caller.
type UnauthenticatedError struct {
	// Reason is one of the constants Reason….
	Reason string
	// Unavailable: the fault is not with the credentials but here, and the same request may be right later.
	Unavailable bool
}

func (e *UnauthenticatedError) Error() string {
	if text, ok := reasonTexts[e.Reason]; ok {
		return text
	}
	return "the caller is not known"
}

// unauthenticated returns the error of that reason.
func unauthenticated(reason string) error {
	return &UnauthenticatedError{Reason: reason, Unavailable: reason == ReasonIssuerUnavailable}
}

// PanicError is a panic while a caller was being identified. Its text is for the log alone.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }
