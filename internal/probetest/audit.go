package probetest

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// Record is a line of the audit log, as far as tests ask for it.
type Record struct {
	Event         string `json:"event"` // begin or end
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
	return readAudit(p.t, p.audit)
}

func readAudit(t testing.TB, path string) (records []Record) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var record Record
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			t.Fatalf("a line of the audit log: %v: %q", err, lines.Text())
		}
		records = append(records, record)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return records
}

// checkAudit asserts that there is one record a session: a begin and, behind it, an end.
func (p *Probed) checkAudit() {
	p.t.Helper()
	open := make(map[string]bool)
	exchanges := 0
	for _, record := range p.Audit() {
		key := record.ID
		switch ended, begun := open[key]; {
		case record.Event == "begin" && begun:
			p.t.Errorf("session %s begins twice in the audit log", key)
		case record.Event == "begin":
			open[key] = false
		case !begun || ended:
			p.t.Errorf("session %s ends in the audit log, begun: %v, ended before: %v", key, begun, ended)
		default:
			open[key] = true
			if strings.Contains(record.RPC, "ExchangeService") {
				exchanges++
			}
		}
	}
	for key, ended := range open {
		if !ended {
			p.t.Errorf("session %s has no end in the audit log", key)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if exchanges < p.outcomes {
		p.t.Errorf("%d outcomes were told, and %d sessions are in the audit log", p.outcomes, exchanges)
	}
}
