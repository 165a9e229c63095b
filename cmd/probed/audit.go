package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"probed/service/guard"
)

// openAudit opens the audit log: a file, or "-", which is stdout. written counts each try to write; why one failed stands in
// log, once until the next succeeds.
func openAudit(path string, stdout io.Writer, log *slog.Logger, written func(ok bool)) (*guard.Audit, error) {
	open := func() (io.WriteCloser, error) {
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	if path == "-" {
		open = func() (io.WriteCloser, error) { return keptOpen{stdout}, nil }
	}
	failed := false
	audit, err := guard.NewAudit(guard.AuditConfig{Open: open, OnWrite: func(err error) {
		written(err == nil)
		switch {
		case err != nil && !failed:
			log.Error("the audit log cannot be written: no session begins", "path", path, "error", err.Error())
		case err == nil && failed:
			log.Info("the audit log is written again", "path", path)
		}
		failed = err != nil
	}})
	if err != nil {
		return nil, fmt.Errorf("the audit log: %w", err)
	}
	return audit, nil
}

// keptOpen is a stream that is not ours to close.
type keptOpen struct{ io.Writer }

// Close does nothing.
func (keptOpen) Close() error { return nil }
