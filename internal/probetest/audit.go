package probetest

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// Record is a line of the audit log, as far as tests ask for it.
type Record struct {
	Event         string `json:"event"` // begin, end or resumed
	ID            string `json:"id"`
	RPC           string `json:"rpc"`
	Target        string `json:"target"`
	Address       string `json:"address"`
	OK            bool   `json:"ok"`
	Reason        string `json:"reason"`
	Code          string `json:"code"`
	BytesSent     int64  `json:"bytesSent"`
	BytesReceived int64  `json:"bytesReceived"`
}

// Audit reads the log.
func (p *Probed) Audit() []Record {
	p.t.Helper()
	text, err := os.ReadFile(p.audit)
	if err != nil {
		p.t.Fatal(err)
	}
	return Records(p.t, text)
}

// Records are the lines of an audit log, each of which is whole.
func Records(t testing.TB, log []byte) (records []Record) {
	t.Helper()
	for line := range bytes.Lines(log) {
		var record Record
		if err := json.Unmarshal(line, &record); err != nil || !bytes.HasSuffix(line, []byte("\n")) {
			t.Fatalf("a line of the audit log: %v: %q", err, line)
		}
		records = append(records, record)
	}
	return records
}

// CheckAudit asserts that there is one record a session, when all have ended: a begin and, behind it, an end. Of so many
// exchanges, or more, an outcome was told.
func CheckAudit(t testing.TB, records []Record, outcomes int) {
	t.Helper()
	open := make(map[string]bool)
	exchanges := 0
	for _, record := range records {
		key := record.ID
		switch ended, begun := open[key]; {
		case record.Event == "resumed": // of no session
		case record.Event == "begin" && begun:
			t.Errorf("session %s begins twice in the audit log", key)
		case record.Event == "begin":
			open[key] = false
		case !begun || ended:
			t.Errorf("session %s ends in the audit log, begun: %v, ended before: %v", key, begun, ended)
		default:
			open[key] = true
			if strings.Contains(record.RPC, "ExchangeService") {
				exchanges++
			}
		}
	}
	for key, ended := range open {
		if !ended {
			t.Errorf("session %s has no end in the audit log", key)
		}
	}
	if exchanges < outcomes {
		t.Errorf("%d outcomes were told, and %d sessions are in the audit log", outcomes, exchanges)
	}
}
