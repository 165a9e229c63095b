package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"probed/service/schema"
)

const (
	// maxDocument is more than anybody writes: 10000 tokens and their comments are about as much.
	maxDocument = 1 << 20
	mostFaults  = 100
)

// fault is something in a file that is wrong, or, as a warning, may be.
type fault struct {
	file         string
	line, column int    // from 1; 0: not known
	field        string // as policy.roles[0].name; empty: the whole
	message      string
}

// String is what compilers print, which editors know how to follow.
func (f fault) String() string {
	var text strings.Builder
	text.WriteString(f.file)
	if f.line > 0 && f.line < math.MaxInt {
		fmt.Fprintf(&text, ":%d", f.line)
		if f.column > 0 {
			fmt.Fprintf(&text, ":%d", f.column)
		}
	}
	text.WriteString(": ")
	if f.field != "" {
		text.WriteString(f.field + ": ")
	}
	text.WriteString(f.message)
	return printable(text.String())
}

// printable keeps what a file says from driving the terminal that shows it.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return unicode.ReplacementChar
		}
		return c
	}, text)
}

// configError is all that is wrong with a configuration, a line each.
type configError struct {
	faults  []fault
	watched watched // the files that were read, one of which has to change
}

func (e *configError) Error() string {
	lines := make([]string, len(e.faults))
	for i, f := range e.faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

type position struct{ line, column int }

// place is where a field stands.
type place struct {
	file string
	position
}

// document is what some YAML files say together, of which it is known where each field stands. Lists of a later file are
// appended to those before, and any other value stands in one file alone: so that it is plain what holds, without knowing
// which file was read last.
type document struct {
	getenv func(string) string
	files  []string         // in the order in which they are read; faults without a place of their own are in the last
	where  map[string]place // by the field's path, as the schema's rules tell it
	items  map[string]int   // of the lists in the files before this one, by the path
	unread map[string]bool  // the paths of values that could not be read
	broken bool             // one of the files is no document
	// foreign: what is read has the form of another program, and means what it means there: a key without a value is as one
	// that is not there, and true has other names.
	foreign bool
	faults  []fault
}

func newDocument(getenv func(string) string) *document {
	return &document{getenv: getenv, where: make(map[string]place), items: make(map[string]int), unread: make(map[string]bool)}
}

// readDocument reads files into a message and checks it by the rules in its schema. The faults of the document are all
// that was found; the message has what could be read. (protoyaml does as much and says less: it takes a key twice, passes
// by a second document, and does not tell which field a value of the wrong kind was for. It brings CEL along besides, which
// takes longer to be made ready than all else here.)
func readDocument(files []string, getenv func(string) string, into proto.Message) *document {
	d := newDocument(getenv)
	for _, file := range files {
		d.begin(file)
		if data, err := readRegular(file); err != nil {
			d.at(0, 0, "", "%v", err)
			d.broken = true
		} else {
			d.parse(data, into)
		}
	}
	d.check(into)
	return d
}

// begin makes a file the one that is read.
func (d *document) begin(file string) {
	if slices.Contains(d.files, file) {
		d.files = append(d.files, file)
		d.at(0, 0, "", "the file is given twice")
		return
	}
	d.files = append(d.files, file)
}

// file is the one that is read.
func (d *document) file() string { return d.files[len(d.files)-1] }

// readRegular reads a whole file, of which a directory, a device that never ends and an image of a disk are none.
func readRegular(file string) ([]byte, error) {
	// A pipe would hold up the reader until somebody writes to it, and with it whoever wants probed to end.
	opened, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	switch {
	case info.IsDir():
		return nil, errors.New("it is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(opened, maxDocument+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("it is larger than %d bytes", maxDocument)
	}
	return data, nil
}

// withoutPath leaves out the path, which whoever tells the error puts in front of it.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

// parse adds what the file that is read says to a message.
func (d *document) parse(data []byte, into proto.Message) {
	root := d.yaml(data)
	if root == nil {
		d.broken = true
		return
	}
	fields := make(map[position]string)
	d.walk(root, into.ProtoReflect().Descriptor(), "", fields)
	(&decoder{d, fields}).message(root, into.ProtoReflect())
}

// check holds a message against the rules in its schema. Of a document that is not whole, what is missing is no fault.
func (d *document) check(into proto.Message) {
	if d.broken {
		return
	}
	err := schemaOfConfig.Check(into)
	invalid, isInvalid := errors.AsType[*schema.InvalidError](err)
	if err != nil && !isInvalid {
		d.at(0, 0, "", "%v", err) // the schema itself is wrong
		return
	}
	if isInvalid {
		for _, violation := range invalid.Violations {
			// What could not be read is empty in the message, and that it is empty is not the fault.
			if !d.unread[violation.Field] {
				d.report(violation.Field, "%s", violation.Message)
			}
		}
	}
}

// report notes a fault in a field.
func (d *document) report(field, format string, args ...any) {
	d.add(d.fault(field, format, args...))
}

// add keeps the first faults. A file with more of them is not what it was taken for.
func (d *document) add(f fault) {
	switch {
	case len(d.faults) < mostFaults:
		d.faults = append(d.faults, f)
	case len(d.faults) == mostFaults:
		d.faults = append(d.faults, fault{file: d.file(), line: math.MaxInt, message: "there is more; these come first"})
	}
}

// fault is one in a field, at its place or, where the field is missing, at the place where it should be.
func (d *document) fault(field, format string, args ...any) fault {
	at := d.placeOf(field)
	return fault{file: at.file, line: at.line, column: at.column, field: field, message: fmt.Sprintf(format, args...)}
}

// placeOf is where a field stands, or should.
func (d *document) placeOf(field string) place {
	for {
		if at, ok := d.where[field]; ok {
			return at
		}
		if field == "" {
			return place{file: d.file()}
		}
		field = field[:max(strings.LastIndexAny(field, ".["), 0)]
	}
}

// sort puts the faults in the order of the files.
func (d *document) sort() {
	slices.SortStableFunc(d.faults, func(a, b fault) int {
		return cmp.Or(slices.Index(d.files, a.file)-slices.Index(d.files, b.file), a.line-b.line, a.column-b.column)
	})
}

func (d *document) at(line, column int, field, format string, args ...any) {
	d.add(fault{file: d.file(), line: line, column: column, field: field, message: fmt.Sprintf(format, args...)})
}

// otherBreak is where there is first what YAML takes for the end of a line, and nobody's editor does; -1: nowhere. Positions
// would be told wrongly.
func otherBreak(data []byte) int {
	for i, c := range string(data) {
		switch c {
		case '\u0085', '\u2028', '\u2029':
			return i
		case '\r':
			if i+1 == len(data) || data[i+1] != '\n' {
				return i
			}
		}
	}
	return -1
}

// yaml parses the one document of a file; nil when there is none.
func (d *document) yaml(data []byte) *yaml.Node {
	if !utf8.Valid(data) {
		d.at(0, 0, "", "it is not UTF-8")
		return nil
	}
	if odd := otherBreak(data); odd >= 0 {
		line := bytes.Count(data[:odd], []byte("\n")) + 1
		d.at(line, 0, "", "there is a character at which lines end for some programs alone; end lines with a newline")
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var root, second yaml.Node
	err := decoder.Decode(&root)
	if errors.Is(err, io.EOF) || err == nil && root.Content[0].Tag == "!!null" {
		d.at(0, 0, "", "it is empty")
		return nil
	}
	if err == nil {
		if err = decoder.Decode(&second); errors.Is(err, io.EOF) {
			return root.Content[0]
		}
		if err == nil {
			d.at(second.Line, second.Column, "", "a second document begins; there is one to a file")
			return nil
		}
	}
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 0 // 0: it was not told
	if number, rest, ok := strings.Cut(strings.TrimPrefix(text, "line "), ": "); ok {
		if n, err := strconv.Atoi(number); err == nil {
			text, line = rest, n
		}
	}
	if line > 0 && strings.Contains(text, "cannot start any token") {
		if lines := strings.Split(string(data), "\n"); line <= len(lines) && strings.Contains(lines[line-1], "\t") {
			text = "there is a tab; YAML is indented with spaces"
		}
	}
	d.at(line, 0, "", "%s", text)
	return nil
}

// walk notes where each field stands, and what is wrong with the keys. fields are the paths by position, of values alone.
func (d *document) walk(node *yaml.Node, message protoreflect.MessageDescriptor, path string, fields map[position]string) {
	at := position{node.Line, node.Column}
	if _, known := d.where[path]; !known {
		d.where[path] = place{d.file(), at}
	}
	// A mapping in a block begins where its first key does, and is no value of that key.
	fields[at] = path
	switch {
	case node.Kind == yaml.AliasNode:
		d.at(node.Line, node.Column, path, "aliases are not read: write it out")
	case node.Kind != yaml.MappingNode || message == nil:
	default:
		d.walkFields(node, message, path, fields)
	}
}

func (d *document) walkFields(node *yaml.Node, message protoreflect.MessageDescriptor, path string, fields map[position]string) {
	seen := make(map[protoreflect.FieldNumber]int) // the line
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field := fieldOf(message, key)
		if field == nil {
			d.at(key.Line, key.Column, join(path, key.Value), "there is no such key; there are %s", keysOf(message))
			continue
		}
		inner := join(path, string(field.Name()))
		if line, twice := seen[field.Number()]; twice {
			d.at(key.Line, key.Column, inner, "the key stands twice; first in line %d", line)
			continue
		}
		seen[field.Number()] = key.Line
		if field.IsMap() {
			value = d.unalias(value)
			node.Content[i+1] = value // for the decoder
			d.walkMap(value, field.MapValue().Message(), inner, fields)
			continue
		}
		if isUnread(field) {
			continue
		}
		single := !field.IsList() && (field.Message() == nil || isScalar(field.Message()))
		if before, twice := d.where[inner]; twice && single {
			d.at(key.Line, key.Column, inner, "it stands in %s:%d too; say it in one of the files", before.file, before.line)
			fields[position{value.Line, value.Column}] = inner
			continue
		}
		switch {
		case d.isUnset(value):
		case value.Kind == yaml.ScalarNode && value.Tag == "!!null" && (field.IsList() || single):
			d.where[inner] = place{d.file(), position{key.Line, key.Column}}
			d.at(key.Line, key.Column, inner, "there is no value; leave the key out or give it one")
		case field.IsList() && value.Kind != yaml.SequenceNode:
			d.walk(value, nil, inner, fields)
		case field.IsList():
			d.where[inner] = place{d.file(), position{value.Line, value.Column}}
			for _, item := range value.Content {
				d.walk(item, field.Message(), fmt.Sprintf("%s[%d]", inner, d.items[inner]), fields)
				d.items[inner]++
			}
		default:
			d.walk(value, field.Message(), inner, fields)
		}
	}
}

// walkMap is walkFields for keys that whoever writes the file chooses. Each of them stands in one file alone.
func (d *document) walkMap(node *yaml.Node, message protoreflect.MessageDescriptor, path string, fields map[position]string) {
	d.walk(node, nil, path, fields)
	if node.Kind != yaml.MappingNode {
		return
	}
	d.foreign = true
	defer func() { d.foreign = false }()
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		inner := fmt.Sprintf("%s[%q]", path, key.Value)
		if before, twice := d.where[inner]; twice {
			d.at(key.Line, key.Column, inner, "it stands in %s:%d too; give one of them another name", before.file, before.line)
			continue
		}
		d.walk(value, message, inner, fields)
		d.where[inner] = place{d.file(), position{key.Line, key.Column}}
	}
}

// isUnset tells whether a value stands for none, as in other programs.
func (d *document) isUnset(value *yaml.Node) bool {
	return d.foreign && value.Kind == yaml.ScalarNode && value.Tag == "!!null"
}

// isUnread tells whether a field takes what is not for probed, whatever that is.
func isUnread(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() == "google.protobuf.Struct"
}

// isScalar tells whether a message is one that YAML has a single word for.
func isScalar(message protoreflect.MessageDescriptor) bool {
	return message.ParentFile().Package() == "google.protobuf"
}

func fieldOf(message protoreflect.MessageDescriptor, key *yaml.Node) protoreflect.FieldDescriptor {
	if key.Kind != yaml.ScalarNode {
		return nil
	}
	if field := message.Fields().ByName(protoreflect.Name(key.Value)); field != nil {
		return field
	}
	return message.Fields().ByJSONName(key.Value)
}

func keysOf(message protoreflect.MessageDescriptor) string {
	var keys []string
	for i := range message.Fields().Len() {
		keys = append(keys, string(message.Fields().Get(i).Name()))
	}
	return strings.Join(keys, ", ")
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// isRead tells whether the document is whole, be it with faults.
func (d *document) isRead() bool { return !d.broken }
