package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	probev1 "probed/gen/probe/v1"
)

// story tells an exchange to a person: one entry for each event, with a word at the left that says which.
type story struct {
	printer *printer
	steps   []string // as they were typed
	now     time.Time
}

// tell prints one event. The error is that of the output.
func (s *story) tell(event *probev1.ExchangeResponse) error {
	switch e := event.GetEvent().(type) {
	case *probev1.ExchangeResponse_Resolved:
		s.entry("resolved", resolvedLine(e.Resolved))
	case *probev1.ExchangeResponse_Attempt:
		s.entry("attempt", attemptLine(e.Attempt))
	case *probev1.ExchangeResponse_Connected:
		c := e.Connected
		s.entry("connected", fmt.Sprintf("from %s to %s (%s, %s, %s)", orUnnamed(c.GetLocal()), c.GetRemote(), c.GetFamily(), c.GetType(), c.GetProtocol()))
	case *probev1.ExchangeResponse_Tls:
		s.entry("tls", tlsLines(e.Tls, s.now)...)
	case *probev1.ExchangeResponse_Sent:
		s.entry("sent", fmt.Sprintf("%s at %s", bytesText(e.Sent.GetBytes()), span(e.Sent.GetElapsed())))
	case *probev1.ExchangeResponse_Chunk:
		s.chunk(e.Chunk)
	case *probev1.ExchangeResponse_PeerClosed:
		line := "by the peer at " + span(e.PeerClosed.GetElapsed())
		if e.PeerClosed.GetUnclean() {
			line += ", without TLS saying so (no close_notify): what came may have been cut off"
		}
		s.entry("closed", line)
	case *probev1.ExchangeResponse_Outcome:
		s.entry("outcome", outcomeLines(e.Outcome, s.steps)...)
		traceBelow(s.printer, e.Outcome.GetResolution().GetTrace())
	}
	return s.printer.failure()
}

// entry prints lines behind a word.
func (s *story) entry(word string, lines ...string) {
	for _, line := range lines {
		s.printer.told(fmt.Sprintf("%-9s  ", word), line)
		word = ""
	}
}

// chunk prints the data as what it is, so that nothing in it can pass for an entry: each line of it stands behind a bar.
func (s *story) chunk(c *probev1.Chunk) {
	line := fmt.Sprintf("%s at offset %d at %s", bytesText(uint64(len(c.GetData()))), c.GetOffset(), span(c.GetElapsed()))
	if d := c.GetDatagram(); d != nil {
		line += ", a message from " + orUnnamed(d.GetPeer())
		if d.GetTruncated() {
			line += fmt.Sprintf(", cut off: it had %s", bytesText(d.GetLength()))
		}
	}
	s.entry("chunk", line)
	s.printer.bytes("  | ", c.GetData())
}

func resolvedLine(r *probev1.Resolved) string {
	line := r.GetHost()
	if name := r.GetCanonicalName(); name != "" && name != r.GetHost() {
		line += ", which is " + name + ","
	}
	line += " to " + strings.Join(r.GetAddresses(), ", ")
	if r.GetSource() == "literal" {
		return r.GetHost() + ", an address"
	}
	return line + fmt.Sprintf(" (%s, %s)", r.GetSource(), span(r.GetDuration()))
}

func attemptLine(a *probev1.Attempt) string {
	if a.GetOk() {
		return fmt.Sprintf("%s: ok in %s", a.GetAddress(), span(a.GetDuration()))
	}
	line := fmt.Sprintf("%s: %s after %s: %s", a.GetAddress(), short("REASON_", a.GetReason()), span(a.GetDuration()), a.GetError())
	if a.GetIcmp() != nil {
		line += "; by ICMP " + icmpLine(a.GetIcmp())
	}
	return line
}

func icmpLine(i *probev1.IcmpError) string {
	return fmt.Sprintf("%s says: %s (type %d, code %d)", i.GetFrom(), i.GetMeaning(), i.GetType(), i.GetCode())
}

func routeLine(r *probev1.NetworkRoute) string {
	line := fmt.Sprintf("from %s by %s", r.GetSource(), r.GetInterface())
	if r.GetGateway() != "" {
		line += " through " + r.GetGateway()
	}
	return line + fmt.Sprintf(", mtu %d", r.GetMtu())
}

