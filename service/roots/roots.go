// Package roots has the authorities that the public trusts, for a host that has no list of its own, as an image from
// scratch.
//
// They are read when they are needed first, which costs as much as all else of a package's init: importing
// golang.org/x/crypto/x509roots/fallback would have every program read them when it starts, and most never ask.
package roots

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Load makes crypto/x509 trust them where the host has no list. It is to be called before a peer is held to those that the
// host trusts; the first call takes a moment.
var Load = sync.OnceFunc(func() {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			panic(err) // the list is part of the program
		}
		if root.Constraint == nil {
			pool.AddCert(certificate)
		} else {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	x509.SetFallbackRoots(pool)
})
