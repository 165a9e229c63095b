package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"probed/internal/promise"
	"probed/service/guard"
)

// What a call comes to, as far as who calls decides it.
const (
	unknownCaller = "UNAUTHENTICATED"
	callDenied    = "CALL_DENIED"
	admitted      = "admitted"
	noConnection  = "no connection" // it ends in the handshake
)

// Every method there is, by every caller there can be, over both protocols. The methods are those that the running server
// tells of itself, so a new one is in it.
func TestAuthMatrix(t *testing.T) {
	t.Parallel()
	s := newSecured(t).start(t)
	jwt := func(subject string, change map[string]any) who { return bearer(s.issuer.token(t, subject, change)) }
	strangers := newAuthority(t)
	always := func(outcome string) func(guard.Access) string {
		return func(access guard.Access) string {
			if access == guard.Public && outcome != noConnection {
				return admitted
			}
			return outcome
		}
	}
	// grants tells what comes of somebody who is known, and who may do these.
	grants := func(allowed ...guard.Access) func(guard.Access) string {
		return func(access guard.Access) string {
			if access == guard.Public || access == guard.Authenticated || slices.Contains(allowed, access) {
				return admitted
			}
			return callDenied
		}
	}
	everything := grants(guard.Member, guard.Resolve, guard.Connect)
	const (
		none, bad, expired, wrongAudience = "none", "bad", "expired", "wrong audience"
		notAllowed, allowed               = "not allowed", "allowed"
	)
	kinds := []string{none, bad, expired, wrongAudience, notAllowed, allowed}
	callers := map[string]struct {
		kind string
		who  who
		want func(guard.Access) string
	}{
		"none":                    {none, who{}, always(unknownCaller)},
		"malformed":               {bad, who{authorization: "Basic YTpi"}, always(unknownCaller)},
		"malformed, no token":     {bad, who{authorization: "Bearer"}, always(unknownCaller)},
		"unknown token":           {bad, token("stranger"), always(unknownCaller)},
		"expired token":           {expired, token("late"), always(unknownCaller)},
		"expired JWT":             {expired, jwt("all", map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), always(unknownCaller)},
		"not yet valid JWT":       {bad, jwt("all", map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), always(unknownCaller)},
		"JWT for somebody else":   {wrongAudience, jwt("all", map[string]any{"aud": "another"}), always(unknownCaller)},
		"JWT of another issuer":   {bad, jwt("all", map[string]any{"iss": "https://issuer.invalid"}), always(unknownCaller)},
		"JWT with a foreign key":  {bad, bearer(foreignToken(t, s.issuer)), always(unknownCaller)},
		"untrusted certificate":   {bad, strangers.caller(t, "all", time.Now().Add(time.Hour)), always(noConnection)},
		"expired certificate":     {expired, s.clients.caller(t, "all", time.Now().Add(-time.Minute)), always(noConnection)},
		"good and bad":            {bad, who{"Bearer nonsense", s.clients.caller(t, "all", time.Now().Add(time.Hour)).certificate}, always(unknownCaller)},
		"token without a role":    {notAllowed, token("nobody"), grants()},
		"JWT without a role":      {notAllowed, jwt("nobody", nil), grants()},
		"certificate, no role":    {notAllowed, s.clients.caller(t, "nobody", time.Now().Add(time.Hour)), grants()},
		"subject of another way":  {notAllowed, s.clients.caller(t, "resolver", time.Now().Add(time.Hour)), grants()},
		"resolve alone":           {notAllowed, token("resolver"), grants(guard.Member, guard.Resolve)},
		"connect alone":           {notAllowed, token("connector"), grants(guard.Member, guard.Connect)},
		"operates alone":          {notAllowed, token("operator"), grants(guard.Member, guard.Channelz)},
		"allowed by token":        {allowed, token("all"), everything},
		"allowed by JWT":          {allowed, jwt("all", nil), everything},
		"allowed by certificate":  {allowed, s.clients.caller(t, "all", time.Now().Add(time.Hour)), everything},
		"token beside a stranger": {allowed, who{token("all").authorization, s.clients.caller(t, "nobody", time.Now().Add(time.Hour)).certificate}, everything},
	}
	methods := servedMethods(t, s)
	type cell struct{ method, kind, caller, by string }
	tried := map[cell]bool{}
	for _, name := range sorted(callers) {
		caller := callers[name]
		conn, client := s.connect(t, caller.who), s.client(t, caller.who)
		for _, method := range methods {
			full := fullName(method)
			want := caller.want(guard.AccessTo(full))
			tried[cell{full, caller.kind, name, "gRPC"}] = true
			tried[cell{full, caller.kind, name, "REST"}] = true
			if got := outcomeByGRPC(t, conn, caller.who, method); got != want {
				t.Errorf("%s: %s by gRPC: %s, want %s", name, full, got, want)
			}
			bindings := httpRules(method)
			if len(bindings) == 0 { // nobody is told more by REST than that there is no such thing
				response, text, err := s.rest(t.Context(), client, caller.who, http.MethodPost, full, "{}")
				if want == noConnection {
					if err == nil {
						t.Errorf("%s: %s by REST: %s", name, full, text)
					}
				} else if err != nil || response.StatusCode != http.StatusNotFound {
					t.Errorf("%s: %s by REST: %s, %v, want 404", name, full, text, err)
				}
			}
			for _, binding := range bindings {
				if got := s.outcomeByREST(t, client, caller.who, binding); got != want {
					t.Errorf("%s: %s %s: %s, want %s", name, binding.method, binding.path, got, want)
				}
			}
		}
	}
	// All of them: each method that there is a description of, for each kind of caller, by both.
	for _, method := range describedMethods() {
		for name, caller := range callers {
			for _, by := range []string{"gRPC", "REST"} {
				if at := (cell{method, caller.kind, name, by}); !tried[at] {
					t.Errorf("%+v was not tried", at)
				}
			}
		}
	}
	for _, kind := range kinds {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(tried)), func(at cell) bool { return at.kind == kind }) {
			t.Errorf("nobody is %q", kind)
		}
	}
	if want := len(describedMethods()) * len(callers) * 2; len(tried) != want {
		t.Errorf("%d cells were tried, there are %d", len(tried), want)
	}
	promise.MatrixIsClosed.Reached(t, "%d RPCs × %d callers of %d kinds × {gRPC, REST} = %d, each as it should be", len(methods), len(callers), len(kinds), len(tried))
}

