package exchange

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"probed/internal/nettest"
)

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
}

// underTLS lets a peer speak TLS.
func underTLS(config *tls.Config, handle func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		secured := tls.Server(c, config)
		if secured.Handshake() != nil {
			return
		}
		handle(secured)
		_ = secured.Close()
	}
}

func secureEcho(c net.Conn) {
	_, _ = io.Copy(c, c)
}

func securely(target Target) Target {
	target.Scheme = "tls"
	return target
}

// The trap of the lecture, under TLS, and the rules of receive.
func TestTLSExchange(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}, NextProtos: []string{"echo"}}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, size := range []int{0, 1, 4096, 16384, 16385, 1 << 20, 5 << 20} {
			config := config.Clone()
			config.MinVersion, config.MaxVersion = version, version
			target, _ := streamTarget(t, "tcp", underTLS(config, secureEcho))
			data := nettest.Data(size)
			r := trial{request: Request{
				Target: securely(target), TLS: &TLSOptions{Roots: pool(a), ALPN: []string{"echo"}},
				Steps: []Step{Send{Data: data}, HalfClose{}, Receive{}},
			}}.run(t)
			if !r.OK || !bytes.Equal(r.data, data) || r.EndedBy != EndedByPeerClosed || r.BytesSent != uint64(size) {
				t.Errorf("%s, %d bytes: %d came: %+v", tls.VersionName(version), size, len(r.data), r.Outcome)
			}
			if r.TLS == nil || r.TLS.Version != tls.VersionName(version) || r.TLS.ALPN != "echo" || !r.TLS.Verified || r.TLS.KeyExchange == "" || r.Timings.TLS <= 0 {
				t.Errorf("TLS: %+v", r.TLS)
			}
			if c := r.TLS.Chain; len(c) != 1 || c[0].SerialNumber == "" || c[0].KeyType != "ECDSA P-256" || c[0].Names[0] != "127.0.0.1" || len(c[0].SHA256) != 64 || c[0].Issuer != "CN=authority" {
				t.Errorf("chain: %+v", c)
			}
		}
	}
	target, _ := streamTarget(t, "tcp", underTLS(config, secureEcho))
	r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a)}, Steps: []Step{
		Send{Data: []byte("abcdef\nghi")}, Receive{Length: 3}, Receive{Delimiter: "\n"}, Expect{Literal: []byte("g")}, Receive{Idle: 50 * time.Millisecond},
	}}}.run(t)
	if !r.OK || r.EndedBy != EndedByIdle || string(r.data) != "abcdef\nghi" {
		t.Errorf("%q came: %+v", r.data, r.Outcome)
	}
}

// Certificates carry names in their ASCII form, and people type them in their own.
func TestInternationalName(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	asked := make(chan string, 1)
	config := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked <- hello.ServerName
		certificate := a.serving(t, nil, "xn--mnchen-3ya.test")
		return &certificate, nil
	}}
	target, _ := streamTarget(t, "tcp", underTLS(config, secureEcho))
	r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a), ServerName: "M\u00fcnchen.test"}}}.run(t)
	if name := <-asked; !r.OK || name != "xn--mnchen-3ya.test" || r.TLS.ServerName != name {
		t.Errorf("asked for %q: %+v, %+v", name, r.Outcome, r.TLS)
	}
}

func TestStartTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "mail.test")}}
	for _, tt := range []struct {
		name    string
		greets  string
		expects string
		reason  Reason
		text    string
	}{
		{"all taken", "220 go\r\n", "220 go\r\n", None, ""},
		{"some left", "220 go\r\n250 injected\r\n", "220 go\r\n", TLSHandshake, `more in plain text, "250 injected\r\n"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "tcp", func(c net.Conn) {
				_, _ = io.WriteString(c, tt.greets)
				underTLS(config, secureEcho)(c)
			})
			r := trial{request: Request{Target: target, TLS: &TLSOptions{Roots: pool(a)}, Steps: []Step{
				Expect{Literal: []byte(tt.expects)}, StartTLS{ServerName: "mail.test"}, Send{Data: []byte("secret")}, HalfClose{}, Receive{},
			}}}.run(t)
			if r.Reason != tt.reason || !strings.Contains(r.Error, tt.text) {
				t.Fatalf("%+v", r.Outcome)
			}
			if tt.reason == None && (string(r.data) != tt.greets+"secret" || !r.TLS.Verified || r.TLS.ServerName != "mail.test") {
				t.Errorf("%q came, TLS %+v", r.data, r.TLS)
			}
			if tt.reason != None && (r.FailedStep != 1 || r.Phase != PhaseTLS) {
				t.Errorf("%+v", r.Outcome)
			}
		})
	}
}

func TestConverseStartTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}}
	target, _ := streamTarget(t, "tcp", func(c net.Conn) {
		buffer := make([]byte, 1)
		_, _ = io.ReadFull(c, buffer)
		_, _ = c.Write([]byte("go"))
		underTLS(config, secureEcho)(c)
	})
	ready := make(chan struct{})
	steps := []func() Step{
		func() Step { return Send{Data: []byte("?")} },
		func() Step { <-ready; return StartTLS{} },
		func() Step { return Send{Data: []byte("secret")} },
		func() Step { return HalfClose{} },
	}
	s := talk{request: Request{Target: target, TLS: &TLSOptions{Roots: pool(a)}}, next: func() (Step, error) {
		if len(steps) == 0 {
			return nil, io.EOF
		}
		step := steps[0]()
		steps = steps[1:]
		return step, nil
	}, heard: func(event Event) error {
		if chunk, ok := event.(Chunk); ok && string(chunk.Data) == "go" {
			close(ready)
		}
		return nil
	}}.run(t)
	s.wants(t, true, PhaseClose, None, EndedByPeerClosed)
	if string(s.data) != "gosecret" || s.TLS == nil || !s.TLS.Verified {
		t.Errorf("%q came: %+v", s.data, s.Outcome)
	}
}

func TestConverseTLSBothWays(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}}
	target, _ := streamTarget(t, "tcp", underTLS(config, secureEcho))
	const frames = 128
	block := nettest.Data(64 << 10)
	n := 0
	s := talk{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a)}}, next: func() (Step, error) {
		switch n++; {
		case n <= frames:
			return Send{Data: block}, nil
		case n == frames+1:
			return HalfClose{}, nil
		}
		return nil, io.EOF
	}}.run(t)
	s.wants(t, true, PhaseClose, None, EndedByPeerClosed)
	if !bytes.Equal(s.data, bytes.Repeat(block, frames)) {
		t.Errorf("%d bytes came", len(s.data))
	}
}

// What is wrong with a certificate is all told, and what it is too.
func TestCertificateProblems(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t, "authority"), newAuthority(t, "authority")
	for _, tt := range []struct {
		name        string
		certificate tls.Certificate
		reason      Reason
		texts       []string
	}{
		{"expired", a.serving(t, expired, "127.0.0.1"), TLSExpired, []string{"the certificate expired on "}},
		{"not yet", a.serving(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		}, "127.0.0.1"), TLSExpired, []string{"is valid from "}},
		{"a name of others", a.serving(t, nil, "other.test", "::1"), TLSWrongName, []string{"is for other.test, ::1, not for 127.0.0.1"}},
		{"expired, of an authority renewed since", a.serving(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
		}, "127.0.0.1"), TLSExpired, []string{"the certificate expired on "}},
		{"no name", a.serving(t, nil), TLSWrongName, []string{"no name at all"}},
		{"an unknown authority", stranger.serving(t, nil, "127.0.0.1"), TLSUntrusted, []string{"issued by CN=authority"}},
		{"all of it", stranger.serving(t, expired, "other.test"), TLSExpired, []string{"expired on ", "CN=authority", "not for 127.0.0.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "tcp", underTLS(&tls.Config{Certificates: []tls.Certificate{tt.certificate}}, secureEcho))
			r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a)}, Steps: []Step{Send{Data: []byte("secret")}}}}.run(t)
			r.wants(t, PhaseTLS, tt.reason, EndedByNone)
			for _, text := range tt.texts {
				if !strings.Contains(r.Error, text) || !strings.Contains(r.TLS.VerifyError, text) {
					t.Errorf("%q and %q do not say %q", r.Error, r.TLS.VerifyError, text)
				}
			}
			if n := strings.Count(r.Error, "; ") + 1; n != len(tt.texts) {
				t.Errorf("%d problems are told, want %d: %q", n, len(tt.texts), r.Error)
			}
			if len(r.TLS.Chain) != 1 || r.TLS.Version == "" || r.TLS.Verified || r.BytesSent != 0 || r.FailedStep != NoStep {
				t.Errorf("%+v, TLS %+v", r.Outcome, r.TLS)
			}
			// Whoever wants to may go on, and is told the same.
			r = trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a), SkipVerify: true}, Steps: []Step{Send{Data: []byte("x")}, Receive{Length: 1}}}}.run(t)
			if !r.OK || r.TLS.Verified || r.TLS.VerifyError == "" {
				t.Errorf("unverified: %+v, TLS %+v", r.Outcome, r.TLS)
			}
		})
	}
}

// How long a chain holds is told when it was verified: as long as the first of its certificates, be it the authority's. A
// version above the highest to offer is not spoken.
func TestHowLongAChainHolds(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority") // for a day
	until := func(after time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(after)
		}
	}
	for name, tt := range map[string]struct {
		certificate tls.Certificate
		want        func(leaf time.Time) time.Time
	}{
		"the leaf first":      {a.serving(t, until(time.Hour), "127.0.0.1"), func(leaf time.Time) time.Time { return leaf }},
		"the authority first": {a.serving(t, until(48*time.Hour), "127.0.0.1"), func(time.Time) time.Time { return a.certificate.NotAfter }},
		"not verified":        {a.serving(t, until(time.Hour), "other.test"), func(time.Time) time.Time { return time.Time{} }},
	} {
		target, _ := streamTarget(t, "tcp", underTLS(&tls.Config{Certificates: []tls.Certificate{tt.certificate}}, secureEcho))
		r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a), MaxVersion: tls.VersionTLS12}}}.run(t)
		if r.TLS == nil || len(r.TLS.Chain) == 0 || r.TLS.Version != "TLS 1.2" {
			t.Fatalf("%s: %+v", name, r.Outcome)
		}
		if want := tt.want(r.TLS.Chain[0].NotAfter); !r.TLS.VerifiedUntil.Equal(want) {
			t.Errorf("%s: %v, want %v", name, r.TLS.VerifiedUntil, want)
		}
		if len(r.TLS.Chain[0].DNSNames) > 1 || len(r.TLS.Chain[0].Names) != 1 || (len(r.TLS.Chain[0].DNSNames) == 1) != (r.TLS.Chain[0].Names[0] == "other.test") {
			t.Errorf("%s: names %q, of DNS %q", name, r.TLS.Chain[0].Names, r.TLS.Chain[0].DNSNames)
		}
	}
}

// Every address is checked to the end, and each has its own answer.
func TestAllAddresses(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	serve := func(address, port string, change func(*x509.Certificate)) string {
		config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, change, "web.test")}}
		_, port, _ = net.SplitHostPort(nettest.Listen(t, "tcp", net.JoinHostPort(address, port), underTLS(config, secureEcho)).String())
		return port
	}
	port := serve("127.0.0.1", "0", nil)
	serve("127.0.0.3", port, expired)
	target := Target{Scheme: "tls", Host: "web.test"}
	target.Port, _ = func() (uint16, bool) { n := new(big.Int); n.SetString(port, 10); return uint16(n.Uint64()), true }()
	resolve := hosts(t, "127.0.0.1 web.test", "127.0.0.2 web.test", "127.0.0.3 web.test")
	r := trial{config: Config{Resolve: resolve}, request: Request{Target: target, AllAddresses: true, TLS: &TLSOptions{Roots: pool(a)}}}.run(t)
	r.wants(t, PhaseTLS, TLSExpired, EndedByNone)
	if len(r.Attempts) != 3 || !strings.Contains(r.Error, "127.0.0.3:") || !strings.Contains(r.Error, "(3 addresses tried); 2 of them failed") {
		t.Fatalf("%+v", r.Outcome)
	}
	for i, want := range []struct {
		ok     bool
		phase  Phase
		reason Reason
	}{{true, PhaseTLS, None}, {false, PhaseConnect, ConnectionRefused}, {false, PhaseTLS, TLSExpired}} {
		got := r.Attempts[i]
		if got.OK != want.ok || got.Phase != want.phase || got.Reason != want.reason || (got.TLS != nil) != (want.phase == PhaseTLS) || got.ICMP != nil {
			t.Errorf("attempt %d: %+v", i, got)
		}
	}
	target.Scheme = "tcp"
	r = trial{config: Config{Resolve: resolve}, request: Request{Target: target, AllAddresses: true}}.run(t)
	r.wants(t, PhaseConnect, ConnectionRefused, EndedByNone)
	r = trial{config: Config{Resolve: hosts(t, "127.0.0.1 web.test", "127.0.0.3 web.test")}, request: Request{Target: target, AllAddresses: true}}.run(t)
	if !r.OK || r.EndedBy != EndedByLastStep || len(r.Attempts) != 2 {
		t.Errorf("%+v", r.Outcome)
	}
}

// One end speaks TLS and the other does not: told as such, and at once.
func TestTLSNotSpoken(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	speaksTLS := underTLS(&tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}}, secureEcho)
	alerts := nettest.ReplyAfter(1, []byte{21, 3, 1, 0, 2, 2, 70})
	for _, tt := range []struct {
		name  string
		peer  func(net.Conn)
		tls   bool
		steps []Step
		phase Phase
	}{
		{"a banner", nettest.HalfCloseThenRead([]byte("SSH-2.0-OpenSSH\r\n")), true, nil, PhaseTLS},
		{"an echo", nettest.Echo, true, nil, PhaseTLS},
		{"a word after ours", nettest.ReplyAfter(5, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")), true, nil, PhaseTLS},
		{"closed without a word", nettest.HalfCloseThenRead(nil), true, nil, PhaseTLS},
		{"plain text", alerts, false, []Step{Send{Data: []byte("GET / HTTP/1.0\r\n\r\n")}, Receive{}}, PhaseReceive},
		{"plain text, expecting", alerts, false, []Step{Send{Data: []byte("EHLO x\r\n")}, Expect{Literal: []byte("250")}}, PhaseReceive},
		{"plain text, with a length", alerts, false, []Step{Send{Data: []byte("EHLO x\r\n")}, Receive{Length: 100}}, PhaseReceive},
		{"a page that says so", nettest.ReplyAfter(1, []byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")), false, []Step{Send{Data: []byte("G")}, HalfClose{}, Receive{}}, PhaseReceive},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "tcp", tt.peer)
			if tt.tls {
				target = securely(target)
			}
			r := trial{request: Request{Target: target, Steps: tt.steps}}.run(t)
			r.wants(t, tt.phase, TLSNotSpoken, EndedByNone)
			if r.took > 5*time.Second {
				t.Errorf("it took %v", r.took)
			}
		})
	}
	// A server that closes without an alert, as crypto/tls does, cannot be told from others, and the hint says so.
	mute, _ := streamTarget(t, "tcp", speaksTLS)
	r := trial{request: Request{Target: mute, Steps: []Step{Send{Data: []byte("EHLO x\r\n")}, Expect{Literal: []byte("250")}}}}.run(t)
	r.wants(t, PhaseReceive, PeerClosedEarly, EndedByNone)
	if r.Hint != hintHungUp {
		t.Errorf("hint %q", r.Hint)
	}
	// Who speaks TLS by hand gets its alert as an answer like any other.
	target, _ := streamTarget(t, "tcp", speaksTLS)
	r = trial{request: Request{Target: target, Steps: []Step{Send{Data: []byte{22, 3, 1, 0, 4, 9, 0, 0, 0}}, Receive{}}}}.run(t)
	if !r.OK || !isAlert(r.data) {
		t.Errorf("%q: %+v", r.data, r.Outcome)
	}
}

// A handshake that nobody answers ends with its own time, with the exchange's, or with the caller.
func TestHandshakeEnds(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "tcp", nettest.Silent)
	r := trial{request: Request{Target: securely(target)}}.run(t)
	r.wants(t, PhaseTLS, TLSNotSpoken, EndedByNone)
	if r.Error != "the peer took the TLS hello, and said nothing for 3s" || r.Hint != hintHelloSilence {
		t.Errorf("%q, %q", r.Error, r.Hint)
	}
	r = trial{config: Config{HandshakeTimeout: 100 * time.Millisecond}, request: Request{Target: securely(target)}}.run(t)
	r.wants(t, PhaseTLS, TLSHandshake, EndedByNone)
	if !strings.Contains(r.Error, "no answer to the TLS handshake within 1") {
		t.Errorf("%q", r.Error)
	}
	r = trial{request: Request{Target: securely(target), Timeout: 200 * time.Millisecond}}.run(t)
	r.wants(t, PhaseTLS, TLSNotSpoken, EndedByDeadline)
	if r.Hint != hintHelloSilence {
		t.Errorf("%q", r.Hint)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r = trial{ctx: ctx, request: Request{Target: securely(target)}, hook: func(event Event) error {
		if _, ok := event.(Connected); ok {
			cancel()
		}
		return nil
	}}.run(t)
	r.wants(t, PhaseTLS, Cancelled, EndedByNone)
}

// A connection that ends without TLS saying so may have been cut off, and a peer that does not read is not waited for.
func TestTLSCloses(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}}
	for _, unclean := range []bool{false, true} {
		target, _ := streamTarget(t, "tcp", func(c net.Conn) {
			underTLS(config, func(secured net.Conn) {
				_, _ = secured.Write([]byte("bye"))
				if unclean {
					_ = c.(interface{ CloseWrite() error }).CloseWrite()
					_, _ = io.Copy(io.Discard, c)
				}
			})(c)
		})
		r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a)}, Steps: []Step{Receive{}}}}.run(t)
		if !r.OK || string(r.data) != "bye" || r.EndedBy != EndedByPeerClosed {
			t.Errorf("%+v", r.Outcome)
		}
		for _, event := range r.events {
			if closed, ok := event.(PeerClosed); ok && closed.Unclean != unclean {
				t.Errorf("unclean %v, want %v", closed.Unclean, unclean)
			}
		}
	}
	target, _ := streamTarget(t, "tcp", func(c net.Conn) {
		underTLS(config, func(net.Conn) { nettest.NeverRead(c) })(c)
	})
	r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a)}, Steps: []Step{Send{Data: nettest.Data(32 << 20)}}, Timeout: 300 * time.Millisecond}}.run(t)
	r.wants(t, PhaseSend, SendTimeout, EndedByDeadline)
	within(t, r.took, 300*time.Millisecond)
}

// A peer that wants a client certificate says so only when the handshake is over for us.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{
			Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool(a), MaxVersion: version,
		}
		target, _ := streamTarget(t, "tcp", underTLS(config, secureEcho))
		r := trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a)}}}.run(t)
		r.wants(t, PhaseTLS, TLSHandshake, EndedByNone)
		if !strings.Contains(r.Error, "none was given") || r.Hint != hintClientCertificate || !r.TLS.ClientCertificateRequested {
			t.Errorf("%s: %q", tls.VersionName(version), r.Error)
		}
		mine := a.serving(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "client.test")
		r = trial{request: Request{Target: securely(target), TLS: &TLSOptions{Roots: pool(a), Certificate: []tls.Certificate{mine}}, Steps: []Step{Send{Data: []byte("x")}, Receive{Length: 1}}}}.run(t)
		if !r.OK || !r.TLS.ClientCertificateRequested {
			t.Errorf("%s: %+v", tls.VersionName(version), r.Outcome)
		}
	}
}
