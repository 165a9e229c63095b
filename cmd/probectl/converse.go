package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

const converseHelp = `Open a connection and carry bytes both ways: what standard input has goes to the peer, what
the peer says to standard output. A pipe or a file gets the exact bytes; a terminal gets
them escaped, but for tabs and the ends of lines (\n and \r\n). How the connection went is
told on standard error.
With --json all of it is events on standard output, one a line.

` + targetHelp + `

The end of standard input (Ctrl-D) closes the sending side, and what the peer says still
comes, until it closes. If the peer closes first, what is still to be sent is sent, as long
as that does not pause for 0.5s. Ctrl-C closes the connection behind what has been taken
from standard input, and tells the outcome if that comes within 2s; pressed again, it ends
at once.

By udp, icmp and unixgram each read of standard input is one datagram, and its end is
nothing that can be told to the peer: the conversation ends when nothing has come for 1s
from then on, or as --idle says.

The exit code is 0 if the connection was opened and ended in order.`

func newConverseCommand(t *tool) *cobra.Command {
	flags := &converseFlags{}
	command := &cobra.Command{
		Use:   "converse TARGET",
		Short: "Talk with the peer: standard input to it, what it says to standard output",
		Long:  converseHelp,
		Example: `  probectl converse mail.shop:smtp --crlf
  probectl converse tls://192.0.2.1:443 --tls-name example.org
  probectl converse tcp://db.shop:9000 < dump > answer
  printf 'PING\r\nQUIT\r\n' | probectl --server probed.shop converse cache.shop:6379
  echo 'hello' | probectl converse udp://192.0.2.1:echo`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(targets),
		RunE: func(command *cobra.Command, args []string) error {
			if t.kube.each {
				return &usageError{errors.New("converse goes without --each: what is typed would be sent by every pod, and what comes back be mixed; exchange is for that")}
			}
			open, err := flags.reach.open(args[0])
			if err != nil {
				return &usageError{err}
			}
			if half := command.Flags().Lookup("half-close"); half.Changed && half.Value.String() == "false" {
				return &usageError{errors.New("--half-close=false is spelled --hold-open")}
			}
			if command.Flags().Changed("idle") {
				open.Idle = durationpb.New(time.Duration(flags.idle))
			}
			if err := checkText(open); err != nil {
				return err
			}
			return t.converse(command.Context(), open, flags)
		},
	}
	set := command.Flags()
	set.BoolP("half-close", "N", false, "close the sending side at the end of standard input, as it does anyway")
	set.BoolVar(&flags.holdOpen, "hold-open", false, "do not close it, for peers that take that for a hang-up")
	set.BoolVarP(&flags.crlf, "crlf", "C", false, "send a newline as \\r\\n; \\r\\n stays as it is")
	set.VarP(&flags.idle, "idle", "w", "end when nothing has passed either way for this `DURATION`, up to 10m (default 5m);\na number alone is seconds")
	command.MarkFlagsMutuallyExclusive("half-close", "hold-open")
	completeFlag(command, "idle", durations)
	flags.reach = bindReach(t, command, "the most time until the connection is open, up to 10m (default 60s)")
	return command
}

type converseFlags struct {
	holdOpen, crlf bool
	idle           seconds
	reach          *reach
}

// seconds is the flag for a time, whose unit is the second where none is given, as in other programs of this kind.
type seconds time.Duration

func (s *seconds) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

func (s *seconds) Set(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("it takes a time, as 300ms or 2s")
	}
	*s = seconds(d)
	return nil
}

func (s *seconds) Type() string { return "duration" }

// converse carries bytes both ways until the peer or the user has enough. Receiving and sending go on at the same time,
// and each is as slow as who takes it: a chunk is received when the one before has been written, and standard input is
// read when what it had before has been taken by gRPC's flow control.
func (t *tool) converse(ctx context.Context, open *probev1.Open, flags *converseFlags) error {
	return t.withServer(ctx, func(ctx context.Context, s *server) error {
		// Ctrl-C ends ctx. The stream goes on then, for the outcome.
		streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		stream, err := probev1.NewExchangeServiceClient(s.conn).Converse(streaming)
		if err != nil {
			return err
		}
		sender := newSender(stream, open, flags)
		var inputErr error
		var sending sync.WaitGroup
		sending.Go(func() { inputErr = sender.run(ctx, cancel) })

		screen := t.stderr
		if isTerminal(t.stdin) {
			screen = newPrinter(io.Discard) // progress would go over what is being typed
		}
		transfer := startTransfer(screen, t.stdout)
		defer transfer.stop()
		vantage := func(err error) {
			header, _ := stream.Header() // with the first event it is there, or never will be
			t.tellVantage(s, header, err)
		}
		told := &story{printer: t.stderr, now: time.Now()}
		outcome, err := receive(stream, vantage, func(event *probev1.ExchangeResponse) error {
			switch {
			case event.GetConnected() != nil:
				sender.begin(t.stdin)
			case event.GetChunk() != nil:
				sender.heard()
			}
			return transfer.during(event.GetChunk(), func() error { return t.tellConversation(told, event) })
		})
		cancel()
		close(sender.ended)
		sending.Wait()
		transfer.stop()
		switch {
		case err != nil && ctx.Err() != nil && !sender.hasConnection():
			return &exitError{code: exitInterrupted, text: "interrupted before the connection was open"}
		case err != nil && ctx.Err() != nil:
			return &exitError{code: exitInterrupted, text: fmt.Sprintf("interrupted: %s received by then", transfer.received())}
		case err != nil:
			t.printEventStatus(err)
			return err
		case ctx.Err() != nil:
			return &exitError{code: exitInterrupted}
		case inputErr != nil:
			return fmt.Errorf("cannot read what to send: %w", inputErr)
		case !outcome.GetOk():
			return errNo
		}
		return nil
	})
}

// tellConversation shows one event: the peer's bytes on stdout, and what a person should know on stderr.
func (t *tool) tellConversation(told *story, event *probev1.ExchangeResponse) error {
	if t.format != formatTable {
		return t.printEvent(event)
	}
	switch {
	case event.GetChunk() != nil:
		return t.stdout.exact(event.GetChunk().GetData())
	case event.GetOutcome() != nil:
		// What was held back of a character is all there is of it.
		if err := t.stdout.close(); err != nil {
			return err
		}
		if t.stderr.terminal && t.stdout.terminal && t.stdout.midLine() {
			t.stderr.line("") // the outcome begins a line of its own
		}
		return told.tell(event)
	case event.GetConnected() != nil, event.GetTls() != nil, event.GetPeerClosed().GetUnclean():
		return told.tell(event)
	}
	return nil
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
