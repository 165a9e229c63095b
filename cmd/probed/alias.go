package main

import (
	"go.yaml.in/yaml/v3"
)

// mostAliased is how many nodes aliases may stand for, so that a few of aliases do not stand for all the memory there is.
const mostAliased = 100_000

// unalias is a node with what its aliases and merge keys (<<) stand for in their place. What has the form of another program
// may be written as that program's is.
func (d *document) unalias(node *yaml.Node) *yaml.Node {
	room := mostAliased
	whole := unaliased(node, false, &room)
	if room < 0 {
		d.at(node.Line, node.Column, "", "its aliases stand for more than %d values", mostAliased)
		return &yaml.Node{Kind: yaml.MappingNode, Line: node.Line, Column: node.Column}
	}
	return whole
}

// unaliased copies a node. What is within an alias is taken off room; below 0 the copy is not whole.
func unaliased(node *yaml.Node, within bool, room *int) *yaml.Node {
	if within {
		if *room--; *room < 0 {
			return node
		}
	}
	if node.Kind == yaml.AliasNode {
		return unaliased(node.Alias, true, room)
	}
	whole := *node
	whole.Content = nil
	if node.Kind != yaml.MappingNode {
		for _, item := range node.Content {
			whole.Content = append(whole.Content, unaliased(item, within, room))
		}
		return &whole
	}
	var merged []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], unaliased(node.Content[i+1], within, room)
		switch {
		case key.Tag != "!!merge":
			whole.Content = append(whole.Content, key, value)
		case value.Kind == yaml.SequenceNode:
			merged = append(merged, value.Content...)
		default:
			merged = append(merged, value)
		}
	}
	for _, source := range merged {
		for i := 0; i+1 < len(source.Content); i += 2 {
			key := source.Content[i]
			if !hasKey(&whole, key.Value) {
				whole.Content = append(whole.Content, key, source.Content[i+1])
			}
		}
	}
	return &whole
}

// hasKey tells whether a mapping has a key.
func hasKey(mapping *yaml.Node, key string) bool {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return true
		}
	}
	return false
}
