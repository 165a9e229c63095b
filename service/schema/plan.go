package schema

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// planner reads the rules of a message.
type planner struct{ expressions Expressions }

func (p *planner) message(d protoreflect.MessageDescriptor) (*plan, error) {
	made := new(plan)
	if rules, ok := extension[*validate.MessageRules](d, validate.E_Message); ok {
		if err := allKnown(rules, "cel"); err != nil {
			return nil, err
		}
		for _, expression := range rules.GetCel() {
			holds := p.expressions.Messages[expression.GetId()]
			if holds == nil {
				return nil, unknownRule(expression.GetId())
			}
			made.whole = append(made.whole, wholeRule{Violation{"", expression.GetId(), expression.GetMessage()}, holds})
		}
	}
	for i := range d.Oneofs().Len() {
		oneof := d.Oneofs().Get(i)
		if rules, ok := extension[*validate.OneofRules](oneof, validate.E_Oneof); ok && rules.GetRequired() {
			made.oneofs = append(made.oneofs, oneof)
		}
	}
	for i := range d.Fields().Len() {
		f, err := p.field(d.Fields().Get(i))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Fields().Get(i).Name(), err)
		}
		if f.required || len(f.rules) > 0 || f.message || f.items != nil {
			made.fields = append(made.fields, f)
		}
	}
	return made, nil
}

func (p *planner) field(d protoreflect.FieldDescriptor) (field, error) {
	f := field{FieldDescriptor: d, name: string(d.Name())}
	rules, _ := extension[*validate.FieldRules](d, validate.E_Field)
	f.required = rules.GetRequired()
	var err error
	switch {
	case d.IsMap():
		if rules != nil {
			err = unknownRule("map")
		}
		return f, err
	case d.IsList():
		var items value
		if f.rules, err = listRules(d, rules); err != nil {
			return f, err
		}
		if items, err = p.value(d, rules.GetRepeated().GetItems()); err != nil {
			return f, err
		}
		if len(items.rules) > 0 || items.message {
			f.items = &items
		}
	default:
		if f.value, err = p.value(d, rules); err != nil {
			return f, err
		}
	}
	f.unsetHolds = d.HasPresence() || rules.GetIgnore() == validate.Ignore_IGNORE_IF_ZERO_VALUE || f.defaultHolds()
	return f, nil
}

// defaultHolds tells whether the value of a field that is not set keeps the rules.
func (f *field) defaultHolds() bool {
	if f.IsList() {
		return !slices.ContainsFunc(f.rules, func(r rule) bool { return r.id == "repeated.min_items" })
	}
	return !slices.ContainsFunc(f.rules, func(r rule) bool { return !r.holds(f.Default()) })
}

// value reads the rules of one value of a field.
func (p *planner) value(d protoreflect.FieldDescriptor, rules *validate.FieldRules) (v value, err error) {
	v.message = d.Message() != nil && d.Message().ParentFile().Package() != "google.protobuf"
	if rules == nil {
		return v, nil
	}
	for _, expression := range rules.GetCel() {
		holds := p.expressions.Texts[expression.GetId()]
		if holds == nil || d.Kind() != protoreflect.StringKind {
			return v, unknownRule(expression.GetId())
		}
		v.rules = append(v.rules, rule{expression.GetId(), expression.GetMessage(), func(v protoreflect.Value) bool { return holds(v.String()) }})
	}
	standard, err := standardRules(d, rules)
	v.rules = append(v.rules, standard...)
	return v, err
}

func unknownRule(name string) error { return fmt.Errorf("a rule that is not known here: %s", name) }

// extension returns an option of what a descriptor describes, and whether it is there.
func extension[T proto.Message](d protoreflect.Descriptor, t protoreflect.ExtensionType) (of T, ok bool) {
	if !proto.HasExtension(d.Options(), t) {
		return of, false
	}
	of, ok = proto.GetExtension(d.Options(), t).(T)
	return of, ok
}

// allKnown wants nothing to be set in rules but these fields.
func allKnown(rules proto.Message, names ...protoreflect.Name) (err error) {
	m := rules.ProtoReflect()
	if len(m.GetUnknown()) > 0 {
		return unknownRule("one of a later protovalidate")
	}
	m.Range(func(d protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(names, d.Name()) {
			err = unknownRule(string(d.FullName()))
		}
		return err == nil
	})
	return err
}

