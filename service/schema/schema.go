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
	found, err := r.check(m)
	if err == nil && found != nil {
		return &InvalidError{found}
	}
	return err
}

func (r *Rules) planOf(d protoreflect.MessageDescriptor) (*plan, error) {
	if p, ok := r.plans.Load(d); ok {
		return p.(*plan), nil //nolint:forcetypeassert // nothing else is stored
	}
	p, err := (&planner{r.expressions}).message(d)
	if err != nil {
		return nil, fmt.Errorf("the rules of %s: %w", d.FullName(), err)
	}
	r.plans.Store(d, p)
	return p, nil
}

// A plan is what is to be checked of a message of one kind. What has no rule is not in it. Of the messages it holds it has
// none: most are not there, and to read their rules takes longer than to check them.
type plan struct {
	whole  []wholeRule
	oneofs []protoreflect.OneofDescriptor // one field of each is required
	fields []field
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
	message bool // it is one, which may have rules of its own
}

type rule struct {
	id, message string
	holds       func(protoreflect.Value) bool
}

func (r *Rules) check(m protoreflect.Message) (found []Violation, err error) {
	p, err := r.planOf(m.Descriptor())
	if err != nil {
		return nil, err
	}
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
			if found, err = r.checkField(found, f, m.Get(f.FieldDescriptor)); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// checkField adds to what was found.
func (r *Rules) checkField(found []Violation, f *field, v protoreflect.Value) (_ []Violation, err error) {
	if found, err = r.checkValue(found, &f.value, f.name, -1, v); err != nil || f.items == nil {
		return found, err
	}
	list := v.List()
	for i := range list.Len() {
		if found, err = r.checkValue(found, f.items, f.name, i, list.Get(i)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// checkValue adds what is wrong with the value of the field of this name; index is its place in a list, -1: it is in none.
func (r *Rules) checkValue(found []Violation, of *value, name string, index int, v protoreflect.Value) ([]Violation, error) {
	path := func() string {
		if index < 0 {
			return name
		}
		return fmt.Sprintf("%s[%d]", name, index)
	}
	for i := range of.rules {
		if rule := &of.rules[i]; !rule.holds(v) {
			found = append(found, Violation{path(), rule.id, rule.message})
		}
	}
	if !of.message {
		return found, nil
	}
	inner, err := r.check(v.Message())
	for _, violation := range inner {
		if violation.Field = path() + "." + violation.Field; strings.HasSuffix(violation.Field, ".") { // the message as a whole
			violation.Field = path()
		}
		found = append(found, violation)
	}
	return found, err
}
