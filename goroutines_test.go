package probed_test

import (
	"go/ast"
	"testing"

	"probed/internal/promise"
)

// A goroutine is a place that starts some, and what a panic in one of them comes to.
type goroutines struct {
	count int
	panic string
}

const (
	// It comes up in the handler that waits for it, where it costs one call. In brackets the test that injects one.
	inCrashTest    = "the handler's own [service/exchange.TestCrashStaysInItsSession, service.TestCrashes]"
	inLinkOfChain  = "the link that recovers is within it [service.TestCrashes, by REST]"
	recoversItself = "it recovers by itself [service/guard.TestOIDCPanicIsAnOutage]"
	// It sets a deadline, ends a context, or closes sockets: nothing of ours, nor of a caller's, runs in it.
	nothingToPanic = "there is nothing in it that panics"
	// No handler starts it.
	ofTheProgram = "the program's own"
)

// Where goroutines begin, tests and other systems left out. net/http and gRPC have theirs, in which the gateway and the
// chain run: the first recovers from panics, and for the second the chain does.
var begun = map[string]goroutines{
	"service/exchange.run":         {1, inCrashTest},
	"service/exchange.start":       {1, inCrashTest},
	"service/exchange.sendReading": {2, inCrashTest}, // the second waits for the first, and sets a deadline
	"service/exchange.wokenBy":     {1, nothingToPanic},
	"service/dial.clearLater":      {1, nothingToPanic},
	"service/resolve.connect":      {1, nothingToPanic},
	"service.NewStream":            {1, inLinkOfChain},
	"service.begin":                {1, nothingToPanic},
	"service.hangUpAfter":          {1, nothingToPanic},
	"service/guard.attempt":        {1, recoversItself},
	"service/guard.NewAudit":       {1, ofTheProgram},
	"service/tracing.Close":        {1, nothingToPanic},
	"service/tracing.ExportSpans":  {1, nothingToPanic},
	"service/echo.Listen":          {2, ofTheProgram},
	"service/echo.accept":          {1, ofTheProgram},
	"cmd/probed.RegisterService":   {1, nothingToPanic},
	"cmd/probed.Write":             {1, ofTheProgram},
	"cmd/probed.end":               {4, ofTheProgram},
	"cmd/probed.recheck":           {1, ofTheProgram},
	"cmd/probed.retire":            {1, ofTheProgram},
	"cmd/probed.run":               {6, ofTheProgram},
}

// A panic in a goroutine that nobody recovers from is the end of probed and of all its calls, so each place that starts one
// is known here, with what becomes of a panic in it. A new one needs a line, and a test that injects one.
func TestGoroutinesAreContained(t *testing.T) {
	t.Parallel()
	found, total := make(map[string]int), 0
	for dir, files := range readPackages(t) {
		if !within(dir, "service") && dir != "cmd/probed" {
			continue
		}
		for _, file := range files {
			for _, declared := range file.Decls {
				where := dir + ".var"
				if f, ok := declared.(*ast.FuncDecl); ok {
					where = dir + "." + f.Name.Name
				}
				if n := starts(declared); n > 0 {
					found[where] += n
				}
			}
		}
	}
	for _, where := range sortedKeys(found) {
		if known := begun[where]; known.count != found[where] {
			t.Errorf("%s starts %d goroutines, and of %d it is known what a panic in them comes to: see the table in goroutines_test.go",
				where, found[where], known.count)
		}
	}
	for _, where := range sortedKeys(begun) {
		total += begun[where].count
		if found[where] == 0 {
			t.Errorf("%s starts no goroutine: take it out of the table in goroutines_test.go", where)
		}
	}
	promise.CrashContainment.Reached(t, "%d places start %d goroutines; of each it is known what a panic in it comes to", len(begun), total)
}

// starts counts what begins a goroutine: go statements, methods of that name as WaitGroups have, and what is to run later.
func starts(in ast.Node) (n int) {
	ast.Inspect(in, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.GoStmt:
			n++
		case *ast.CallExpr:
			if called, ok := node.Fun.(*ast.SelectorExpr); ok && (called.Sel.Name == "Go" || called.Sel.Name == "AfterFunc") {
				n++
			}
		}
		return true
	})
	return n
}
