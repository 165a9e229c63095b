package main

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	probev1 "probed/gen/probe/v1"
)

// essence tells two answers to one question apart that mean different things. It has nothing of what differs from place
// to place and from time to time although they mean the same: how long things took, who was asked and from where, what
// the kernel counted; nor the order of a list, which name servers shuffle.
func essence(answer proto.Message) string {
	clone := proto.Clone(answer)
	strip(clone.ProtoReflect())
	return encoding(clone)
}

func encoding(message proto.Message) string {
	// It fails only for text that is not UTF-8, which has not come over gRPC.
	text, _ := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	return string(text)
}

// incidental are the names of fields, and of types of fields, that an essence does not have.
var incidental = map[protoreflect.FullName]bool{
	"google.protobuf.Duration": true,
	name(&probev1.Timings{}):   true, name(&probev1.TcpInfo{}): true, name(&probev1.SocketOptions{}): true,
	name(&probev1.Vantage{}): true, name(&probev1.NetworkRoute{}): true,
	"server": true, "ttl": true, "local": true, "from": true, "chunks": true, "bytes_acknowledged": true,
}

func name(message proto.Message) protoreflect.FullName {
	return message.ProtoReflect().Descriptor().FullName()
}

func strip(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		isMessage := field.Message() != nil
		switch {
		case incidental[protoreflect.FullName(field.Name())] || isMessage && incidental[field.Message().FullName()]:
			message.Clear(field)
		case field.IsList():
			sortList(value.List(), isMessage)
		case isMessage && !field.IsMap():
			strip(value.Message())
		}
		return true
	})
}

// sortList puts a list into an order of its own, and takes what is incidental off its messages.
func sortList(list protoreflect.List, ofMessages bool) {
	type element struct {
		key   string
		value protoreflect.Value
	}
	elements := make([]element, list.Len())
	for i := range elements {
		value := list.Get(i)
		elements[i] = element{value.String(), value}
		if ofMessages {
			strip(value.Message())
			elements[i].key = encoding(value.Message().Interface())
		}
	}
	slices.SortFunc(elements, func(a, b element) int { return cmp.Compare(a.key, b.key) })
	for i, e := range elements {
		list.Set(i, e.value)
	}
}
