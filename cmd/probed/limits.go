package main

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/guard"
)

// limits are the bounds on what callers make probed hold and do, each as the configuration describes it. In those that
// count, 0 is no limit.
type limits struct {
	Sessions, SessionsPerCaller        int
	Calls, CallsPerCaller              int
	StreamsPerConnection               uint32
	Connections, ConnectionsPerAddress int

	DialTimeout, DNSTimeout             time.Duration
	ExchangeTimeout, ExchangeTimeoutMax time.Duration
	ConversationIdle, HandshakeTimeout  time.Duration
	SessionBytes                        int64 // each direction
	MessageBytes                        int   // of data; what is around them comes on top
	HeaderBytes                         int
	DialsPerSecond, TargetsPerMinute    int
}

// limitsOf returns the limits of a configuration, m may be nil, with the default of what it leaves out. On loopback, where
// nothing is reachable from outside, the one who uses probed is the one who runs it: one caller may have all sessions,
// calls and connections, and there is no limit on rates and bytes that was not asked for.
func limitsOf(m *configv1.Limits, reachable bool) limits {
	l := limits{
		Sessions:              256,
		SessionsPerCaller:     32,
		Calls:                 1024,
		CallsPerCaller:        64,
		StreamsPerConnection:  100,
		Connections:           512,
		ConnectionsPerAddress: 64,
		DialTimeout:           10 * time.Second,
		DNSTimeout:            5 * time.Second,
		ExchangeTimeout:       time.Minute,
		ExchangeTimeoutMax:    10 * time.Minute,
		ConversationIdle:      5 * time.Minute,
		HandshakeTimeout:      10 * time.Second,
		SessionBytes:          1 << 30,
		MessageBytes:          1 << 20,
		HeaderBytes:           16 << 10,
		DialsPerSecond:        50,
		TargetsPerMinute:      300,
	}
	if !reachable {
		l.SessionsPerCaller, l.CallsPerCaller, l.ConnectionsPerAddress = 0, 0, 0
		l.SessionBytes, l.DialsPerSecond, l.TargetsPerMinute = 0, 0, 0
	}
	if m == nil {
		m = new(configv1.Limits)
	}
	override(&l.Sessions, m.Sessions)
	override(&l.SessionsPerCaller, m.SessionsPerCaller)
	override(&l.Calls, m.Calls)
	override(&l.CallsPerCaller, m.CallsPerCaller)
	override(&l.StreamsPerConnection, m.StreamsPerConnection)
	override(&l.Connections, m.Connections)
	override(&l.ConnectionsPerAddress, m.ConnectionsPerAddress)
	overrideDuration(&l.DialTimeout, m.DialTimeout)
	overrideDuration(&l.DNSTimeout, m.DnsTimeout)
	overrideDuration(&l.ExchangeTimeout, m.ExchangeTimeout)
	overrideDuration(&l.ExchangeTimeoutMax, m.ExchangeTimeoutMax)
	overrideDuration(&l.ConversationIdle, m.ConversationIdle)
	overrideDuration(&l.HandshakeTimeout, m.HandshakeTimeout)
	override(&l.SessionBytes, m.SessionBytes)
	override(&l.MessageBytes, m.MessageBytes)
	override(&l.HeaderBytes, m.HeaderBytes)
	override(&l.DialsPerSecond, m.DialsPerSecond)
	override(&l.TargetsPerMinute, m.TargetsPerMinute)

	// A share is not more than the whole, and no limit on the share is the whole.
	l.SessionsPerCaller = share(l.SessionsPerCaller, l.Sessions)
	l.CallsPerCaller = share(l.CallsPerCaller, l.Calls)
	l.ConnectionsPerAddress = share(l.ConnectionsPerAddress, l.Connections)
	// Who sets the most alone, and lower, does not mean that requests which say nothing are refused.
	l.ExchangeTimeout = min(l.ExchangeTimeout, l.ExchangeTimeoutMax)
	return l
}

// override sets what the file sets. The schema's rules keep it within what the type of the limit can hold.
func override[T, F int | int64 | uint32 | uint64](limit *T, set *F) {
	if set != nil {
		*limit = T(*set)
	}
}

func overrideDuration(limit *time.Duration, set *durationpb.Duration) {
	if set != nil {
		*limit = set.AsDuration()
	}
}

func share(part, whole int) int {
	if whole > 0 && (part == 0 || part > whole) {
		return whole
	}
	return part
}

// drainOf returns the times of the end, m may be nil: how long to go on not ready, and how long calls then get.
func drainOf(m *configv1.Drain, reachable bool) (delay, timeout time.Duration) {
	if reachable {
		delay = 5 * time.Second
	}
	timeout = 20 * time.Second
	overrideDuration(&delay, m.GetDelay())
	overrideDuration(&timeout, m.GetTimeout())
	return delay, timeout
}

// countLimits shows the limits that callers can reach, and how near they are.
func (s *server) countLimits(limiter *guard.Limiter) {
	calls := func() int { calls, _ := limiter.UnderWay(); return calls }
	sessions := func() int { _, sessions := limiter.UnderWay(); return sessions }
	s.counts.Limit(guard.LimitCalls, s.limits.Calls, calls)
	s.counts.Limit(guard.LimitCallsPerCaller, s.limits.CallsPerCaller, nil)
	s.counts.Limit(guard.LimitSessions, s.limits.Sessions, sessions)
	s.counts.Limit(guard.LimitSessionsPerCaller, s.limits.SessionsPerCaller, nil)
	s.counts.Limit("connections", s.limits.Connections, s.accepted.count)
	s.counts.Limit("connections_per_address", s.limits.ConnectionsPerAddress, nil)
	s.counts.Limit(guard.LimitDialsPerSecond, s.limits.DialsPerSecond, nil)
	s.counts.Limit(guard.LimitTargetsPerMinute, s.limits.TargetsPerMinute, nil)
}