// describedMethods are those that the program has descriptors of and that somebody may call, by their full names.
func describedMethods() (names []string) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if full := fullName(methods.Get(j)); file.Package() == "probe.v1" || guard.AccessTo(full) != guard.Denied {
					names = append(names, full)
				}
			}
		}
		return true
	})
	return names
}

// foreignToken is right but for the key that it is signed with, which another issuer has under the same name.
func foreignToken(t *testing.T, issuer *tokenIssuer) string {
	t.Helper()
	return newTokenIssuer(t).token(t, "all", map[string]any{"iss": issuer.URL})
}

// What is served is in the table of access, and nothing else that there are descriptors of.
func TestAccessIsAboutWhatIsServed(t *testing.T) {
	t.Parallel()
	served := map[string]bool{}
	for _, method := range servedMethods(t, newSecured(t).start(t)) {
		served[fullName(method)] = true
	}
	if len(served) < 20 {
		t.Errorf("only %d methods: %v", len(served), served)
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				full := fullName(methods.Get(j))
				if known := guard.AccessTo(full) != guard.Denied; known != served[full] {
					t.Errorf("%s: served %v, in the table %v", full, served[full], known)
				}
			}
		}
		return true
	})
}

// No page can make a browser open connections by a mere link or image.
func TestNoConnectionByGET(t *testing.T) {
	t.Parallel()
	gets := 0
	for _, method := range servedMethods(t, newSecured(t).start(t)) {
		for _, binding := range httpRules(method) {
			if binding.method != http.MethodGet {
				continue
			}
			gets++
			if access := guard.AccessTo(fullName(method)); access == guard.Connect || access == guard.Denied || access == guard.Public {
				t.Errorf("GET %s is %s", binding.path, fullName(method))
			}
			// A server of the caller's choice is connected to.
			if strings.Contains(binding.path, "dns") && method.Input().Fields().ByName("server") == nil {
				t.Errorf("%s has no server any more: what does this test hold?", fullName(method))
			}
		}
	}
	if gets < 10 {
		t.Errorf("only %d bindings to GET", gets)
	}
}

