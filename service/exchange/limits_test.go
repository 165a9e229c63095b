package exchange

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"probed/internal/nettest"
)

// limited asserts that an exchange ended for a limit in bytes, and says so.
func limited(t *testing.T, o *Outcome, phase Phase, verb string, most int64) {
	t.Helper()
	if o.OK || o.Phase != phase || o.Reason != LimitReached || o.EndedBy != EndedByNone {
		t.Errorf("phase %d, %v, ended by %d: %s; want the limit reached in phase %d", o.Phase, o.Reason, o.EndedBy, o.Error, phase)
	}
	if want := fmt.Sprintf("the limit is reached: an exchange %s at most %d bytes here", verb, most); o.Error != want {
		t.Errorf("the error is %q, want %q", o.Error, want)
	}
	if want := fmt.Sprintf("limit, of %d bytes", most); !strings.Contains(o.Hint, want) {
		t.Errorf("the hint is %q, want the limit in it: %q", o.Hint, want)
	}
}

// flood sends what nettest.Data is the beginning of, and never listens.
var flood = nettest.Flood(1 << 40)

func TestReceiveLimit(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.serving(t, nil, "127.0.0.1")}}
	asking := config.Clone() // after such a handshake, what comes at once is read to learn the verdict
	asking.ClientAuth = tls.RequestClientCert
	for _, scheme := range []string{"tcp", "unix", "tls", "tls, certificate asked for"} {
		for _, most := range []int{1, 100, 4095, 4096, 4097, 64 << 10, 1 << 20, 3<<20 + 1} {
			for _, size := range []int{0, 1000} {
				if size > 0 && most > 64<<10 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/%d", scheme, most, size), func(t *testing.T) {
					t.Parallel()
					var target Target
					request := Request{Steps: []Step{Receive{}}, BufferSize: size}
					switch scheme {
					case "tcp", "unix":
						target, _ = streamTarget(t, scheme, flood)
					case "tls":
						target, _ = streamTarget(t, "tcp", underTLS(config, flood))
						target, request.TLS = securely(target), &TLSOptions{Roots: pool(a)}
					default:
						target, _ = streamTarget(t, "tcp", underTLS(asking, flood))
						target, request.TLS = securely(target), &TLSOptions{Roots: pool(a)}
					}
					request.Target = target
					r := trial{config: Config{Limits: Limits{BytesReceived: int64(most)}}, request: request}.run(t)
					limited(t, r.Outcome, PhaseReceive, "receives", int64(most))
					if r.BytesReceived != uint64(most) || r.BytesUnread != 0 || r.FailedStep != 0 {
						t.Errorf("%d bytes came, %d are unread, step %d failed", r.BytesReceived, r.BytesUnread, r.FailedStep)
					}
					r.got(t, nettest.Data(most))
				})
			}
		}
	}
}

// What ends in good order just when the limit is reached has ended in good order.
func TestReceiveLimitIsNotTooSmall(t *testing.T) {
	t.Parallel()
	const most = 10
	reply := []byte("0123456789abc")
	for _, test := range []struct {
		name  string
		steps []Step
		by    EndedBy // EndedByNone: it is too small
	}{
		{"length", []Step{Receive{Length: most}}, EndedByLength},
		{"max bytes", []Step{Receive{MaxBytes: most}}, EndedByMaxBytes},
		{"delimiter", []Step{Receive{Delimiter: "9"}}, EndedByDelimiter},
		{"literal", []Step{Expect{Literal: []byte("89")}}, EndedByLastStep},
		{"expression", []Step{regex(t, "8(9)")}, EndedByLastStep},
		{"length beyond", []Step{Receive{Length: most + 1}}, EndedByNone},
		{"max bytes beyond", []Step{Receive{MaxBytes: most + 1}}, EndedByNone},
		{"delimiter beyond", []Step{Receive{Delimiter: "a"}}, EndedByNone},
		{"literal beyond", []Step{Expect{Literal: []byte("9a")}}, EndedByNone},
		{"expression beyond", []Step{regex(t, "9a")}, EndedByNone},
		{"idle", []Step{Receive{Idle: time.Minute}}, EndedByNone},
		{"a step behind", []Step{Receive{Length: most}, Receive{Length: 1}}, EndedByNone},
		{"an expression, and a step behind", []Step{regex(t, "8(9)"), Receive{}}, EndedByNone},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "tcp", func(c net.Conn) {
				_, _ = c.Write(reply)
				nettest.Silent(c)
			})
			r := trial{config: Config{Limits: Limits{BytesReceived: most}}, request: Request{Target: target, Steps: test.steps}}.run(t)
			if test.by == EndedByNone {
				limited(t, r.Outcome, PhaseReceive, "receives", most)
			} else {
				r.wants(t, PhaseClose, None, test.by)
			}
			r.got(t, reply[:most])
		})
	}
}

