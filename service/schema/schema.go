// Package schema holds messages to the rules that stand on their fields (buf.validate): those of the contract, and those of
// the configuration.
//
// protovalidate does the same for every schema there can be, and compiles expressions of CEL for it: that took two thirds of
// the time in which probed started and a quarter of its size. Here is what the schemas use and no more. A rule that is not
// known here is an error of the first message it stands on; a test has one of each. protovalidate stays the one that decides
// what a rule means: the tests hold what is found, its text included, to what it finds.
//
// A program makes one [Rules] for each schema, with what the schema says in CEL as functions.
package schema

import (
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Expressions are the rules that a schema has as expressions of CEL, by their ids. They tell whether a value keeps the rule;
// the schema has the text for one that does not.
type Expressions struct {
	Texts    map[string]func(string) bool        // of fields that are texts, or lists of them
	Messages map[string]func(proto.Message) bool // of messages as a whole
}

// Of makes a rule about messages of one kind one of [Expressions].
func Of[T proto.Message](holds func(T) bool) func(proto.Message) bool {
	return func(message proto.Message) bool {
		of, ok := message.(T)
		return ok && holds(of)
	}
}

// Violation is a rule that a message does not keep.
type Violation struct {
	Field   string // its path, as steps[0].send.data; empty: the message as a whole
	Rule    string // its id, as string.max_bytes
	Message string // for a person
}

// InvalidError is all that is wrong with a message, in the order of its fields.
type InvalidError struct{ Violations []Violation }

func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		texts[i] = v.Field + ": " + v.Message
	}
	return strings.Join(texts, "; ")
}

// Rules are those of a schema. They may be used by many goroutines at once.
type Rules struct {
	expressions Expressions
	plans       sync.Map // protoreflect.MessageDescriptor to *plan, of the messages that there were
}

// New returns the rules of a schema with these expressions. The rules of a message are read when there is the first.
func New(expressions Expressions) *Rules { return &Rules{expressions: expressions} }

// Check returns an *InvalidError if the message does not keep its rules; any other error says that the rules cannot be
// checked, which is a fault of the schema.
func (r *Rules) Check(message proto.Message) error {
	m := message.ProtoReflect()
	p, err := r.planOf(m.Descriptor())
	if err != nil {
		return err
	}
	if found := p.check(m); found != nil {
		return &InvalidError{found}
	}
	return nil
}

func (r *Rules) planOf(d protoreflect.MessageDescriptor) (*plan, error) {
	if p, ok := r.plans.Load(d); ok {
		return p.(*plan), nil //nolint:forcetypeassert // nothing else is stored
	}
	p, err := (&planner{r.expressions, make(map[protoreflect.MessageDescriptor]*plan)}).message(d)
	if err != nil {
		return nil, fmt.Errorf("the rules of %s: %w", d.FullName(), err)
	}
	r.plans.Store(d, p)
	return p, nil
}

// A plan is what is to be checked of a message of one kind. What has no rule is not in it.
type plan struct {
	whole  []wholeRule
	oneofs []protoreflect.OneofDescriptor // one field of each is required
	fields []field
	unread bool // it is being made
}

type wholeRule struct {
	Violation
	holds func(proto.Message) bool
}

// field is one with rules, or of messages with rules.
type field struct {
	protoreflect.FieldDescriptor
	name     string
	required bool
	// unsetHolds: there is nothing to check when it is not set.
	unsetHolds bool
	value
	items *value // of a list
}

// value is what is to be checked of a single value.
type value struct {
	rules   []rule
	message *plan // nil: it is none, or one without rules
}

type rule struct {
	id, message string
	holds       func(protoreflect.Value) bool
}

func (p *plan) check(m protoreflect.Message) (found []Violation) {
	for i := range p.whole {
		if !p.whole[i].holds(m.Interface()) {
			found = append(found, p.whole[i].Violation)
		}
	}
	for _, oneof := range p.oneofs {
		if m.WhichOneof(oneof) == nil {
			found = append(found, Violation{string(oneof.Name()), "required", "exactly one field is required in oneof"})
		}
	}
	for i := range p.fields {
		f := &p.fields[i]
		switch set := m.Has(f.FieldDescriptor); {
		case f.required && !set:
			found = append(found, Violation{f.name, "required", "value is required"})
		case !set && f.unsetHolds:
		default:
			found = append(found, f.check(m.Get(f.FieldDescriptor))...)
		}
	}
	return found
}

func (f *field) check(v protoreflect.Value) []Violation {
	found := f.value.check(f.name, v)
	if f.items == nil {
		return found
	}
	list := v.List()
	for i := range list.Len() {
		for _, violation := range f.items.check("", list.Get(i)) {
			violation.Field = joined(fmt.Sprintf("%s[%d]", f.name, i), violation.Field)
			found = append(found, violation)
		}
	}
	return found
}

func (v *value) check(name string, of protoreflect.Value) (found []Violation) {
	for i := range v.rules {
		if r := &v.rules[i]; !r.holds(of) {
			found = append(found, Violation{name, r.id, r.message})
		}
	}
	if v.message != nil {
		for _, violation := range v.message.check(of.Message()) {
			violation.Field = joined(name, violation.Field)
			found = append(found, violation)
		}
	}
	return found
}

func joined(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	return path + "." + field
}
