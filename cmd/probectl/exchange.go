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
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

const exchangeHelp = `Open a connection, send, and show what comes back as it comes.

TARGET is [SCHEME://]HOST:SERVICE. The scheme is tcp (the default), tcp4, tcp6, udp, udp4,
udp6, unix, unixgram or unixpacket; a unix target is a path, as unix:///run/x.sock.

Without steps it does what a first socket program does: send everything, half-close (unless
--hold-open is given) and receive until the peer closes. By udp it sends one datagram and
receives one.

Text takes escapes, since a shell hands on \r\n as four characters:
  ` + escapesHelp + `

` + stepsHelp + `

With --raw the peer's bytes alone are written to standard output, exactly. (A terminal gets
them escaped, as it gets everything.)`

func newExchangeCommand(t *tool) *cobra.Command {
	flags := &exchangeFlags{}
	command := &cobra.Command{
		Use:   "exchange TARGET",
		Short: "What comes back when I connect there and send this?",
		Long:  exchangeHelp,
		Example: `  probectl exchange tcp://example.org:80 --text 'GET / HTTP/1.0\r\n\r\n'
  probectl exchange udp://192.0.2.1:echo --text hello --timeout 2s
  probectl exchange example.org:80 --data-file request --raw > answer
  probectl exchange mail.example.org:smtp --step 'receive:delimiter=\n' \
    --step 'send:QUIT\r\n' --step receive`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			request, err := flags.request(t, args[0], command.Flags().Changed)
			if err != nil {
				return &usageError{err}
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
	set.DurationVar(&flags.timeout, "timeout", 0, "the most time for all of it, up to 10m (default 60s)")
	set.BoolVar(&flags.raw, "raw", false, "write the peer's bytes alone")
	command.MarkFlagsMutuallyExclusive("text", "data-file", "data")
	return command
}

type exchangeFlags struct {
	text, dataFile, data string
	steps                []string
	holdOpen, raw        bool
	bufferSize           int32
	timeout              time.Duration
}

// request is what the flags say. What does not go together in the contract is for the server to say.
func (f *exchangeFlags) request(t *tool, target string, given func(flag string) bool) (*probev1.ExchangeRequest, error) {
	if f.raw && given("output") {
		return nil, errors.New("--raw goes without --output: it writes the peer's bytes and nothing else")
	}
	request := &probev1.ExchangeRequest{Target: target, HoldOpen: f.holdOpen, BufferSize: f.bufferSize}
	if given("timeout") {
		request.Timeout = durationpb.New(f.timeout)
	}
	var data []byte
	var err error
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
	for _, text := range f.steps {
		step, err := parseStep(text, t.readFile)
		if err != nil {
			return nil, fmt.Errorf("--step %s: %w", text, err)
		}
		request.Steps = append(request.Steps, step)
	}
	return request, checkText(request)
}

// readFile reads what is to be sent.
func (t *tool) readFile(name string) ([]byte, error) {
	const most = 1 << 20 // what the contract takes in one piece
	from := t.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	}
	data, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s has more than 1 MiB, which is the most that can be sent at once", name)
	}
	return data, err
}

// exchange carries a request out and shows its events as they come.
func (t *tool) exchange(ctx context.Context, request *probev1.ExchangeRequest, flags *exchangeFlags) error {
	return t.withServer(ctx, func(ctx context.Context, s *server) error {
		stream, err := probev1.NewExchangeServiceClient(s.conn).Exchange(ctx, request)
		if err != nil {
			return err
		}
		progress := startProgress(t.stderr, t.stdout)
		defer progress.stop()
		outcome, err := t.receive(s, stream, progress, flags)
		progress.stop()
		switch {
		case err != nil && ctx.Err() != nil:
			return &exitError{code: exitInterrupted, text: fmt.Sprintf("interrupted: %s received by then", progress.received())}
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

// receive shows each event as it comes, and returns the last.
func (t *tool) receive(s *server, stream grpc.ServerStreamingClient[probev1.ExchangeResponse], progress *progress, flags *exchangeFlags) (*probev1.Outcome, error) {
	show := func(event *probev1.ExchangeResponse) error { return t.printEvent(event) }
	switch {
	case flags.raw:
		show = func(event *probev1.ExchangeResponse) error { return t.stdout.exact(event.GetChunk().GetData()) }
	case t.format == formatTable:
		story := &story{printer: t.stdout, steps: flags.steps}
		show = story.tell
	}
	var outcome *probev1.Outcome
	for first := true; ; first = false {
		event, err := stream.Recv()
		if first && !flags.raw {
			header, _ := stream.Header() // with the first event it is there, or never will be
			t.tellVantage(s, header, err)
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
		if err := progress.during(event.GetChunk(), func() error { return show(event) }); err != nil {
			return nil, err
		}
	}
}
