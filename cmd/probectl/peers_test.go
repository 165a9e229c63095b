package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// secureServer is a web server with TLS, whose certificate is its own authority.
func secureServer(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello\n")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// pemFiles is a certificate and its key.
func pemFiles(t *testing.T, c tls.Certificate) (certificate, key []byte) {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// startTLS is a mail server, as far as one needs it to go on with TLS.
func startTLS(config *tls.Config) func(net.Conn) {
	return func(c net.Conn) {
		lines := bufio.NewReader(c)
		fmt.Fprint(c, "220 mx ready\r\n")
		for {
			line, err := lines.ReadString('\n')
			switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
			case err != nil:
				return
			case verb == "EHLO":
				fmt.Fprint(c, "250-mx\r\n250-STARTTLS\r\n250 HELP\r\n")
			case verb == "STARTTLS":
				fmt.Fprint(c, "220 go\r\n")
				secure := tls.Server(c, config)
				defer secure.Close()
				c, lines = secure, bufio.NewReader(secure)
			case verb == "QUIT":
				fmt.Fprint(c, "221 bye\r\n")
				return
			}
		}
	}
}

// pinging is a chat server that lets in who answers its question.
func pinging(c net.Conn) {
	fmt.Fprint(c, "NOTICE wait\r\nPING :42\r\n")
	if line, _ := bufio.NewReader(c).ReadString('\n'); line == "PONG :42\r\n" {
		fmt.Fprint(c, ":irc 001 welcome\r\n")
	} else {
		fmt.Fprint(c, "465 no \\\n\r\n")
	}
}
