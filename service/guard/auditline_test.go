package guard

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAuditLines(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit.log")
	a := newAudit(t, file(name))
	s := begin(t, a, "r-1")
	const begun = `{"time":"TIME","event":"begin","id":"r-1","subject":"token:ci",` +
		`"rpc":"/probe.v1.ExchangeService/Exchange","target":"tcp://db:5432","remote":"10.0.0.7"}` + "\n"
	times := regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`)
	text := func() string { return times.ReplaceAllString(string(read(t, name)), `"time":"TIME"`) }
	if got := text(); got != begun { // before Begin has returned, that is, before any dial
		t.Errorf("after Begin the log is\n%swant\n%s", got, begun)
	}
	s.End(Result{
		Address: "10.0.0.9:5432", Rule: "dev/db", OK: true, BytesSent: 12, BytesReceived: 1 << 40,
		Duration: 1500 * time.Millisecond, Code: "OK",
	})
	s.End(Result{Code: "twice"})
	closeAudit(t, a)
	const ended = `{"time":"TIME","event":"end","id":"r-1","subject":"token:ci",` +
		`"rpc":"/probe.v1.ExchangeService/Exchange","target":"tcp://db:5432","remote":"10.0.0.7",` +
		`"address":"10.0.0.9:5432","rule":"dev/db","ok":true,"reason":"","code":"OK",` +
		`"bytesSent":12,"bytesReceived":1099511627776,"durationSeconds":1.5}` + "\n"
	if got := text(); got != begun+ended {
		t.Errorf("the log is\n%swant\n%s", got, begun+ended)
	}
}

func FuzzAuditLine(f *testing.F) {
	f.Add("tcp://db:5432")
	f.Add("a\nb\r\x00\x1b[2J\x7f\u0085\u009b31m")
	f.Add("\xff\xfe invalid \xc3")
	f.Add("\u202eright to left\u200b\u2028\U000e0041\ufeff")
	f.Add(strings.Repeat("é", auditTarget))
	f.Add(`"}{"event":"end`)
	f.Fuzz(func(t *testing.T, hostile string) {
		r := Record{ID: hostile, Subject: hostile, RPC: hostile, Target: hostile, Remote: hostile}.bounded()
		result := Result{Address: hostile, Rule: hostile, Reason: hostile, Code: hostile}
		for _, line := range [][]byte{beginLine(time.Now(), r), endLine(time.Now(), r, result)} {
			if len(line) > 128<<10 {
				t.Fatalf("the line has %d bytes", len(line))
			}
			if !utf8.Valid(line) {
				t.Fatalf("%q is no UTF-8", line)
			}
			for i, c := range string(line) {
				if (c < ' ' || isHidden(c)) && i != len(line)-1 {
					t.Fatalf("%q stands in %q", c, line)
				}
			}
			if line[len(line)-1] != '\n' {
				t.Fatalf("%q does not end", line)
			}
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			target, _ := got["target"].(string)
			if len(hostile) <= auditTarget {
				if want := string([]rune(hostile)); target != want { // what is no UTF-8 is U+FFFD
					t.Fatalf("the target is %q, want %q", target, want)
				}
			} else if want := fmt.Sprintf("… (cut, %d bytes in all)", len(hostile)); !strings.HasSuffix(target, want) {
				t.Fatalf("the target ends %q, want %q", target[max(0, len(target)-60):], want)
			}
		}
	})
}
