package main

import (
	"context"
	"log/slog"
	"net/http"

	"probed/service/gateway"
	"probed/service/guard"
)

// answered writes down a REST request that has become no call, as the chain does with calls, and counts it.
func (s *server) answered(ctx context.Context, a gateway.Answer) {
	s.counts.Answered(a.Status)
	// The levels are those of calls.
	level := slog.LevelInfo
	switch {
	case a.Status == http.StatusForbidden, a.Status == http.StatusTooManyRequests, a.Status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case a.Status >= http.StatusInternalServerError:
		level = slog.LevelError
	}
	if !s.calls.Enabled(ctx, level) {
		return
	}
	attributes := []slog.Attr{slog.String("request_id", a.ID)}
	if subject := guard.CallerFrom(ctx).Subject; subject != "" {
		attributes = append(attributes, slog.String("subject", subject))
	}
	s.calls.LogAttrs(ctx, level, "call", append(attributes,
		slog.String("remote", a.Remote),
		slog.String("method", a.Method),
		slog.Int("status", a.Status),
		slog.String("reason", a.Reason),
		slog.String("via", "rest"),
		slog.Float64("duration_seconds", a.Duration.Seconds()),
	)...)
}
