package guard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What is longer of a target, and of each other string, is cut.
const auditTarget, auditString = 4 << 10, 1 << 10

// What a line holds.
type (
	auditHead struct {
		Time  time.Time `json:"time"`
		Event string    `json:"event"`
		Record
	}
	auditTail struct {
		auditHead
		Address       string  `json:"address"`
		Rule          string  `json:"rule"`
		OK            bool    `json:"ok"`
		Reason        string  `json:"reason"`
		Code          string  `json:"code"`
		BytesSent     int64   `json:"bytesSent"`
		BytesReceived int64   `json:"bytesReceived"`
		Duration      float64 `json:"durationSeconds"`
	}
)

func beginLine(now time.Time, record Record) []byte {
	return jsonLine(auditHead{now.UTC(), "begin", record})
}

func resumedLine(now time.Time) []byte {
	return jsonLine(struct {
		Time  time.Time `json:"time"`
		Event string    `json:"event"`
	}{now.UTC(), "resumed"})
}

func endLine(now time.Time, record Record, r Result) []byte {
	return jsonLine(auditTail{
		auditHead: auditHead{now.UTC(), "end", record},
		Address:   bounded(r.Address, auditString), Rule: bounded(r.Rule, auditString),
		OK: r.OK, Reason: bounded(r.Reason, auditString), Code: bounded(r.Code, auditString),
		BytesSent: r.BytesSent, BytesReceived: r.BytesReceived, Duration: r.Duration.Seconds(),
	})
}

func (r Record) bounded() Record {
	return Record{
		ID: bounded(r.ID, auditString), Subject: bounded(r.Subject, auditString), RPC: bounded(r.RPC, auditString),
		Target: bounded(r.Target, auditTarget), Remote: bounded(r.Remote, auditString),
	}
}

// bounded cuts a string that is too long, and says so in its place.
func bounded(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (cut, %d bytes in all)", s[:end], len(s))
}

// jsonLine is a value as a line of JSON. The library escapes the control characters of ASCII and replaces what is no
// UTF-8; what else can drive a terminal or hide from its reader is escaped here: the other control characters and the
// invisible ones, which turn the direction of text for instance.
func jsonLine(value any) []byte {
	line, err := json.Marshal(value)
	if err != nil { // of strings and numbers it cannot be
		line = []byte("{}")
	}
	clean := bytes.IndexFunc(line, isHidden)
	if clean < 0 {
		return append(line, '\n')
	}
	escaped := line[:clean:clean]
	for _, r := range string(line[clean:]) {
		switch high, low := utf16.EncodeRune(r); {
		case !isHidden(r):
			escaped = utf8.AppendRune(escaped, r)
		case high != unicode.ReplacementChar:
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	return append(escaped, '\n')
}

func isHidden(r rune) bool { return r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) }
