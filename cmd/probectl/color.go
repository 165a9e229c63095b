package main

import (
	"errors"
	"runtime"
	"strings"
)

// Colours are few, and say nothing that the words do not: the header of a table is bold, what went well green, what did not
// red, what needs a look yellow, and what only helps dim. They are put around text when nothing in it can drive a terminal
// any more, on a terminal alone; JSON and YAML have none.

// style is how text is drawn, as a terminal has it (ECMA-48, SGR); empty: as it is.
type style string

const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// paint draws text, which must be visible, in a style.
func (p *printer) paint(s style, text string) string {
	if !p.colored || s == "" || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// marks are what lines of ours begin with, and how that is drawn.
var marks = []struct {
	text string
	style
}{
	{"probectl:", red}, {"failed:", red}, {"NOT ASKED:", red}, {"not verified for", red}, {"ok,", green}, {"note:", yellow}, {"hint:", dim},
}

// marked draws the mark that visible text begins with, if that stands in by, which is ours.
func (p *printer) marked(text, by string) string {
	for _, mark := range marks {
		if strings.HasPrefix(by, mark.text) && strings.HasPrefix(text, mark.text) {
			return p.paint(mark.style, mark.text) + text[len(mark.text):]
		}
	}
	return text
}

// verdict is how a cell of a table is drawn that says how something went.
func verdict(column, cell string) style {
	switch column {
	case "RESULT", "RCODE", "ALLOWED":
	default:
		return ""
	}
	switch cell {
	case "ok", "NOERROR", "yes":
		return green
	case "", "not answered":
		return yellow
	}
	return red
}

// when is the flag --color. Its zero value is auto.
type when struct {
	text string
	tool *tool
}

func (w *when) String() string {
	if w.text == "" {
		return "auto"
	}
	return w.text
}

func (w *when) Type() string { return "when" }

func (w *when) Set(text string) error {
	switch text {
	case "auto", "always", "never":
		w.text = text
		w.tool.color(text)
		return nil
	}
	return errors.New("it is one of auto, always, never")
}

// color settles which of the outputs has colours.
func (t *tool) color(when string) {
	for _, p := range []*printer{t.stdout, t.stderr} {
		p.colored = when == "always" || when == "auto" && p.terminal && t.wantsColors()
	}
}

// wantsColors is what the environment says: NO_COLOR is no, with any value but an empty one, and so is a terminal without
// them, or of which nothing is known.
func (t *tool) wantsColors() bool {
	terminal := t.getenv("TERM")
	return t.getenv("NO_COLOR") == "" && terminal != "dumb" && (terminal != "" || runtime.GOOS == "windows" && t.getenv("WT_SESSION") != "")
}
