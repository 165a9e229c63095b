package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// target is one of those that a command line names.
type target struct {
	text string // as it was given
	line string // where it stands in a file, as "targets:3"; empty for an argument
}

// String is what errors call it.
func (t target) String() string {
	if t.line == "" {
		return t.text
	}
	return t.line + ": " + t.text
}

// targets are the arguments, and what the files hold, in this order.
func (t *tool) targets(args, files []string) ([]target, error) {
	var all []target
	for _, arg := range args {
		all = append(all, target{text: arg})
	}
	for _, name := range files {
		of, err := t.targetsIn(name)
		if err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
		all = append(all, of...)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no target: name one, or a file of them with --file")
	}
	return all, nil
}

func (t *tool) targetsIn(name string) ([]target, error) {
	if name == "-" {
		return readTargets(t.stdin, "standard input")
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readTargets(file, name)
}

// A comment begins at the beginning of a line or behind white space, since the path of a unix socket may have a #.
var comment = regexp.MustCompile(`(^|\s)#.*`)

// readTargets reads one target a line.
func readTargets(from io.Reader, name string) ([]target, error) {
	var all []target
	lines := bufio.NewScanner(from)
	number := 1
	for ; lines.Scan(); number++ {
		line := fmt.Sprintf("%s:%d", name, number)
		text := strings.TrimSpace(comment.ReplaceAllString(lines.Text(), ""))
		switch {
		case !utf8.ValidString(text):
			return nil, fmt.Errorf("%s: it is not valid UTF-8", line)
		case len(strings.Fields(text)) > 1:
			return nil, fmt.Errorf("%s: a line holds one target", line)
		case text != "":
			all = append(all, target{text, line})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, number, err)
	}
	return all, nil
}
