// Package grpcurl holds docs/grpcurl.md to what grpcurl prints. Each command of the page is run as it stands there, but for the
// addresses, and has to print what stands below it.
package grpcurl

import (
	"regexp"
	"strings"
)

// command is one of the page, and what it prints there.
type command struct {
	line    int    // where it begins
	text    string // for a shell
	printed string
}

// block is a fenced one of a page of Markdown.
type block struct {
	line int // the first in it
	kind string
	text string
}

// blocks are those of a page, in order.
func blocks(page string) (all []block) {
	open := false
	number := 0
	for line := range strings.Lines(page) {
		number++
		kind, fence := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "```")
		switch {
		case fence && !open:
			all = append(all, block{line: number + 1, kind: kind})
			open = true
		case fence:
			open = false
		case open:
			all[len(all)-1].text += line
		}
	}
	return all
}

// commands are those of a block of the kind console: a line that begins with $ is a command, and those with > behind it belong
// to it; the others are what it prints.
func commands(b block) (all []command) {
	number := b.line - 1
	for line := range strings.Lines(b.text) {
		number++
		first, isFirst := strings.CutPrefix(line, "$ ")
		more, isMore := strings.CutPrefix(line, "> ")
		switch {
		case isFirst:
			all = append(all, command{line: number, text: first})
		case isMore && all[len(all)-1].printed == "":
			all[len(all)-1].text += more
		default:
			all[len(all)-1].printed += line
		}
	}
	return all
}

// varies is what differs from time to time, and what it is compared as. It is few things, and each narrow: a page that may say
// anything is held to nothing.
var varies = []struct {
	pattern *regexp.Regexp
	as      string
}{
	{regexp.MustCompile(`"\d+(\.\d+)?s"`), `"DURATION"`},
	{regexp.MustCompile(`"requestId": "[0-9a-f]{16}"`), `"requestId": "ID"`},
	{regexp.MustCompile(`"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d(\.\d+)?Z"`), `"TIME"`},
	{regexp.MustCompile(`"local": "127\.0\.0\.1:\d+"`), `"local": "127.0.0.1:PORT"`},
	{regexp.MustCompile(`"(socketId|calls(?:Started|Succeeded|Failed))": "\d+"`), `"$1": "NUMBER"`},
}

// plain is text with what varies taken out.
func plain(text string) string {
	for _, v := range varies {
		text = v.pattern.ReplaceAllString(text, v.as)
	}
	return text
}

// leftOut stands, alone on a line, for any lines.
const leftOut = "…"

// matches tells whether a command has printed what stands on the page.
func matches(page, printed string) bool {
	var pattern strings.Builder
	pattern.WriteString(`^`)
	for line := range strings.Lines(plain(page)) {
		if strings.TrimSpace(line) == leftOut {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		pattern.WriteString(regexp.QuoteMeta(line))
	}
	pattern.WriteString(`$`)
	return regexp.MustCompile(pattern.String()).MatchString(plain(printed))
}
