package endurance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// vanishing is an exchange whose caller is about to go, as its target sees it.
type vanishing struct {
	begun   time.Time      // once reached: when the target was spoken to
	reached chan struct{}  // closed when the exchange is where the caller is to go from
	closed  chan time.Time // when the target saw its socket closed
}

// target is a peer of many exchanges, which it tells from each other by their first line.
type target struct {
	address string
	mu      sync.Mutex
	known   map[string]*vanishing
}

func newTarget(t *testing.T, talk func(c net.Conn, reached func())) *target {
	t.Helper()
	x := &target{known: make(map[string]*vanishing)}
	x.address = nettest.TCP(t, func(c net.Conn) {
		reader := bufio.NewReader(c)
		name, err := reader.ReadString('\n')
		x.mu.Lock()
		v := x.known[name]
		x.mu.Unlock()
		if err != nil || v == nil {
			t.Errorf("a connection that says %q, %v", name, err)
			return
		}
		v.begun = time.Now()
		var talking sync.WaitGroup
		talking.Go(func() { talk(c, sync.OnceFunc(func() { close(v.reached) })) })
		_, _ = io.Copy(io.Discard, reader) // nothing more is sent, so this is the end of the connection, however it came
		v.closed <- time.Now()
		c.Close()
		talking.Wait()
	}).String()
	return x
}

func (x *target) expect() (*vanishing, *probev1.ExchangeRequest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	v := &vanishing{reached: make(chan struct{}), closed: make(chan time.Time, 1)}
	name := strconv.Itoa(len(x.known)) + "\n"
	x.known[name] = v
	return v, &probev1.ExchangeRequest{
		Target: x.address, Payload: &probev1.ExchangeRequest_Text{Text: name}, HoldOpen: true, Timeout: durationpb.New(time.Minute),
	}
}

// The phases from which callers go.
var phases = []struct {
	name  string
	reads bool // the caller does
	talk  func(c net.Conn, reached func())
}{
	{"while data flow", true, func(c net.Conn, reached func()) {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i, block := 0, nettest.Data(8<<10); ; i++ {
			if _, err := c.Write(block); err != nil {
				return
			}
			if i == 5 {
				reached()
			}
			<-tick.C
		}
	}},
	{"while the target is silent", true, func(_ net.Conn, reached func()) { reached() }},
	{"having stopped to read", false, func(c net.Conn, reached func()) {
		block := nettest.Data(64 << 10)
		for {
			_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := c.Write(block); err != nil {
				break
			}
		}
		reached()
		_ = c.SetWriteDeadline(time.Time{})
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}},
}

// leaver is a caller with a connection of its own.
type leaver struct {
	conn   *net.TCPConn
	cancel func()
	close  func() // all that is left
}

// deaf is a connection that its owner can stop reading.
type deaf struct {
	*net.TCPConn
	stopped atomic.Bool
	over    chan struct{}
}

func (d *deaf) Read(b []byte) (int, error) {
	if d.stopped.Load() {
		<-d.over
		return 0, net.ErrClosed
	}
	return d.TCPConn.Read(b)
}

// byGRPC begins an exchange. A caller that does not read takes no message after the first, or, to be thorough, not even bytes
// from the connection.
func byGRPC(t *testing.T, p *probetest.Probed, request *probev1.ExchangeRequest, reads, thorough bool) *leaver {
	t.Helper()
	d := &deaf{over: make(chan struct{})}
	conn := p.GRPC(grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			d.TCPConn = c.(*net.TCPConn)
		}
		return d, err
	})).Conn
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := probev1.NewExchangeServiceClient(conn).Exchange(ctx, request)
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Error(err)
	}
	var reading sync.WaitGroup
	if reads {
		reading.Go(func() {
			for err == nil {
				_, err = stream.Recv()
			}
		})
	}
	d.stopped.Store(thorough)
	return &leaver{d.TCPConn, cancel, func() {
		cancel()
		close(d.over)
		conn.Close()
		reading.Wait()
	}}
}

