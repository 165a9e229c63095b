package main

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadTargets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text, problem string
		want          []target
	}{
		{text: "", want: nil},
		{text: "# all\r\n\r\n a:1\t# one\r\nunix:///run/#2\n#", want: []target{{"a:1", "f:3"}, {"unix:///run/#2", "f:4"}}},
		{text: "a:1\nb:2", want: []target{{"a:1", "f:1"}, {"b:2", "f:2"}}},
		{text: "a:1\na b", problem: "f:2: a line holds one target"},
		{text: "\n\n\xff:1", problem: "f:3: it is not valid UTF-8"},
		{text: "a\n" + strings.Repeat("x", 1<<17), problem: "f:2: bufio.Scanner: token too long"},
	} {
		got, err := readTargets(strings.NewReader(test.text), "f")
		if test.problem == "" && (err != nil || !slices.Equal(got, test.want)) {
			t.Errorf("%.50q: %v, %v, want %v", test.text, got, err, test.want)
		}
		if test.problem != "" && (err == nil || err.Error() != test.problem) {
			t.Errorf("%.50q: %v, %v, want %s", test.text, got, err, test.problem)
		}
	}
}

// FuzzReadTargets: a target is one word that can travel, and stands in the line it is said to.
func FuzzReadTargets(f *testing.F) {
	f.Add("# all\n\n a:1\t# one\r\nunix:///run/#2")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readTargets(strings.NewReader(text), "f")
		if err != nil {
			return
		}
		lines := strings.Split(text, "\n")
		last := -1
		for _, target := range all {
			i := slices.IndexFunc(lines[last+1:], func(line string) bool { return strings.Contains(line, target.text) })
			if i < 0 || target.text == "" || !utf8.ValidString(target.text) || len(strings.Fields(target.text)) != 1 {
				t.Fatalf("%q: %v", text, all)
			}
			last += i + 1
		}
	})
}
