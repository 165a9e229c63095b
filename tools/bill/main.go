// Command bill writes the bill of materials of a program: what package sbom says of it.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"probed/tools/sbom"
)

func main() {
	version := flag.String("version", "", "the `version` of the program")
	created := flag.Int64("created", 0, "when it was made, in `seconds` since 1970; for the same bytes take the commit's time")
	output := flag.String("o", "", "the `file` to write")
	flag.Parse()
	if flag.NArg() != 1 || *output == "" {
		fmt.Fprintln(os.Stderr, "usage: bill -o FILE [FLAGS] PROGRAM")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *output, *version, time.Unix(*created, 0)); err != nil {
		fmt.Fprintln(os.Stderr, "bill:", err)
		os.Exit(1)
	}
}

func run(file, output, version string, created time.Time) error {
	program, err := sbom.Read(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	text, err := sbom.JSON(program, version, created)
	if err != nil {
		return err
	}
	return os.WriteFile(output, text, 0o644)
}
