package service

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"probed/service/guard"
	"probed/service/policy"
)

// revokedError is the cause that a session ends with whose caller may not have it any more.
type revokedError struct{ cause error }

func (e *revokedError) Error() string {
	return "this caller may not have this session any more: " + e.cause.Error()
}

func (e *revokedError) Unwrap() error { return e.cause }

// openSessions are those under way.
type openSessions struct {
	mu  sync.Mutex
	all map[*session]struct{}
}

func (o *openSessions) add(x *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[*session]struct{})
	}
	o.all[x] = struct{}{}
}

func (o *openSessions) remove(x *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, x)
}

func (o *openSessions) list() []*session {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.all))
}

// Recheck ends the sessions whose callers may not have them any more: their credentials have been withdrawn or have
// expired, or what they have connected to is not theirs to reach by the policy of now. Without it a conversation, which has
// no time of its own, would outlive what allowed it. identify finds out anew who sent the request that a context belongs
// to, see [guard.Authenticator.Identify]. That it cannot be found out at present ends nothing.
func (s *Service) Recheck(identify func(context.Context) context.Context) {
	for _, x := range s.open.list() {
		if err := s.mayStill(identify(x.ctx), x); err != nil {
			x.revoke(&revokedError{err})
		}
	}
}

func (s *Service) mayStill(ctx context.Context, x *session) error {
	rules := s.policy()
	if err := guard.Admit(ctx, rules, x.rpc); err != nil {
		if stranger, ok := errors.AsType[*guard.UnauthenticatedError](err); ok && stranger.Unavailable {
			return nil
		}
		return err
	}
	for _, target := range x.reached() {
		if err := rules.Decide(subjectOf(ctx), target).Err(); err != nil {
			return err
		}
	}
	return nil
}

// reaches notes what a session was let connect to.
func (x *session) reaches(target policy.Target) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.targets = append(x.targets, target)
}

func (x *session) reached() []policy.Target {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.targets)
}
