package exchange

import "bytes"

// firstWords is the beginning of what was said each way in plain text, as far as it can tell that one end means TLS.
type firstWords struct{ sent, received []byte }

const (
	mostSentWords     = 3
	mostReceivedWords = 1 << 10 // the page of a web server that complains
)

func (s *session) noteSent(data []byte) {
	if room := mostSentWords - len(s.words.sent); room > 0 {
		s.words.sent = append(s.words.sent, data[:min(len(data), room)]...)
	}
}

// noteReceived takes the first chunk.
func (s *session) noteReceived(data []byte) {
	if isAlert(data) || isBadRequest(data) {
		s.words.received = bytes.Clone(data[:min(len(data), mostReceivedWords)])
	}
}

// misunderstood is the fault of a step, or none, in the light of what the peer's first words have shown: it speaks TLS,
// and was spoken to in plain text.
func (s *session) misunderstood(fault *failure) *failure {
	if fault != nil {
		switch fault.reason {
		case ExpectFailed, PeerClosedEarly, ConnectionReset, BrokenPipe, ReceiveTimeout, SendTimeout:
		default:
			return fault
		}
	}
	switch {
	case s.words.wantTLS():
		return &failure{
			phase: PhaseReceive, reason: TLSNotSpoken,
			text: "the peer speaks TLS, and was spoken to in plain text: it answered " + excerpt(s.words.received),
			hint: hintWantsTLS,
		}
	case fault != nil && fault.reason == PeerClosedEarly && s.hungUp():
		fault.hint = hintHungUp
	}
	return fault
}

// hungUp tells whether the peer has not said a word, and had heard us in plain text. So do most TLS servers with it, and
// so does much else: only asking in TLS could tell, and an exchange says nothing that it was not asked to say.
func (s *session) hungUp() bool {
	return s.outcome.BytesReceived == 0 && len(s.words.sent) > 0 && s.conn.secured == nil && !s.request.Target.HasMessages()
}

// wantTLS tells whether the peer answered with a TLS alert, or, as a web server, with a page that says so. To whoever
// speaks TLS by hand an alert is an answer like any other.
func (w *firstWords) wantTLS() bool {
	if len(w.received) == 0 || len(w.sent) >= 2 && looksLikeTLS(w.sent) {
		return false
	}
	if isAlert(w.received) {
		return true
	}
	for _, complaint := range []string{
		"The plain HTTP request was sent to HTTPS port",  // nginx
		"Client sent an HTTP request to an HTTPS server", // Go
		"speaking plain HTTP to an SSL-enabled server",   // Apache
	} {
		if bytes.Contains(w.received, []byte(complaint)) {
			return true
		}
	}
	return false
}

// isAlert tells whether data begins with a TLS alert in plain text (RFC 8446, section 6): its type, version and length.
func isAlert(data []byte) bool {
	return len(data) >= 7 && data[0] == 21 && data[1] == 3 && data[3] == 0 && data[4] == 2
}

func isBadRequest(data []byte) bool {
	return bytes.HasPrefix(data, []byte("HTTP/1.")) && bytes.HasPrefix(data[min(8, len(data)):], []byte(" 400 "))
}