// standardRules are those of protovalidate, with its ids and texts.
func standardRules(d protoreflect.FieldDescriptor, rules *validate.FieldRules) (made []rule, err error) {
	kind := d.Kind().String()
	if d.Message() != nil {
		kind = map[protoreflect.FullName]string{"google.protobuf.Duration": "duration"}[d.Message().FullName()]
	}
	if err := allKnown(rules, "cel", "required", "ignore", protoreflect.Name(kind)); err != nil {
		return nil, err
	}
	if rules.GetIgnore() == validate.Ignore_IGNORE_ALWAYS {
		return nil, unknownRule("ignore")
	}
	switch {
	case rules.HasString():
		return stringRules(rules.GetString())
	case rules.HasBytes():
		return bytesRules(rules.GetBytes())
	case rules.HasEnum():
		return enumRules(d.Enum(), rules.GetEnum())
	case rules.HasInt32():
		return rangeRules(kind, rules.GetInt32(), func(v protoreflect.Value) int32 { return int32(v.Int()) }, number)
	case rules.HasInt64():
		return rangeRules(kind, rules.GetInt64(), protoreflect.Value.Int, number)
	case rules.HasUint32():
		return rangeRules(kind, rules.GetUint32(), func(v protoreflect.Value) uint32 { return uint32(v.Uint()) }, number)
	case rules.HasUint64():
		return rangeRules(kind, rules.GetUint64(), protoreflect.Value.Uint, number)
	case rules.HasDuration():
		return rangeRules(kind, durationBounds{rules.GetDuration()}, duration, seconds)
	}
	return nil, nil
}

func listRules(d protoreflect.FieldDescriptor, rules *validate.FieldRules) (made []rule, err error) {
	if rules == nil {
		return nil, nil
	}
	if err := allKnown(rules, "required", "repeated"); err != nil {
		return nil, err
	}
	of := rules.GetRepeated()
	if of == nil {
		return nil, nil
	}
	if err := allKnown(of, "min_items", "max_items", "unique", "items"); err != nil {
		return nil, err
	}
	if of.GetUnique() && (d.Message() != nil || d.Kind() == protoreflect.BytesKind) || of.GetItems().GetRequired() || of.GetItems().HasIgnore() {
		return nil, unknownRule("of items")
	}
	if least := of.GetMinItems(); of.HasMinItems() {
		made = append(made, rule{"repeated.min_items", fmt.Sprintf("must contain at least %d item(s)", least), func(v protoreflect.Value) bool { return uint64(v.List().Len()) >= least }})
	}
	if most := of.GetMaxItems(); of.HasMaxItems() {
		made = append(made, rule{"repeated.max_items", fmt.Sprintf("must contain no more than %d item(s)", most), func(v protoreflect.Value) bool { return uint64(v.List().Len()) <= most }})
	}
	if of.GetUnique() {
		made = append(made, rule{"repeated.unique", "repeated value must contain unique items", unique})
	}
	return made, nil
}

func unique(v protoreflect.Value) bool {
	list := v.List()
	seen := make(map[any]bool, list.Len())
	for i := range list.Len() {
		item := list.Get(i).Interface()
		if seen[item] {
			return false
		}
		seen[item] = true
	}
	return true
}

func stringRules(of *validate.StringRules) (made []rule, err error) {
	if err := allKnown(of, "min_len", "min_bytes", "max_bytes", "pattern", "ip"); err != nil {
		return nil, err
	}
	add := func(id, message string, holds func(string) bool) {
		made = append(made, rule{"string." + id, message, func(v protoreflect.Value) bool { return holds(v.String()) }})
	}
	if least := of.GetMinLen(); of.HasMinLen() {
		add("min_len", fmt.Sprintf("must be at least %d characters", least), func(s string) bool { return uint64(utf8.RuneCountInString(s)) >= least })
	}
	if least := of.GetMinBytes(); of.HasMinBytes() {
		add("min_bytes", fmt.Sprintf("must be at least %d bytes", least), func(s string) bool { return uint64(len(s)) >= least })
	}
	if most := of.GetMaxBytes(); of.HasMaxBytes() {
		add("max_bytes", fmt.Sprintf("must be at most %d bytes", most), func(s string) bool { return uint64(len(s)) <= most })
	}
	if of.HasPattern() {
		pattern, err := regexp.Compile(of.GetPattern())
		if err != nil {
			return nil, err
		}
		add("pattern", "does not match regex pattern `"+of.GetPattern()+"`", pattern.MatchString)
	}
	if of.GetIp() {
		add("ip_empty", "value is empty, which is not a valid IP address", func(s string) bool { return s != "" })
		add("ip", "must be a valid IP address", func(s string) bool { return s == "" || IsIP(s) })
	}
	return made, nil
}

