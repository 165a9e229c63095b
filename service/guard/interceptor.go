package guard

import (
	"context"
	"runtime/debug"

	"probed/service/policy"
)

// Identify returns the context of a request with its caller, or with the reason why there is none, for which [Admit]
// refuses it: a method for everybody is called all the same. The credentials are those of the gRPC call, or of
// [WithCredentials]. A caller that a context has already does not count.
//
// It runs outside of the link that recovers from panics, so it recovers from its own.
func (a *Authenticator) Identify(ctx context.Context) (identified context.Context) {
	defer func() {
		if value := recover(); value != nil {
			err := &PanicError{Value: value, Stack: debug.Stack()}
			identified = context.WithValue(ctx, identityKey{}, identity{err: err})
		}
	}()
	caller, err := a.Authenticate(ctx, credentialsOf(ctx))
	return context.WithValue(ctx, identityKey{}, identity{caller: caller, err: err})
}

// Identified tells whether a context went through [Authenticator.Identify] or [WithCaller].
func Identified(ctx context.Context) bool {
	_, ok := ctx.Value(identityKey{}).(identity)
	return ok
}

// Enter is [Authenticator.Identify] and [Count] in one, for requests that cost something to read: ok is false for those
// that [Admit] will refuse by any method that is not public, so that nothing more of them needs to be read. leave ends the
// count.
func Enter(ctx context.Context, a *Authenticator, l *Limiter) (entered context.Context, leave func(), ok bool) {
	ctx = a.Identify(ctx)
	id, _ := ctx.Value(identityKey{}).(identity)
	if id.err != nil {
		return ctx, func() {}, false
	}
	leave, err := Count(ctx, l)
	id.counted, id.err = true, err
	return context.WithValue(ctx, identityKey{}, id), leave, err == nil
}

// Count counts the call of a context's caller among those under way, until leave is called. A call that [Enter] has
// counted is not counted again. The error is a *[LimitError].
func Count(ctx context.Context, l *Limiter) (leave func(), err error) {
	id, _ := ctx.Value(identityKey{}).(identity)
	if l == nil || id.counted {
		return func() {}, nil
	}
	leave, err = l.Call(id.caller.Key)
	if err != nil {
		return func() {}, err
	}
	return leave, nil
}

// Carry gives ctx what [WithCredentials], [WithCaller], [Enter] and [Authenticator.Identify] gave to another context.
func Carry(ctx, from context.Context) context.Context {
	if brought, ok := CredentialsFrom(from); ok {
		ctx = WithCredentials(ctx, brought)
	}
	if id, ok := from.Value(identityKey{}).(identity); ok {
		ctx = context.WithValue(ctx, identityKey{}, id)
	}
	return ctx
}

// Admit says whether the request may go on to the method of that full name: nil, an *[UnauthenticatedError], a
// *[PanicError] or a *[ForbiddenError]. A request that went neither through [Authenticator.Identify] nor [WithCaller] has
// no caller, and nothing but public methods.
func Admit(ctx context.Context, p *policy.Policy, fullMethod string) error {
	if AccessTo(fullMethod) == Public {
		return nil
	}
	id, asked := ctx.Value(identityKey{}).(identity)
	switch {
	case id.err != nil:
		return id.err
	case !asked:
		return unauthenticated(ReasonNone)
	}
	return Authorize(p, id.caller, fullMethod)
}
