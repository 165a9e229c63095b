// Command web is the target of the demonstration: a web server whose one page comes in parts, with a pause between
// them, as pages made on the fly do. What reads it sees one part at a time, so a reader that takes a short read for the
// end sees a piece of the page alone.
//
// It listens on a free port of loopback, writes the address to the file it is told, and serves until SIGTERM or SIGINT.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// pause is long enough for a person to see that the parts come one by one.
const pause = 200 * time.Millisecond

var page = [...]string{
	"<!doctype html>\n<title>Five parts</title>\n",
	"<p>This page is sent in five parts,\n",
	"and whoever reads it must not take\n",
	"a short read for the end of it:\n",
	"the end is where the server says so.\n",
}

func main() {
	listenFile := flag.String("listen-file", "", "write the address to this `file` when ready")
	flag.Parse()
	if err := run(*listenFile); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run(listenFile string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(serve), ReadHeaderTimeout: 10 * time.Second}
	closed := context.AfterFunc(ctx, func() { _ = server.Close() }) // the demonstration is over
	defer closed()
	// Renamed into place, so that who waits for the file never reads half of it.
	if listenFile != "" {
		if err := os.WriteFile(listenFile+".new", []byte(listener.Addr().String()+"\n"), 0o600); err != nil {
			return err
		}
		if err := os.Rename(listenFile+".new", listenFile); err != nil {
			return err
		}
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	for i, part := range page {
		if i > 0 {
			// Not cut short by the request's context: that ends when the client closes its sending side, and such a
			// client still reads.
			time.Sleep(pause)
		}
		if _, err := io.WriteString(w, part); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
	}
}
