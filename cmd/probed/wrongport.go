package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// Who speaks to the wrong listener is told so, in the protocol that they speak: else curl says something of HTTP/0.9, and a
// client of gRPC tries again until its time is over.

const (
	takesGRPC = "This is gRPC, which takes HTTP/2: ask it with grpcurl, probectl or another client of gRPC. REST is another listener of this probed.\n"
	takesREST = "this is REST, which takes HTTP/1.1; gRPC is another listener of this probed"
	// partingPatience is how long who is told so has to ask, and to take it.
	partingPatience = time.Second
	// mostFrames is how many frames may come before the first call: settings, and a window.
	mostFrames = 16
)

// notGRPC reads what a connection begins with, and returns it. When it is a request of HTTP/1.1, that is answered, and the error
// says so.
func notGRPC(conn net.Conn) (head []byte, err error) {
	head = make([]byte, len(http2.ClientPreface))
	n, err := io.ReadAtLeast(conn, head, len("PRI "))
	if err != nil {
		return nil, err
	}
	head = head[:n]
	for _, method := range []string{"GET ", "HEAD", "POST", "PUT ", "PATC", "DELE", "OPTI"} {
		if bytes.HasPrefix(head, []byte(method)) {
			// What it says counts, not whether somebody is there to hear it.
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(takesGRPC), takesGRPC)
			part(conn)
			return nil, http.ErrNotSupported
		}
	}
	return head, nil
}

// notREST answers the preface of HTTP/2 (RFC 9113, section 3.4), which net/http hands to its handlers, and the first call behind
// it.
func notREST(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "PRI" || r.ProtoMajor != 2 {
			next.ServeHTTP(w, r)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(partingPatience))
		if _, err := buffered.Discard(len("SM\r\n\r\n")); err != nil {
			return
		}
		// What it says counts, not whether somebody is there to hear it.
		if answerFirstCall(http2.NewFramer(conn, buffered)) == nil {
			part(conn)
		}
	})
}

// answerFirstCall lets the first call on a connection of HTTP/2 fail, with a text that clients of gRPC show: they show none of a
// connection that ends. It is none that they try again, and none that grpcurl takes for something else, as it does UNIMPLEMENTED.
func answerFirstCall(framer *http2.Framer) error {
	framer.SetMaxReadFrameSize(16 << 10) // the least that there is, which clients keep to until they are told of more
	framer.ReadMetaHeaders, framer.MaxHeaderListSize = hpack.NewDecoder(4<<10, nil), 16<<10
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for range mostFrames {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		call, isCall := frame.(*http2.MetaHeadersFrame)
		if !isCall {
			continue
		}
		away := func() error {
			return framer.WriteGoAway(call.StreamID, http2.ErrCodeHTTP11Required, []byte(takesREST))
		}
		isContentType := func(f hpack.HeaderField) bool { return f.Name == "content-type" }
		if i := slices.IndexFunc(call.Fields, isContentType); i < 0 || !strings.HasPrefix(call.Fields[i].Value, "application/grpc") {
			return away() // to another client, status 200 would be a success
		}
		var header bytes.Buffer
		encoder := hpack.NewEncoder(&header)
		for _, field := range []hpack.HeaderField{
			{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"},
			{Name: "grpc-status", Value: strconv.Itoa(int(codes.FailedPrecondition))}, {Name: "grpc-message", Value: takesREST},
		} {
			if err := encoder.WriteField(field); err != nil {
				return err
			}
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: call.StreamID, BlockFragment: header.Bytes(), EndStream: true, EndHeaders: true,
		}); err != nil {
			return err
		}
		return away()
	}
	return nil
}

// part lets the other side read what it was told: a connection that is closed with something in it unread is reset, and what was
// written may be lost with it (RFC 1122, section 4.2.2.13).
func part(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(partingPatience))
	_, _ = io.CopyN(io.Discard, conn, 64<<10)
}
