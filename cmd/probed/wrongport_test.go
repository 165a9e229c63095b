package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// Who takes one listener for another is told so in the protocol that they speak, at once, and goes on nowhere.
func TestWrongPort(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodOptions} {
		code, body := p.do(t, method, "grpc", "/v1/ports/22", strings.Repeat("x", 100_000))
		if code != http.StatusHTTPVersionNotSupported || body != takesGRPC {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
	conn, err := grpc.NewClient(p.addresses["http"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		_, err = probev1.NewNameServiceClient(conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}, grpc.WaitForReady(true))
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != takesREST {
			t.Errorf("gRPC to REST: %v", err)
		}
	}
	if services, err := reflected(t.Context(), conn); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a stream of gRPC to REST: %s, %v", services, err)
	}
	// HTTP/2 that is not gRPC gets no answer that looks like one.
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get(p.url("http", "/v1/ports/22"))
	if err == nil {
		response.Body.Close()
		t.Errorf("HTTP/2: %s", response.Status)
	}
	// The preface alone holds nothing for long.
	silent, err := net.Dial("tcp", p.addresses["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := io.WriteString(silent, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(patience))
	if text, err := io.ReadAll(silent); err != nil || len(text) != 9 { // of empty settings
		t.Errorf("%q, %v", text, err)
	}
	// The others are served.
	if code, _ := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
		t.Errorf("REST: %d", code)
	}
	if _, err := probev1.NewNameServiceClient(p.conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
		t.Error(err)
	}
}
