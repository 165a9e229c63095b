package probed_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests that docs/endurance.md says keep a bug away are there.
func TestEnduranceNamesTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/endurance.md")
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, name := range regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllSubmatch(text, -1) {
		named[string(name[1])] = true
	}
	if len(named) < 10 {
		t.Errorf("it names %d tests", len(named))
	}
	err = filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		maps.DeleteFunc(named, func(name string, _ bool) bool { return strings.Contains(string(source), "func "+name+"(") })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range named {
		t.Errorf("there is no %s", name)
	}
}

// A page that README.md does not lead to is not found.
func TestReadmeLeadsToEveryPage(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		if !strings.Contains(string(readme), "("+page+")") {
			t.Errorf("README.md has no link to %s", page)
		}
	}
}
