package gateway

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	probev1 "probed/gen/probe/v1"
)

// strictQuery reads query parameters as grpc-gateway does, and refuses those it would silently pass over: a misspelt
// parameter changes the question.
type strictQuery struct{ lenient runtime.DefaultQueryParser }

// Parse fills message from values. Its error is told as INVALID_ARGUMENT.
func (q strictQuery) Parse(message proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	for key := range values {
		if !hasField(message.ProtoReflect().Descriptor(), key) {
			return fmt.Errorf("unknown query parameter: %s", key)
		}
	}
	// Query parameters are for GET. A server of the caller's choice is a connection, and those are opened by POST.
	if _, ok := message.(*probev1.QueryDNSRequest); ok && values.Has("server") {
		return errors.New("query parameter: server is for POST /v1/dns, since it opens a connection; GET asks the configured name servers")
	}
	return q.lenient.Parse(message, values, filter)
}

// hasField tells whether a dotted path of names, as the contract or as JSON spells them, leads to a field.
func hasField(descriptor protoreflect.MessageDescriptor, path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		if descriptor == nil {
			return false
		}
		field := descriptor.Fields().ByJSONName(name)
		if field == nil {
			field = descriptor.Fields().ByName(protoreflect.Name(name))
		}
		if field == nil {
			return false
		}
		descriptor = field.Message()
	}
	return true
}
