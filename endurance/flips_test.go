package endurance

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// flipping is names whose address is another one each time it is asked for, one that is allowed and one that is denied in
// turn. Each name is asked for once by a probed that connects to what it has been told and judged, and twice by one that does not.
type flipping struct {
	denied []deniedVector

	mu    sync.Mutex
	asked map[string]int // for its address, by name
}

// name is that of number i. An even one begins with an address that is allowed.
func (f *flipping) name(i int) string { return fmt.Sprintf("flip-%d.example.", i) }

func (f *flipping) answer(x *nettest.DNSExchange) {
	label, _, _ := strings.Cut(x.Name, ".")
	_, number, _ := strings.Cut(label, "-")
	i, err := strconv.Atoi(number)
	if err != nil {
		sendAddresses(x)
		return
	}
	good, bad := netip.MustParseAddr(allowed4), f.denied[i/4%len(f.denied)].address
	if i/2%2 == 1 || bad.Is6() {
		good, bad = netip.MustParseAddr(allowed6), netip.AddrFrom16(bad.As16())
	}
	if good.Is4() == (x.Type == dns.TypeA) {
		f.mu.Lock()
		turn := i + f.asked[x.Name]
		f.asked[x.Name]++
		f.mu.Unlock()
		if turn%2 == 1 {
			good = bad
		}
	}
	sendAddresses(x, good)
}

// times tells how often a name was asked for its address.
func (f *flipping) times(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[name]
}

// What has been judged is what is connected to, also when the next answer to the same name would be another address.
func TestFlipsAreNeverDialled(t *testing.T) {
	flips := promise.Times(1000, 10_000)
	f := &flipping{asked: make(map[string]int)}
	for _, v := range deniedVectors(t) {
		if v.always {
			f.denied = append(f.denied, v)
		}
	}
	e := newEverywhere(t, f.answer)
	p := probetest.Start(t, probetest.Options{In: e.Netns})
	callers := p.Callers()
	var reached, denied, repeated atomic.Int64
	jobs, wait := atOnce(16)
	for i := range flips {
		d, caller, name := dialling[i%len(dialling)], callers[i/len(dialling)%2], f.name(i)
		jobs <- func() {
			err := d.dial(t, caller, name, 0)
			switch {
			case err == nil:
				reached.Add(1)
			case isDenied(err):
				denied.Add(1)
			default:
				t.Errorf("%s, %s, %v: %v", name, d.name, caller, err)
			}
			if n := f.times(name); n != 1 { // an answer was late
				repeated.Add(1)
			} else if (i%2 == 0) != (err == nil) {
				t.Errorf("%s, %s, %v, was told once: %v", name, d.name, caller, err)
			}
		}
	}
	wait()
	e.untouched(t)
	if n := repeated.Load(); n > int64(flips)/100 {
		t.Errorf("%d of %d names were asked for more than once", n, flips)
	}
	if got := e.allowed.Conns.Load(); got < reached.Load() {
		t.Errorf("%d connections and datagrams reached what is allowed, of %d", got, reached.Load())
	}
	promise.NeverDialled.Reached(t, "flips: %d; %d reached what was allowed, %d were denied, 0 connects; %d names were asked for again",
		flips, reached.Load(), denied.Load(), repeated.Load())
	e.control(t, f.denied, 200)
}
