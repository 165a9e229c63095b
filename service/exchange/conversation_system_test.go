//go:build system

package exchange

import (
	"strings"
	"testing"
	"time"
)

// line sends one, with what the expression before has found filled in.
func line(text string) Send { return Send{Data: []byte(text + "\r\n"), Expand: true} }

// The conversations that the documentation of blackbox_exporter gives as examples for its tcp prober, expressions and
// all, with real servers.
func TestConversations(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	i := ca.issue(t, server("probe.test"))
	re := func(expression string) Expect { return regex(t, expression) }
	trusted := &TLSOptions{Roots: pool(ca), ServerName: "probe.test"}
	for _, tt := range []struct {
		name  string
		port  func(t *testing.T) uint16
		tls   *TLSOptions
		steps []Step
		by    EndedBy
		says  []string // the peer, in this order
	}{
		{"SMTP", func(t *testing.T) uint16 { return exim(t, i, false).Port() }, trusted, []Step{
			re("^220 ([^ ]+) ESMTP (.+)$"), line("EHLO prober"), re("^250-STARTTLS"), line("STARTTLS"), re("^220"), StartTLS{},
			line("EHLO prober"), re("^250-AUTH"), line("QUIT"), Receive{},
		}, EndedByPeerClosed, []string{"220 probe.test ESMTP", "250-STARTTLS\r\n", "220 TLS go ahead\r\n", "250-AUTH PLAIN\r\n", "221 probe.test closing connection\r\n"}},
		{"SSH", func(t *testing.T) uint16 { return sshd(t).Port() }, nil, []Step{
			re("^SSH-2.0-"), line("SSH-2.0-blackbox-ssh-check"),
		}, EndedByLastStep, []string{"SSH-2.0-OpenSSH"}},
		{"IMAP", func(t *testing.T) uint16 { return dovecot(t, i).Port() }, trusted, []Step{
			re("OK.*STARTTLS"), line(". STARTTLS"), re("OK"), StartTLS{}, line(". capability"), re("CAPABILITY IMAP4rev1"), line(". LOGOUT"), Receive{},
		}, EndedByPeerClosed, []string{"* OK [CAPABILITY", ". OK Begin TLS", "* CAPABILITY IMAP4rev1", "* BYE"}},
		// It lets nobody in who does not answer with the number it has made up.
		{"IRC", func(t *testing.T) uint16 { return ngircd(t).Port() }, nil, []Step{
			line("NICK prober"), line("USER prober prober prober :prober"), re("PING :([^ ]+)"), line("PONG ${1}"), re("^:[^ ]+ 001"),
			line("PING again"), re("PONG .*again"), line("QUIT"), Receive{},
		}, EndedByPeerClosed, []string{"PING :", ":irc.probe.test 001 prober", "PONG irc.probe.test :again"}},
		{"Redis", func(t *testing.T) uint16 { return redis(t).Port() }, nil, []Step{
			line("PING"), Expect{Literal: []byte("+PONG\r\n")},
			// The length of an answer stands before it.
			line("ECHO ${1}"), re(`^\$(?P<length>\d+)`), line("ECHO ${length}"), Expect{Literal: []byte("$1\r\n4\r\n")},
			line("QUIT"), Receive{},
		}, EndedByPeerClosed, []string{"+PONG\r\n", "$4\r\n${1}\r\n", "$1\r\n4\r\n", "+OK\r\n"}},
		// Two requests by hand over one connection: the second asks whether the page is still what the first has told.
		{"HTTP", func(t *testing.T) uint16 { return nginx(t, "server { listen PORT; }").Port() }, nil, []Step{
			line("GET / HTTP/1.1\r\nHost: probe.test\r\n"), re("^HTTP/1.1 200 OK"), re(`^ETag: (".+")`), Expect{Literal: []byte("\r\n\r\n")}, Receive{Length: 17},
			line("GET / HTTP/1.1\r\nHost: probe.test\r\nIf-None-Match: ${1}\r\nConnection: close\r\n"), re("^HTTP/1.1 304"), Receive{},
		}, EndedByPeerClosed, []string{"HTTP/1.1 200 OK\r\n", "hello from nginx\n", "HTTP/1.1 304 Not Modified\r\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := Target{Scheme: "tcp", Host: "127.0.0.1", Port: tt.port(t)}
			request := Request{Target: target, TLS: tt.tls, Steps: tt.steps, Timeout: startPatience}
			if err := request.Validate(); err != nil {
				t.Fatal(err)
			}
			r := trial{request: request}.run(t)
			r.wants(t, PhaseClose, None, tt.by)
			rest := string(r.data)
			for _, words := range tt.says {
				_, after, found := strings.Cut(rest, words)
				if !found {
					t.Errorf("%q is missing from %q, all of which is %q", words, rest, r.data)
					break
				}
				rest = after
			}
			if tt.tls != nil && (r.TLS == nil || !r.TLS.Verified) {
				t.Errorf("TLS: %+v", r.TLS)
			}
			if t.Failed() {
				t.Logf("step %d, where %q had come: %s", r.FailedStep, r.StepReceived, r.Hint)
			}
		})
	}
}

// A conversation that takes another turn says at which step, and what came instead.
func TestConversationsThatFail(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	i := ca.issue(t, server("probe.test"))
	re := func(expression string) Expect { return regex(t, expression) }
	greeting := []Step{re("^220 "), line("EHLO prober")}
	with := func(steps ...Step) []Step { return append(greeting[:2:2], steps...) }
	for _, tt := range []struct {
		name   string
		steps  []Step
		phase  Phase
		reason Reason
		by     EndedBy
		step   int
		came   string // while that step waited
		says   string
	}{
		{"another word", with(re("^250-XYZZY")), PhaseReceive, ExpectFailed, EndedByDeadline, 2, "250 HELP\r\n", "XYZZY"},
		{"it closes", with(line("QUIT"), re("^354")), PhaseReceive, ExpectFailed, EndedByNone, 3, "221 probe.test closing connection\r\n", "the peer closed"},
		{"it closes, and all was said before", with(line("QUIT"), re("^221"), re("^354")), PhaseReceive, PeerClosedEarly, EndedByNone, 4, "", "the peer closed"},
		{"TLS in the middle of an answer", with(re("^250-probe.test"), StartTLS{}), PhaseTLS, TLSHandshake, EndedByNone, 3, "", "the peer has said more in plain text"},
		{"TLS that was not asked for", with(re("^250 "), StartTLS{}), PhaseTLS, TLSNotSpoken, EndedByNone, 3, "", "something else"},
		{"a stranger's certificate", with(re("^250 "), line("STARTTLS"), re("^220"), StartTLS{}), PhaseTLS, TLSUntrusted, EndedByNone, 5, "", "Test CA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			request := Request{Target: ipTarget("tcp", exim(t, i, false)), Steps: tt.steps, Timeout: startPatience}
			if tt.by == EndedByDeadline {
				request.Timeout = 2 * time.Second
			}
			r := trial{request: request}.run(t)
			r.wants(t, tt.phase, tt.reason, tt.by)
			if r.FailedStep != tt.step || !strings.HasSuffix(string(r.StepReceived), tt.came) || (tt.came == "") != (len(r.StepReceived) == 0) {
				t.Errorf("step %d, where %q had come; want %d, %q", r.FailedStep, r.StepReceived, tt.step, tt.came)
			}
			if !strings.Contains(r.Error, tt.says) {
				t.Errorf("%s; want %s", r.Error, tt.says)
			}
		})
	}
}
