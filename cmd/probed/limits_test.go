package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "probed/gen/probe/config/v1"
)

func TestLimits(t *testing.T) {
	t.Parallel()
	reachable := limits{
		Sessions: 256, SessionsPerCaller: 32, Calls: 1024, CallsPerCaller: 64,
		StreamsPerConnection: 100, Connections: 512, ConnectionsPerAddress: 64,
		DialTimeout: 10 * time.Second, DNSTimeout: 5 * time.Second, ExchangeTimeout: time.Minute, ExchangeTimeoutMax: 10 * time.Minute,
		ConversationIdle: 5 * time.Minute, HandshakeTimeout: 10 * time.Second, SessionBytes: 1 << 30, MessageBytes: 1 << 20,
		HeaderBytes: 16 << 10, DialsPerSecond: 50, TargetsPerMinute: 300,
	}
	loopback := reachable
	loopback.CallsPerCaller, loopback.ConnectionsPerAddress = 1024, 512
	loopback.SessionsPerCaller, loopback.SessionBytes, loopback.DialsPerSecond, loopback.TargetsPerMinute = 256, 0, 0, 0
	with := func(l limits, change func(*limits)) limits {
		change(&l)
		return l
	}
	for name, test := range map[string]struct {
		message   *configv1.Limits
		reachable bool
		want      limits
	}{
		"none, reachable":  {nil, true, reachable},
		"none, loopback":   {nil, false, loopback},
		"empty, reachable": {&configv1.Limits{}, true, reachable},
		"empty, loopback":  {&configv1.Limits{}, false, loopback},
		"a smaller whole": {&configv1.Limits{Sessions: proto.Uint32(16), Connections: proto.Uint32(8)}, true, with(reachable, func(l *limits) {
			l.Sessions, l.SessionsPerCaller, l.Connections, l.ConnectionsPerAddress = 16, 16, 8, 8
		})},
		"a larger whole":    {&configv1.Limits{Sessions: proto.Uint32(1000)}, true, with(reachable, func(l *limits) { l.Sessions = 1000 })},
		"on loopback too":   {&configv1.Limits{Sessions: proto.Uint32(1000)}, false, with(loopback, func(l *limits) { l.Sessions, l.SessionsPerCaller = 1000, 1000 })},
		"no whole":          {&configv1.Limits{Sessions: proto.Uint32(0)}, true, with(reachable, func(l *limits) { l.Sessions = 0 })},
		"no share":          {&configv1.Limits{SessionsPerCaller: proto.Uint32(0)}, true, with(reachable, func(l *limits) { l.SessionsPerCaller = 256 })},
		"a share":           {&configv1.Limits{SessionsPerCaller: proto.Uint32(5)}, false, with(loopback, func(l *limits) { l.SessionsPerCaller = 5 })},
		"fewer calls":       {&configv1.Limits{Calls: proto.Uint32(16)}, true, with(reachable, func(l *limits) { l.Calls, l.CallsPerCaller = 16, 16 })},
		"more calls":        {&configv1.Limits{Calls: proto.Uint32(4096)}, true, with(reachable, func(l *limits) { l.Calls = 4096 })},
		"more, loopback":    {&configv1.Limits{Calls: proto.Uint32(4096)}, false, with(loopback, func(l *limits) { l.Calls, l.CallsPerCaller = 4096, 4096 })},
		"any calls":         {&configv1.Limits{Calls: proto.Uint32(0)}, true, with(reachable, func(l *limits) { l.Calls = 0 })},
		"any, loopback":     {&configv1.Limits{Calls: proto.Uint32(0)}, false, with(loopback, func(l *limits) { l.Calls, l.CallsPerCaller = 0, 0 })},
		"no share of calls": {&configv1.Limits{CallsPerCaller: proto.Uint32(0)}, true, with(reachable, func(l *limits) { l.CallsPerCaller = 1024 })},
		"a share of calls":  {&configv1.Limits{CallsPerCaller: proto.Uint32(5)}, false, with(loopback, func(l *limits) { l.CallsPerCaller = 5 })},
		"asked on loopback": {&configv1.Limits{DialsPerSecond: proto.Uint32(5), SessionBytes: proto.Uint64(6)}, false, with(loopback, func(l *limits) { l.DialsPerSecond, l.SessionBytes = 5, 6 })},
		"a shorter most":    {&configv1.Limits{ExchangeTimeoutMax: durationpb.New(time.Second)}, true, with(reachable, func(l *limits) { l.ExchangeTimeout, l.ExchangeTimeoutMax = time.Second, time.Second })},
	} {
		if got := limitsOf(test.message, test.reachable); got != test.want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, test.want)
		}
	}
}

// Each key changes something.
func TestEveryLimitCounts(t *testing.T) {
	t.Parallel()
	fields := new(configv1.Limits).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		message := new(configv1.Limits)
		field, m := fields.Get(i), message.ProtoReflect()
		switch field.Kind() {
		case protoreflect.Uint32Kind:
			m.Set(field, protoreflect.ValueOfUint32(3))
		case protoreflect.Uint64Kind:
			m.Set(field, protoreflect.ValueOfUint64(3))
		default:
			m.Set(field, protoreflect.ValueOfMessage(durationpb.New(3*time.Second).ProtoReflect()))
		}
		if limitsOf(message, true) == limitsOf(nil, true) {
			t.Errorf("%s changes nothing", field.Name())
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	zero, minute := durationpb.New(0), durationpb.New(time.Minute)
	for name, test := range map[string]struct {
		message        *configv1.Drain
		reachable      bool
		delay, timeout time.Duration
	}{
		"none, reachable": {nil, true, 5 * time.Second, 20 * time.Second},
		"none, loopback":  {nil, false, 0, 20 * time.Second},
		"zero":            {&configv1.Drain{Delay: zero, Timeout: zero}, true, 0, 0},
		"both":            {&configv1.Drain{Delay: minute, Timeout: minute}, false, time.Minute, time.Minute},
	} {
		if delay, timeout := drainOf(test.message, test.reachable); delay != test.delay || timeout != test.timeout {
			t.Errorf("%s: %v, %v, want %v, %v", name, delay, timeout, test.delay, test.timeout)
		}
	}
}