// IsIP tells whether a text is an address of IPv4 or IPv6, the latter maybe with a zone.
func IsIP(text string) bool {
	address, _, zoned := strings.Cut(text, "%")
	_, err := netip.ParseAddr(text)
	return err == nil && (!zoned || !strings.Contains(address, "."))
}

func bytesRules(of *validate.BytesRules) (made []rule, err error) {
	if err := allKnown(of, "min_len", "max_len"); err != nil {
		return nil, err
	}
	if least := of.GetMinLen(); of.HasMinLen() {
		made = append(made, rule{"bytes.min_len", fmt.Sprintf("must be at least %d bytes", least), func(v protoreflect.Value) bool { return uint64(len(v.Bytes())) >= least }})
	}
	if most := of.GetMaxLen(); of.HasMaxLen() {
		made = append(made, rule{"bytes.max_len", fmt.Sprintf("must be at most %d bytes", most), func(v protoreflect.Value) bool { return uint64(len(v.Bytes())) <= most }})
	}
	return made, nil
}

func enumRules(d protoreflect.EnumDescriptor, of *validate.EnumRules) (made []rule, err error) {
	if err := allKnown(of, "in", "defined_only"); err != nil {
		return nil, err
	}
	if in := of.GetIn(); len(in) > 0 {
		texts := make([]string, len(in))
		for i, number := range in {
			texts[i] = strconv.Itoa(int(number))
		}
		made = append(made, rule{"enum.in", "must be in list [" + strings.Join(texts, ", ") + "]", func(v protoreflect.Value) bool { return slices.Contains(in, int32(v.Enum())) }})
	}
	if of.GetDefinedOnly() {
		made = append(made, rule{"enum.defined_only", "value must be one of the defined enum values", func(v protoreflect.Value) bool { return d.Values().ByNumber(v.Enum()) != nil }})
	}
	return made, nil
}

// ordered are the kinds of numbers that rules bound.
type ordered interface {
	~int32 | ~int64 | ~uint32 | ~uint64
}

// bounds are the rules of a number.
type bounds[T ordered] interface {
	proto.Message
	HasGt() bool
	GetGt() T
	HasGte() bool
	GetGte() T
	HasLte() bool
	GetLte() T
}

func rangeRules[T ordered](kind string, of bounds[T], read func(protoreflect.Value) T, text func(T) string) ([]rule, error) {
	if err := allKnown(of, "gt", "gte", "lte"); err != nil {
		return nil, err
	}
	var ids, texts []string
	var holds []func(T) bool
	least, most := of.GetGte(), of.GetLte()
	switch {
	case of.HasGt():
		least = of.GetGt()
		ids, texts = append(ids, "gt"), append(texts, "greater than "+text(least))
		holds = append(holds, func(n T) bool { return n > least })
	case of.HasGte():
		ids, texts = append(ids, "gte"), append(texts, "greater than or equal to "+text(least))
		holds = append(holds, func(n T) bool { return n >= least })
	}
	if of.HasLte() {
		if len(ids) > 0 && most < least {
			return nil, unknownRule("a range that ends before it begins")
		}
		ids, texts = append(ids, "lte"), append(texts, "less than or equal to "+text(most))
		holds = append(holds, func(n T) bool { return n <= most })
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return []rule{{kind + "." + strings.Join(ids, "_"), "must be " + strings.Join(texts, " and "), func(v protoreflect.Value) bool {
		n := read(v)
		return !slices.ContainsFunc(holds, func(holds func(T) bool) bool { return !holds(n) })
	}}}, nil
}

func number[T ordered](n T) string { return fmt.Sprint(n) }

// durationBounds are the rules of a duration as those of a number.
type durationBounds struct{ *validate.DurationRules }

func (b durationBounds) GetGt() time.Duration  { return b.DurationRules.GetGt().AsDuration() }
func (b durationBounds) GetGte() time.Duration { return b.DurationRules.GetGte().AsDuration() }
func (b durationBounds) GetLte() time.Duration { return b.DurationRules.GetLte().AsDuration() }

func duration(v protoreflect.Value) time.Duration {
	d, _ := v.Message().Interface().(*durationpb.Duration)
	return d.AsDuration()
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s" }
