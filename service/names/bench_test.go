package names

import "testing"

func benchTables(b *testing.B) *Tables {
	tables := open(b, "ssh 22/tcp\ndomain 53/tcp\ndomain 53/udp\n", "tcp 6 TCP\nudp 17 UDP\n")
	tables.current()
	b.ReportAllocs()
	return tables
}

func BenchmarkService(b *testing.B) {
	for tables := benchTables(b); b.Loop(); {
		if len(tables.Service("domain", "")) != 2 {
			b.Fatal("domain is not there twice")
		}
	}
}

func BenchmarkServiceMissing(b *testing.B) {
	for tables := benchTables(b); b.Loop(); {
		if len(tables.Service("no-such-service", "")) != 0 {
			b.Fatal("found what is not there")
		}
	}
}

func BenchmarkServiceParallel(b *testing.B) {
	tables := benchTables(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			tables.Service("ssh", "tcp")
		}
	})
}

func BenchmarkPort(b *testing.B) {
	for tables := benchTables(b); b.Loop(); {
		if len(tables.Port(53, "")) != 2 {
			b.Fatal("port 53 is not there twice")
		}
	}
}

func BenchmarkProtocol(b *testing.B) {
	for tables := benchTables(b); b.Loop(); {
		if _, ok := tables.Protocol("17"); !ok {
			b.Fatal("no protocol 17")
		}
	}
}

func BenchmarkServicesPage(b *testing.B) {
	for tables := benchTables(b); b.Loop(); {
		if page, _ := tables.Services("", PortClassUnspecified, Cursor{3306, "tcp", "mysql"}, 100); len(page) != 100 {
			b.Fatal("no full page")
		}
	}
}

// BenchmarkFirstLookup is what the first caller waits for: reading and
// indexing everything.
func BenchmarkFirstLookup(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if len(Open(Config{}).Service("ssh", "tcp")) == 0 {
			b.Fatal("no ssh")
		}
	}
}
