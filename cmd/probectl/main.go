// Command probectl asks questions of the network from where a probed runs, or, with no server named, from this machine:
// then the same service runs inside probectl, over memory, and nothing else has to be started.
//
// Every command has one shape. Its file holds a constructor, which binds the flags to the fields of a request of the
// contract, and a function that turns the answer into a table; [ask] does what lies between. What is printed for people
// passes a [printer], which lets nothing through that could drive a terminal. Exit codes are decided in errors.go.
package main

import (
	"context"
	"io"
	"os"

	"google.golang.org/grpc/grpclog"
)

func main() {
	// Package grpc would write what it thinks of a connection to stderr, past the printer. What matters of it is in the
	// errors that calls return.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	os.Exit(run(context.Background(), os.Args[0], os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
