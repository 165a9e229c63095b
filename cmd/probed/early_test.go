package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// Who is nobody is told so before they have sent a request: nobody can make probed hold one, not even in part.
func TestRefusedBeforeTheRequest(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t)
	conn := s.connect(t, who{})
	for _, method := range servedMethods(t, s) {
		if fullName(method) == "/grpc.health.v1.Health/Check" || fullName(method) == "/grpc.health.v1.Health/List" || fullName(method) == "/grpc.health.v1.Health/Watch" {
			continue // for everybody
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		// To the server a call whose message does not come is the same whatever the method.
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, fullName(method))
		if err == nil {
			err = stream.RecvMsg(new(probev1.LookupServiceResponse))
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", fullName(method), err)
		}
		cancel()
	}
	for _, path := range []string{"/v1/exchange", "/v1/connect", "/v1/dns", "/v1/none"} {
		dialer := tls.Dialer{Config: s.tls(who{})}
		raw, err := dialer.DialContext(t.Context(), "tcp", s.addresses["http"])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(raw, "POST %s HTTP/1.1\r\nHost: probed.test\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{", path)
		response, err := http.ReadResponse(bufio.NewReader(raw), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := http.StatusUnauthorized
		if path == "/v1/none" {
			want = http.StatusNotFound
		}
		if response.StatusCode != want || !response.Close {
			t.Errorf("%s: %s, closed %v", path, response.Status, response.Close)
		}
		response.Body.Close()
		raw.Close()
	}
	if n := s.metric(t, `probed_unauthenticated_total{reason="none"}`); n == "" || n == "0" {
		t.Errorf("%q were refused", n)
	}
}

// Each caller has a share of the calls, lookups as well as sessions, by gRPC and by REST, and the rest is for others.
func TestCallsOfACaller(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.put(t, map[string]string{"probed.yaml": s.config(securedPolicy, "limits: {calls: 5, calls_per_caller: 2}\n")})
	s.start(t, "--drain-timeout=50ms")
	conn, client := s.connect(t, who{}), s.client(t, who{})
	target := nettest.TCP(t, nettest.Silent).String()
	hold := func(name string) (release func()) {
		ctx, cancel := context.WithCancel(token(name).as(t.Context()))
		stream, err := probev1.NewExchangeServiceClient(conn).Converse(ctx)
		if err == nil {
			err = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target}}})
		}
		if err == nil {
			_, err = stream.Recv() // it is under way
		}
		if err != nil {
			t.Fatal(err)
		}
		return cancel
	}
	port := func(name string) error {
		_, err := probev1.NewNameServiceClient(conn).LookupPort(token(name).as(t.Context()), &probev1.LookupPortRequest{Port: 22})
		return err
	}
	first := hold("all")
	second := hold("all")
	if err := port("all"); status.Code(err) != codes.ResourceExhausted || reasonOf(err) != "ERROR_REASON_LIMIT_REACHED" {
		t.Error(err)
	}
	// Of a request that will be refused no more is read by REST either.
	got, text, err := s.rest(t.Context(), client, token("all"), http.MethodGet, "/v1/ports/22", "")
	if err != nil || !strings.Contains(text, "calls_per_caller") || !strings.Contains(text, "RetryInfo") {
		t.Errorf("%+v, %s, %v", got, text, err)
	}
	for range 10 {
		if err := port("connector"); err != nil {
			t.Errorf("another caller: %v", err)
		}
	}
	first()
	second()
	eventually(t, "the places come back", func() bool { return port("all") == nil })
}

// Who may not call any more has no conversation any more.
func TestReloadEndsSessions(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t)
	target := nettest.TCP(t, nettest.Silent).String()
	ctx, cancel := context.WithTimeout(token("all").as(t.Context()), patience)
	defer cancel()
	stream, err := probev1.NewExchangeServiceClient(s.connect(t, who{})).Converse(ctx)
	if err == nil {
		err = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target}}})
	}
	if err == nil {
		_, err = stream.Recv() // it is under way
	}
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, map[string]string{"tokens.yaml": tokensFile("resolver", "connector")})
	s.reload(t, reloadsOK)
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "not have this session any more") {
		t.Error(err)
	}
}
