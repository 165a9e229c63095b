package gateway

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"probed/internal/nettest"

	probev1 "probed/gen/probe/v1"
)

// parseEvents reads what {"result": …} lines say, and fails when one of them is another.
func parseEvents(t *testing.T, text string) []*probev1.ExchangeResponse {
	t.Helper()
	var events []*probev1.ExchangeResponse
	for line := range strings.Lines(text) {
		var envelope struct {
			Result json.RawMessage `json:"result"`
		}
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&envelope); err != nil || !strings.HasSuffix(line, "}\n") {
			t.Fatalf("%v: %q", err, line)
		}
		event := &probev1.ExchangeResponse{}
		if err := protojson.Unmarshal(envelope.Result, event); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		events = append(events, event)
	}
	return events
}

// outcomeOf is the last event. That there is none before it, and all else, the world's witness has seen to.
func outcomeOf(t *testing.T, events []*probev1.ExchangeResponse) *probev1.Outcome {
	t.Helper()
	if len(events) == 0 || events[len(events)-1].GetOutcome() == nil {
		t.Fatalf("no outcome at the end of %v", events)
	}
	return events[len(events)-1].GetOutcome()
}

// The events of one exchange, word for word.
func TestEventsAsJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply([]byte("HTTP/1.0 200 OK\r\n\r\n")))
	_, port, _ := net.SplitHostPort(peer.String())
	response, text := w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": "tcp://here.test:%s", "text": "GET / HTTP/1.0\r\n\r\n"}`, port))
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/x-ndjson" || response.Header.Get("Cache-Control") != "no-store" ||
		response.Header.Get("Probe-Vantage") == "" || response.Header.Get("Probe-Request-Id") == "" || response.ContentLength != -1 {
		t.Errorf("%s, %v", response.Status, response.Header)
	}
	attempt := `{"address": "` + peer.String() + `", "ok": true, "reason": "REASON_UNSPECIFIED", "errno": 0, "errnoName": "", "error": "", "start": "…", "duration": "…",
		"icmp": null, "phase": "PHASE_CONNECT", "tls": null, "local": "…", "tlsDuration": null}`
	want := []string{
		`{"result": {"resolved": {"host": "here.test", "canonicalName": "here.test", "addresses": ["127.0.0.1"], "source": "files", "duration": "…"}}}`,
		`{"result": {"attempt": ` + attempt + `}}`,
		`{"result": {"connected": {"local": "…", "remote": "` + peer.String() + `", "family": "AF_INET", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP"}}}`,
		`{"result": {"sent": {"step": 0, "bytes": "18", "elapsed": "…"}}}`,
		`{"result": {"chunk": {"data": "` + base64.StdEncoding.EncodeToString([]byte("HTTP/1.0 200 OK\r\n\r\n")) + `", "offset": "0", "elapsed": "…", "datagram": null}}}`,
		`{"result": {"peerClosed": {"elapsed": "…", "unclean": false}}}`,
		`{"result": {"outcome": {"ok": true, "phase": "PHASE_CLOSE", "layer": "LAYER_UNSPECIFIED", "reason": "REASON_UNSPECIFIED", "errno": 0, "errnoName": "", "error": "", "hint": "",
			"endedBy": "ENDED_BY_PEER_CLOSED", "bytesSent": "18", "bytesReceived": "19", "bytesAcknowledged": "18", "bytesUnread": "0", "chunks": "1",
			"local": "…", "remote": "` + peer.String() + `", "family": "AF_INET", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP", "attempts": [` + attempt + `],
			"timings": {"resolve": "…", "connect": "…", "tls": null, "firstByte": "…", "total": "…"},
			"tcpInfo": "…", "tls": null, "vantage": "…", "resolution": null,
			"failedStepReceived": "", "socketOptions": "…", "route": "…", "icmp": null, "matches": []}}}`,
	}
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d: %s", len(lines), len(want), text)
	}
	for i, line := range lines {
		checkJSON(t, line, want[i])
	}
}

