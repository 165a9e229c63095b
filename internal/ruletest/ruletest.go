// Package ruletest holds service/schema to protovalidate, which decides what a rule means. It makes up messages, around the
// bounds of their rules, and compares what the two find wrong with them.
//
// Each schema is compared where its expressions are, by a test of that package.
package ruletest

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"probed/service/schema"
)

// Compare makes up so many messages like each of these, with texts like these among others, and fails the test where rules
// and protovalidate do not find the same. Every rule there is has to be broken by one of them, or the test would not show
// that it is known.
func Compare(t *testing.T, rules *schema.Rules, rounds int, texts []string, like ...proto.Message) {
	t.Helper()
	validator, err := protovalidate.New(protovalidate.WithMessages(like...))
	if err != nil {
		t.Fatal(err)
	}
	broken := make(map[string]bool)
	for _, kind := range like {
		// Always the same, so that who changes something finds what it changed.
		m := maker{random: rand.New(rand.NewPCG(1, uint64(len(kind.ProtoReflect().Descriptor().FullName())))), texts: texts}
		for range rounds {
			message := kind.ProtoReflect().New()
			m.fill(message, 0)
			want := expected(t, validator, message.Interface())
			for _, v := range want {
				broken[v.Rule+" "+v.Message] = true
			}
			var got []schema.Violation
			err := rules.Check(message.Interface())
			if invalid, ok := errors.AsType[*schema.InvalidError](err); ok {
				got = invalid.Violations
			} else if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(got, want) {
				continue
			}
			same := 0
			for same < min(len(got), len(want)) && got[same] == want[same] {
				same++
			}
			t.Fatalf("%T %.1000v: of %d and %d violations, the first that differ:\n got %q\nwant %q", kind, message.Interface(),
				len(got), len(want), got[same:min(same+1, len(got))], want[same:min(same+1, len(want))])
		}
		for _, rule := range rulesOf(kind.ProtoReflect().Descriptor(), map[protoreflect.MessageDescriptor]bool{}) {
			if !broken[rule.GetId()+" "+rule.GetMessage()] {
				t.Errorf("no %T broke the rule %s (%s)", kind, rule.GetId(), rule.GetMessage())
			}
		}
	}
}

func expected(t *testing.T, validator protovalidate.Validator, message proto.Message) (want []schema.Violation) {
	t.Helper()
	err := validator.Validate(message)
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		if err != nil {
			t.Fatal(err)
		}
		return nil
	}
	for _, v := range invalid.Violations {
		want = append(want, schema.Violation{
			Field: protovalidate.FieldPathString(v.Proto.GetField()), Rule: v.Proto.GetRuleId(), Message: v.Proto.GetMessage(),
		})
	}
	return want
}

// rulesOf are the expressions that stand on a message and on what it holds.
func rulesOf(d protoreflect.MessageDescriptor, seen map[protoreflect.MessageDescriptor]bool) (all []*validate.Rule) {
	if seen[d] {
		return nil
	}
	seen[d] = true
	if rules, ok := proto.GetExtension(d.Options(), validate.E_Message).(*validate.MessageRules); ok {
		all = append(all, rules.GetCel()...)
	}
	for i := range d.Fields().Len() {
		field := d.Fields().Get(i)
		rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
		all = append(append(all, rules.GetCel()...), rules.GetRepeated().GetItems().GetCel()...)
		if field.Message() != nil {
			all = append(all, rulesOf(field.Message(), seen)...)
		}
	}
	return all
}

// maker makes messages up.
type maker struct {
	random *rand.Rand
	texts  []string
}

func (m *maker) fill(message protoreflect.Message, depth int) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		// With all of them set, a message breaks so many rules that each hides whether another is known.
		if m.random.IntN(4) != 0 || depth > 6 {
			continue
		}
		rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
		bounds := boundsOf(rules.ProtoReflect())
		switch {
		case field.IsMap():
		case field.IsList():
			list := message.Mutable(field).List()
			items := boundsOf(rules.GetRepeated().GetItems().ProtoReflect())
			n := m.random.IntN(4)
			if bound := m.number(bounds); bound > 0 && bound < 300 && m.random.IntN(20) == 0 {
				n = int(bound)
			}
			for range n {
				if field.Message() != nil {
					m.fill(list.AppendMutable().Message(), depth+1)
				} else {
					list.Append(m.value(field, items))
				}
			}
		case field.Message() != nil:
			m.fill(message.Mutable(field).Message(), depth+1)
		default:
			message.Set(field, m.value(field, bounds))
		}
	}
}

func (m *maker) value(field protoreflect.FieldDescriptor, bounds []int64) protoreflect.Value {
	number := m.number(bounds)
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number%2 != 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(m.long(number)))
	case protoreflect.StringKind:
		if m.random.IntN(4) == 0 {
			return protoreflect.ValueOfString(m.long(number))
		}
		return protoreflect.ValueOfString(m.text())
	default:
		panic("no values of " + field.Kind().String())
	}
}

// long is a text of so many bytes, in characters of one or of two.
func (m *maker) long(n int64) string {
	n = max(n, 0) % (1<<20 + 2)
	if m.random.IntN(2) == 0 {
		return strings.Repeat("é", int(n/2)) + strings.Repeat("a", int(n%2))
	}
	return strings.Repeat("1", int(n))
}

// text is one of the texts, maybe with a fault.
func (m *maker) text() string {
	text := []byte(m.texts[m.random.IntN(len(m.texts))])
	for m.random.IntN(2) == 0 {
		// No colon: with one too many, protovalidate takes for addresses what are none, as fd00::1:/128 and ::1:%lo.
		const signs = "%/.@[]#?-_aF09 \x00\x7f\""
		at, sign := m.random.IntN(len(text)+1), signs[m.random.IntN(len(signs))]
		switch {
		case m.random.IntN(2) == 0 || at == len(text):
			text = slices.Insert(text, at, sign)
		case m.random.IntN(2) == 0:
			text[at] = sign
		default:
			text = slices.Delete(text, at, at+1)
		}
	}
	return strings.ReplaceAll(string(text), ":%", "%")
}

// number is one of the bounds or beside it, or another one that borders on something.
func (m *maker) number(bounds []int64) int64 {
	bounds = append(bounds, 0, 1, 2, 10, math.MaxInt32, math.MaxInt64, math.MinInt64, 1e6, 600)
	return bounds[m.random.IntN(len(bounds))] + int64(m.random.IntN(3)) - 1
}

// boundsOf are the numbers in rules.
func boundsOf(rules protoreflect.Message) (bounds []int64) {
	rules.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch value := v.Interface().(type) {
		case protoreflect.Message:
			bounds = append(bounds, boundsOf(value)...)
		case uint64:
			bounds = append(bounds, int64(value))
		case uint32:
			bounds = append(bounds, int64(value))
		case int64:
			bounds = append(bounds, value)
		case int32:
			bounds = append(bounds, int64(value))
		}
		return true
	})
	slices.Sort(bounds) // the order of Range is another each time
	return bounds
}
