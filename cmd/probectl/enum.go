package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// enumeration is an enum of the contract.
type enumeration interface {
	~int32
	protoreflect.Enum
	fmt.Stringer
}

// parseEnum reads a value by its name, in either case and with or without prefix, or by its number. A number without a
// name is for the server to judge.
func parseEnum[E enumeration](prefix, text string) (E, error) {
	name := strings.ReplaceAll(strings.ToUpper(text), "-", "_")
	values := E(0).Descriptor().Values()
	for i := range values.Len() {
		full := string(values.Get(i).Name())
		if name == full || prefix+name == full {
			return E(values.Get(i).Number()), nil
		}
	}
	if n, err := strconv.ParseInt(text, 0, 32); err == nil {
		return E(n), nil
	}
	return 0, fmt.Errorf("it is one of %s, or a number", strings.Join(enumNames[E](prefix), ", "))
}

// enumNames is the short names of all values but the one for none.
func enumNames[E enumeration](prefix string) []string {
	values := E(0).Descriptor().Values()
	var names []string
	for i := range values.Len() {
		if value := values.Get(i); value.Number() != 0 {
			names = append(names, short(prefix, E(value.Number())))
		}
	}
	return names
}

// short is the name of a value without the prefix that only the contract needs.
func short[E enumeration](prefix string, value E) string {
	return strings.TrimPrefix(value.String(), prefix)
}

// enumFlag is a flag for one value.
type enumFlag[E enumeration] struct {
	value  *E
	prefix string
}

func (f enumFlag[E]) String() string {
	if f.value == nil || *f.value == 0 {
		return ""
	}
	return short(f.prefix, *f.value)
}

func (f enumFlag[E]) Set(text string) (err error) {
	*f.value, err = parseEnum[E](f.prefix, text)
	return err
}

func (f enumFlag[E]) Type() string { return "name" }

// enumListFlag is a flag for several values: separated by commas or |, or the flag given again.
type enumListFlag[E enumeration] struct {
	values *[]E
	prefix string
}

func (f enumListFlag[E]) String() string { return "" }

func (f enumListFlag[E]) Set(text string) error {
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '|' }) {
		value, err := parseEnum[E](f.prefix, strings.TrimSpace(name))
		if err != nil {
			return err
		}
		*f.values = append(*f.values, value)
	}
	return nil
}

func (f enumListFlag[E]) Type() string { return "names" }

// bindEnum makes a flag for a field of a request. Prefix is what the names of the values begin with and nobody has to
// type.
func bindEnum[E enumeration](command *cobra.Command, value *E, flag, prefix, usage string) {
	command.Flags().Var(enumFlag[E]{value, prefix}, flag, usage)
	completeFlag(command, flag, enums[E](prefix, false))
}

// bindEnums is bindEnum for a field with several values.
func bindEnums[E enumeration](command *cobra.Command, values *[]E, flag, prefix, usage string) {
	command.Flags().Var(enumListFlag[E]{values, prefix}, flag, usage)
	completeFlag(command, flag, lists(enums[E](prefix, true)))
}
