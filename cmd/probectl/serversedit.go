package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// setCurrent makes a server the one that is asked; empty: this machine.
func (f *serversFile) setCurrent(name string) {
	f.current = name
	if name == "" {
		deleteKey(f.top(), "current-server")
		return
	}
	setKey(f.top(), "current-server", scalar(name))
}

// set sets keys of a server, which need not be there yet. An empty value takes a key away.
func (f *serversFile) set(name string, settings []setting) {
	servers := child(f.top(), "servers")
	entry := child(servers, name)
	for _, given := range settings {
		switch {
		case given.value == "":
			deleteKey(entry, given.key)
		case given.key == "server":
			deleteKey(entry, "kube")
			for _, key := range keysOfCluster {
				deleteKey(entry, key)
			}
		case given.key == "kube":
			deleteKey(entry, "server")
		}
		if given.value != "" {
			setKey(entry, given.key, scalar(given.value))
		}
	}
}

// remove takes a server away.
func (f *serversFile) remove(name string) {
	deleteKey(child(f.top(), "servers"), name)
	if f.current == name {
		f.setCurrent("")
	}
}

// rename gives a server another name.
func (f *serversFile) rename(from, to string) {
	servers := child(f.top(), "servers")
	for i := 0; i < len(servers.Content); i += 2 {
		if servers.Content[i].Value == from {
			servers.Content[i].Value = to
		}
	}
	if f.current == from {
		f.setCurrent(to)
	}
}

// top is the mapping of the file, and makes it if there is none.
func (f *serversFile) top() *yaml.Node {
	if f.document == nil {
		top := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		f.document = &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{top}}
		setKey(top, "version", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fileVersion})
		if len(bytes.TrimSpace(f.text)) == 0 {
			f.text = []byte("# The servers of probectl; probectl config --help tells about them.")
		}
		top.Content[0].HeadComment = strings.TrimSpace(string(f.text)) // comments are all there was
	}
	return f.document.Content[0]
}

func scalar(value string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	if value == "true" || value == "false" {
		node.Tag = "!!bool"
	}
	return node
}

// child is the mapping under a key of another, which is made if it is missing.
func child(of *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if of.Content[i].Value == key && of.Content[i+1].Kind == yaml.MappingNode {
			if len(of.Content[i+1].Content) == 0 {
				of.Content[i+1].Style = 0 // {} grows lines
			}
			return of.Content[i+1]
		}
	}
	node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	setKey(of, key, node)
	return node
}

func setKey(of *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if old := of.Content[i+1]; of.Content[i].Value == key {
			value.HeadComment, value.LineComment, value.FootComment = old.HeadComment, old.LineComment, old.FootComment
			of.Content[i+1] = value
			return
		}
	}
	of.Content = append(of.Content, scalar(key), value)
}

func deleteKey(of *yaml.Node, key string) {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if of.Content[i].Value == key {
			of.Content = slices.Delete(of.Content, i, i+2)
			return
		}
	}
}

// write puts the file in place of the one before, all of it or nothing, and for this user alone. What could not be read
// again is not written.
func (f *serversFile) write() error {
	if f.path == "" {
		return errors.New("there is no place for a configuration file: name one in PROBECTL_CONFIG")
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(f.document), encoder.Close()); err != nil {
		return err
	}
	if err := (&serversFile{path: f.path, text: text.Bytes()}).parse(); err != nil {
		return &usageError{withoutLine(f.path, err)}
	}
	path := behindLinks(f.path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".config-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(text.Bytes())
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// behindLinks is the file that a path leads to: a link to it stays one.
func behindLinks(path string) string {
	if behind, err := filepath.EvalSymlinks(path); err == nil {
		return behind
	}
	return path
}

// withoutLine is an error about the file as it would be, whose lines nobody has seen.
func withoutLine(path string, err error) error {
	text := strings.TrimPrefix(err.Error(), path+":")
	if number, rest, found := strings.Cut(text, ": "); found {
		if _, err := strconv.Atoi(number); err == nil {
			text = rest
		}
	}
	return errors.New(text)
}
