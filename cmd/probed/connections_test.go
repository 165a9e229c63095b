package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

const refusedConnections = "probed_connections_refused_total"

// from connects from an address of loopback.
func from(t *testing.T, address, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))}
	conn, err := dialer.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// closedBy tells how long it takes until the other end closes a connection on which we say nothing more.
func closedBy(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	conn.SetReadDeadline(begin.Add(patience))
	_, err := io.Copy(io.Discard, conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it is not closed: %v", err)
	}
	return time.Since(begin)
}

// open tells whether a connection is, by what it answers.
func open(t *testing.T, conn net.Conn) bool {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /v1/ports/22 HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return false
	}
	n, _ := conn.Read(make([]byte, 1))
	return n == 1
}

// What comes beyond the most is closed at once and counted, gRPC and REST together. A place that is left is had again.
func TestMostConnections(t *testing.T) {
	t.Parallel()
	p := start(t, "--config="+file(t, "limits: {connections: 3}\n"))
	var held []net.Conn
	for n, listener := range []string{"http", "http", "grpc"} {
		held = append(held, from(t, "127.0.0."+strconv.Itoa(n+1), p.addresses[listener]))
	}
	for _, conn := range held[:2] {
		if !open(t, conn) {
			t.Error("one of the first is closed")
		}
	}
	// gRPC answers who speaks HTTP/2, so that it is known to have been accepted.
	if _, err := io.WriteString(held[2], http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if n, err := held[2].Read(make([]byte, 9)); n == 0 {
		t.Fatalf("gRPC says nothing: %v", err)
	}
	for n, listener := range []string{"http", "grpc"} {
		if waited := closedBy(t, from(t, "127.0.0.9", p.addresses[listener])); waited > 5*time.Second {
			t.Errorf("%s: it is closed after %v", listener, waited)
		}
		want := strconv.Itoa(n + 1)
		eventually(t, refusedConnections+" is "+want, func() bool { return p.metric(t, refusedConnections) == want })
	}
	held[0].Close()
	eventually(t, "a place is free", func() bool { return open(t, from(t, "127.0.0.9", p.addresses["http"])) })
	// The operator's own listener is not the callers' to fill.
	if code, _ := p.get(t, "ops", "/livez"); code != http.StatusOK {
		t.Errorf("livez: %d", code)
	}
}

// One address does not take all places, and is counted as one whatever it says.
func TestMostConnectionsOfAnAddress(t *testing.T) {
	t.Parallel()
	p := start(t, "--config="+file(t, "limits: {connections: 5, connections_per_address: 2}\n"))
	first, second := from(t, "127.0.0.2", p.addresses["http"]), from(t, "127.0.0.2", p.addresses["http"])
	if !open(t, first) || !open(t, second) {
		t.Fatal("one of the first is closed")
	}
	third := from(t, "127.0.0.2", p.addresses["http"])
	if _, err := io.WriteString(third, "GET /v1/ports/22 HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"); err == nil {
		if n, _ := third.Read(make([]byte, 1)); n > 0 {
			t.Error("a third connection is served")
		}
	}
	if got := p.metric(t, refusedConnections); got != "1" {
		t.Errorf("%s %s", refusedConnections, got)
	}
	if !open(t, from(t, "127.0.0.3", p.addresses["http"])) {
		t.Error("another address is refused")
	}
	first.Close()
	eventually(t, "a place is free", func() bool { return open(t, from(t, "127.0.0.2", p.addresses["http"])) })
}

// Who does not get on with the handshake is sent away, and the place is free again: in TLS, in the preface of HTTP/2, and
// in the headers of HTTP/1.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	const most = 200 * time.Millisecond
	limits := "limits: {handshake_timeout: 200ms, connections: 2, connections_per_address: 1}\n"
	s := newSecured(t)
	s.put(t, map[string]string{"probed.yaml": s.config() + limits})
	s.start(t)
	plain := start(t, "--config="+file(t, limits))
	n := byte(1)
	for _, silent := range []struct {
		name, address, text string
	}{
		{"gRPC in TLS", s.addresses["grpc"], ""},
		{"gRPC in the middle of a ClientHello", s.addresses["grpc"], "\x16\x03\x01\x02\x00\x01\x00"},
		{"REST in TLS", s.addresses["http"], ""},
		{"REST in the middle of a ClientHello", s.addresses["http"], "\x16\x03\x01\x02\x00\x01\x00"},
		{"gRPC", plain.addresses["grpc"], ""},
		{"gRPC in the preface", plain.addresses["grpc"], "PRI * HTTP/2.0\r\n"},
		{"REST", plain.addresses["http"], ""},
		{"REST in the headers", plain.addresses["http"], "GET /v1/ports/22 HTTP/1.1\r\nHost: local"},
	} {
		n++
		address := netip.AddrFrom4([4]byte{127, 0, 0, n}).String()
		conn := from(t, address, silent.address)
		if _, err := io.WriteString(conn, silent.text); err != nil {
			t.Errorf("%s: %v", silent.name, err)
		}
		if took := closedBy(t, conn); took < most/2 || took > most+5*time.Second {
			t.Errorf("%s: closed after %v", silent.name, took)
		}
		// The place comes back: otherwise this address would be refused at once.
		again := from(t, address, silent.address)
		if took := closedBy(t, again); took < most/2 {
			t.Errorf("%s: its place is not free: closed after %v", silent.name, took)
		}
	}
}

// A most of streams holds for each connection, and those beyond wait for their turn.
func TestMostStreams(t *testing.T) {
	t.Parallel()
	p := start(t, "--config="+file(t, "limits: {streams_per_connection: 2}\n"))
	target, rest := greeter(t)
	conn, err := grpc.NewClient(p.addresses["grpc"], append(p.witness.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := probev1.NewExchangeServiceClient(conn)
	for range 2 {
		stream, err := client.Exchange(t.Context(), &probev1.ExchangeRequest{Target: target})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	third := make(chan error, 1)
	go func() {
		_, err := probev1.NewNameServiceClient(conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22})
		third <- err
	}()
	if _, err := probev1.NewNameServiceClient(p.conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
		t.Errorf("on another connection: %v", err)
	}
	select {
	case err := <-third:
		t.Errorf("a third call goes through: %v", err)
	default:
	}
	close(rest)
	if err := <-third; status.Code(err) != codes.OK {
		t.Error(err)
	}
}
