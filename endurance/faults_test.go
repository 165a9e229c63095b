package endurance

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// ending is what the caller is told.
type ending struct {
	phase  probev1.Phase
	reason probev1.Reason
	by     probev1.EndedBy
}

// fault is one way in which a peer or the network between can spoil an exchange.
type fault struct {
	name   string
	peer   func(net.Conn)
	rules  []string // of the router, PORT being the peer's
	route  string   // what there is of one, where probed runs, in place of a peer
	steps  []*probev1.Step
	limit  time.Duration
	want   ending
	errno  syscall.Errno
	errno6 syscall.Errno // when it is another for IPv6
	got    []byte        // what comes, of a peer that drips up to so much
	sent   int           // bytes that the peer reads

	host  func(address string) string // where it is, in place of the address
	port  uint16
	tally nettest.Tally
	ended atomic.Int64 // well
}

// packetLoss is the fault that an exchange may overcome, or not in time.
const packetLoss = "30 % of packets lost"

// faults are all there are; those that wait for their limit wait so long.
func faults() []*fault {
	const (
		long = 20 * time.Second // which nothing comes near

		sending    = probev1.Phase_PHASE_SEND
		receiving  = probev1.Phase_PHASE_RECEIVE
		connecting = probev1.Phase_PHASE_CONNECT
		closing    = probev1.Phase_PHASE_CLOSE
		byDeadline = probev1.EndedBy_ENDED_BY_DEADLINE
	)
	var (
		soon = promise.Times(500*time.Millisecond, time.Second)

		peerClosed   = ending{closing, 0, probev1.EndedBy_ENDED_BY_PEER_CLOSED}
		lastStep     = ending{closing, 0, probev1.EndedBy_ENDED_BY_LAST_STEP}
		reset        = ending{receiving, probev1.Reason_REASON_CONNECTION_RESET, 0}
		sendReset    = ending{sending, probev1.Reason_REASON_CONNECTION_RESET, 0}
		closedEarly  = ending{receiving, probev1.Reason_REASON_PEER_CLOSED_EARLY, 0}
		receiveLate  = ending{receiving, probev1.Reason_REASON_RECEIVE_TIMEOUT, byDeadline}
		sendLate     = ending{sending, probev1.Reason_REASON_SEND_TIMEOUT, byDeadline}
		connectLate  = ending{connecting, probev1.Reason_REASON_CONNECT_TIMEOUT, byDeadline}
		refused      = ending{connecting, probev1.Reason_REASON_CONNECTION_REFUSED, 0}
		unreachable  = ending{connecting, probev1.Reason_REASON_HOST_UNREACHABLE, 0}
		netless      = ending{connecting, probev1.Reason_REASON_NETWORK_UNREACHABLE, 0}
		deniedHere   = ending{connecting, probev1.Reason_REASON_DENIED_LOCALLY, 0}
		much         = nettest.Data(100_000)
		ask          = send([]byte("ask"))
		askForLength = []*probev1.Step{ask, receive(3)}
		askForEnd    = []*probev1.Step{ask, receive(0)}
		askAndClose  = []*probev1.Step{ask, halfClose(), receive(0)}
		onlyReceive  = []*probev1.Step{receive(0)}
		sendMore     = []*probev1.Step{send(nettest.Data(96 << 10)), receive(0)}
		sendLong     = []*probev1.Step{send(much[:1000]), receive(0)}
	)
	return []*fault{
		{name: "RST", peer: nettest.Reset(3), steps: askForEnd, limit: long, want: reset, errno: syscall.ECONNRESET, sent: 3},
		{
			name: "RST behind half an answer", peer: nettest.SendThenReset(3, []byte("half")), steps: askForEnd, limit: long,
			want: reset, errno: syscall.ECONNRESET, got: []byte("half"), sent: 3,
		},
		{name: "RST while we send", peer: nettest.Reset(16 << 10), steps: sendMore, limit: long, want: sendReset, errno: syscall.ECONNRESET, sent: 16 << 10},
		{name: "FIN", peer: nettest.ReplyAfter(3, []byte("yes")), steps: askForEnd, limit: long, want: peerClosed, got: []byte("yes"), sent: 3},
		{name: "FIN too early", peer: nettest.ReplyAfter(3, []byte("ye")), steps: askForLength, limit: long, want: closedEarly, got: []byte("ye"), sent: 3},
		{
			name: "the peer half-closes first", peer: nettest.HalfCloseThenRead([]byte("yes")), steps: []*probev1.Step{receive(0), send(much), halfClose()},
			limit: long, want: lastStep, got: []byte("yes"), sent: len(much),
		},
		{name: "we half-close first", peer: nettest.Reply(much), steps: askAndClose, limit: long, want: peerClosed, got: much, sent: 3},
		{name: "1 B/s", peer: nettest.Drip([]byte("dr"), 1, time.Second), steps: onlyReceive, limit: long, want: peerClosed, got: []byte("dr")},
		{name: "1 B/s, too slow", peer: nettest.Drip(much[:20], 1, time.Second), steps: onlyReceive, limit: promise.Times(1500*time.Millisecond, 2500*time.Millisecond), want: receiveLate, got: much[:20]},
		{name: "a peer that does not read", peer: nettest.NeverRead, steps: sendMore, limit: soon, want: sendLate},
		{
			name: packetLoss, peer: nettest.Reply(much[:20_000]), rules: []string{"tcp dport PORT numgen random mod 100 < 30 drop", "tcp sport PORT numgen random mod 100 < 30 drop"},
			steps: askAndClose, limit: promise.Times(2*time.Second, long), want: peerClosed, got: much[:20_000],
		},

		{name: "SYN dropped", rules: []string{"tcp dport PORT drop"}, limit: soon, want: connectLate},
		{name: "SYN and ACK dropped", rules: []string{"tcp sport PORT drop"}, limit: soon, want: connectLate},
		{name: "data dropped", rules: []string{"tcp dport PORT meta length > 500 drop"}, steps: sendLong, limit: soon, want: receiveLate},
		// What ICMP says of an open connection is advice, which TCP outlives (RFC 1122, section 4.2.3.9).
		{name: "data prohibited", rules: []string{"tcp dport PORT meta length > 500 reject with icmpx admin-prohibited"}, steps: sendLong, limit: soon, want: receiveLate},
		{name: "data rejected", rules: []string{"tcp dport PORT meta length > 500 reject with tcp reset"}, steps: sendLong, limit: long, want: reset, errno: syscall.ECONNRESET},
		{name: "reject with RST", rules: []string{"tcp dport PORT reject with tcp reset"}, limit: long, want: refused, errno: syscall.ECONNREFUSED},
		{name: "reject: port", rules: []string{"tcp dport PORT reject with icmpx port-unreachable"}, limit: long, want: refused, errno: syscall.ECONNREFUSED},
		{name: "reject: host", rules: []string{"tcp dport PORT reject with icmpx host-unreachable"}, limit: long, want: unreachable, errno: syscall.EHOSTUNREACH},
		{
			name: "reject: prohibited", rules: []string{"tcp dport PORT reject with icmpx admin-prohibited"}, limit: long,
			want: unreachable, errno: syscall.EHOSTUNREACH, errno6: syscall.EACCES,
		},

		{name: "blackhole", route: "blackhole", limit: long, want: netless, errno: syscall.EINVAL},
		{name: "unreachable", route: "unreachable", limit: long, want: unreachable, errno: syscall.EHOSTUNREACH},
		{name: "prohibit", route: "prohibit", limit: long, want: deniedHere, errno: syscall.EACCES},
	}
}