// byREST begins an exchange.
func byREST(t *testing.T, p *probetest.Probed, request *probev1.ExchangeRequest, reads bool) *leaver {
	t.Helper()
	body, err := protojson.Marshal(request)
	if err != nil {
		t.Error(err)
	}
	c, err := net.Dial("tcp", p.HTTPAddress)
	if err == nil {
		_, err = fmt.Fprintf(c, "POST /v1/exchange HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	if err != nil {
		t.Error(err)
	}
	var reading sync.WaitGroup
	if reads {
		reading.Go(func() { _, _ = io.Copy(io.Discard, c) })
	}
	return &leaver{c.(*net.TCPConn), func() { c.Close() }, func() { c.Close(); reading.Wait() }}
}

// The ways in which callers go.
var ways = []struct {
	name  string
	leave func(t *testing.T, l *leaver) (gone time.Time)
}{
	{"cancel", func(_ *testing.T, l *leaver) time.Time {
		defer l.cancel()
		return time.Now()
	}},
	{"reset", func(_ *testing.T, l *leaver) time.Time {
		_ = l.conn.SetLinger(0)
		defer l.conn.Close()
		return time.Now()
	}},
	{"fin", func(_ *testing.T, l *leaver) time.Time {
		defer func() { _ = l.conn.CloseWrite() }()
		return time.Now()
	}},
	{"killed", func(t *testing.T, l *leaver) time.Time {
		pid := holder(t, l.conn)
		l.conn.Close()
		gone := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return gone
	}},
}

// holder starts a process that has the connection too, and does nothing.
func holder(t *testing.T, c *net.TCPConn) (pid int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Not by os/exec, which would make the descriptor, and so that of the connection, block.
	if controlErr := raw.Control(func(fd uintptr) {
		pid, err = syscall.ForkExec("/bin/sleep", []string{"sleep", "60"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2, fd}})
	}); controlErr != nil || err != nil {
		t.Errorf("sleep: %v, %v", controlErr, err)
	}
	return pid
}

// A caller that goes, however and from wherever, takes the target's socket along.
func TestClientVanishes(t *testing.T) {
	const within = time.Second
	each := promise.Times(1, 42)
	p := probetest.Start(t, probetest.Options{})
	var targets []*target
	for _, phase := range phases {
		targets = append(targets, newTarget(t, phase.talk))
	}
	for _, protocol := range []string{"gRPC", "REST"} {
		var most longest
		var aborts errgroup.Group
		aborts.SetLimit(8)
		n := 0
		for i, phase := range phases {
			for _, way := range ways {
				for k := range each {
					n++
					aborts.Go(func() error {
						v, request := targets[i].expect()
						var l *leaver
						if protocol == "gRPC" {
							l = byGRPC(t, p, request, phase.reads, !phase.reads && k%2 == 1)
						} else {
							l = byREST(t, p, request, phase.reads)
						}
						defer l.close()
						what := fmt.Sprintf("%s, %s, %s", protocol, way.name, phase.name)
						select {
						case <-v.reached:
						case <-time.After(20 * time.Second):
							t.Errorf("%s: the phase was not reached", what)
							return nil
						}
						gone := way.leave(t, l)
						select {
						case at := <-v.closed:
							took := at.Sub(gone)
							if took > within {
								t.Errorf("%s: the target's socket was closed after %v", what, took)
							}
							most.note(took)
						case <-time.After(10 * within):
							t.Errorf("%s: the target's socket is open after %v", what, 10*within)
						}
						return nil
					})
				}
			}
		}
		_ = aborts.Wait() // what went wrong is told
		promise.ClientVanishes.Reached(t, "%s: %d (%d ways × %d phases); the target's socket closed after at most %v",
			protocol, n, len(ways), len(phases), &most)
	}
}

// A caller that stays and takes nothing holds its target no longer than the timeout says, and its place not for long.
func TestCallerStays(t *testing.T) {
	const timeout, patience = time.Second, 10 * time.Second
	each := promise.Times(3, 16)
	p := probetest.Start(t, probetest.Options{})
	flood := newTarget(t, phases[2].talk)
	var most longest
	var callers sync.WaitGroup
	began := time.Now()
	for _, kind := range []string{"gRPC, no message", "gRPC, no byte", "REST"} {
		for range each {
			callers.Go(func() {
				v, request := flood.expect()
				request.Timeout = durationpb.New(timeout)
				l := byREST
				if kind != "REST" {
					l = func(t *testing.T, p *probetest.Probed, request *probev1.ExchangeRequest, reads bool) *leaver {
						return byGRPC(t, p, request, reads, kind == "gRPC, no byte")
					}
				}
				stays := l(t, p, request, false)
				t.Cleanup(stays.close)
				<-v.reached
				took := (<-v.closed).Sub(v.begun)
				if took < timeout/2 || took > timeout+500*time.Millisecond {
					t.Errorf("%s: the target's socket was closed after %v, the timeout is %v", kind, took, timeout)
				}
				most.note(took)
			})
		}
	}
	callers.Wait()
	place := "not waited for"
	if promise.Long() {
		for p.Metric("probed_sessions_active") > 0 && time.Since(began) < timeout+patience+2*time.Second {
			<-time.After(50 * time.Millisecond)
		}
		took := time.Since(began)
		if n := p.Metric("probed_sessions_active"); n > 0 {
			t.Errorf("%v sessions are active after %v", n, took)
		}
		place = took.Round(10 * time.Millisecond).String()
	}
	promise.ClientVanishes.Reached(t, "%d that stay and take nothing, for %v: the target's socket closed after at most %v, the last place given back after: %s",
		3*each, timeout, &most, place)
}

// longest is the longest of many times.
type longest struct{ atomic.Int64 }

func (l *longest) note(d time.Duration) {
	for old := l.Load(); int64(d) > old; old = l.Load() {
		if l.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (l *longest) String() string { return time.Duration(l.Load()).Round(time.Millisecond).String() }
