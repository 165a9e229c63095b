// Command openapi finishes the OpenAPI document that protoc-gen-openapiv3 begins. That one knows messages, fields, comments
// and paths. Here is added what else the contract says (the rules on its fields, which fields an answer always has, what the
// values of enums mean), and then what it cannot say, which is written by hand: examples, errors, formats, who calls.
//
//	openapi -image IMAGE -patch FILE DOCUMENT
//
// IMAGE is what buf build makes of the contract, with comments. The document comes on standard output.
//
// FILE has the shape of the document and is merged into it, as RFC 7396 has it: objects member by member, null takes away, and
// anything else replaces; the value of an example is taken as it is. Of a list whose elements have names the patch may be an object
// of them by name. What stands at x-every-operation is merged into each operation first.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	image := flag.String("image", "", "the contract as `FILE` of buf build")
	patch := flag.String("patch", "", "what is added by hand, as YAML in `FILE`")
	flag.Parse()
	if err := run(*image, *patch, flag.Arg(0), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(imagePath, patchPath, documentPath string, w io.Writer) error {
	contract, err := readImage(imagePath)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(documentPath)
	if err != nil {
		return err
	}
	document, err := contract.finish(text)
	if err != nil {
		return err
	}
	if text, err = os.ReadFile(patchPath); err != nil {
		return err
	}
	var patch object
	if err := yaml.Unmarshal(text, &patch); err != nil {
		return fmt.Errorf("%s: %w", patchPath, err)
	}
	if err := apply(patch, document); err != nil {
		return fmt.Errorf("%s: %w", patchPath, err)
	}
	for _, methods := range at(document, "paths") {
		for _, operation := range methods.(object) {
			for _, response := range at(operation.(object), "responses") {
				if content, ok := response.(object)["content"].(object); ok {
					response.(object)["content"] = media(content)
				}
			}
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	return encoder.Encode(document)
}

// object is one of JSON.
type object = map[string]any

// media are the media types of an answer. Readers take the first one for what is meant where nobody chooses, and bytes without any
// meaning are not: they come last.
type media object

// MarshalJSON is for package json.
func (m media) MarshalJSON() ([]byte, error) {
	const raw = "application/octet-stream"
	bytes, ok := m[raw]
	if !ok || len(m) == 1 {
		return json.Marshal(object(m))
	}
	others := maps.Clone(m)
	delete(others, raw)
	before, err := json.Marshal(object(others))
	if err != nil {
		return nil, err
	}
	last, err := json.Marshal(object{raw: bytes})
	if err != nil {
		return nil, err
	}
	return append(append(before[:len(before)-1], ','), last[1:]...), nil
}

// The package of the contract, and the one of the shape of errors. Their names are left out of those of schemas.
const (
	ours = "probe.v1."
	rpc  = "google.rpc."
)

// contract is the descriptors of all files.
type contract struct{ *protoregistry.Files }

func readImage(path string) (contract, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return contract{}, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(text, &set); err != nil {
		return contract{}, err
	}
	files, err := protodesc.NewFiles(&set)
	return contract{files}, err
}

// finish returns the document with what the contract says of it.
func (c contract) finish(text []byte) (document object, err error) {
	for _, name := range []string{ours, rpc} {
		text = bytes.ReplaceAll(text, []byte(`"#/components/schemas/`+name), []byte(`"#/components/schemas/`))
		text = bytes.ReplaceAll(text, []byte(`"`+name), []byte(`"`))
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	schemas := at(document, "components", "schemas")

	asked, answered := map[protoreflect.FullName]bool{}, map[protoreflect.FullName]bool{}
	for _, methods := range at(document, "paths") {
		for _, operation := range methods.(object) {
			method, err := c.operation(operation.(object), schemas)
			if err != nil {
				return nil, err
			}
			reach(method.Input(), asked)
			reach(method.Output(), answered)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		descriptor, err := c.FindDescriptorByName(protoreflect.FullName(ours + name))
		if err != nil {
			continue // of another package
		}
		switch d := descriptor.(type) {
		case protoreflect.EnumDescriptor:
			schemas[name] = enum(d)
		case protoreflect.MessageDescriptor:
			if asked[d.FullName()] && answered[d.FullName()] {
				return nil, fmt.Errorf("%s is asked with and answered with: one schema cannot say which fields are always there", name)
			}
			message(schemas[name].(object), d, asked[d.FullName()])
		}
	}
	// What errors are told by stands in no message: the reasons are of two enums.
	reasons := object{}
	for _, name := range []protoreflect.FullName{ours + "AddressInfoError", ours + "ErrorReason"} {
		descriptor, err := c.FindDescriptorByName(name)
		if err != nil {
			return nil, err
		}
		schema := enum(descriptor.(protoreflect.EnumDescriptor))
		if reasons["enum"] != nil {
			schema["enum"] = append(schema["enum"].([]any), reasons["enum"].([]any)...)
			schema["description"] = fmt.Sprint(schema["description"], "\n\n", reasons["description"])
		}
		reasons = schema
	}
	schemas["ErrorReason"] = reasons
	return document, nil
}

// at follows a path of keys that are there.
func at(o object, path ...string) object {
	for _, key := range path {
		o = o[key].(object)
	}
	return o
}

// reach notes the message and all those within it.
func reach(d protoreflect.MessageDescriptor, reached map[protoreflect.FullName]bool) {
	if reached[d.FullName()] {
		return
	}
	reached[d.FullName()] = true
	for i := range d.Fields().Len() {
		if within := d.Fields().Get(i).Message(); within != nil {
			reach(within, reached)
		}
	}
}

var (
	operationID = regexp.MustCompile(`^([A-Za-z]+)_([A-Za-z]+)(_\d+)?$`) // Service_Method, the second binding of it with _1
	sentence    = regexp.MustCompile(`(?s)^(.+?[.?!])\s+(.*)$`)
)

// operation gives it a summary of one sentence, the rules to its parameters, and its body a name.
func (c contract) operation(operation, schemas object) (protoreflect.MethodDescriptor, error) {
	id := operation["operationId"].(string)
	parts := operationID.FindStringSubmatch(id)
	if parts == nil {
		return nil, fmt.Errorf("operation %s is not named Service_Method", id)
	}
	descriptor, err := c.FindDescriptorByName(protoreflect.FullName(ours + parts[1] + "." + parts[2]))
	if err != nil {
		return nil, err
	}
	method := descriptor.(protoreflect.MethodDescriptor)

	text, _ := operation["summary"].(string)
	if more, ok := operation["description"].(string); ok {
		text += "\n\n" + more
	}
	if found := sentence.FindStringSubmatch(text); found != nil {
		text, operation["description"] = found[1], found[2]
	}
	operation["summary"] = strings.ReplaceAll(text, "\n", " ")

	parameters, _ := operation["parameters"].([]any)
	for _, parameter := range parameters {
		name := parameter.(object)["name"].(string)
		field := method.Input().Fields().ByJSONName(name)
		if field == nil {
			return nil, fmt.Errorf("%s: no field is named %s", id, name)
		}
		rule(at(parameter.(object), "schema"), field)
	}
	if body, ok := operation["requestBody"].(object); ok {
		content := at(body, "content", "application/json")
		name := string(method.Input().Name())
		if _, ok := schemas[name]; !ok {
			schema := content["schema"].(object)
			schema["description"] = comment(method.Input())
			schemas[name] = schema
		}
		content["schema"] = object{"$ref": "#/components/schemas/" + name}
	}
	return method, nil
}

// message adds what holds of one that is asked with, or answered with.
//
// JSON that is asked with has no field that nobody knows. JSON that is answered with has every field, those that are unset
// too, a message then as null; the exceptions are a field of a oneof, and one that is marked optional.
func message(schema object, d protoreflect.MessageDescriptor, asked bool) {
	delete(schema, "oneOf") // "at most one of", in a form that readers and generators of clients make nothing of; see below
	delete(schema, "allOf")
	if asked {
		schema["additionalProperties"] = false
	}
	var required []string
	for i := range d.Fields().Len() {
		field := d.Fields().Get(i)
		property := at(schema, "properties", field.JSONName())
		rule(property, field)
		switch {
		case asked:
			if field.ContainingOneof() == nil && property["minLength"] != nil {
				required = append(required, field.JSONName())
			}
		case !field.HasPresence():
			required = append(required, field.JSONName())
		case field.ContainingOneof() == nil:
			required = append(required, field.JSONName())
			if property["$ref"] == nil {
				property["type"] = []any{property["type"], "null"}
				break
			}
			property["oneOf"] = []any{object{"$ref": property["$ref"]}, object{"type": "null"}}
			delete(property, "$ref")
		}
	}
	if required != nil {
		slices.Sort(required)
		schema["required"] = required
	}
	for i := range d.Oneofs().Len() {
		one := d.Oneofs().Get(i)
		if one.IsSynthetic() {
			continue
		}
		if one.Fields().Len() == d.Fields().Len() {
			schema["maxProperties"] = 1
			rules, _ := proto.GetExtension(one.Options(), validate.E_Oneof).(*validate.OneofRules)
			if !asked || rules.GetRequired() {
				schema["minProperties"] = 1
			}
			continue
		}
		var both []any
		for j := range one.Fields().Len() {
			for k := range j {
				both = append(both, object{"required": []any{one.Fields().Get(k).JSONName(), one.Fields().Get(j).JSONName()}})
			}
		}
		schema["not"] = object{"anyOf": both}
	}
}

// rule adds the rules that stand on a field to its schema.
func rule(schema object, field protoreflect.FieldDescriptor) {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	if field.IsList() {
		if most, ok := number(rules.GetRepeated(), "max_items"); ok {
			schema["maxItems"] = most
		}
		value(at(schema, "items"), field, rules.GetRepeated().GetItems())
		return
	}
	value(schema, field, rules)
}

// bounding is a rule that is a number, and the keyword that says so in a schema.
type bounding struct {
	rule    protoreflect.Name
	keyword string
}

// value adds the rules about one value of a field.
func value(schema object, field protoreflect.FieldDescriptor, rules *validate.FieldRules) {
	switch field.Kind() {
	case protoreflect.StringKind:
		// A character has a byte or more: at most so many bytes are at most so many characters.
		for _, bound := range []bounding{
			{"min_len", "minLength"}, {"min_bytes", "minLength"}, {"max_len", "maxLength"}, {"max_bytes", "maxLength"},
		} {
			if n, ok := number(rules.GetString(), bound.rule); ok {
				schema[bound.keyword] = n
				if bound.rule == "min_bytes" {
					schema[bound.keyword] = 1
				}
			}
		}
		if pattern := rules.GetString().GetPattern(); pattern != "" {
			schema["pattern"] = pattern
		}
	case protoreflect.BytesKind:
		for _, bound := range []bounding{{"min_len", "minLength"}, {"max_len", "maxLength"}} {
			if n, ok := number(rules.GetBytes(), bound.rule); ok {
				schema[bound.keyword] = (n + 2) / 3 * 4 // of base64
			}
		}
	case protoreflect.Int32Kind:
		bounds(schema, rules.GetInt32())
	case protoreflect.Uint32Kind:
		schema["minimum"] = 0
		bounds(schema, rules.GetUint32())
	case protoreflect.EnumKind:
		if in := rules.GetEnum().GetIn(); len(in) > 0 {
			delete(schema, "$ref")
			schema["type"] = "string"
			names := []any{}
			for _, n := range in {
				names = append(names, string(field.Enum().Values().ByNumber(protoreflect.EnumNumber(n)).Name()))
			}
			schema["enum"] = names
		}
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.protobuf.Duration" {
			schema["pattern"] = `^-?[0-9]+(\.[0-9]{1,9})?s$`
		}
	}
}

func bounds(schema object, rules proto.Message) {
	for _, bound := range []bounding{{"gte", "minimum"}, {"lte", "maximum"}} {
		if n, ok := number(rules, bound.rule); ok {
			schema[bound.keyword] = n
		}
	}
}

// number is the rule of that name, if it is there.
func number(rules proto.Message, name protoreflect.Name) (int64, bool) {
	m := rules.ProtoReflect()
	field := m.Descriptor().Fields().ByName(name)
	if field == nil || !m.Has(field) {
		return 0, false
	}
	switch n := m.Get(field).Interface().(type) {
	case int32:
		return int64(n), true
	case uint32:
		return int64(n), true
	case int64:
		return n, true
	case uint64:
		return int64(n), true
	}
	return 0, false
}

// enum is the schema of one, with what each value means.
func enum(d protoreflect.EnumDescriptor) object {
	var names []any
	var meanings strings.Builder
	for i := range d.Values().Len() {
		v := d.Values().Get(i)
		names = append(names, string(v.Name()))
		fmt.Fprintf(&meanings, "\n* `%s`: %s", v.Name(), strings.ReplaceAll(comment(v), "\n", " "))
	}
	return object{"type": "string", "enum": names, "description": comment(d) + "\n" + meanings.String()}
}

// comment is what stands before a declaration.
func comment(d protoreflect.Descriptor) string {
	text := d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimPrefix(strings.TrimRight(line, "\n"), " "))
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}
