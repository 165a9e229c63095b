package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	probev1 "probed/gen/probe/v1"
)

// routes returns for each method and path of the contract ("GET /v1/ports/{port}") the message that the query parameters
// fill in; nil when there is none to fill, because the body has it all. The first request with such parameters reads them off
// the contract, which is most of what a start of REST would take.
var routes = sync.OnceValue(func() map[string]protoreflect.MessageDescriptor {
	found := map[string]protoreflect.MessageDescriptor{}
	for _, file := range []protoreflect.FileDescriptor{
		probev1.File_probe_v1_names_service_proto,
		probev1.File_probe_v1_resolver_service_proto,
		probev1.File_probe_v1_exchange_service_proto,
		probev1.File_probe_v1_policy_service_proto,
	} {
		services := file.Services()
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for j := range methods.Len() {
				method := methods.Get(j)
				rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
				if !ok || rule == nil {
					continue // gRPC only
				}
				for _, binding := range append(rule.GetAdditionalBindings(), rule) {
					switch pattern := binding.GetPattern().(type) {
					case *annotations.HttpRule_Get:
						found["GET "+pattern.Get] = method.Input()
					case *annotations.HttpRule_Post:
						found["POST "+pattern.Post] = nil
					default:
						panic(fmt.Sprintf("%s is bound to a method other than GET and POST", method.FullName())) // the contract is part of the program
					}
				}
			}
		}
	}
	return found
})

// checkQuery refuses query parameters that the generated handlers would silently pass over: a misspelt parameter changes
// the question. Of a file nothing is asked.
func checkQuery(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, pathParameters map[string]string) {
		for field, value := range pathParameters {
			if !utf8.ValidString(value) {
				writeError(w, invalidField(field, field+": is not UTF-8").Err())
				return
			}
		}
		if r.URL.RawQuery != "" && !isFile(r) {
			pattern, _ := runtime.HTTPPattern(r.Context())
			message := routes()[r.Method+" "+strings.ReplaceAll(pattern.String(), "=*}", "}")]
			if field, problem := queryProblem(message, r.URL.RawQuery, pathParameters); problem != "" {
				writeError(w, invalidField(field, problem).Err())
				return
			}
		}
		next(w, r, pathParameters)
	}
}

func queryProblem(message protoreflect.MessageDescriptor, query string, pathParameters map[string]string) (field, problem string) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", "the query cannot be read: " + err.Error()
	}
	for key, texts := range values {
		if slices.ContainsFunc(append(texts, key), func(s string) bool { return !utf8.ValidString(s) }) {
			return strings.ToValidUTF8(key, "\uFFFD"), "query parameter " + strconv.Quote(key) + ": is not UTF-8"
		}
		if message == nil {
			return key, fmt.Sprintf("query parameter %q: there are none here", key)
		}
		field := message.Fields().ByTextName(key)
		if field == nil {
			field = message.Fields().ByJSONName(key)
		}
		if field == nil {
			return key, fmt.Sprintf("unknown query parameter %q", key)
		}
		if _, ok := pathParameters[string(field.Name())]; ok {
			return key, fmt.Sprintf("query parameter %q: the path has it already", key)
		}
		// Query parameters are for GET. A server of the caller's choice is a connection, and those are opened by POST.
		if message.FullName() == (&probev1.QueryDNSRequest{}).ProtoReflect().Descriptor().FullName() && field.Name() == "server" {
			return key, "query parameter \"server\" is for POST /v1/dns, since it opens a connection; GET asks the configured name servers"
		}
	}
	return "", ""
}

// routingError answers requests that fit no RPC. OPTIONS is told what there is.
func routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int) {
	switch httpStatus {
	case http.StatusMethodNotAllowed:
		allow := "GET, HEAD, OPTIONS"
		if _, ok := routes()["POST "+r.URL.Path]; ok {
			allow = "POST, OPTIONS"
		}
		w.Header().Set("Allow", allow)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeStatus(w, httpStatus, requestError(codes.Unimplemented, r.Method+" does not go with "+r.URL.Path+": what opens a connection is POST, what looks up is GET"))
	case http.StatusNotFound:
		writeStatus(w, httpStatus, requestError(codes.NotFound, "there is no "+r.URL.Path+": /openapi.json tells what there is"))
	default:
		writeStatus(w, httpStatus, requestError(codes.InvalidArgument, "the request cannot be read: "+http.StatusText(httpStatus)))
	}
}
