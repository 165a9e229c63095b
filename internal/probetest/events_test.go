package probetest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// noting is a test that keeps what would have failed it.
type noting struct {
	testing.TB
	errors []string
}

func (n *noting) Error(args ...any)            { n.errors = append(n.errors, fmt.Sprint(args...)) }
func (n *noting) Errorf(f string, args ...any) { n.errors = append(n.errors, fmt.Sprintf(f, args...)) }

func at(ms int) *durationpb.Duration {
	return durationpb.New(time.Duration(ms) * time.Millisecond)
}

// good is an exchange of which everything is true: five bytes each way.
func good() []*probev1.ExchangeResponse {
	attempt := &probev1.Attempt{Address: "192.0.2.1:7", Ok: true, Duration: at(1)}
	return []*probev1.ExchangeResponse{
		{Event: &probev1.ExchangeResponse_Resolved{Resolved: &probev1.Resolved{}}},
		{Event: &probev1.ExchangeResponse_Attempt{Attempt: attempt}},
		{Event: &probev1.ExchangeResponse_Connected{Connected: &probev1.Connected{}}},
		{Event: &probev1.ExchangeResponse_Sent{Sent: &probev1.Sent{Bytes: 5, Elapsed: at(2)}}},
		{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{Data: []byte{0, 1, 2}, Elapsed: at(3)}}},
		{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{Data: []byte{3, 4}, Offset: 3, Elapsed: at(4)}}},
		{Event: &probev1.ExchangeResponse_PeerClosed{PeerClosed: &probev1.PeerClosed{Elapsed: at(5)}}},
		{Event: &probev1.ExchangeResponse_Outcome{Outcome: &probev1.Outcome{
			Ok: true, Phase: probev1.Phase_PHASE_CLOSE, EndedBy: probev1.EndedBy_ENDED_BY_PEER_CLOSED, BytesSent: 5, BytesReceived: 5,
			Chunks: 2, BytesAcknowledged: proto.Uint64(5), Remote: attempt.Address, Attempts: []*probev1.Attempt{attempt},
			Timings: &probev1.Timings{Total: at(6)},
		}}},
	}
}

