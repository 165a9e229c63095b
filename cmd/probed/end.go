package main

import (
	"context"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// drainedPatience is how long exchanges that were told to end get to send their last event.
	drainedPatience = 2 * time.Second
	// opsPatience is how long a scrape under way may take at the very end.
	opsPatience = time.Second
)

// end ends probed in good order: not ready, a while for load balancers to notice, no new calls, a while for those
// under way, then the last word for the exchanges that are left. A second signal cuts all waiting short.
func (s *server) end(signals <-chan os.Signal) error {
	ctx, hurry := context.WithCancel(context.Background())
	defer hurry()
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case signal := <-signals:
				if signal == syscall.SIGHUP {
					continue
				}
				s.log.Warn("second signal: ending at once")
				hurry()
			case <-ctx.Done():
			}
			return
		}
	})
	defer watch.Wait()
	defer hurry()

	s.log.Info("ending", "delay", s.options.drainDelay.String(), "timeout", s.options.drainTimeout.String())
	s.ready.Store(false)
	s.health.Shutdown()
	wait(ctx, s.options.drainDelay)
	s.endless.end()

	var calls sync.WaitGroup
	ended := make(chan struct{})
	calls.Go(s.grpc.GracefulStop)
	calls.Go(func() {
		// It fails only when its context ends, and this one does not: Close below ends it.
		_ = s.http.Shutdown(context.Background())
	})
	go func() { calls.Wait(); close(ended) }()

	if !waitFor(ctx, ended, s.options.drainTimeout) {
		s.log.Warn("calls are still under way: ending them")
		s.service.Drain()
		waitFor(ctx, ended, drainedPatience)
	}
	// Stop waits for those who have connected and said nothing, as long as they may take for that.
	s.accepted.close()
	s.grpc.Stop()
	closeErr := s.http.Close()
	<-ended
	if err := s.gateway.Close(); err != nil {
		s.log.Warn("closing the gateway", "error", err)
	}
	s.rules.Load().authenticator.Close()
	s.tracing.Close(ctx)
	opsCtx, cancel := context.WithTimeout(ctx, opsPatience)
	defer cancel()
	if s.ops.Shutdown(opsCtx) != nil {
		_ = s.ops.Close() // it is the end either way
	}
	s.log.Info("ended")
	return closeErr
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) { waitFor(ctx, nil, d) }

// waitFor waits until done, at most for d and not beyond the end of ctx, and tells whether it is done.
func waitFor(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// partingFrom tells callers of HTTP/1.1, once probed is about to end, to leave with their answer (RFC 9112, section 9.6): a
// connection that is kept open would be closed at the end of the delay, perhaps while the next request is on its way.
func (s *server) partingFrom(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.ready.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// opsHandler serves what the operations listener has, and nothing else: it may be reachable without authentication.
func opsHandler(metrics http.Handler, ready *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			answer(w, http.StatusServiceUnavailable, "not ready")
			return
		}
		answer(w, http.StatusOK, "ok")
	})
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // a prober that went away needs no answer
}
