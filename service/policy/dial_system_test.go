//go:build system

package policy

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/dial"
)

// Every vector, dialled for real: in a namespace to which every address is local,
// a sink listens on every port that the vectors name. What is denied must not
// reach it.
func TestDeniedReachesNothing(t *testing.T) {
	vectors := readVectors(t)
	n := nettest.Namespace(t)
	n.Run("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo")
	n.Run("ip", "-6", "route", "add", "local", "::/0", "dev", "lo")
	n.Run("sh", "-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range")

	var reached atomic.Int64
	ports := make(map[uint16]bool)
	for _, v := range vectors {
		port := v.target.Address.Port()
		if port == 0 || ports[port] {
			continue
		}
		ports[port] = true
		address := net.JoinHostPort("::", strconv.Itoa(int(port)))
		n.Do(func() {
			nettest.Listen(t, "tcp", address, func(c net.Conn) {
				reached.Add(1)
				nettest.Echo(c)
			})
			nettest.ListenPacket(t, "udp", address, func(pc net.PacketConn, from net.Addr, data []byte) {
				reached.Add(1)
				nettest.EchoPacket(pc, from, data)
			})
		})
	}

	connected, pings, denied := int64(0), 0, 0
	for _, v := range vectors {
		if !v.target.Address.IsValid() {
			continue
		}
		d := dial.Dialer{Policy: func(_ context.Context, to dial.Destination) error {
			return policies[v.policy].Decide(caller, Target(to)).Err()
		}}
		var (
			c   net.Conn
			err error
		)
		n.Do(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err = d.Dial(ctx, dial.Request{
				Network: v.target.Network, Address: v.target.Address,
				Host: v.target.Host, Send: v.target.Send, SkipVerify: v.target.SkipVerify,
			})
		})
		e, isDenied := errors.AsType[*DeniedError](err)
		switch {
		case errors.As(err, new(net.UnknownNetworkError)):
		case c != nil:
			if strings.HasPrefix(v.target.Network, "icmp") { // which the kernel answers, and the sink does not see
				pings++
			} else {
				connected++
				poke(c)
			}
			c.Close()
			if !v.allowed() {
				t.Errorf("line %d: %s: connected, want %s", v.line, v.policy, v.rule)
			}
		case isDenied:
			denied++
			if e.Rule != v.rule {
				t.Errorf("line %d: %s: denied by %s, want %s", v.line, v.policy, e.Rule, v.rule)
			}
		case !v.allowed():
			t.Errorf("line %d: %s: %v, want %s", v.line, v.policy, err, v.rule)
		default:
			t.Logf("line %d: %s: admitted, and the kernel says %v", v.line, v.policy, err)
		}
	}
	if connected < 100 || pings < 10 || denied < 100 {
		t.Errorf("%d connected, %d of ICMP and %d denied: too few to tell anything", connected, pings, denied)
	}
	if got := reached.Load(); got != connected {
		t.Errorf("the sink was reached %d times, want the %d that were admitted and connected", got, connected)
	}
	t.Logf("%d connected, %d denied", connected, denied)
}

// poke sends a byte and waits for its echo, so that the sink has counted c. Some
// datagrams are answered from another address than they were sent to, and the
// answer is not c's.
func poke(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("x")); err == nil {
		_, _ = c.Read(make([]byte, 1))
	}
}
