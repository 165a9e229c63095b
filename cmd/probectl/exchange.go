package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

const exchangeHelp = `Open a connection, send, and show what comes back as it comes.

` + targetHelp + `

Without steps it does what a first socket program does: send everything, half-close (unless
--hold-open is given) and receive until the peer closes. By udp it sends one datagram and
receives one.

Text takes escapes, since a shell hands on \r\n as four characters:
  ` + escapesHelp + `

` + stepsHelp + `

With --raw the peer's bytes alone are written to standard output, exactly. (A terminal gets
them escaped, as it gets everything.)`

const exchangeExample = `  probectl exchange tcp://example.org:80 --text 'GET / HTTP/1.0\r\n\r\n'
  probectl exchange example.org:443 --tls --alpn http/1.1 --data-file request --raw > answer
  probectl exchange udp://192.0.2.1:echo --text hello --timeout 2s

  # Does Redis answer?
  probectl exchange cache.shop:6379 --step 'send:PING\r\n' --step 'expect:+PONG\r\n'
  # Which SSH server is it?
  probectl exchange host.shop:ssh --step 'expect-regex:^SSH-2\.0-'
  # Does the mail server offer STARTTLS, and is its certificate good?
  probectl exchange mail.shop:smtp --step 'expect-regex:^220 ' \
    --step 'send:EHLO probe\r\n' --step 'expect-regex:^250[ -]STARTTLS' \
    --step 'send:STARTTLS\r\n' --step 'expect-regex:^220 ' --step start-tls \
    --step 'send:QUIT\r\n' --step 'expect-regex:^221 '
  # Answer what the IRC server asks.
  probectl exchange irc.shop:6667 \
    --step 'send:NICK probe\r\nUSER probe 0 * :probe\r\n' \
    --step 'expect-regex:^PING :([^ ]+)' --step 'send:PONG :${1}\r\n' \
    --step 'expect-regex: 001 '`

func newExchangeCommand(t *tool) *cobra.Command {
	flags := &exchangeFlags{}
	command := &cobra.Command{
		Use:               "exchange TARGET",
		Short:             "What comes back when I connect there and send this?",
		Long:              exchangeHelp,
		Example:           exchangeExample,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(targets),
		RunE: func(command *cobra.Command, args []string) error {
			request, err := flags.request(t, args[0], command.Flags().Changed)
			if err != nil {
				return &usageError{err}
			}
			if t.kube.each {
				return t.exchangeEach(command.Context(), request, flags.steps)
			}
			return t.exchange(command.Context(), request, flags)
		},
	}
	set := command.Flags()
	set.StringVarP(&flags.text, "text", "t", "", "send this `TEXT`, escapes as told above")
	set.StringVar(&flags.dataFile, "data-file", "", "send the bytes of this `FILE`; - is standard input")
	set.StringVar(&flags.data, "data", "", "send these bytes, in `BASE64`")
	set.StringArrayVar(&flags.steps, "step", nil, "one `STEP`, as told above; may be given again")
	set.BoolVar(&flags.holdOpen, "hold-open", false, "do not half-close after sending, for peers that take that for a hang-up")
	set.Int32Var(&flags.bufferSize, "buffer-size", 0, "at most so many `BYTES` in a chunk, up to 1048576 (default: grows with the flow)")
	set.BoolVar(&flags.raw, "raw", false, "write the peer's bytes alone")
	command.MarkFlagsMutuallyExclusive("text", "data-file", "data")
	completeFlag(command, "text", nothing)
	completeFlag(command, "data", nothing)
	completeFlag(command, "step", steps)
	completeFlag(command, "buffer-size", among("1024", "65536", "1048576"))
	flags.reach = bindReach(t, command, "the most time for all of it, up to 10m (default 60s)")
	return command
}

type exchangeFlags struct {
	text, dataFile, data string
	steps                []string
	holdOpen, raw        bool
	bufferSize           int32
	reach                *reach
}

