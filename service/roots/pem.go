//go:build ignore

// This program prints the list as a file, for images: what looks for the host's list finds it there, and who looks into the image
// sees it. Run it by `go run service/roots/pem.go`.
//
// Those that are trusted on a condition (today: not what they signed after some day) are left out, because a file of
// certificates cannot say it.

package main

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pem:", err)
		os.Exit(1)
	}
}

func run() error {
	out := bufio.NewWriter(os.Stdout)
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "# %s\n", certificate.Subject)
		if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return err
		}
	}
	return out.Flush()
}
