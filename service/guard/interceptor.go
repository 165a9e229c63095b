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
