package schema

import (
	"errors"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// messageWith is one with a single field of this kind that has these rules.
func messageWith(t *testing.T, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label, rules *validate.FieldRules) *dynamicpb.Message {
	t.Helper()
	options := &descriptorpb.FieldOptions{}
	proto.SetExtension(options, validate.E_Field, rules)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("f.proto"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M"), Field: []*descriptorpb.FieldDescriptorProto{
			{Name: proto.String("f"), Number: proto.Int32(1), Type: kind.Enum(), Label: label.Enum(), Options: options},
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return dynamicpb.NewMessage(file.Messages().Get(0))
}

// A rule that is not known here is an error, and never one that every message keeps.
func TestUnknownRules(t *testing.T) {
	t.Parallel()
	const one, many = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	text, number, octets := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_UINT32, descriptorpb.FieldDescriptorProto_TYPE_BYTES
	stringRules := func(rules *validate.StringRules) *validate.FieldRules {
		return validate.FieldRules_builder{String: rules}.Build()
	}
	listRules := func(rules *validate.RepeatedRules) *validate.FieldRules {
		return validate.FieldRules_builder{Repeated: rules}.Build()
	}
	always := validate.Ignore_IGNORE_ALWAYS
	for name, message := range map[string]*dynamicpb.Message{
		"buf.validate.StringRules.email": messageWith(t, text, one, stringRules(validate.StringRules_builder{Email: proto.Bool(true)}.Build())),
		"buf.validate.StringRules.in":    messageWith(t, text, one, stringRules(validate.StringRules_builder{In: []string{"a"}}.Build())),
		"buf.validate.UInt32Rules.lt":    messageWith(t, number, one, validate.FieldRules_builder{Uint32: validate.UInt32Rules_builder{Lt: proto.Uint32(1)}.Build()}.Build()),
		"a range that ends before it begins": messageWith(t, number, one, validate.FieldRules_builder{
			Uint32: validate.UInt32Rules_builder{Gte: proto.Uint32(2), Lte: proto.Uint32(1)}.Build(),
		}.Build()),
		"buf.validate.FieldRules.string":         messageWith(t, number, one, stringRules(validate.StringRules_builder{MinLen: proto.Uint64(1)}.Build())),
		"ignore":                                 messageWith(t, text, one, validate.FieldRules_builder{Ignore: &always}.Build()),
		"nobody.knows":                           messageWith(t, text, one, validate.FieldRules_builder{Cel: []*validate.Rule{validate.Rule_builder{Id: proto.String("nobody.knows")}.Build()}}.Build()),
		"buf.validate.FieldRules.cel_expression": messageWith(t, text, one, validate.FieldRules_builder{CelExpression: []string{"true"}}.Build()),
		"of items": messageWith(t, octets, many, listRules(validate.RepeatedRules_builder{
			Unique: proto.Bool(true),
		}.Build())),
	} {
		err := New(Expressions{}).Check(message)
		if _, ok := errors.AsType[*InvalidError](err); ok || err == nil || !strings.HasSuffix(err.Error(), "not known here: "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	message := messageWith(t, text, many, listRules(validate.RepeatedRules_builder{MaxItems: proto.Uint64(1)}.Build()))
	list := message.Mutable(message.Descriptor().Fields().Get(0)).List()
	for range 2 {
		if err := New(Expressions{}).Check(message); err != nil {
			t.Error(err)
		}
		list.Append(protoreflect.ValueOfString("a"))
	}
	if err := New(Expressions{}).Check(message); err == nil || err.Error() != "f: must contain no more than 1 item(s)" {
		t.Error(err)
	}
}