// A step that fails, and one that sends, tell their number, 0 too; without steps there is none.
func TestStepNumbers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply([]byte("four")))
	_, text := w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q, "steps": [{"halfClose": {}}, {"receive": {"length": "5"}}]}`, peer))
	if outcome := outcomeOf(t, parseEvents(t, text)); outcome.FailedStep == nil || outcome.GetFailedStep() != 1 || outcome.GetReason() != probev1.Reason_REASON_PEER_CLOSED_EARLY {
		t.Errorf("%v", outcome)
	}
	_, text = w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q, "steps": [{"receive": {"idle": "0.001s", "length": "1"}}, {"send": {"text": "x"}}]}`, peer))
	if sent := find(parseEvents(t, text), (*probev1.ExchangeResponse).GetSent); sent.GetStep() != 1 {
		t.Errorf("%s", text)
	}
	refused := nettest.Refused(t)
	_, text = w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q}`, refused))
	if outcome := outcomeOf(t, parseEvents(t, text)); outcome.FailedStep != nil {
		t.Errorf("%v", outcome)
	}
}

// find returns the first event of a kind.
func find[E any](events []*probev1.ExchangeResponse, get func(*probev1.ExchangeResponse) *E) *E {
	for _, event := range events {
		if e := get(event); e != nil {
			return e
		}
	}
	return nil
}

// Events come as they happen: the peer sends its next line when the client has read the one before.
func TestAsItHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, format := range []string{formatLines, formatRaw, formatEvents} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			next := make(chan string, 1)
			peer := nettest.TCP(t, func(c net.Conn) {
				for {
					select {
					case line, ok := <-next:
						if !ok {
							return
						}
						_, _ = io.WriteString(c, line)
					case <-t.Context().Done():
						return
					}
				}
			})
			lines := []string{"one\n", "two\n", "three\n"}
			if format == formatRaw { // where nothing is seen before the first byte
				next <- lines[0]
			}
			response := w.send(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q}`, peer), "Accept", format)
			reader := bufio.NewReader(response.Body)
			await := func(want string) {
				for got := ""; !strings.Contains(got, want); {
					var err error
					if got, err = reader.ReadString('\n'); err != nil {
						t.Fatalf("%q: %v", want, err)
					}
				}
			}
			if format != formatRaw {
				await(`"connected"`)
				next <- lines[0]
			}
			for i, line := range lines {
				if format == formatRaw {
					await(line)
				} else {
					await(base64.StdEncoding.EncodeToString([]byte(line)))
				}
				if i+1 < len(lines) {
					next <- lines[i+1]
				}
			}
			close(next)
			if _, err := io.Copy(io.Discard, reader); err != nil {
				t.Error(err)
			}
		})
	}
}

