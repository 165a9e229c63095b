package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// What a value is not that should be one of a kind.
var (
	errNoKeys      = errors.New("keys are expected here, each with a value")
	errNoList      = errors.New("a list is expected here")
	errNoValue     = errors.New("a single value is expected here")
	errNoInteger   = errors.New("it is a whole number; bytes also as 64Ki, 1Mi, 1Gi")
	errTooLarge    = errors.New("the number is too large")
	errNoBool      = errors.New("it is true or false")
	errNoDuration  = errors.New("it is a duration, as 250ms, 5s or 1m30s")
	errNoBase64    = errors.New("it is base64 that !!binary begins")
	errNoTimestamp = errors.New("it is a time, as 2027-01-31T00:00:00Z (RFC 3339)")
)

// decoder fills a message in from YAML, as far as it can be read. Which keys there are walk has seen to. What values mean is
// what they mean to protoyaml, which the tests hold it to.
type decoder struct {
	*document
	fields map[position]string
}

func (d *decoder) wrong(node *yaml.Node, err error) {
	// What walk has told at the same place is the reason for this.
	told := func(f fault) bool { return f.file == d.file() && f.line == node.Line && f.column == node.Column }
	if field := d.fields[position{node.Line, node.Column}]; !slices.ContainsFunc(d.faults, told) {
		d.unread[field] = true
		d.at(node.Line, node.Column, field, "%v", err)
	}
}

func (d *decoder) message(node *yaml.Node, into protoreflect.Message) {
	null := node.Tag == "!!null"
	if node.Kind == yaml.ScalarNode && !null && node.Value != "" {
		switch scalar := into.Interface().(type) {
		case *durationpb.Duration:
			if err := parseDuration(node.Value, scalar); err != nil {
				d.wrong(node, err)
			}
			return
		case *timestamppb.Timestamp:
			if err := parseTimestamp(node.Value, scalar); err != nil {
				d.wrong(node, err)
			}
			return
		}
	}
	switch {
	case null:
	case node.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if field := fieldOf(into.Descriptor(), node.Content[i]); field != nil {
				d.field(node.Content[i+1], field, into)
			}
		}
	case isScalar(into.Descriptor()):
		d.wrong(node, map[protoreflect.FullName]error{"google.protobuf.Duration": errNoDuration, "google.protobuf.Timestamp": errNoTimestamp}[into.Descriptor().FullName()])
	default:
		d.wrong(node, errNoKeys)
	}
}

func (d *decoder) field(node *yaml.Node, field protoreflect.FieldDescriptor, of protoreflect.Message) {
	switch {
	case isUnread(field), d.isUnset(node):
	case field.IsMap() && node.Kind != yaml.MappingNode:
		d.wrong(node, errNoKeys)
	case field.IsMap():
		d.foreign = true
		defer func() { d.foreign = false }()
		all := of.Mutable(field).Map()
		for i := 0; i+1 < len(node.Content); i += 2 {
			value := all.NewValue()
			d.message(node.Content[i+1], value.Message())
			all.Set(protoreflect.ValueOfString(node.Content[i].Value).MapKey(), value)
		}
	case field.IsList() && node.Kind != yaml.SequenceNode:
		d.wrong(node, errNoList)
	case field.IsList():
		list := of.Mutable(field).List()
		for _, item := range node.Content {
			if field.Message() != nil {
				d.message(item, list.AppendMutable().Message())
			} else {
				list.Append(d.scalar(item, field))
			}
		}
	case field.Message() != nil:
		d.message(node, of.Mutable(field).Message())
	default:
		of.Set(field, d.scalar(node, field))
	}
}

// scalar reads the one value of a node. What cannot be read is 0; of a text there is what is there.
func (d *decoder) scalar(node *yaml.Node, field protoreflect.FieldDescriptor) protoreflect.Value {
	text := node.Value
	if node.Kind != yaml.ScalarNode {
		d.wrong(node, errNoValue)
		text = "0"
	}
	integer := func(least, most int64) int64 {
		digits, negative := strings.CutPrefix(text, "-")
		n, err := parseUnsigned(digits)
		if !negative && err == nil && n <= uint64(most) {
			return int64(n)
		}
		if negative && err == nil && n <= uint64(-(least+1))+1 {
			return -int64(n)
		}
		d.wrong(node, cmp.Or(err, errTooLarge))
		return 0
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(d.expand(node))
	case protoreflect.BytesKind:
		if node.Tag != "!!binary" {
			return protoreflect.ValueOfBytes([]byte(d.expand(node)))
		}
		data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			d.wrong(node, errNoBase64)
		}
		return protoreflect.ValueOfBytes(data)
	case protoreflect.BoolKind:
		if d.foreign {
			var value bool
			if node.Decode(&value) != nil {
				d.wrong(node, errNoBool)
			}
			return protoreflect.ValueOfBool(value)
		}
		if node.Tag != "!!bool" || text != "true" && text != "false" {
			d.wrong(node, errNoBool)
		}
		return protoreflect.ValueOfBool(text == "true")
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(integer(math.MinInt32, math.MaxInt32)))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(integer(math.MinInt64, math.MaxInt64))
	case protoreflect.Uint64Kind, protoreflect.Uint32Kind:
		n, err := parseUnsigned(text)
		if err == nil && field.Kind() == protoreflect.Uint32Kind && n > math.MaxUint32 {
			err = errTooLarge
		}
		if err != nil {
			d.wrong(node, err)
		}
		if field.Kind() == protoreflect.Uint32Kind {
			return protoreflect.ValueOfUint32(uint32(n))
		}
		return protoreflect.ValueOfUint64(n)
	default: // The schema has no others; who adds one is told by the tests.
		panic("there is nothing that reads a " + field.Kind().String())
	}
}