// Whatever is not as it should be is found.
func TestEvents(t *testing.T) {
	t.Parallel()
	type stream = []*probev1.ExchangeResponse
	last := func(s stream) *probev1.Outcome { return s[len(s)-1].GetOutcome() }
	failed := func(s stream, phase probev1.Phase, reason probev1.Reason) *probev1.Outcome {
		o := last(s)
		o.Ok, o.Phase, o.Reason, o.Error, o.Hint, o.EndedBy = false, phase, reason, "error", "hint", probev1.EndedBy_ENDED_BY_UNSPECIFIED
		return o
	}
	for _, tt := range []struct {
		name   string
		change func(stream) stream
		peer   [2]int64 // what the peer received and sent, beyond what is true
		end    error    // nil: io.EOF
		want   string   // in the one error; empty: there is none
	}{
		{name: "all is well"},
		{name: "broken off", change: func(s stream) stream { return s[:5] }, end: errors.New("a status")},
		{name: "no outcome", change: func(s stream) stream { return s[:5] }, want: "5 events, and no outcome"},
		{name: "nothing at all", change: func(stream) stream { return nil }, want: "0 events, and no outcome"},
		{name: "an event after it", change: func(s stream) stream { return append(s, s[0]) }, want: "after the outcome"},
		{name: "an event of no kind", change: func(s stream) stream { s[0].Event = nil; return s }, want: "of no kind"},
		{name: "resolved late", change: func(s stream) stream { s[0], s[1] = s[1], s[0]; return s }, want: "resolved is event 2"},
		{name: "an attempt untold", change: func(s stream) stream { last(s).Attempts = nil; return s }, want: "1 attempts were told, outcome: 0"},
		{name: "an attempt that disagrees", change: func(s stream) stream { last(s).Attempts[0].Ok = false; return s }, want: "attempt"},
		{name: "connected twice", change: func(s stream) stream { s[3] = s[2]; last(s).BytesSent = 0; last(s).BytesAcknowledged = nil; return s }, want: "connected after 1 attempts, before: true"},
		{name: "connected to nobody", change: func(s stream) stream { last(s).Remote = ""; return s }, want: "connected: true, remote"},
		{name: "closed twice", change: func(s stream) stream { return append(s[:7], s[6], s[7]) }, want: "closed twice"},
		{name: "a chunk after the end", change: func(s stream) stream { s[5], s[6] = s[6], s[5]; return s }, want: "a chunk after the peer closed"},
		{name: "a gap", change: func(s stream) stream { s[5].GetChunk().Offset = 4; return s }, want: "offset 4, after 3"},
		{name: "another byte", change: func(s stream) stream { s[5].GetChunk().Data[0]++; return s }, want: "byte 3 is 4, want 3"},
		{name: "an empty chunk", change: func(s stream) stream { s[5].GetChunk().Data = nil; last(s).BytesReceived = 3; return s }, peer: [2]int64{0, -2}, want: "a chunk of 0 bytes"},
		{name: "too large a chunk", change: func(s stream) stream {
			s[4].GetChunk().Data = []byte{0, 1, 2, 3}
			s[5].GetChunk().Data, s[5].GetChunk().Offset = []byte{4}, 4
			return s
		}, want: "a chunk of 4 bytes, of a buffer of 3"},
		{name: "back in time", change: func(s stream) stream { s[5].GetChunk().Elapsed = at(2); return s }, want: "a chunk of 2ms after one of 3ms"},
		{name: "closed before sent", change: func(s stream) stream { s[6].GetPeerClosed().Elapsed = at(1); return s }, want: "an event of 1ms after one of 2ms"},
		{name: "longer than it took", change: func(s stream) stream { s[5].GetChunk().Elapsed = at(7); return s }, want: "in 6ms"},
		{name: "a byte less", change: func(s stream) stream { last(s).BytesReceived = 4; return s }, want: "5 bytes in 2 chunks came; outcome: 4 in 2"},
		{name: "a chunk less", change: func(s stream) stream { last(s).Chunks = 1; return s }, want: "outcome: 5 in 1"},
		{name: "another number sent", change: func(s stream) stream { last(s).BytesSent = 6; return s }, peer: [2]int64{1, 0}, want: "sent events: 5 bytes; outcome: 6"},
		{name: "more acknowledged", change: func(s stream) stream { last(s).BytesAcknowledged = proto.Uint64(6); return s }, want: "6 bytes acknowledged of 5"},
		{name: "the peer received more", peer: [2]int64{1, 0}, want: "the peer received 6 bytes of 5"},
		{name: "the peer sent more", peer: [2]int64{0, 1}, want: "the peer sent 6 bytes, 5 came"},
		{name: "ok with a reason", change: func(s stream) stream { last(s).Reason = probev1.Reason_REASON_DRAINED; return s }, want: "ok true, reason REASON_DRAINED"},
		{name: "ok amid", change: func(s stream) stream { last(s).Phase = probev1.Phase_PHASE_RECEIVE; return s }, want: "ok true in PHASE_RECEIVE"},
		{name: "ok by nothing", change: func(s stream) stream { last(s).EndedBy = 0; return s }, want: "ok true, ENDED_BY_UNSPECIFIED"},
		{name: "ok with a failed step", change: func(s stream) stream { last(s).FailedStep = proto.Uint32(0); return s }, want: "step 0 failed"},
		{name: "in no time", change: func(s stream) stream { last(s).Timings.Total = nil; return s }, want: "it took 0s"},
		{name: "a failure", change: func(s stream) stream {
			failed(s, probev1.Phase_PHASE_RECEIVE, probev1.Reason_REASON_CONNECTION_RESET)
			return s
		}},
		{name: "a reason of no list", change: func(s stream) stream { failed(s, probev1.Phase_PHASE_RECEIVE, 99); return s }, want: "not all are of the lists"},
		{name: "a bug", change: func(s stream) stream {
			failed(s, probev1.Phase_PHASE_RECEIVE, probev1.Reason_REASON_INTERNAL)
			return s
		}, want: "INTERNAL, which is a bug"},
		{name: "a failure without a word", change: func(s stream) stream {
			failed(s, probev1.Phase_PHASE_RECEIVE, probev1.Reason_REASON_CONNECTION_RESET).Hint = ""
			return s
		}, want: "hint \"\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all := good()
			if tt.change != nil {
				all = tt.change(all)
			}
			var peer nettest.Tally
			peer.Received.Store(5 + tt.peer[0])
			peer.Sent.Store(5 + tt.peer[1])
			e := Events{Peer: &peer, Data: true}
			e.Of(&probev1.ExchangeRequest{BufferSize: 3})
			notes := &noting{TB: t}
			for _, event := range all {
				e.Take(notes, event)
			}
			end := tt.end
			if end == nil {
				end = io.EOF
			}
			e.End(notes, end)
			if !errors.Is(e.Err, tt.end) {
				t.Errorf("it ended with %v", e.Err)
			}
			found := strings.Join(notes.errors, "\n")
			if tt.want == "" && found != "" || !strings.Contains(found, tt.want) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}

// Of a session there is one record.
func TestCheckAudit(t *testing.T) {
	t.Parallel()
	begin, end := Record{Event: "begin", ID: "1"}, Record{Event: "end", ID: "1", RPC: "/probe.v1.ExchangeService/Connect"}
	for _, tt := range []struct {
		name     string
		records  []Record
		outcomes int
		want     string
	}{
		{"one", []Record{begin, end}, 1, ""},
		{"none", nil, 0, ""},
		{"no end", []Record{begin}, 0, "has no end"},
		{"two ends", []Record{begin, end, end}, 0, "ended before: true"},
		{"two begins", []Record{begin, begin, end}, 0, "begins twice"},
		{"no begin", []Record{end}, 0, "begun: false"},
		{"too few", []Record{begin, end}, 2, "2 outcomes were told, and 1 sessions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			notes := &noting{TB: t}
			CheckAudit(notes, tt.records, tt.outcomes)
			found := strings.Join(notes.errors, "\n")
			if tt.want == "" && found != "" || !strings.Contains(found, tt.want) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}
