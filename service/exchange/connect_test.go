package exchange

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/resolve"
)

func TestConnect(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "tcp4", "tcp6", "unix", "unixpacket"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			target, tally := streamTarget(t, scheme, nettest.Echo)
			r := trial{request: Request{Target: target}, peer: tally}.run(t)
			r.wants(t, PhaseClose, None, EndedByLastStep)
			want := map[string]Socket{
				"tcp":        {resolve.AF_INET, resolve.SOCK_STREAM, resolve.IPPROTO_TCP},
				"tcp4":       {resolve.AF_INET, resolve.SOCK_STREAM, resolve.IPPROTO_TCP},
				"tcp6":       {resolve.AF_INET6, resolve.SOCK_STREAM, resolve.IPPROTO_TCP},
				"unix":       {Family: resolve.AF_UNIX, Type: resolve.SOCK_STREAM},
				"unixpacket": {Family: resolve.AF_UNIX, Type: resolve.SOCK_SEQPACKET},
			}[scheme]
			if r.Socket != want {
				t.Errorf("socket %+v, want %+v", r.Socket, want)
			}
			if target.IsUnix() {
				if r.Local != "" || r.Remote != target.Path || r.Attempts[0].Address != target.Path {
					t.Errorf("local %q, remote %q, attempts %+v", r.Local, r.Remote, r.Attempts)
				}
				return
			}
			address := netip.AddrPortFrom(netip.MustParseAddr(target.Host), target.Port).String()
			local, err := netip.ParseAddrPort(r.Local)
			if err != nil || local.Addr().String() != target.Host || r.Remote != address || r.Attempts[0].Address != address {
				t.Errorf("local %q, remote %q, attempts %+v", r.Local, r.Remote, r.Attempts)
			}
			if resolved := r.events[0].(Resolved); resolved.Source != "literal" || resolved.CanonicalName != "" || resolved.Duration != 0 || r.Timings.Resolve != 0 {
				t.Errorf("%+v, resolve time %v; want an address that took none", resolved, r.Timings.Resolve)
			}
		})
	}
	for scheme, want := range map[string]Socket{
		"udp":      {resolve.AF_INET, resolve.SOCK_DGRAM, resolve.IPPROTO_UDP},
		"udp6":     {resolve.AF_INET6, resolve.SOCK_DGRAM, resolve.IPPROTO_UDP},
		"unixgram": {Family: resolve.AF_UNIX, Type: resolve.SOCK_DGRAM},
	} {
		target, tally := datagramTarget(t, scheme, nettest.EchoPacket)
		r := trial{request: Request{Target: target}, peer: tally}.run(t)
		r.wants(t, PhaseClose, None, EndedByLastStep)
		if r.Socket != want || r.Local == "" {
			t.Errorf("%s: socket %+v, local %q; want %+v", scheme, r.Socket, r.Local, want)
		}
	}
}

func TestConnectByName(t *testing.T) {
	t.Parallel()
	target, tally := streamTarget(t, "tcp", nettest.Echo)
	target.Host = "echo.example"
	r := trial{config: Config{Resolve: hosts(t, "127.0.0.1 echo echo.example")}, request: Request{Target: target}, peer: tally}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
	resolved := r.events[0].(Resolved)
	if resolved.Host != "echo.example" || resolved.CanonicalName != "echo" || resolved.Source != "files" ||
		!slices.Equal(resolved.Addresses, []netip.Addr{netip.MustParseAddr("127.0.0.1")}) || resolved.Duration != r.Timings.Resolve || resolved.Duration == 0 {
		t.Errorf("%+v, resolve time %v", resolved, r.Timings.Resolve)
	}
}

// The caller who asks for no events gets the outcome alone.
func TestWithoutEvents(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "tcp", nettest.Echo)
	r := trial{request: Request{Target: target, Steps: DefaultSteps(target, []byte("abc"), false)}, deaf: true}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	if r.BytesReceived != 3 || r.Chunks == 0 {
		t.Errorf("%d bytes in %d chunks", r.BytesReceived, r.Chunks)
	}
}

func TestNotResolved(t *testing.T) {
	t.Parallel()
	fails := func(reason resolve.Reason) resolveFunc {
		return func(_ context.Context, name string, _ resolve.Family) (*resolve.HostResult, error) {
			return nil, &resolve.Error{Reason: reason, Name: name}
		}
	}
	known := hosts(t, "127.0.0.1 here")
	for _, tt := range []struct {
		name, target string
		resolve      resolveFunc
		want         Reason
	}{
		{"unknown", "tcp://nowhere:1", known, NameNotFound},
		{"of a literal, the other family", "tcp6://127.0.0.1:1", known, NameHasNoAddress},
		{"no data", "tcp://x:1", fails(resolve.NoData), NameHasNoAddress},
		{"bad name", "tcp://x:1", fails(resolve.BadName), NameNotFound},
		{"timeout", "tcp://x:1", fails(resolve.Timeout), DNSTimeout},
		{"refused", "tcp://x:1", fails(resolve.Refused), DNSFailure},
		{"server failure", "tcp://x:1", fails(resolve.ServFail), DNSFailure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, err := ParseTarget(tt.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			r := trial{config: Config{Resolve: tt.resolve}, request: Request{Target: target, Steps: []Step{Receive{}}}}.run(t)
			r.wants(t, PhaseResolve, tt.want, EndedByNone)
			if len(r.Attempts) != 0 || r.FailedStep != NoStep || r.Timings.Resolve == 0 {
				t.Errorf("attempts %v, step %d, resolve time %v", r.Attempts, r.FailedStep, r.Timings.Resolve)
			}
		})
	}
}

func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	target := ipTarget("tcp", nettest.Refused(t))
	r := trial{request: Request{Target: target, Steps: DefaultSteps(target, nil, false)}}.run(t)
	r.wants(t, PhaseConnect, ConnectionRefused, EndedByNone)
	if r.Errno != int(syscall.ECONNREFUSED) || len(r.Attempts) != 1 || r.Attempts[0].Errno != r.Errno || r.FailedStep != NoStep ||
		r.Error != r.Attempts[0].Address+": connection refused" || r.Timings.Connect == 0 {
		t.Errorf("%+v", r.Outcome)
	}
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	target := ipTarget("tcp", nettest.Backlog(t))
	for _, tt := range []struct {
		connect, request, caller time.Duration // 0: unset
		by                       EndedBy
	}{
		{connect: 100 * time.Millisecond, by: EndedByNone},
		{request: 100 * time.Millisecond, by: EndedByDeadline},
		{caller: 100 * time.Millisecond, by: EndedByDeadline},
		{connect: 100 * time.Millisecond, request: 10 * time.Second, caller: 10 * time.Second, by: EndedByNone},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			t.Parallel()
			ctx, begin := t.Context(), time.Now()
			if tt.caller > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.caller)
				defer cancel()
			}
			r := trial{config: Config{ConnectTimeout: tt.connect}, request: Request{Target: target, Timeout: tt.request}, ctx: ctx}.run(t)
			r.wants(t, PhaseConnect, ConnectTimeout, tt.by)
			if r.Errno != 0 || len(r.Attempts) != 1 || r.Attempts[0].Reason != ConnectTimeout {
				t.Errorf("errno %s, attempts %+v", ErrnoName(r.Errno), r.Attempts)
			}
			within(t, time.Since(begin), 100*time.Millisecond)
		})
	}
}