// What a network or a peer does in the middle of an exchange is told for what it is, each time, and in time.
func TestMidStreamFaults(t *testing.T) {
	const many = 20 // at once
	runs := promise.Times(8, 200)
	world := newRouted(t)
	// Small buffers, so that a send waits for the peer.
	sysctl(world.near, "net.ipv4.tcp_wmem=4096 16384 16384")
	sysctl(world.far, "net.ipv4.tcp_rmem=4096 16384 16384")
	all := faults()
	for i, f := range all {
		f.port = 1000 + uint16(i)
		world.add(t, f, i)
	}
	p := probetest.Start(t, probetest.Options{Race: promise.Long(), In: world.near}) // to build it takes longer than the short form
	callers := p.Callers()
	for i, address := range farAddresses { // what is made at the first use takes its time
		all[0].run(t, callers[i], address, new(longest))
	}

	var late longest // that a deadline was overrun by
	jobs, wait := atOnce(many)
	for i := range runs {
		for _, f := range all {
			jobs <- func() { f.run(t, callers[i%2], farAddresses[i/2%2], &late) }
		}
	}
	wait()

	lost := int64(0)
	for _, f := range all {
		if f == all[0] {
			f.checkSent(t, runs+len(callers))
		} else {
			f.checkSent(t, runs)
		}
		if f.name == packetLoss {
			if lost = int64(runs) - f.ended.Load(); lost == int64(runs) {
				t.Error("with packets lost none ended well")
			}
		}
	}
	promise.MidStreamFaults.Reached(t, "%d faults × %d, %d at once, IPv4 and IPv6, gRPC and REST, race detector %v; at most %v late; of those with packets lost %d did not end well in time",
		len(all), runs, many, promise.Long(), &late, lost)
}

