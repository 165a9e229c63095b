package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// printer is what stands between this program and one of its two outputs. All that is written for people passes it, and
// nothing of it can drive a terminal: whatever a peer, a name server, a certificate or an error brought along, the only
// control characters that come out are newline and tab, and colours that are ours (see paint). It does so into a pipe as well, since tables are for people;
// what is exact there is [printer.exact].
//
// A line is one line, and a cell one cell: a newline within is shown, and does not make another.
//
// It may be used by several goroutines, since the log has lines of its own. After a failed write it writes no more, and
// close has the error.
type printer struct {
	terminal bool // out is one
	colored  bool // and what is ours may have colours

	mu       sync.Mutex
	out      io.Writer
	held     []byte // the beginning of a character whose end has not come yet
	openLine bool   // the last byte was no newline
	covered  int    // columns of the status
	err      error
}

func newPrinter(out io.Writer) *printer {
	file, ok := out.(*os.File)
	return &printer{out: out, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

// line prints one line. The format is the program's, the values are anybody's.
func (p *printer) line(format string, values ...any) {
	p.print([]byte(p.marked(visible(fmt.Sprintf(format, values...)), format) + "\n"))
}

// told prints a line of which the beginning is ours, behind something else.
func (p *printer) told(before, line string) {
	p.print([]byte(visible(before) + p.marked(visible(line), line) + "\n"))
}

// aside prints a line that only helps.
func (p *printer) aside(format string, values ...any) {
	p.print([]byte(p.paint(dim, visible(fmt.Sprintf(format, values...))) + "\n"))
}

// lines prints each line of text behind an indent.
func (p *printer) lines(indent, text string) {
	for line := range strings.Lines(text) {
		p.line("%s%s", indent, strings.TrimSuffix(line, "\n"))
	}
}

// table prints rows under a header, "NAME PORT" for columns of these names. An empty cell is a dash.
func (p *printer) table(header string, rows [][]string) {
	columns := strings.Fields(header)
	type cell struct {
		text string
		style
	}
	lines := [][]cell{nil}
	widths := make([]int, len(columns))
	for i, column := range columns {
		lines[0] = append(lines[0], cell{column, bold})
		widths[i] = len(column)
	}
	for _, row := range rows {
		var cells []cell
		for i, column := range columns {
			text := cmp.Or(visible(row[i]), "-")
			cells = append(cells, cell{text, verdict(column, row[i])})
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
		lines = append(lines, cells)
	}
	var b strings.Builder
	for _, cells := range lines {
		for i, cell := range cells {
			b.WriteString(p.paint(cell.style, cell.text))
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell.text)+3))
			}
		}
		b.WriteByte('\n')
	}
	p.print([]byte(b.String()))
}

// bytes prints what a peer sent as a person can read it, a line of output for each line of data and prefix before each.
// It is exact, in the escapes that unescape reads: a backslash of the data is two, and a line that does not end in \n
// goes on in the next one.
func (p *printer) bytes(prefix string, data []byte) {
	out := make([]byte, 0, len(data)+len(data)/8)
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n') + 1
		if n == 0 {
			n = len(data)
		}
		out = append(out, prefix...)
		out, _ = appendVisible(out, data[:n], allEscaped, true)
		out = append(out, '\n')
		data = data[n:]
	}
	p.print(out)
}

// Write prints text of several lines, as help texts and logs are. Newlines and tabs pass. It never fails, see close.
func (p *printer) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []byte
	out, p.held = appendVisible(nil, append(p.held, text...), layoutKept, false)
	p.write(out)
	return len(text), nil
}

// exact prints these very bytes, for a machine to read. If it is a terminal that gets them after all, they are made
// visible like all others.
func (p *printer) exact(data []byte) error {
	if p.terminal {
		_, _ = p.Write(data)
	} else {
		p.print(data)
	}
	return p.failure()
}

// failure is about the first failed write, or nil.
func (p *printer) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("cannot write the answer: %w", p.err)
	}
	return nil
}

// status shows text in place of the status before, on a terminal and on a line that is otherwise empty; the empty text
// takes it away. Here alone a carriage return is written.
func (p *printer) status(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text = visible(text)
	if !p.terminal || p.openLine || p.err != nil || text == "" && p.covered == 0 {
		return
	}
	length := utf8.RuneCountInString(text)
	blank := strings.Repeat(" ", max(0, p.covered-length))
	p.covered = length
	if text == "" {
		blank += "\r"
	}
	_, p.err = io.WriteString(p.out, "\r"+text+blank)
}

// midLine tells whether what was printed last did not end its line.
func (p *printer) midLine() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.openLine
}

// close prints what was held back, and tells the first write that failed.
func (p *printer) close() error {
	p.mu.Lock()
	var out []byte
	for _, b := range p.held {
		out = appendHex(out, b)
	}
	p.held = nil
	p.write(out)
	p.mu.Unlock()
	return p.failure()
}

func (p *printer) print(out []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(out)
}

// write is the only place that writes text. Whoever calls it holds mu.
func (p *printer) write(out []byte) {
	if len(out) == 0 || p.err != nil {
		return
	}
	if p.covered > 0 {
		out = append([]byte("\r"+strings.Repeat(" ", p.covered)+"\r"), out...) // the status comes again if there is more to wait for
		p.covered = 0
	}
	_, p.err = p.out.Write(out)
	p.openLine = out[len(out)-1] != '\n'
}
