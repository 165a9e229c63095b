package main

import (
	"fmt"
	"io"
	"os"

	"probed/service/guard"
)

// openAudit opens the audit log: a file, or "-", which is stdout.
func openAudit(path string, stdout io.Writer, written func(ok bool)) (*guard.Audit, error) {
	open := func() (io.WriteCloser, error) {
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	if path == "-" {
		open = func() (io.WriteCloser, error) { return keptOpen{stdout}, nil }
	}
	audit, err := guard.NewAudit(guard.AuditConfig{Open: open, OnWrite: written})
	if err != nil {
		return nil, fmt.Errorf("the audit log: %w", err)
	}
	return audit, nil
}

// keptOpen is a stream that is not ours to close.
type keptOpen struct{ io.Writer }

// Close does nothing.
func (keptOpen) Close() error { return nil }
