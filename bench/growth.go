package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	probev1 "probed/gen/probe/v1"
)

// growths tell how the cost of some work grows with how much of it there is.
var growths = []growth{
	{
		name: "sessions", columns: []string{"sessions", "round trips/s", "median, ms", "99th in 100, ms", "CPU each, µs", "memory each, KiB"},
		sizes: []int64{1, 10, 100, 1000}, start: sessions,
	},
	{
		name: "replies", columns: []string{"bytes", "exchange, ms", "MB/s", "CPU, ms", "CPU per MB, ms", "peak memory, MiB"},
		sizes: []int64{1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}, start: replySizes,
	},
	{
		name: "chunks", columns: []string{"buffer_size", "MB/s", "CPU per MB, ms", "peak memory, MiB"},
		sizes: []int64{1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20}, start: chunkSizes,
	},
	{
		name: "addresses", columns: []string{"addresses", "LookupHost, ms", "its CPU, ms", "GetAddressInfo, ms", "its CPU, ms"},
		sizes: []int64{1, 2, 5, 10, 20, 50, 100}, start: addresses,
	},
}

// A growth is one table.
type growth struct {
	name    string
	columns []string // the first is the size
	sizes   []int64
	// start returns what measures one size: all columns but the first.
	start func(*stage) (func(context.Context, int64) ([]float64, error), error)
}

