package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"probed/service/guard"
)

// newTokenCommand makes a bearer token. The token goes to its caller and stands nowhere; its hash goes into the file.
func newTokenCommand() *cobra.Command {
	var expires string
	command := &cobra.Command{
		Use:   "new-token NAME",
		Short: "Make a bearer token for a caller, and the lines for the configuration",
		Long: `new-token makes a token of 256 random bits for the caller NAME, whose subject is then token:NAME. It prints the token on
stdout, this once, and on stderr the lines that let it in, for auth.tokens in the file of --config or for tokens in the
tokens_file. They have the hash of the token alone. Nothing is stored.`,
		Example: `  probed new-token ci --expires 90d
  probed new-token ci >ci.token 2>>tokens.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("new-token takes one NAME, not %d", len(args))}
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			return newToken(args[0], expires, time.Now(), command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	command.Flags().StringVar(&expires, "expires", "", "refuse it from then on: a `TIME` from now (90d, 12h) or a date (2027-01-31); empty: never")
	return command
}

func newToken(name, expires string, now time.Time, stdout, stderr io.Writer) error {
	if !isName(name, 128) { // as the schema has it
		return usageError{fmt.Errorf("%q: a token has a name of letters, digits, '.', '_' and '-', at most 128", name)}
	}
	until, err := parseExpires(expires, now)
	if err != nil {
		return usageError{fmt.Errorf("--expires %q: %w", expires, err)}
	}
	token, hash := guard.NewToken()
	if _, err := fmt.Fprintln(stdout, token); err != nil {
		return err // Nobody has it now.
	}
	fmt.Fprintf(stderr, "  - name: %q\n    sha256: %q\n", name, hash)
	if !until.IsZero() {
		fmt.Fprintf(stderr, "    expires: %s\n", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// parseExpires reads a time from now, in days too, or a date. Zero: never.
func parseExpires(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var until time.Time
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return until, fmt.Errorf("it is a number of days as 90d, at most %d", 1<<16-1)
		}
		until = now.AddDate(0, 0, int(n))
	} else if d, err := time.ParseDuration(text); err == nil {
		until = now.Add(d)
	} else if date, err := time.Parse(time.DateOnly, text); err == nil {
		until = date
	} else if instant, err := time.Parse(time.RFC3339, text); err == nil {
		until = instant
	} else {
		return until, fmt.Errorf("it is a time from now as 90d or 12h, or a date as %s", now.AddDate(0, 0, 90).Format(time.DateOnly))
	}
	if !until.After(now) {
		return until, fmt.Errorf("that is over")
	}
	return until, nil
}
