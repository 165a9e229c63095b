package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
)

// jsonMarshaler reads the bodies of requests as readBody does.
type jsonMarshaler struct{ *runtime.JSONPb }

// NewDecoder is for the generated handlers.
func (jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		message, ok := v.(proto.Message)
		if !ok {
			return fmt.Errorf("%T is no message", v)
		}
		return readBody(r, message)
	})
}

// readBody fills message from a body, which may be empty. The error begins with the path of the field that is wrong, if
// it is one, as in "steps[1].receive.idle: …".
func readBody(body io.Reader, message proto.Message) error {
	text, err := io.ReadAll(body)
	if err != nil || len(text) == 0 {
		return err
	}
	err = unmarshal.Unmarshal(text, message)
	if err == nil {
		return nil
	}
	// protojson puts "proto:" before it, and, so that nobody relies on the text, at random a space of another kind.
	problem := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
	if problem == "unexpected EOF" {
		return errors.New("the body ends before its JSON does")
	}
	if strings.Contains(problem, "google.protobuf.Duration") {
		problem += `: a duration is in seconds, as "90s" or "0.3s"`
	}
	if field := fieldAt(text, problem); field != "" {
		problem = field + ": " + problem
	}
	return errors.New(problem)
}

var position = regexp.MustCompile(`\(line (\d+):(\d+)\)`)

// fieldAt returns the path of the field at the position that protojson tells of; empty when it is none.
func fieldAt(text []byte, problem string) string {
	found := position.FindStringSubmatch(problem)
	if found == nil {
		return ""
	}
	line, _ := strconv.Atoi(found[1])
	column, _ := strconv.Atoi(found[2]) // in characters
	offset := 0
	for ; line > 1; line-- {
		offset += bytes.IndexByte(text[offset:], '\n') + 1
	}
	for ; column > 1 && offset < len(text); column-- {
		_, size := utf8.DecodeRune(text[offset:])
		offset += size
	}
	return pathAt(text, int64(offset))
}

// level is an object or an array that has been opened and not yet closed.
type level struct {
	array bool
	index int    // of the current element
	key   string // of the current member
	value bool   // the key has been read, and its value comes next
}

// pathAt returns the path of what stands at the offset of a JSON text: of a key or its value, a.b[0].key.
func pathAt(text []byte, offset int64) string {
	var levels []level
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		token, err := decoder.Token()
		if err != nil { // nothing readable follows: it is inside of what is open
			return pathOf(levels)
		}
		closing := token == json.Delim('}') || token == json.Delim(']')
		if closing {
			levels = levels[:len(levels)-1]
		}
		top := len(levels) - 1
		isKey := top >= 0 && !levels[top].array && !levels[top].value
		if key, ok := token.(string); ok && isKey && !closing {
			levels[top].key, levels[top].value = key, true
		} else {
			isKey = false
		}
		if decoder.InputOffset() > offset {
			return pathOf(levels)
		}
		switch {
		case token == json.Delim('{') || token == json.Delim('['):
			levels = append(levels, level{array: token == json.Delim('[')})
		case isKey || top < 0:
		case levels[top].array: // behind an element
			levels[top].index++
		default: // behind a value
			levels[top].value = false
		}
	}
}

func pathOf(levels []level) string {
	var path strings.Builder
	for _, l := range levels {
		switch {
		case l.array:
			fmt.Fprintf(&path, "[%d]", l.index)
		case l.key != "":
			if path.Len() > 0 {
				path.WriteByte('.')
			}
			path.WriteString(l.key)
		}
	}
	return path.String()
}