// The peer's bytes come through exactly, and the trailers tell that it ended well.
func TestRaw(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{0, 1, 4096, 65536, 3_000_001} {
		peer := nettest.TCP(t, nettest.Reply(nettest.Data(size)))
		for _, buffer := range []int{0, 1000} {
			response, text := w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q, "bufferSize": %d}`, peer, buffer), "Accept", "application/octet-stream", "Accept-Encoding", "gzip")
			if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/octet-stream" || response.Header.Get("Content-Encoding") != "" {
				t.Errorf("%d: %s, %v", size, response.Status, response.Header)
			}
			if !bytes.Equal([]byte(text), nettest.Data(size)) {
				t.Errorf("%d: %d bytes came, or others", size, len(text))
			}
			if response.Trailer.Get("Probe-Ok") != "true" || response.Trailer.Get("Probe-Reason") != "REASON_UNSPECIFIED" || len(response.Trailer) != 2 {
				t.Errorf("%d: trailers %v", size, response.Trailer)
			}
			inHeaders := "" // where they stand as well when not a byte came
			if size == 0 {
				inHeaders = "true"
			}
			if got := response.Header.Get("Probe-Ok"); got != inHeaders {
				t.Errorf("%d: headers %v", size, response.Header)
			}
		}
	}
}

// An outcome that is not ok cuts the body off, behind what came before. When nothing came, the headers tell why.
func TestRawNotOK(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		name, target, rest string
		body, reason       string // reason: in the headers
	}{
		{"refused", nettest.Refused(t).String(), "", "", "REASON_CONNECTION_REFUSED"},
		{"silent", nettest.TCP(t, nettest.Silent).String(), `, "timeout": "0.05s"`, "", "REASON_RECEIVE_TIMEOUT"},
		{"reset", nettest.TCP(t, nettest.SendThenReset(1, []byte("half a li"))).String(), `, "text": "x", "holdOpen": true`, "half a li", ""},
		{"too early", nettest.TCP(t, nettest.Reply([]byte("four"))).String(), `, "steps": [{"halfClose": {}}, {"receive": {"length": "5"}}]`, "four", ""},
		{"no such name", "nosuch.test:80", "", "", "REASON_NAME_NOT_FOUND"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			response := w.send(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q%s}`, tt.target, tt.rest), "Accept", "application/octet-stream")
			text, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusOK || string(text) != tt.body || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, %q, %v; want 200, %q and a body that is cut off", response.Status, text, err, tt.body)
			}
			wantOK := ""
			if tt.reason != "" {
				wantOK = "false"
			}
			if ok, reason := response.Header.Get("Probe-Ok"), response.Header.Get("Probe-Reason"); ok != wantOK || reason != tt.reason {
				t.Errorf("Probe-Ok %q, Probe-Reason %q; want %q, %q", ok, reason, wantOK, tt.reason)
			}
		})
	}
}

// A body of HTTP/1.0 cannot be cut off, so there an exchange that fails halfway would look like one that went well.
func TestRawNeedsHTTP11(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply([]byte("half")))
	for accept, want := range map[string]string{
		"application/octet-stream":                             "406 Not Acceptable",
		"application/octet-stream, application/x-ndjson;q=0.1": "200 OK",
		"text/event-stream":                                    "200 OK",
	} {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"target": %q}`, peer)
		if _, err := fmt.Fprintf(conn, "POST /v1/exchange HTTP/1.0\r\nHost: localhost\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s", accept, len(body), body); err != nil {
			t.Fatal(err)
		}
		text := readAll(t, conn)
		if !strings.HasPrefix(text, "HTTP/1.0 "+want+"\r\n") || strings.Contains(text, "HTTP/1.1") != (want != "200 OK") {
			t.Errorf("%s: %s; want %s", accept, text, want)
		}
	}
}

// Nothing is compressed, whatever the client would take: an event that is held back until there is enough to compress is
// not seen when it happens.
func TestNothingIsCompressed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply(bytes.Repeat([]byte("compressible "), 10_000)))
	exchange := fmt.Sprintf(`{"target": %q}`, peer)
	for _, tt := range []struct{ method, path, body, accept string }{
		{"POST", "/v1/exchange", exchange, formatLines},
		{"POST", "/v1/exchange", exchange, formatJSON},
		{"POST", "/v1/exchange", exchange, formatRaw},
		{"POST", "/v1/exchange", exchange, formatEvents},
		{"POST", "/v1/connect", exchange, "*/*"},
		{"GET", "/v1/services?pageSize=1000", "", "*/*"},
		{"GET", "/openapi.json", "", "*/*"},
		{"GET", "/nowhere", "", "*/*"},
	} {
		response, text := w.ask(t, tt.method, tt.path, tt.body, "Accept", tt.accept, "Accept-Encoding", "gzip, deflate, br, zstd, *")
		if response.Header.Get("Content-Encoding") != "" || len(response.TransferEncoding) > 1 || strings.HasPrefix(text, "\x1f\x8b") || text == "" {
			t.Errorf("%s, %s: %v, %.20q", tt.path, tt.accept, response.Header, text)
		}
	}
}

// A datagram without bytes is an answer too.
func TestRawEmptyDatagram(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.UDP(t, nettest.EchoPacket)
	response, text := w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": "udp://%s"}`, peer), "Accept", "application/octet-stream")
	if text != "" || response.Trailer.Get("Probe-Ok") != "true" {
		t.Errorf("%q, %v", text, response.Trailer)
	}
}