// add makes the fault happen.
func (r routed) add(t *testing.T, f *fault, i int) {
	t.Helper()
	f.host = func(address string) string { return address }
	if f.route != "" {
		net4, net6 := fmt.Sprintf("10.9.%d.", 10+i), fmt.Sprintf("fd09:%d::", 10+i)
		run(r.near, "ip route add "+f.route+" "+net4+"0/24", "ip -6 route add "+f.route+" "+net6+"/64")
		f.host = func(address string) string {
			if strings.Contains(address, ":") {
				return net6 + "1"
			}
			return net4 + "1"
		}
		return
	}
	for _, rule := range f.rules {
		r.rule(strings.ReplaceAll(rule, "PORT", strconv.Itoa(int(f.port))))
	}
	if f.peer == nil {
		f.peer = nettest.Echo
	}
	r.listen(t, f.port, f.tally.Count(f.peer))
}

func (f *fault) run(t *testing.T, caller probetest.Caller, address string, late *longest) {
	began := time.Now()
	s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{
		Target: net.JoinHostPort(f.host(address), strconv.Itoa(int(f.port))), Steps: f.steps, Timeout: durationpb.New(f.limit),
	})
	var got []byte
	for event, err := s.Next(); err == nil; event, err = s.Next() {
		got = append(got, event.GetChunk().GetData()...)
	}
	over := time.Since(began) - f.limit
	late.note(over)
	errorf := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %v, %s: %s", f.name, caller, address, fmt.Sprintf(format, args...))
	}
	o := s.Outcome
	if o == nil {
		errorf("no outcome, but %v", s.Err)
		return
	}
	if over > slack() || o.GetEndedBy() == probev1.EndedBy_ENDED_BY_DEADLINE && over < 0 {
		errorf("over after %v of %v", over+f.limit, f.limit)
	}
	if !bytes.HasPrefix(f.got, got) || o.GetOk() && len(got) != len(f.got) {
		errorf("%d bytes came, want %d", len(got), len(f.got))
	}
	if o.GetOk() {
		f.ended.Add(1)
	}
	if f.name == packetLoss && !o.GetOk() {
		switch o.GetReason() {
		case probev1.Reason_REASON_CONNECT_TIMEOUT, probev1.Reason_REASON_SEND_TIMEOUT, probev1.Reason_REASON_RECEIVE_TIMEOUT:
		default:
			errorf("%v in %v: %s", o.GetReason(), o.GetPhase(), o.GetError())
		}
		return
	}
	errno := f.errno
	if strings.Contains(address, ":") && f.errno6 != 0 {
		errno = f.errno6
	}
	if is := (ending{o.GetPhase(), o.GetReason(), o.GetEndedBy()}); is != f.want || o.GetErrno() != int32(errno) {
		errorf("%v, errno %s, want %v, errno %d (%s)", is, o.GetErrnoName(), f.want, errno, o.GetError())
	}
	// Of a drip there is a beginning, and no more than its time is for.
	dripped := f.want.by == probev1.EndedBy_ENDED_BY_DEADLINE && len(got) > 0 && time.Duration(len(got)-1)*time.Second <= over+f.limit
	if !dripped && len(got) != len(f.got) {
		errorf("%d bytes came, want %d", len(got), len(f.got))
	}
}

// slack is how late what has a deadline may be. `go test ./...` gives the machine more to do than this.
func slack() time.Duration { return promise.Times(5*time.Second, 500*time.Millisecond) }

// checkSent asserts that the peer has read what was sent to it, in all its runs together.
func (f *fault) checkSent(t *testing.T, runs int) {
	t.Helper()
	if f.sent == 0 {
		return
	}
	want := int64(f.sent * runs)
	for deadline := time.Now().Add(5 * time.Second); f.tally.Received.Load() < want && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
	if got := f.tally.Received.Load(); got != want {
		t.Errorf("%s: the peer has read %d bytes, want %d", f.name, got, want)
	}
}

// atOnce does jobs, so many at once. wait is for their end: no more are taken.
func atOnce(n int) (jobs chan<- func(), wait func()) {
	work := make(chan func())
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			for job := range work {
				job()
			}
		})
	}
	return work, func() {
		close(work)
		running.Wait()
	}
}

func send(data []byte) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Data{Data: data}}}}
}

// receive receives so many bytes; 0: to the end.
func receive(length int64) *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_Receive{Receive: &probev1.Receive{Length: length}}}
}

func halfClose() *probev1.Step {
	return &probev1.Step{Step: &probev1.Step_HalfClose{HalfClose: &probev1.HalfClose{}}}
}