// outcomeLines is how an exchange ended: what happened, what it usually means, and the numbers.
func outcomeLines(o *probev1.Outcome, steps []string) []string {
	lines := []string{"ok, ended by " + short("ENDED_BY_", o.GetEndedBy())}
	if !o.GetOk() {
		lines = failureLines(o, steps)
	}
	if o.GetRemote() != "" {
		line := "sent " + bytesText(o.GetBytesSent())
		if o.BytesAcknowledged != nil {
			line += fmt.Sprintf(" (%d acknowledged)", o.GetBytesAcknowledged())
		}
		line += fmt.Sprintf(", received %s in %d %s", bytesText(o.GetBytesReceived()), o.GetChunks(), plural(o.GetChunks(), "chunk"))
		if n := o.GetBytesUnread(); n > 0 {
			line += fmt.Sprintf("; %s more came that no step took", bytesText(n))
		}
		lines = append(lines, line)
	}
	return append(lines, pathLines(o)...)
}

// failureLines is why an exchange failed and what that usually means.
func failureLines(o *probev1.Outcome, steps []string) []string {
	lines := []string{"failed: " + failureLine(o, steps)}
	lines = append(lines, receivedLines(o.GetFailedStepReceived())...)
	lines = append(lines, wrap("hint: "+o.GetHint(), 85)...)
	if o.GetIcmp() != nil {
		lines = append(lines, "icmp: "+icmpLine(o.GetIcmp()))
	}
	return lines
}

// pathLines is the way to the peer and how long things took.
func pathLines(o *probev1.Outcome) []string {
	var lines []string
	if o.GetRoute() != nil {
		lines = append(lines, "route: "+routeLine(o.GetRoute()))
	}
	if line := timingsLine(o.GetTimings()); line != "" {
		lines = append(lines, line)
	}
	if i := o.GetTcpInfo(); i != nil {
		lines = append(lines, fmt.Sprintf("round trip %s, %d %s, mss %d, path mtu %d", span(i.GetRtt()),
			i.GetRetransmits(), plural(uint64(i.GetRetransmits()), "retransmit"), i.GetMss(), i.GetPmtu()))
	}
	return lines
}

// failureLine is why an exchange failed, in one line.
func failureLine(o *probev1.Outcome, steps []string) string {
	line := fmt.Sprintf("%s in phase %s", short("REASON_", o.GetReason()), short("PHASE_", o.GetPhase()))
	if i := int(o.GetFailedStep()); o.FailedStep != nil && i < len(steps) {
		line += fmt.Sprintf(", step %s", steps[i])
	}
	if o.GetLayer() != probev1.Layer_LAYER_UNSPECIFIED {
		line += fmt.Sprintf(", layer %s", short("LAYER_", o.GetLayer()))
	}
	line += ": " + o.GetError()
	if name := o.GetErrnoName(); name != "" {
		line += " (" + name + ")"
	}
	return line
}

// receivedLines is what had come while a step waited that failed, a line for each line of it.
func receivedLines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	lines := []string{fmt.Sprintf("while it waited, this came (the last %s):", bytesText(uint64(len(data))))}
	for line := range bytes.Lines(data) {
		shown, _ := appendVisible([]byte("| "), line, allEscaped, true)
		lines = append(lines, string(shown))
	}
	return lines
}

// timingsLine leaves out the phases that were not reached.
func timingsLine(t *probev1.Timings) string {
	var parts []string
	for _, phase := range []struct {
		name string
		took string
	}{
		{"resolve", span(t.GetResolve())}, {"connect", span(t.GetConnect())}, {"tls", span(t.GetTls())},
		{"first byte", span(t.GetFirstByte())}, {"total", span(t.GetTotal())},
	} {
		if phase.took != "" {
			parts = append(parts, phase.name+" "+phase.took)
		}
	}
	return strings.Join(parts, ", ")
}

func bytesText(n uint64) string { return fmt.Sprintf("%d %s", n, plural(n, "byte")) }

func plural(n uint64, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// orUnnamed stands in for the address that a unix socket need not have.
func orUnnamed(address string) string {
	if address == "" {
		return "an unnamed socket"
	}
	return address
}

// wrap breaks text between words into lines of at most width characters, where its words allow that.
func wrap(text string, width int) []string {
	var lines []string
	line, length := "", 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		if length > 0 && length+1+n > width {
			lines = append(lines, line)
			line, length = "", 0
		}
		if length > 0 {
			line, length = line+" ", length+1
		}
		line, length = line+word, length+n
	}
	return append(lines, line)
}
