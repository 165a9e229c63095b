// Package transcript reads the commands that a page of Markdown shows, and tells whether one has printed what stands below it.
package transcript

import (
	"regexp"
	"strings"
)

// Command is one of a page, and what it prints there.
type Command struct {
	Line    int    // where it begins, from 1
	Text    string // for a shell
	Printed string
}

// Block is a fenced one of a page.
type Block struct {
	Line int    // the first in it, from 1
	Kind string // what stands behind the fence, as "console"
	Text string
}

// Blocks are those of a page, in order.
func Blocks(page string) (all []Block) {
	open := false
	number := 0
	for line := range strings.Lines(page) {
		number++
		kind, fence := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "```")
		switch {
		case fence && !open:
			all = append(all, Block{Line: number + 1, Kind: kind})
			open = true
		case fence:
			open = false
		case open:
			all[len(all)-1].Text += line
		}
	}
	return all
}

// Commands are those of a block of the kind console: a line that begins with $ is a command, and those with > behind it belong
// to it; the others are what it prints.
func (b Block) Commands() (all []Command) {
	number := b.Line - 1
	for line := range strings.Lines(b.Text) {
		number++
		first, isFirst := strings.CutPrefix(line, "$ ")
		more, isMore := strings.CutPrefix(line, "> ")
		switch {
		case isFirst:
			all = append(all, Command{Line: number, Text: first})
		case isMore && all[len(all)-1].Printed == "":
			all[len(all)-1].Text += more
		default:
			all[len(all)-1].Printed += line
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

// LeftOut stands, alone on a line, for any lines.
const LeftOut = "…"

// Matches tells whether a command has printed what stands on the page.
func Matches(page, printed string) bool {
	var pattern strings.Builder
	pattern.WriteString(`^`)
	for line := range strings.Lines(plain(page)) {
		if strings.TrimSpace(line) == LeftOut {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		pattern.WriteString(regexp.QuoteMeta(line))
	}
	pattern.WriteString(`$`)
	return regexp.MustCompile(pattern.String()).MatchString(plain(printed))
}