// request is what the flags say. What does not go together in the contract is for the server to say.
func (f *exchangeFlags) request(t *tool, target string, given func(flag string) bool) (*probev1.ExchangeRequest, error) {
	if f.raw && (given("output") || given("json")) {
		return nil, errors.New("--raw goes without --output and --json: it writes the peer's bytes and nothing else")
	}
	if f.raw && t.kube.each {
		return nil, errors.New("--raw goes without --each: nobody could tell the bytes of one pod from those of another")
	}
	open, err := f.reach.open(target)
	if err != nil {
		return nil, err
	}
	request := &probev1.ExchangeRequest{
		Target: open.GetTarget(), Timeout: open.GetTimeout(), Family: open.GetFamily(), Source: open.GetSource(),
		Interface: open.GetInterface(), Tls: open.GetTls(), HoldOpen: f.holdOpen, BufferSize: f.bufferSize,
	}
	var data []byte
	switch {
	case given("text"):
		if data, err = unescape(f.text); err != nil {
			return nil, fmt.Errorf("--text: %w", err)
		}
	case given("data-file"):
		if data, err = t.readFile(f.dataFile); err != nil {
			return nil, fmt.Errorf("--data-file: %w", err)
		}
	case given("data"):
		if data, err = base64.StdEncoding.DecodeString(f.data); err != nil {
			return nil, fmt.Errorf("--data: %w", err)
		}
	}
	if given("text") || given("data-file") || given("data") {
		request.Payload = &probev1.ExchangeRequest_Data{Data: data}
	}
	if request.Steps, err = parseSteps(f.steps, t.readFile); err != nil {
		return nil, err
	}
	return request, checkText(request)
}

// readFile reads what is to be sent.
func (t *tool) readFile(name string) ([]byte, error) {
	if name == "-" {
		return readAll(t.stdin, name)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(file, name)
}

// readAll reads what goes into one field of a request.
func readAll(from io.Reader, name string) ([]byte, error) {
	const most = 1 << 20 // what the contract takes in one piece
	data, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s has more than 1 MiB, which is the most that can be sent at once", name)
	}
	return data, err
}

// exchange carries a request out and shows its events as they come.
func (t *tool) exchange(ctx context.Context, request *probev1.ExchangeRequest, flags *exchangeFlags) error {
	show := func(event *probev1.ExchangeResponse) error { return t.printEvent(event) }
	switch {
	case flags.raw:
		show = func(event *probev1.ExchangeResponse) error { return t.stdout.exact(event.GetChunk().GetData()) }
	case t.format == formatTable:
		show = (&story{printer: t.stdout, steps: flags.steps, now: time.Now()}).tell
	}
	return t.withServer(ctx, func(ctx context.Context, s *server) error {
		stream, err := probev1.NewExchangeServiceClient(s.conn).Exchange(ctx, request)
		if err != nil {
			return err
		}
		transfer := startTransfer(t.stderr, t.stdout)
		defer transfer.stop()
		vantage := func(err error) {
			if !flags.raw {
				header, _ := stream.Header() // with the first event it is there, or never will be
				t.tellVantage(s, header, err)
			}
		}
		outcome, err := receive(stream, vantage, func(event *probev1.ExchangeResponse) error {
			return transfer.during(event.GetChunk(), func() error { return show(event) })
		})
		transfer.stop()
		switch {
		case err != nil && ctx.Err() != nil:
			return &exitError{code: exitInterrupted, text: fmt.Sprintf("interrupted: %s received by then", transfer.received())}
		case err != nil:
			t.printEventStatus(err)
			return err
		case !outcome.GetOk() && flags.raw:
			return &exitError{code: exitNo, text: failureLine(outcome, flags.steps)}
		case !outcome.GetOk():
			return errNo
		}
		return nil
	})
}

// receive shows each event as it comes, and returns the last. When the first one has come, or an error in its place, it
// calls vantage, which may tell where they come from.
func receive(stream interface {
	Recv() (*probev1.ExchangeResponse, error)
}, vantage func(error), show func(*probev1.ExchangeResponse) error) (*probev1.Outcome, error) {
	var outcome *probev1.Outcome
	for first := true; ; first = false {
		event, err := stream.Recv()
		if first {
			vantage(err)
		}
		switch {
		case errors.Is(err, io.EOF) && outcome == nil:
			return nil, errors.New("the server ended the exchange without an outcome")
		case errors.Is(err, io.EOF):
			return outcome, nil
		case err != nil:
			return nil, err
		}
		if event.GetOutcome() != nil {
			outcome = event.GetOutcome()
		}
		if err := show(event); err != nil {
			return nil, err
		}
	}
}