// Server-sent events, as the HTML standard has them parsed: each has a type and one line of data.
func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply([]byte("data: \r\n\nevent: x\n\n")))
	response, text := w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q, "text": "x"}`, peer), "Accept", "text/event-stream")
	if response.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%v", response.Header)
	}
	var kinds []string
	for block := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		event, data, ok := strings.Cut(block, "\n")
		kind, isEvent := strings.CutPrefix(event, "event: ")
		value, isData := strings.CutPrefix(data, "data: ")
		if !ok || !isEvent || !isData || strings.Contains(value, "\n") {
			t.Fatalf("%q", block)
		}
		message := &probev1.ExchangeResponse{}
		if err := protojson.Unmarshal([]byte(value), message); err != nil || kindOf(message) != kind {
			t.Errorf("%s: %v: %s", kind, err, value)
		}
		kinds = append(kinds, kind)
	}
	if got, want := strings.Join(kinds, " "), "resolved attempt connected sent chunk peerClosed outcome"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// When probed itself breaks off, each format says so in its own way, and none looks complete.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	for _, format := range []string{formatLines, formatRaw, formatEvents} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			peer := nettest.TCP(t, func(c net.Conn) {
				_, _ = c.Write([]byte("begun\n"))
				nettest.Silent(c)
			})
			response := w.send(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q}`, peer), "Accept", format)
			reader := bufio.NewReader(response.Body)
			if _, err := reader.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			_ = w.gateway.Close()
			rest, err := io.ReadAll(reader)
			switch format {
			case formatRaw:
				if !errors.Is(err, io.ErrUnexpectedEOF) || len(rest) > 0 {
					t.Errorf("%q, %v", rest, err)
				}
			case formatEvents:
				_, last, _ := strings.Cut(string(rest), "event: error\ndata: ")
				if e := parseError(t, last); err != nil || e.Code != 14 || e.reason() != "ERROR_REASON_UNAVAILABLE" {
					t.Errorf("%q, %v", rest, err)
				}
			default:
				lines := strings.Split(strings.TrimSpace(string(rest)), "\n")
				var last struct {
					Error json.RawMessage `json:"error"`
				}
				if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
					t.Fatalf("%v: %q", err, rest)
				}
				if e := parseError(t, string(last.Error)); err != nil || e.Code != 14 || e.reason() != "ERROR_REASON_UNAVAILABLE" {
					t.Errorf("%q, %v", rest, err)
				}
			}
		})
	}
}

// A client that does not read holds up the peer, and gets every byte when it does.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const size = 20 << 20
	sent := make(chan int64, 1)
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(func(c net.Conn) {
		nettest.Flood(size)(c)
		sent <- tally.Sent.Load()
	}))
	response := w.send(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q}`, peer), "Accept", "application/octet-stream")
	// Buffers fill, and then the peer's writes block: it stays at one number.
	held := int64(-1)
	for tick := time.NewTicker(100 * time.Millisecond); held != tally.Sent.Load(); <-tick.C {
		held = tally.Sent.Load()
	}
	if held >= size {
		t.Errorf("the peer sent all of %d bytes, and nobody read", size)
	}
	// The sequence repeats every 251 bytes, so a long enough piece of it holds what is wanted at any offset.
	sequence := nettest.Data(251 + 64<<10)
	got := 0
	for buffer := make([]byte, 64<<10); ; {
		n, err := response.Body.Read(buffer)
		if !bytes.Equal(buffer[:n], sequence[got%251:][:n]) {
			t.Fatalf("other bytes than the peer's between %d and %d", got, got+n)
		}
		got += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got != size || response.Trailer.Get("Probe-Ok") != "true" {
		t.Errorf("%d of %d bytes, trailers %v", got, size, response.Trailer)
	}
	if n := <-sent; n != size {
		t.Errorf("the peer sent %d", n)
	}
}
