package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// format is the flag --output. Its zero value is a table.
type format int

const (
	formatTable format = iota
	formatJSON
	formatYAML
)

func (f *format) String() string { return [...]string{"table", "json", "yaml"}[*f] }

func (f *format) Set(text string) error {
	for _, known := range []format{formatTable, formatJSON, formatYAML} {
		if text == known.String() {
			*f = known
			return nil
		}
	}
	return fmt.Errorf("it is one of table, json, yaml")
}

func (f *format) Type() string { return "format" }

// bindFormat makes the flags for the format.
func bindFormat(root *cobra.Command, f *format) {
	flags := root.PersistentFlags()
	flags.VarP(f, "output", "o", "`FORMAT` of the answer: table, json or yaml")
	flags.BoolFunc("json", "the same as -o json; where there are several answers, each is one line, not held back for those behind it", func(text string) error {
		given, err := strconv.ParseBool(text)
		if err == nil && given {
			*f = formatJSON
		}
		return err
	})
	root.MarkFlagsMutuallyExclusive("output", "json")
	completeFlag(root, "output", among("table\tfor people", "json\tfor machines, as REST has it", "yaml\tthe same as YAML"))
}

// printMessage prints an answer as JSON, over several lines, or as YAML.
func (t *tool) printMessage(message proto.Message) error {
	text, err := marshal(message)
	if err != nil {
		return err
	}
	return t.printDocument(text, true)
}

// printEvent is printMessage for one of a stream: its JSON is one line.
func (t *tool) printEvent(message proto.Message) error {
	text, err := marshal(message)
	if err != nil {
		return err
	}
	return t.printDocument(text, false)
}

// printStatus prints, where a machine reads, the google.rpc.Status with which the service answered in place of a
// message, as REST does: its details hold what the words on stderr leave out. Other errors have none.
func (t *tool) printStatus(err error) {
	s, ok := status.FromError(err)
	if t.format == formatTable || !ok || !fromProbed(s) {
		return
	}
	// That it cannot be written or has details unknown here changes nothing: the error itself is told anyway.
	_ = t.printMessage(s.Proto())
}

// printEventStatus is printStatus in the place of an event, {"error": …}, as REST has it.
func (t *tool) printEventStatus(err error) {
	s, ok := status.FromError(err)
	if t.format == formatTable || !ok || !fromProbed(s) {
		return
	}
	if text, err := marshal(s.Proto()); err == nil {
		_ = t.printDocument([]byte(`{"error":`+string(text)+`}`), false)
	}
}

// jsonText is text as JSON has it.
func jsonText(text string) string {
	quoted, _ := json.Marshal(text) // a string can always be
	return string(visibleJSON(quoted))
}

// printDocument prints one JSON text in the format that was asked for.
func (t *tool) printDocument(text []byte, indent bool) error {
	var b bytes.Buffer
	switch {
	case t.format == formatYAML:
		document, err := yaml.JSONToYAML(text)
		if err != nil {
			return err
		}
		if t.documents++; t.documents > 1 {
			b.WriteString("---\n")
		}
		b.Write(document)
	case indent:
		if err := json.Indent(&b, text, "", "  "); err != nil {
			return err
		}
		b.WriteByte('\n')
	default:
		b.Write(text)
		b.WriteByte('\n')
	}
	return t.stdout.exact(b.Bytes())
}

// marshal is a message as REST shows it, in JSON without white space: that of protojson differs from build to build.
func marshal(message proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, err
	}
	return visibleJSON(b.Bytes()), nil
}