// servedMethods are those of the services that the server says it has.
func servedMethods(t *testing.T, s *secured) (methods []protoreflect.MethodDescriptor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(s.connect(t, who{})).ServerReflectionInfo(token("all").as(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.GetName()))
		if err != nil {
			t.Fatal(err)
		}
		all := descriptor.(protoreflect.ServiceDescriptor).Methods() //nolint:forcetypeassert // it is one
		for i := range all.Len() {
			methods = append(methods, all.Get(i))
		}
	}
	return methods
}

func fullName(method protoreflect.MethodDescriptor) string {
	return "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
}

// outcomeByGRPC calls a method with an empty request, and tells what came of it.
func outcomeByGRPC(t *testing.T, conn *grpc.ClientConn, w who, method protoreflect.MethodDescriptor) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(w.as(t.Context()), patience)
	defer cancel()
	description := &grpc.StreamDesc{ServerStreams: method.IsStreamingServer(), ClientStreams: method.IsStreamingClient()}
	err := func() error {
		stream, err := conn.NewStream(ctx, description, fullName(method))
		if err != nil {
			return err
		}
		if err := stream.SendMsg(dynamicpb.NewMessage(method.Input())); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return stream.RecvMsg(dynamicpb.NewMessage(method.Output()))
	}()
	switch code := status.Code(err); {
	case code == codes.Unauthenticated && reasonOf(err) == "ERROR_REASON_UNAUTHENTICATED":
		return unknownCaller
	case code == codes.PermissionDenied && reasonOf(err) == "ERROR_REASON_CALL_DENIED":
		return callDenied
	case code == codes.Unavailable && reasonOf(err) == "":
		return noConnection
	case err == nil, errors.Is(err, io.EOF), code == codes.InvalidArgument, code == codes.NotFound,
		code == codes.PermissionDenied && reasonOf(err) == "ERROR_REASON_POLICY_DENIED":
		return admitted
	}
	return err.Error()
}

// binding is one way to call a method by REST.
type binding struct{ method, path, body string }

// httpRules are the ways to call a method by REST, with something harmless in each variable.
func httpRules(method protoreflect.MethodDescriptor) (bindings []binding) {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule == nil {
		return nil
	}
	for _, one := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		b := binding{http.MethodGet, one.GetGet(), ""}
		if one.GetPost() != "" {
			b = binding{http.MethodPost, one.GetPost(), "{}"}
		}
		fields := method.Input().Fields()
		for i := range fields.Len() {
			value := "127.0.0.1"
			if fields.Get(i).Kind() != protoreflect.StringKind {
				value = "22"
			}
			b.path = strings.ReplaceAll(b.path, "{"+string(fields.Get(i).Name())+"}", value)
		}
		bindings = append(bindings, b)
	}
	return bindings
}

func (s *secured) outcomeByREST(t *testing.T, client *http.Client, w who, b binding) string {
	t.Helper()
	response, text, err := s.rest(t.Context(), client, w, b.method, b.path, b.body)
	if err != nil {
		return noConnection
	}
	switch reason := reasonIn(text); {
	case response.StatusCode == http.StatusUnauthorized && reason == "ERROR_REASON_UNAUTHENTICATED":
		if got := response.Header.Get("WWW-Authenticate"); got != "Bearer" { // RFC 9110, section 11.6.1
			t.Errorf("%s: WWW-Authenticate %q", b.path, got)
		}
		return unknownCaller
	case response.StatusCode == http.StatusForbidden && reason == "ERROR_REASON_CALL_DENIED":
		return callDenied
	case response.StatusCode == http.StatusOK, response.StatusCode == http.StatusBadRequest, response.StatusCode == http.StatusNotFound,
		response.StatusCode == http.StatusForbidden && reason == "ERROR_REASON_POLICY_DENIED":
		return admitted
	}
	return response.Status + " " + text
}
