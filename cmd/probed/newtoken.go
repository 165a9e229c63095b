package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"probed/service/guard"
)

// newTokenCommand makes a bearer token. The token goes to its caller and stands nowhere; its hash goes into the file.
func newTokenCommand() *cobra.Command {
	var made newToken
	command := &cobra.Command{
		Use:   "new-token NAME",
		Short: "Make a bearer token for a caller, and the lines for the configuration",
		Long: `new-token makes a token of 256 random bits for the caller NAME, whose subject is then token:NAME. It prints the token on
stdout, this once, and on stderr the lines that let it in, for auth.tokens in the file of --config or for tokens in the
tokens_file. They have the hash of the token alone. Nothing else is stored.

With --token-file the token goes into a new file that its owner alone can read, and the lines go to stdout. With --secret
as well, stdout is a Secret for Kubernetes, whose key tokens.yaml is such a tokens_file: one caller's, in place of what the
Secret had before.`,
		Example: `  probed new-token ci --expires 90d
  probed new-token ci >ci.token 2>>tokens.yaml
  probed new-token operator --token-file operator.token --secret probed-tokens | kubectl apply -n probed -f -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("new-token takes one NAME, not %d", len(args))}
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			made.name = args[0]
			return made.make(time.Now(), command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	command.Flags().StringVar(&made.tokenFile, "token-file", "", "write the token to `FILE`, which must not be there yet")
	command.Flags().StringVar(&made.secret, "secret", "", "make a Secret of this `NAME` for Kubernetes; goes with --token-file")
	command.Flags().StringVar(&made.expires, "expires", "", "refuse it from then on: a `TIME` from now (90d, 12h) or a date (2027-01-31); empty: never")
	return command
}

// newToken is what is asked of new-token.
type newToken struct {
	name, expires     string
	tokenFile, secret string // may be empty
}

func (n newToken) make(now time.Time, stdout, stderr io.Writer) error {
	if !isName(n.name, 128) { // as the schema has it
		return usageError{fmt.Errorf("%q: a token has a name of letters, digits, '.', '_' and '-', at most 128", n.name)}
	}
	until, err := parseExpires(n.expires, now)
	if err != nil {
		return usageError{fmt.Errorf("--expires %q: %w", n.expires, err)}
	}
	switch {
	case n.secret != "" && n.tokenFile == "":
		return usageError{errors.New("--secret makes stdout a Secret: say with --token-file where the token goes")}
	case n.secret != "" && !isSubdomain(n.secret):
		return usageError{fmt.Errorf("--secret %q: a Secret has a name of small letters, digits, '-' and '.', at most 253, letters or digits at both ends", n.secret)}
	}
	token, hash := guard.NewToken()
	lines := fmt.Sprintf("  - name: %q\n    sha256: %q\n", n.name, hash)
	if !until.IsZero() {
		lines += fmt.Sprintf("    expires: %s\n", until.UTC().Format(time.RFC3339))
	}
	if n.tokenFile == "" {
		if _, err := fmt.Fprintln(stdout, token); err != nil {
			return err // Nobody has it now.
		}
		_, err := io.WriteString(stderr, lines)
		return err
	}
	if err := writeNew(n.tokenFile, token+"\n"); err != nil {
		return fmt.Errorf("--token-file: %w", err)
	}
	if n.secret != "" {
		lines = secretOf(n.secret, "tokens:\n"+lines)
	}
	_, err = io.WriteString(stdout, lines)
	return err
}

// writeNew writes a secret to a file that was not there: who asks for a token twice shall not lose the first.
func writeNew(name, text string) (err error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = file.WriteString(text)
	return err
}

// secretOf is the manifest of a Secret that has a tokens_file. Its text is readable: there are hashes alone in it.
func secretOf(name, tokens string) string {
	const indent = "    "
	return "apiVersion: v1\nkind: Secret\nmetadata:\n  name: " + name + "\n  labels:\n    app.kubernetes.io/name: probed\n" +
		"type: Opaque\nstringData:\n  tokens.yaml: |\n" + indent + strings.ReplaceAll(strings.TrimSuffix(tokens, "\n"), "\n", "\n"+indent) + "\n"
}

// isSubdomain tells whether Kubernetes takes a text for the name of an object (RFC 1123).
func isSubdomain(text string) bool {
	return len(text) <= 253 && subdomain.MatchString(text)
}

var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

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
