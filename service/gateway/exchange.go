package gateway

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// The formats an exchange can be streamed in, the one for those who do not care first.
const (
	formatLines  = "application/x-ndjson"
	formatJSON   = "application/json" // the same lines, for clients that ask for JSON
	formatRaw    = "application/octet-stream"
	formatEvents = "text/event-stream"
)

// The trailers of raw bytes, which tell how it ended.
const (
	trailerOK     = "Probe-Ok"
	trailerReason = "Probe-Reason"
)

// readerPatience is how long a client gets to read what is left when its exchange is over.
const readerPatience = 10 * time.Second

// exchange streams the events of one exchange as they happen.
func (g *Gateway) exchange(w http.ResponseWriter, r *http.Request, _ map[string]string) {
	offers, also := []string{formatLines, formatJSON, formatRaw, formatEvents}, ""
	if !r.ProtoAtLeast(1, 1) {
		// A body of HTTP/1.0 ends when the connection does, and cannot be cut off: half of the bytes would look like all.
		offers, also = []string{formatLines, formatJSON, formatEvents}, " (which needs HTTP/1.1)"
	}
	format, ok := negotiate(r.Header.Values("Accept"), offers)
	if !ok {
		writeStatus(w, http.StatusNotAcceptable, requestError(codes.InvalidArgument,
			"none of the formats in Accept: there are "+formatLines+", "+formatEvents+" and "+formatRaw+also))
		return
	}
	request := &probev1.ExchangeRequest{}
	if err := readBody(r.Body, request); err != nil {
		writeError(w, status.Error(codes.InvalidArgument, err.Error()))
		return
	}
	// A client that does not read would hold the exchange, and its place here, for ever.
	// What asks for longer than a day, or less than nothing, is refused by the service, and there has to be time to say so.
	timeout := min(max(cmp.Or(request.GetTimeout().AsDuration(), g.config.ExchangeTimeout), 0), 24*time.Hour)
	limit := time.Now().Add(timeout + readerPatience)
	if err := http.NewResponseController(w).SetWriteDeadline(limit); err != nil {
		writeError(w, err)
		return
	}
	// The context ends when the client goes away, and with it the exchange and its socket.
	stream, err := g.client.Exchange(r.Context(), request)
	if err != nil {
		writeError(w, err)
		return
	}
	// Until the first event any failure can still be told with a status of HTTP's own.
	first, err := stream.Recv()
	if header, headerErr := stream.Header(); headerErr == nil {
		copyHeader(w, header)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", format)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx in between would keep events back until it has many
	out := writer{ResponseWriter: w, flush: http.NewResponseController(w).Flush}
	switch format {
	case formatRaw:
		out.raw(first, stream)
	case formatEvents:
		out.events(first, stream)
	default:
		out.lines(first, stream)
	}
}

type writer struct {
	http.ResponseWriter
	flush func() error
}

type eventStream = grpc.ServerStreamingClient[probev1.ExchangeResponse]

// each calls write for event after event, beginning with first, and pushes out what it wrote. The error is that of the
// stream; nil when it ended well or when nobody reads any more.
func (w writer) each(first *probev1.ExchangeResponse, stream eventStream, write func(*probev1.ExchangeResponse) error) error {
	for event := first; write(event) == nil && w.flush() == nil; {
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		event = next
	}
	return nil
}

// lines writes each event as {"result": …} on a line of its own, and a failure of probed itself as {"error": …}.
func (w writer) lines(first *probev1.ExchangeResponse, stream eventStream) {
	err := w.each(first, stream, func(event *probev1.ExchangeResponse) error {
		return w.event(`{"result":`, event, "}\n")
	})
	if err != nil {
		_ = w.write(`{"error":`, statusText(err), "}\n")
	}
}

// events writes server-sent events (the HTML standard, section 9.2): the kind of event as its type, and its JSON.
func (w writer) events(first *probev1.ExchangeResponse, stream eventStream) {
	err := w.each(first, stream, func(event *probev1.ExchangeResponse) error {
		return w.event("event: "+kindOf(event)+"\ndata: ", event, "\n\n")
	})
	if err != nil {
		_ = w.write("event: error\ndata: ", statusText(err), "\n\n")
	}
}

// raw writes the peer's bytes and nothing else. How it ended stands in the trailers; when it did not end well the body
// is cut off, so that the client fails too. When not a byte came, it stands in the headers as well.
func (w writer) raw(first *probev1.ExchangeResponse, stream eventStream) {
	w.Header().Set("Trailer", trailerOK+", "+trailerReason)
	begun := false
	// A stream that breaks off has no outcome: it is probed that failed.
	outcome := &probev1.Outcome{Reason: probev1.Reason_REASON_INTERNAL}
	event := first
	for {
		switch e := event.GetEvent().(type) {
		case *probev1.ExchangeResponse_Chunk:
			begun = true
			if _, err := w.Write(e.Chunk.GetData()); err != nil {
				return
			}
			if w.flush() != nil {
				return
			}
		case *probev1.ExchangeResponse_Outcome:
			outcome = e.Outcome
		}
		var err error
		if event, err = stream.Recv(); err != nil {
			break
		}
	}
	if !begun && !outcome.GetOk() {
		w.Header().Del("Trailer")
	}
	w.Header().Set(trailerOK, strconv.FormatBool(outcome.GetOk()))
	w.Header().Set(trailerReason, outcome.GetReason().String())
	if !outcome.GetOk() {
		_ = w.flush()
		panic(http.ErrAbortHandler) // net/http's way to cut a body off
	}
}

// event writes one between two texts.
func (w writer) event(before string, event *probev1.ExchangeResponse, after string) error {
	if err := w.write(before); err != nil {
		return err
	}
	if err := writeEvent(w, event); err != nil {
		return err
	}
	return w.write(after)
}

func (w writer) write(parts ...string) error {
	for _, part := range parts {
		if _, err := io.WriteString(w.ResponseWriter, part); err != nil {
			return err
		}
	}
	return nil
}

// kindOf is the name of an event's kind, as JSON has it.
func kindOf(event *probev1.ExchangeResponse) string {
	message := event.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("event"))
	if field == nil {
		return "message"
	}
	return field.JSONName()
}

func statusText(err error) string {
	return string(statusJSON(statusOf(err)))
}