func TestReceiveLimitAndTheEnd(t *testing.T) {
	t.Parallel()
	for most, want := range map[int64]Reason{4: LimitReached, 5: LimitReached, 6: None} {
		target, _ := streamTarget(t, "tcp", nettest.HalfCloseThenRead([]byte("hello")))
		r := trial{config: Config{Limits: Limits{BytesReceived: most}}, request: Request{Target: target, Steps: []Step{Receive{}}}}.run(t)
		if r.Reason != want || r.BytesReceived != uint64(min(most, 5)) {
			t.Errorf("with at most %d bytes, %d came: %v, want %v", most, r.BytesReceived, r.Reason, want)
		}
	}
}

func TestLimitsOfMessages(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"udp", "unixgram"} {
		exchange := func(limits Limits, steps ...Step) (*record, *nettest.Tally) {
			target, tally := datagramTarget(t, scheme, nettest.EchoPacket)
			return trial{config: Config{Limits: limits}, request: Request{Target: target, Steps: steps}}.run(t), tally
		}
		ping, once := Send{Data: []byte("12345678")}, Receive{Count: 1}
		r, _ := exchange(Limits{BytesReceived: 10}, ping, once, ping, once)
		r.wants(t, PhaseClose, None, EndedByCount)
		r.got(t, []byte("1234567812")) // the second was truncated

		r, _ = exchange(Limits{BytesReceived: 10}, ping, once, ping, once, ping, once)
		limited(t, r.Outcome, PhaseReceive, "receives", 10)
		r.got(t, []byte("1234567812"))

		r, tally := exchange(Limits{BytesSent: 15}, ping, once, Send{}, once, ping, once)
		limited(t, r.Outcome, PhaseSend, "sends", 15)
		if r.BytesSent != 8 || tally.Received.Load() != 8 || r.FailedStep != 4 || r.Chunks != 2 {
			t.Errorf("%d bytes sent, the peer received %d, step %d failed", r.BytesSent, tally.Received.Load(), r.FailedStep)
		}

		r, _ = exchange(Limits{BytesSent: 16}, ping, once, ping, once, Send{}, once) // an empty one takes nothing
		r.wants(t, PhaseClose, None, EndedByCount)
	}
}

func TestSendLimit(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "unix"} {
		for _, size := range []int{1, 1000, 1 << 20, 8 << 20} { // the last is more than the kernel has room for
			for _, most := range []int{size - 1, size, size + 1, 2*size - 1, 2 * size} {
				if most == 0 {
					continue // no limit
				}
				came := make(chan int64, 1)
				target, _ := streamTarget(t, scheme, func(c net.Conn) {
					n, _ := io.Copy(io.Discard, c)
					came <- n
				})
				data := nettest.Data(size)
				steps := []Step{Send{Data: data}, Send{}, Send{Data: data}}
				r := trial{
					config:  Config{Limits: Limits{BytesSent: int64(most)}},
					request: Request{Target: target, Steps: steps, Timeout: 20 * time.Second},
				}.run(t)
				if n := <-came; n != int64(min(most, 2*size)) {
					t.Errorf("%s, %d bytes of %d: the peer received %d", scheme, most, size, n)
				}
				if most >= 2*size {
					r.wants(t, PhaseClose, None, EndedByLastStep)
					continue
				}
				limited(t, r.Outcome, PhaseSend, "sends", int64(most))
				step := 0
				if most >= size {
					step = 2
				}
				if r.BytesSent != uint64(most) || r.FailedStep != step {
					t.Errorf("%s, %d bytes of %d: %d sent, step %d failed", scheme, most, size, r.BytesSent, r.FailedStep)
				}
			}
		}
	}
}

// A peer that talks and does not listen, while a send is stuck, is held to the limit too; what it said is handed on.
func TestReceiveLimitWhileSending(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1000, 100_000} {
		target, _ := streamTarget(t, "unix", flood)
		r := trial{
			config:  Config{Limits: Limits{BytesReceived: int64(most)}},
			request: Request{Target: target, Steps: []Step{Send{Data: nettest.Data(8 << 20)}}, Timeout: time.Minute},
		}.run(t)
		limited(t, r.Outcome, PhaseSend, "receives", int64(most))
		r.got(t, nettest.Data(most))
		if r.took > 10*time.Second {
			t.Errorf("it took %v", r.took)
		}
	}
}

