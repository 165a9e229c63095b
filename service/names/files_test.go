package names

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPagesSurviveChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tables := open(t, "a 49152/tcp\nb 49152/tcp\nd 49152/tcp\nz 49200/udp\n", "")
		page, next := tables.Services("", PortClassDynamic, Cursor{}, 2)
		if got, want := brief(page), join("a 49152/tcp [] file", "b 49152/tcp [] file"); got != want {
			t.Fatalf("first page\n%swant\n%s", got, want)
		}
		// The entry that the page ended with goes, others come before and after it.
		write(t, tables.services.path, "0 49152/tcp\na 49152/tcp\nc 49152/tcp\nd 49152/tcp\nz 49200/udp\n")
		time.Sleep(lookAgain)
		page, next = tables.Services("", PortClassDynamic, next, 2)
		if got, want := brief(page), join("c 49152/tcp [] file", "d 49152/tcp [] file"); got != want {
			t.Errorf("second page\n%swant\n%s", got, want)
		}
		page, next = tables.Services("", PortClassDynamic, next, 1000)
		if got, want := brief(page[:1]), join("z 49200/udp [] file"); got != want || next != (Cursor{}) {
			t.Errorf("last page, then %+v\n%swant\n%s", next, got, want)
		}
	})
}

func TestReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tables := open(t, "", "")
		services, protocols := tables.services.path, tables.protocols.path
		step := func(what, wantService, wantProtocol string) {
			t.Helper()
			if got := brief(tables.Service("qq", "")); got != wantService {
				t.Errorf("%s: Service = %q, want %q", what, got, wantService)
			}
			if p, _ := tables.Protocol("qq"); fmt.Sprint(p.Number) != wantProtocol {
				t.Errorf("%s: Protocol = %d, want %s", what, p.Number, wantProtocol)
			}
		}
		rename := func(path, text string) {
			write(t, path+".new", text)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
		step("no file", "", "0")
		write(t, services, "qq 1/tcp\n")
		write(t, protocols, "qq 201\n")
		step("too early to look", "", "0")
		time.Sleep(lookAgain - 1)
		step("a nanosecond too early", "", "0")
		time.Sleep(time.Nanosecond)
		step("the files appear", "qq 1/tcp [] file\n", "201")
		write(t, services, "qq 22/tcp\n")
		time.Sleep(lookAgain)
		step("another size", "qq 22/tcp [] file\n", "201")
		rename(services, "qq 33/tcp\n")
		time.Sleep(lookAgain)
		step("another file of the same size", "qq 33/tcp [] file\n", "201")
		write(t, services, "qq 44/tcp\n")
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(services, later, later); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookAgain)
		step("another time", "qq 44/tcp [] file\n", "201")
		before := tables.current()
		time.Sleep(lookAgain)
		if tables.current() != before {
			t.Error("read again although nothing changed")
		}
		write(t, protocols, "qq 202 # new\n")
		time.Sleep(lookAgain)
		step("the other file", "qq 44/tcp [] file\n", "202")
		if tables.current().services != before.services {
			t.Error("the services were read again although only the protocols changed")
		}
		for _, path := range []string{services, protocols} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(lookAgain)
		step("the files go", "", "0")
		if _, ok := tables.GetServByName("https", "tcp"); !ok {
			t.Error("without files GetServByName does not know https")
		}
	})
}

func TestHugeAndBrokenFiles(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("filler 1/tcp # "+strings.Repeat("x", 1000)+"\n", maxFile/1016+1)
	tests := []struct {
		name, text string
		want       string // What Service("qq", "") finds.
	}{
		{"as much as is read", "qq 1/tcp #" + strings.Repeat("x", maxFile-len("qq 1/tcp #\n")) + "\n", join("qq 1/tcp [] file")},
		{"one byte more", "qq 1/tcp #" + strings.Repeat("x", maxFile-len("qq 1/tcp #\n")+1) + "\n", ""},
		{"the end of a huge file", filler + "qq 1/tcp\n", ""},
		{"the beginning of a huge file", "qq 1/tcp\n" + filler, join("qq 1/tcp [] file")},
		{"a line of a million aliases", "qq 1/tcp" + strings.Repeat(" x", 1_000_000), join("qq 1/tcp [] file")},
		{"the same line 400,000 times", strings.Repeat("qq 1/tcp\n", 400_000), join("qq 1/tcp [] file")},
		{"bytes that are no UTF-8", "\xff\xfe 1/\xff \xff\nqq 1/tcp # \xff.\n", join("qq 1/tcp [] file")},
		{"zeros", strings.Repeat("\x00", 1<<20) + "\nqq 1/tcp\n", join("qq 1/tcp [] file")},
		{"nothing but newlines", strings.Repeat("\n", maxFile-9) + "qq 1/tcp\n", join("qq 1/tcp [] file")},
		{"one long word", strings.Repeat("q", 1<<20), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tables := open(t, tt.text, tt.text)
			got := tables.Service("qq", "")
			for i := range got {
				got[i].Aliases = nil
			}
			if brief(got) != tt.want {
				t.Errorf("got %s, want %s", brief(got), tt.want)
			}
			if got, ok := tables.Protocol("6"); !ok || got.Name != "tcp" {
				t.Errorf("Protocol(6) = %+v", got)
			}
		})
	}
}

func TestInvalidUTF8IsReplaced(t *testing.T) {
	t.Parallel()
	tables := open(t, "a\xff 50000/tcp b\xfe # c\xfd\n", "")
	got := tables.Port(50000, "")
	want := []Service{{Name: "a\uFFFD", Port: 50000, Protocol: "tcp", Aliases: []string{"b\uFFFD"}, Description: "c\uFFFD", Source: SourceFile}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestConcurrentLookups(t *testing.T) {
	t.Parallel()
	tables := open(t, "qq 1/tcp\n", "qq 201\n")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got := tables.Service("qq", "tcp")
				if len(got) != 1 || got[0].Port != 1 && got[0].Port != 2 {
					t.Errorf("Service = %+v", got)
					return
				}
				tables.Port(22, "")
				tables.Services("sctp", PortClassSystem, Cursor{}, 10)
				if p, ok := tables.Protocol("qq"); !ok || p.Number != 201 {
					t.Errorf("Protocol = %+v", p)
					return
				}
			}
		})
	}
	// Each round makes a look due at once and changes what it finds.
	for i := range 20 {
		path := tables.services.path + ".new"
		write(t, path, fmt.Sprintf("qq %d/tcp\n", i%2+1))
		if err := os.Rename(path, tables.services.path); err != nil {
			t.Error(err)
		}
		tables.due.Store(0)
		tables.Service("qq", "")
	}
	close(stop)
	wg.Wait()
	tables.due.Store(0)
	if got, want := brief(tables.Service("qq", "")), join("qq 2/tcp [] file"); got != want {
		t.Errorf("in the end %s, want %s", got, want)
	}
}
