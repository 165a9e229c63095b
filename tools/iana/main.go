// Command iana writes the services table that service/names embeds.
//
// It is run by go generate in service/names, needs no network, and writes the
// same bytes every time. Its two inputs:
//
//   - The port tables of github.com/gopacket/gopacket (BSD 3-clause), which were
//     made from IANA's registry of service names and port numbers on 2023-07-28:
//     for tcp, udp and sctp the first name registered for each port. Only the
//     facts are taken, that this name is registered for that port; no code of
//     gopacket gets into probed. IANA places its registries in the public
//     domain (CC0 1.0).
//   - The file services beside this one, kept by hand: what those tables do not
//     hold. Its head says how it is written. The names and aliases in it are
//     facts from the registry and from the services files of Unix systems,
//     Debian's netbase above all; the descriptions were written for this file.
//
// The output has the form of services(5) and nothing more, so that the one
// parser of service/names reads it.
package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/gopacket/gopacket/layers"
)

//go:embed services
var byHand string

const gopacket = "github.com/gopacket/gopacket"

func main() {
	output := flag.String("o", "", "the `file` to write; empty means the standard output")
	flag.Parse()
	if err := run(*output); err != nil {
		fmt.Fprintln(os.Stderr, "iana:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	t := make(table)
	if err := t.addByHand(byHand); err != nil {
		return err
	}
	if err := t.addRegistry(); err != nil {
		return err
	}
	t.describe()
	var text bytes.Buffer
	t.write(&text)
	if output == "" {
		_, err := os.Stdout.Write(text.Bytes())
		return err
	}
	return os.WriteFile(output, text.Bytes(), 0o644)
}

// endpoint is what services are registered for.
type endpoint struct {
	port     uint16
	protocol string
}

type service struct {
	name        string
	aliases     []string
	description string
}

func (s service) has(name string) bool { return s.name == name || slices.Contains(s.aliases, name) }

// table holds the services of each endpoint, the foremost name first.
type table map[endpoint][]service

// addByHand adds the lines of the file kept by hand.
func (t table) addByHand(text string) error {
	var last uint64
	for number, line := range strings.Split(text, "\n") {
		line, comment, _ := strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		from, to, protocols, err := parseEndpoints(fields)
		if err == nil && from < last {
			err = errors.New("not sorted by port")
		}
		last = from
		s := service{name: fields[0], aliases: fields[2:], description: strings.TrimSpace(comment)}
		for port := from; port <= to && err == nil; port++ {
			for _, protocol := range protocols {
				at := endpoint{uint16(port), protocol}
				if slices.ContainsFunc(t[at], func(other service) bool { return other.has(s.name) }) {
					err = fmt.Errorf("%s is given twice for %d/%s", s.name, port, protocol)
				}
				t[at] = append(t[at], s)
			}
		}
		if err != nil {
			return fmt.Errorf("services:%d: %w", number+1, err)
		}
	}
	return nil
}

// parseEndpoints reads the second field of a line: PORT[-PORT]/PROTO[,PROTO…].
func parseEndpoints(fields []string) (from, to uint64, protocols []string, err error) {
	if len(fields) < 2 {
		return 0, 0, nil, errors.New("no port")
	}
	ports, list, ok := strings.Cut(fields[1], "/")
	if !ok {
		return 0, 0, nil, errors.New("no protocol")
	}
	first, last, isRange := strings.Cut(ports, "-")
	if from, err = strconv.ParseUint(first, 10, 16); err != nil {
		return 0, 0, nil, err
	}
	if to = from; isRange {
		if to, err = strconv.ParseUint(last, 10, 16); err != nil {
			return 0, 0, nil, err
		}
	}
	return from, to, strings.Split(list, ","), nil
}

// addRegistry adds the names that gopacket knows, each before the lines kept
// by hand unless one of them has it.
func (t table) addRegistry() error {
	for port := range 1 << 16 {
		for protocol, name := range registered(port) {
			at := endpoint{uint16(port), protocol}
			known := slices.ContainsFunc(t[at], func(s service) bool { return s.has(name) })
			switch {
			case known:
			case strings.ContainsAny(name, " \t#"):
				// Two early registrations gave a title in place of a name.
				if len(t[at]) == 0 {
					return fmt.Errorf("%d/%s: %q is no name, and services has none", port, protocol, name)
				}
			default:
				t[at] = slices.Insert(t[at], 0, service{name: name})
			}
		}
	}
	return nil
}

func registered(port int) map[string]string {
	names := make(map[string]string)
	if name, ok := layers.TCPPortNames(layers.TCPPort(port)); ok {
		names["tcp"] = name
	}
	if name, ok := layers.UDPPortNames(layers.UDPPort(port)); ok {
		names["udp"] = name
	}
	if name, ok := layers.SCTPPortNames(layers.SCTPPort(port)); ok {
		names["sctp"] = name
	}
	return names
}

// describe gives a name's description to the same name on the other transports
// of its port.
func (t table) describe() {
	type key struct {
		port uint16
		name string
	}
	known := make(map[key]string)
	for at, services := range t {
		for _, s := range services {
			if s.description != "" && at.protocol != "ddp" {
				known[key{at.port, s.name}] = s.description
			}
		}
	}
	for at, services := range t {
		for i, s := range services {
			services[i].description = cmp.Or(s.description, known[key{at.port, s.name}])
		}
	}
}

// write writes the table sorted by port, then tcp, udp and the others by name.
func (t table) write(w io.Writer) {
	fmt.Fprintf(w, `# Service names and port numbers, in the form of services(5).
#
# The registry of IANA as %s %s holds it, with the classic
# names and the descriptions of tools/iana/services.
# Written by tools/iana; do not edit.

`, strings.TrimPrefix(gopacket, "github.com/gopacket/"), version())
	rank := map[string]int{"tcp": -2, "udp": -1}
	order := slices.SortedFunc(maps.Keys(t), func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(rank[a.protocol], rank[b.protocol]), cmp.Compare(a.protocol, b.protocol))
	})
	for _, at := range order {
		for _, s := range t[at] {
			fmt.Fprintf(w, "%s %d/%s", s.name, at.port, at.protocol)
			for _, alias := range s.aliases {
				fmt.Fprintf(w, " %s", alias)
			}
			if s.description != "" {
				fmt.Fprintf(w, " # %s", s.description)
			}
			fmt.Fprintln(w)
		}
	}
}

// version returns the version of gopacket that was built in.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == gopacket {
				return module.Version
			}
		}
	}
	return "(unknown version)"
}