func TestConverseLimits(t *testing.T) {
	t.Parallel()
	const most = 3<<16 + 1
	for _, scheme := range []string{"tcp", "unix"} {
		target, _ := streamTarget(t, scheme, flood)
		s := talk{request: Request{Target: target}, limits: Limits{BytesReceived: most}}.run(t)
		limited(t, s.Outcome, PhaseReceive, "receives", most)
		if !slices.Equal(s.data, nettest.Data(most)) {
			t.Errorf("%s: %d bytes came, want %d", scheme, len(s.data), most)
		}

		// Each direction has its own.
		target, tally := streamTarget(t, scheme, nettest.Echo)
		data := nettest.Data(1 << 16)
		sent, echoed := 0, make(chan struct{}, 1)
		s = talk{
			request: Request{Target: target}, limits: Limits{BytesSent: most, BytesReceived: most + 1},
			heard: func(event Event) error {
				if chunk, ok := event.(Chunk); ok && (chunk.Offset+uint64(len(chunk.Data)))%uint64(len(data)) == 0 {
					echoed <- struct{}{}
				}
				return nil
			},
			next: func() (Step, error) {
				if sent > 0 {
					<-echoed
				}
				sent++
				return Send{Data: data}, nil
			},
		}.run(t)
		limited(t, s.Outcome, PhaseSend, "sends", most)
		if s.BytesSent != most || sent != 4 || s.BytesReceived < 3<<16 {
			t.Errorf("%s: %d bytes sent with %d frames, %d came", scheme, s.BytesSent, sent, s.BytesReceived)
		}
		if n := tally.Received.Load(); n > most {
			t.Errorf("%s: the peer received %d bytes", scheme, n)
		}
	}

	target, tally := datagramTarget(t, "udp", nettest.EchoPacket)
	ping := Send{Data: []byte("12345678")}
	s := talk{request: Request{Target: target}, limits: Limits{BytesSent: 15}, steps: []Step{ping, ping}}.run(t)
	limited(t, s.Outcome, PhaseSend, "sends", 15)
	if s.BytesSent != 8 || tally.Received.Load() > 8 {
		t.Errorf("%d bytes sent, the peer received %d", s.BytesSent, tally.Received.Load())
	}
}

func TestTimeLimits(t *testing.T) {
	t.Parallel()
	l := Limits{Timeout: 2 * time.Second, MaxTimeout: 10 * time.Second, Idle: 3 * time.Second, MaxIdle: 20 * time.Second}
	for _, test := range []struct {
		limits             Limits
		asked              time.Duration
		timeout, idle      time.Duration
		badTimeout, noIdle string
	}{
		{Limits{}, 0, DefaultTimeout, DefaultIdle, "", ""},
		{Limits{}, time.Hour, time.Hour, time.Hour, "", ""},
		{l, 0, 2 * time.Second, 3 * time.Second, "", ""},
		{l, 10 * time.Second, 10 * time.Second, 10 * time.Second, "", ""},
		{l, 15 * time.Second, 10 * time.Second, 15 * time.Second, "timeout: 15s is longer than the 10s that are allowed here", ""},
		{l, 21 * time.Second, 10 * time.Second, 20 * time.Second, "timeout: 21s is longer than the 10s that are allowed here", "idle: 21s is longer than the 20s that are allowed here"},
		{Limits{MaxTimeout: time.Second, MaxIdle: time.Second}, 0, time.Second, time.Second, "", ""},
	} {
		if got := test.limits.timeout(test.asked); got != test.timeout {
			t.Errorf("%+v: %v becomes the timeout %v, want %v", test.limits, test.asked, got, test.timeout)
		}
		if got := test.limits.idle(test.asked); got != test.idle {
			t.Errorf("%+v: %v becomes the idle time %v, want %v", test.limits, test.asked, got, test.idle)
		}
		text := func(err error) string {
			if e, ok := errors.AsType[*FieldError](err); ok {
				return e.Field + ": " + e.Reason
			}
			return fmt.Sprint(err)
		}
		none := fmt.Sprint(error(nil))
		x := New(Config{Limits: test.limits})
		request := Request{Target: Target{Scheme: "tcp", Host: "127.0.0.1", Port: 1}, Timeout: test.asked}
		for want, got := range map[[2]string]error{
			{"Validate", test.badTimeout}:                 x.Validate(&request),
			{"a conversation's timeout", test.badTimeout}: x.ValidateConversation(&Conversation{Request: request}),
			{"a conversation's idle", test.noIdle}:        x.ValidateConversation(&Conversation{Request: Request{Target: request.Target}, Idle: test.asked}),
		} {
			if want[1] == "" {
				want[1] = none
			}
			if text(got) != want[1] {
				t.Errorf("%+v, %v: %s: %v, want %s", test.limits, test.asked, want[0], text(got), want[1])
			}
		}
	}
	// What is wrong with a request otherwise is said first.
	x := New(Config{Limits: l})
	bad := Request{Target: Target{Scheme: "unix", Path: "/x"}, Interface: "lo", Timeout: time.Hour}
	for _, err := range []error{x.Validate(&bad), x.ValidateConversation(&Conversation{Request: bad})} {
		if e, ok := errors.AsType[*FieldError](err); !ok || e.Field != "interface" {
			t.Errorf("%v", err)
		}
	}
}

// A request that nobody has asked about is held to the limits too.
func TestTimeLimitsHold(t *testing.T) {
	t.Parallel()
	const most = 200 * time.Millisecond
	target, _ := streamTarget(t, "tcp", nettest.Silent)
	r := trial{
		config:  Config{Limits: Limits{MaxTimeout: most}},
		request: Request{Target: target, Steps: []Step{Receive{}}, Timeout: time.Hour},
	}.run(t)
	r.wants(t, PhaseReceive, ReceiveTimeout, EndedByDeadline)
	within(t, r.took, most)
	s := talk{request: Request{Target: target}, idle: time.Hour, limits: Limits{MaxIdle: most}, next: func() (Step, error) {
		<-t.Context().Done()
		return nil, t.Context().Err()
	}}.run(t)
	s.wants(t, true, PhaseClose, None, EndedByIdle)
	within(t, s.took, most)
}