// measureGrowth writes each table as a file of comma separated values, from which the plots are drawn, and prints it.
func measureGrowth(ctx context.Context, o options, stdout, progress io.Writer) error {
	for _, g := range growths {
		if err := g.measure(ctx, o, stdout, progress); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return nil
}

func (g growth) measure(ctx context.Context, o options, stdout, progress io.Writer) error {
	s := &stage{ctx: ctx, options: o}
	defer s.close()
	measure, err := g.start(s)
	if err != nil {
		return err
	}
	lines := []string{strings.ReplaceAll(strings.Join(g.columns, ";"), ",", "")}
	fmt.Fprintf(stdout, "\n| %s |\n|%s\n", strings.Join(g.columns, " | "), strings.Repeat("---:|", len(g.columns)))
	for _, size := range g.sizes {
		fmt.Fprintf(progress, "%s: %d\n", g.name, size)
		var runs [][]float64
		for range o.pairs {
			values, err := measure(ctx, size)
			if err != nil {
				return err
			}
			runs = append(runs, values)
		}
		cells, line := []string{group(size)}, []string{strconv.FormatInt(size, 10)}
		for column := range runs[0] {
			var values []float64
			for _, run := range runs {
				values = append(values, run[column])
			}
			cells, line = append(cells, number(median(values))), append(line, fmt.Sprintf("%.4g", median(values)))
		}
		fmt.Fprintf(stdout, "| %s |\n", strings.Join(cells, " | "))
		lines = append(lines, strings.Join(line, ";"))
	}
	return os.WriteFile(filepath.Join(o.growth, g.name+".csv"), []byte(strings.ReplaceAll(strings.Join(lines, "\n"), ";", ",")+"\n"), 0o644)
}

// group writes a number with commas between its thousands.
func group(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// sessions are conversations that all send a byte and wait for it, again and again.
func sessions(s *stage) (func(context.Context, int64) ([]float64, error), error) {
	return func(ctx context.Context, size int64) ([]float64, error) {
		s := &stage{ctx: ctx, options: s.options}
		defer s.close()
		p, err := s.startProbed()
		if err != nil {
			return nil, err
		}
		target, err := s.serve("echo")
		if err != nil {
			return nil, err
		}
		first, err := s.dial(p)
		if err != nil {
			return nil, err
		}
		if _, err := s.converse(first, target); err != nil { // what the first one brings about is not of one more
			return nil, err
		}
		before, err := p.memory("VmRSS")
		if err != nil {
			return nil, err
		}
		var trips []func(context.Context) error
		var conn *grpc.ClientConn
		for i := range int(size) {
			if i%idleStreams == 0 {
				if conn, err = s.dial(p); err != nil {
					return nil, err
				}
			}
			trip, err := s.converse(conn, target)
			if err != nil {
				return nil, err
			}
			trips = append(trips, trip)
		}
		opened, err := p.memory("VmRSS")
		if err != nil {
			return nil, err
		}
		cpu, err := p.cpu()
		if err != nil {
			return nil, err
		}
		times, err := s.all(ctx, trips)
		if err != nil {
			return nil, err
		}
		after, err := p.cpu()
		if err != nil {
			return nil, err
		}
		slices.Sort(times)
		milliseconds := func(i int) float64 { return times[i].Seconds() * 1e3 }
		return []float64{
			float64(len(times)) / s.time.Seconds(), milliseconds(len(times) / 2), milliseconds(len(times) * 99 / 100),
			(after - cpu).Seconds() * 1e6 / float64(len(times)), (opened - before) / float64(size),
		}, nil
	}, nil
}

// all calls each function again and again beside the others, and returns how long the calls took.
func (s *stage) all(ctx context.Context, calls []func(context.Context) error) ([]time.Duration, error) {
	var mu sync.Mutex
	var times []time.Duration
	var problem error
	var running sync.WaitGroup
	begin := time.Now()
	for _, call := range calls {
		running.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && time.Since(begin) < s.time {
				from := time.Now()
				err = call(ctx)
				mine = append(mine, time.Since(from))
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			if err != nil {
				problem = err
			}
		})
	}
	running.Wait()
	return times, problem
}

// repeated calls something again and again, for about the time of a measurement, and returns how long it and the
// processor of p took for one, in milliseconds.
func (s *stage) repeated(ctx context.Context, p *probed, call func(context.Context) error) (wall, cpu float64, err error) {
	from, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	times, err := s.all(ctx, []func(context.Context) error{call})
	if err != nil {
		return 0, 0, err
	}
	to, err := p.cpu()
	slices.Sort(times)
	return times[len(times)/2].Seconds() * 1e3, (to - from).Seconds() * 1e3 / float64(len(times)), err
}

// replySizes are exchanges with a source, by gRPC.
func replySizes(s *stage) (func(context.Context, int64) ([]float64, error), error) {
	return func(ctx context.Context, size int64) ([]float64, error) {
		s := &stage{ctx: ctx, options: s.options}
		defer s.close()
		p, source, conn, err := s.replies()
		if err != nil {
			return nil, err
		}
		wall, cpu, err := s.repeated(ctx, p, func(ctx context.Context) error {
			_, err := takeByGRPC(ctx, conn, source, size)
			return err
		})
		if err != nil {
			return nil, err
		}
		most, err := p.memory("VmHWM")
		megabytes := float64(size) / 1e6
		return []float64{wall, megabytes / wall * 1e3, cpu, cpu / megabytes, most / (1 << 10)}, err
	}, nil
}

// chunkSizes are a long reply, by gRPC, in chunks of one size.
func chunkSizes(s *stage) (func(context.Context, int64) ([]float64, error), error) {
	return func(ctx context.Context, size int64) ([]float64, error) {
		s := &stage{ctx: ctx, options: s.options}
		defer s.close()
		p, source, conn, err := s.replies()
		if err != nil {
			return nil, err
		}
		reply := min(s.length()/2, size<<16)
		wall, cpu, err := s.repeated(ctx, p, func(ctx context.Context) error {
			_, err := takeInChunks(ctx, conn, source, reply, int32(size))
			return err
		})
		if err != nil {
			return nil, err
		}
		most, err := p.memory("VmHWM")
		megabytes := float64(reply) / 1e6
		return []float64{megabytes / wall * 1e3, cpu / megabytes, most / (1 << 10)}, err
	}, nil
}

// addresses are lookups of names that have more and more of them.
func addresses(s *stage) (func(context.Context, int64) ([]float64, error), error) {
	if err := s.nameServer(1, 2, 5, 10, 20, 50, 100); err != nil {
		return nil, err
	}
	p, err := s.startProbed()
	if err != nil {
		return nil, err
	}
	conn, err := s.dial(p)
	if err != nil {
		return nil, err
	}
	client := probev1.NewResolverServiceClient(conn)
	return func(ctx context.Context, size int64) ([]float64, error) {
		name := nameWith(int(size))
		wall, cpu, err := s.repeated(ctx, p, func(ctx context.Context) error {
			answer, err := client.LookupHost(ctx, &probev1.LookupHostRequest{Host: name})
			if err == nil && len(answer.GetAddresses()) != int(size) {
				err = fmt.Errorf("%s has %d addresses", name, len(answer.GetAddresses()))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		infoWall, infoCPU, err := s.repeated(ctx, p, func(ctx context.Context) error {
			_, err := client.GetAddressInfo(ctx, &probev1.GetAddressInfoRequest{Host: &name, Type: probev1.SocketType_SOCK_STREAM})
			return err
		})
		return []float64{wall, cpu, infoWall, infoCPU}, err
	}, nil
}
