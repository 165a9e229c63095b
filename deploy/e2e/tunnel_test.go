//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	probev1 "probed/gen/probe/v1"
)

// tunnel is a connection that a probed in the cluster has to a target: a conversation, as one more net.Conn, so that what
// speaks HTTP or gRPC here speaks it from there.
type tunnel struct {
	net.Conn // the near end of a pipe

	cancel context.CancelFunc
	mu     sync.Mutex
	ended  error // what the conversation ended with
	done   chan struct{}
}

// dial opens one. The error of a target that cannot be reached tells the outcome.
func dial(ctx context.Context, service probev1.ExchangeServiceClient, open *probev1.Open) (*tunnel, error) {
	// The context is that of dialling, and a conversation lasts longer.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := service.Converse(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	if err := stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: open}}); err != nil {
		cancel()
		return nil, err
	}
	for ready := false; !ready; {
		event, err := stream.Recv()
		if err == nil && event.GetOutcome() != nil {
			err = failed(event.GetOutcome())
		}
		if err != nil {
			cancel()
			return nil, err
		}
		ready = event.GetConnected() != nil
	}
	near, far := net.Pipe()
	t := &tunnel{Conn: near, cancel: cancel, done: make(chan struct{})}
	go func() { // what the target says
		defer close(t.done)
		defer far.Close()
		for {
			event, err := stream.Recv()
			if err == nil && event.GetOutcome() != nil && !event.GetOutcome().GetOk() {
				err = failed(event.GetOutcome())
			}
			if err != nil || event.GetPeerClosed() != nil {
				t.mu.Lock()
				t.ended = err
				t.mu.Unlock()
				return
			}
			if _, err := far.Write(event.GetChunk().GetData()); err != nil {
				return
			}
		}
	}()
	go func() { // what is said here
		buffer := make([]byte, 32<<10)
		for {
			n, err := far.Read(buffer)
			if err != nil || stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: buffer[:n]}}) != nil {
				return
			}
		}
	}()
	return t, nil
}

func failed(outcome *probev1.Outcome) error {
	return fmt.Errorf("%v in %v: %s", outcome.GetReason(), outcome.GetPhase(), outcome.GetError())
}

// Read says why the conversation ended, where it was not the peer who closed.
func (t *tunnel) Read(into []byte) (int, error) {
	n, err := t.Conn.Read(into)
	if errors.Is(err, io.EOF) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.ended != nil && !errors.Is(t.ended, io.EOF) {
			err = t.ended
		}
	}
	return n, err
}

// Close ends the conversation too.
func (t *tunnel) Close() error {
	err := t.Conn.Close()
	t.cancel()
	return err
}

// closed is whether the peer has closed, or the conversation ended.
func (t *tunnel) closed() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}