// variable is what Kubernetes writes for a variable of the environment in the arguments of a container. Of the environment
// only what is meant for probed is read.
var variable = regexp.MustCompile(`\$\((PROBED_[A-Z0-9_]+)\)`)

// expand is the text of a node with the values of the variables in it.
func (d *decoder) expand(node *yaml.Node) string {
	return variable.ReplaceAllStringFunc(node.Value, func(match string) string {
		name := variable.FindStringSubmatch(match)[1]
		value := d.getenv(name)
		if value == "" {
			d.at(node.Line, node.Column, d.fields[position{node.Line, node.Column}], "%s: there is no such variable in the environment, or it is empty", name)
			return match
		}
		return value
	})
}

// parseUnsigned reads a whole number: decimal, with 0x, 0o or 0b, as JSON may have rewritten it (1e6), or of bytes (1.5Gi).
func parseUnsigned(text string) (uint64, error) {
	digits, base := text, 10
	if len(text) >= 2 && text[0] == '0' {
		if b, ok := map[byte]int{'x': 16, 'X': 16, 'o': 8, 'O': 8, 'b': 2, 'B': 2}[text[1]]; ok {
			digits, base = text[2:], b
		}
	}
	if n, err := strconv.ParseUint(digits, base, 64); err == nil {
		return n, nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		// Beyond, neighbours are the same number.
		if f < 0 || f >= 1<<53 || f != math.Trunc(f) {
			return 0, errNoInteger
		}
		return uint64(f), nil
	}
	number, unit, rest := cutNumber(text)
	factor, ok := bytesIn[unit]
	if number == nil || !ok || rest != "" {
		return 0, errNoInteger
	}
	number.Mul(number, new(big.Rat).SetInt64(factor))
	whole := new(big.Int).Quo(number.Num(), number.Denom())
	if !whole.IsUint64() {
		return 0, errNoInteger
	}
	return whole.Uint64(), nil
}

var bytesIn = map[string]int64{
	"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// cutNumber takes a number, maybe with a fraction, and its unit off the beginning of a text; nil: there is no number.
func cutNumber(text string) (number *big.Rat, unit, rest string) {
	n := len(text) - len(strings.TrimLeft(text, "0123456789"))
	if n < len(text) && text[n] == '.' {
		n = len(text) - len(strings.TrimLeft(text[n+1:], "0123456789"))
	}
	rest = text[n:]
	if end := strings.IndexAny(rest, "0123456789.-"); end >= 0 {
		unit, rest = rest[:end], rest[end:]
	} else {
		unit, rest = rest, ""
	}
	if n > mostDigits || !strings.ContainsAny(text[:n], "0123456789") {
		return nil, unit, rest
	}
	number, _ = new(big.Rat).SetString(strings.TrimSuffix("0"+text[:n], "."))
	return number, unit, rest
}

// mostDigits are more than a number has that is not too large.
const mostDigits = 100

// parseDuration reads what time.ParseDuration reads, of as many years as the message can have.
func parseDuration(text string, into *durationpb.Duration) error {
	digits, negative := strings.CutPrefix(text, "-")
	if !negative {
		digits = strings.TrimPrefix(text, "+")
	}
	if digits == "" {
		return errNoDuration
	}
	sum := new(big.Rat)
	for rest := digits; rest != "" && digits != "0"; {
		var number *big.Rat
		var unit string
		number, unit, rest = cutNumber(rest)
		factor, ok := unitNanoseconds[unit]
		if number == nil || !ok {
			return errNoDuration
		}
		sum.Add(sum, number.Mul(number, new(big.Rat).SetInt64(factor)))
	}
	if negative {
		sum.Neg(sum)
	}
	seconds, nanos := new(big.Int).QuoRem(sum.Num(), big.NewInt(1e9), new(big.Int))
	if !sum.IsInt() || !seconds.IsInt64() {
		return errNoDuration
	}
	into.Seconds, into.Nanos = seconds.Int64(), int32(nanos.Int64())
	return nil
}

var unitNanoseconds = map[string]int64{
	"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9,
}

// parseTimestamp reads a time of RFC 3339 that the message can have.
func parseTimestamp(text string, into *timestamppb.Timestamp) error {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return errNoTimestamp
	}
	_, fraction, _ := strings.Cut(text, ".")
	if len(fraction)-len(strings.TrimLeft(fraction, "0123456789")) > 9 {
		return errNoTimestamp
	}
	read := timestamppb.New(at)
	if !read.IsValid() {
		return errNoTimestamp
	}
	into.Seconds, into.Nanos = read.GetSeconds(), read.GetNanos()
	return nil
}
