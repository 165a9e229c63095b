package exchange

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Each reason has a name, a layer where one is meant, and a hint; no two are alike.
func TestReasons(t *testing.T) {
	t.Parallel()
	if len(reasons) != int(MessageTooLarge)+1 {
		t.Fatalf("%d reasons, the last is %d", len(reasons), MessageTooLarge)
	}
	name := regexp.MustCompile(`^[A-Z]+(_[A-Z]+)*$`)
	names, hints := make(map[string]Reason), make(map[string]Reason)
	layerless := map[Reason]bool{None: true, PolicyDenied: true, LimitReached: true, Cancelled: true, Drained: true, Internal: true}
	for i, r := range reasons {
		reason := Reason(i)
		if !name.MatchString(r.name) || reason.String() != r.name {
			t.Errorf("reason %d is called %q", i, reason)
		}
		if other, ok := names[r.name]; ok {
			t.Errorf("reasons %d and %d are both called %s", other, i, r.name)
		}
		names[r.name] = reason
		if (r.layer == LayerNone) != layerless[reason] {
			t.Errorf("%v is of layer %d", reason, r.layer)
		}
		if reason == None {
			if r.hint != "" {
				t.Errorf("what did not fail has the hint %q", r.hint)
			}
			continue
		}
		if len(r.hint) < 20 || !strings.ContainsAny(r.hint[len(r.hint)-1:], ".?") {
			t.Errorf("%v has the hint %q", reason, r.hint)
		}
		if other, ok := hints[r.hint]; ok {
			t.Errorf("%v and %v have the same hint", other, reason)
		}
		hints[r.hint] = reason
	}
	for reason, want := range map[Reason]string{-1: "REASON(-1)", Reason(len(reasons)): fmt.Sprintf("REASON(%d)", len(reasons))} {
		if reason.String() != want {
			t.Errorf("%q, want %q", reason, want)
		}
	}
}

// The enums have the names and numbers of the contract.
func TestContractEnums(t *testing.T) {
	t.Parallel()
	proto, err := os.ReadFile("../../api/proto/probe/v1/outcome.proto")
	if err != nil {
		t.Fatal(err)
	}
	values := func(enum, prefix string) map[string]int {
		body := regexp.MustCompile(`(?s)enum ` + enum + ` \{(.*?)\n\}`).FindSubmatch(proto)
		if body == nil {
			t.Fatalf("no enum %s in the contract", enum)
		}
		all := make(map[string]int)
		for _, m := range regexp.MustCompile(prefix+`_(\w+) = (\d+);`).FindAllSubmatch(body[1], -1) {
			all[string(m[1])], _ = strconv.Atoi(string(m[2]))
		}
		return all
	}
	contract := values("Reason", "REASON")
	if len(contract) != len(reasons) {
		t.Errorf("%d reasons, %d in the contract", len(reasons), len(contract))
	}
	for i, r := range reasons {
		if number, ok := contract[r.name]; !ok || number != i {
			t.Errorf("%s is %d, in the contract %d", r.name, i, number)
		}
	}
	for _, tt := range []struct {
		enum, prefix string
		want         map[string]int
	}{
		{"Phase", "PHASE", map[string]int{"UNSPECIFIED": int(PhaseNone), "RESOLVE": int(PhaseResolve), "POLICY": int(PhasePolicy),
			"CONNECT": int(PhaseConnect), "TLS": int(PhaseTLS), "SEND": int(PhaseSend), "RECEIVE": int(PhaseReceive), "CLOSE": int(PhaseClose)}},
		{"Layer", "LAYER", map[string]int{"UNSPECIFIED": int(LayerNone), "LINK": int(LayerLink), "INTERNET": int(LayerInternet),
			"TRANSPORT": int(LayerTransport), "APPLICATION": int(LayerApplication)}},
		{"EndedBy", "ENDED_BY", map[string]int{"UNSPECIFIED": int(EndedByNone), "PEER_CLOSED": int(EndedByPeerClosed), "LENGTH": int(EndedByLength),
			"DELIMITER": int(EndedByDelimiter), "IDLE": int(EndedByIdle), "COUNT": int(EndedByCount), "MAX_BYTES": int(EndedByMaxBytes),
			"DEADLINE": int(EndedByDeadline), "LAST_STEP": int(EndedByLastStep)}},
	} {
		if got := values(tt.enum, tt.prefix); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %v, in the contract %v", tt.enum, tt.want, got)
		}
	}
}

func TestReasonsOfErrnos(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]Reason{
		unix.ECONNREFUSED: ConnectionRefused, unix.ETIMEDOUT: ConnectTimeout, unix.EHOSTUNREACH: HostUnreachable,
		unix.ENETUNREACH: NetworkUnreachable, unix.EINVAL: NetworkUnreachable, unix.EPERM: DeniedLocally, unix.EACCES: DeniedLocally,
		unix.EADDRNOTAVAIL: AddressUnavailable, unix.EAFNOSUPPORT: AddressUnavailable, unix.ECONNRESET: ConnectionReset,
		unix.EPIPE: BrokenPipe, unix.ENOENT: SocketNotFound, unix.EPROTOTYPE: WrongSocketType, unix.EMSGSIZE: MessageTooLarge,
		unix.EMFILE: LimitReached, unix.EIO: Internal,
	} {
		reason, number, text := fromErrno(fmt.Errorf("dial: %w", os.NewSyscallError("connect", errno)))
		if reason != want || number != int(errno) || text != errno.Error() {
			t.Errorf("%v: %v, %d, %q; want %v", errno, reason, number, text, want)
		}
	}
	if reason, number, text := fromErrno(errors.New("odd")); reason != Internal || number != 0 || text != "odd" {
		t.Errorf("%v, %d, %q", reason, number, text)
	}
	// On an open connection ETIMEDOUT is that segments went unacknowledged.
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	near, _ := socketPair(t, unix.SOCK_STREAM)
	s := &session{request: &Request{}, ctx: ctx, callerCtx: ctx, conn: newConn(near, Target{Scheme: "unix"}, &buffers{})}
	for phase, want := range map[Phase]Reason{PhaseSend: SendTimeout, PhaseReceive: ReceiveTimeout} {
		if f := s.ioFailure(phase, unix.ETIMEDOUT); f.reason != want || f.errno != int(unix.ETIMEDOUT) || f.deadline {
			t.Errorf("phase %d: %+v, want %v", phase, f, want)
		}
	}
}

func TestErrnoName(t *testing.T) {
	t.Parallel()
	for errno, want := range map[int]string{0: "", int(unix.ECONNREFUSED): "ECONNREFUSED", int(unix.EPERM): "EPERM", 99999: ""} {
		if got := ErrnoName(errno); got != want {
			t.Errorf("%d: %q, want %q", errno, got, want)
		}
	}
}
