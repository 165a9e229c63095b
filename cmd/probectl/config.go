package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
)

const configHelp = `Give the servers names: write down once how to get to a probed, and say from then on which
one. The current server answers whatever is asked, until another is named. (kubectl has the
same for clusters, and calls it contexts.)

The file is $PROBECTL_CONFIG, or else probectl/config.yaml where this system keeps the
configuration of its users, as ~/.config. Each key of a server is the flag of that name; the
names of files are from where the configuration file is. It holds no secrets: a token stands
in a file of its own.

  version: 1
  current-server: shop
  servers:
    shop:
      server: probed.shop:50051   # HOST[:PORT]
      server-ca: ca.pem
      token-file: token
    cluster:
      kube: net/probed            # [NAMESPACE/]SERVICE
      service-account: probe-user

Which server is asked: the one of the flags --server or --kube; else that of PROBECTL_SERVER
or PROBECTL_KUBE; else the current one; else this machine. In --server and PROBECTL_SERVER a
name of the file counts more than a host of that name, and HOST:PORT is always an address.
--server= (with nothing) asks this machine. What the file says of a server counts less than
a flag, and less than the environment unless --server has named it. Who asks it, by token or
certificate, is said by the file or a flag and never by the environment, whose token may be
that of another server. Nothing of the file is used for a server that it does not name. As a
plugin of kubectl there is no current server.`

const configExample = `  probectl config set-server shop --server probed.shop --server-ca ca.pem --token-file token
  probectl config use-server shop
  probectl config get-servers
  probectl --server shop connect db.shop:5432
  probectl config use-server --none`

func newConfigCommand(t *tool) *cobra.Command {
	command := &cobra.Command{
		Use:     "config COMMAND",
		Short:   "Give servers names, and choose one",
		Long:    configHelp,
		Example: configExample,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return &usageError{errors.New("say what to do: get-servers, current-server, use-server, set-server, rename-server, delete-server or view")}
		},
	}
	command.AddCommand(newGetServersCommand(t), newCurrentServerCommand(t), newUseServerCommand(t), newSetServerCommand(t),
		newRenameServerCommand(t), newDeleteServerCommand(t), newViewConfigCommand(t))
	return command
}

// changeServers reads the file, lets change do what it does, and writes it; and no other probectl in between.
func (t *tool) changeServers(change func(*serversFile) error) error {
	f, err := t.servers()
	if err != nil {
		return err
	}
	if f.path != "" {
		unlock, err := t.lockServers()
		if err != nil {
			return fmt.Errorf("cannot write the configuration file: %w", err)
		}
		defer unlock()
		if f, err = t.servers(); err != nil {
			return err
		}
	}
	if err := change(f); err != nil {
		return err
	}
	err = f.write()
	if _, usage := errors.AsType[*usageError](err); err != nil && !usage {
		return fmt.Errorf("cannot write the configuration file: %w", err)
	}
	return err
}

// lockServers waits until no other probectl changes the file. The lock is on a file beside it, which stays, and ends with
// the program, however that ends.
func (t *tool) lockServers() (unlock func(), err error) {
	path := behindLinks(t.serversPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	waiting := startProgress(t.stderr, t.stdout, func(elapsed time.Duration) string {
		return fmt.Sprintf("waiting for another probectl, which changes %s, %v", path, elapsed)
	})
	defer waiting.stop()
	return lockedfile.MutexAt(path + ".lock").Lock()
}

// servers reads the file.
func (t *tool) servers() (*serversFile, error) {
	f, err := readServers(t.serversPath)
	if err != nil {
		return nil, wrongFile("the configuration file: " + err.Error())
	}
	return f, nil
}

// wrongFile is the failure of a question because of what the configuration file says: nothing that was typed is wrong.
func wrongFile(text string) *exitError {
	return &exitError{exitFailed, text, "Nothing else is read of it. Edit it, or move it away."}
}

// existing is that a file has a server of this name.
func existing(f *serversFile, name string) error {
	if f.find(name) == nil {
		return &exitError{exitNo, f.unknown(name).Error(), ""}
	}
	return nil
}

func newGetServersCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "get-servers",
		Short: "Which servers have names?",
		Long:  `List the servers of the configuration file; the current one is marked.`,
		Example: `  probectl config get-servers
  probectl config get-servers -o json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			f, err := t.servers()
			if err != nil {
				return err
			}
			if t.format != formatTable {
				return t.printMessage(serversMessage(f))
			}
			if len(f.servers) == 0 {
				t.stderr.line("There is no server in %s.", cmp.Or(f.path, "a configuration file"))
				t.advise("Add one: probectl config set-server NAME --server HOST:PORT")
				return nil
			}
			var rows [][]string
			for _, s := range f.servers {
				mark := ""
				if s.name == f.current {
					mark = "*"
				}
				rows = append(rows, []string{mark, s.name, s.where(), s.transport(), s.credentials()})
			}
			t.stdout.table("CURRENT NAME SERVER TRANSPORT CREDENTIALS", rows)
			t.tellOverride()
			return nil
		},
	}
}

// where is which probed it is.
func (s *namedServer) where() string {
	if s.get("kube") == "" {
		return s.get("server")
	}
	place := []string{"kube " + s.get("kube")}
	for _, key := range []string{"namespace", "context", "kubeconfig"} {
		if value := s.get(key); value != "" {
			place = append(place, key+" "+value)
		}
	}
	return strings.Join(place, ", ")
}

// transport is whether TLS is spoken.
func (s *namedServer) transport() string {
	for _, key := range implyingTLS {
		if s.get(key) != "" {
			return "TLS"
		}
	}
	if s.get("server-tls") == "true" {
		return "TLS"
	}
	return "plaintext"
}

// credentials is what says who asks.
func (s *namedServer) credentials() string {
	var all []string
	for _, key := range []string{"server-cert", "token-file", "service-account"} {
		if value := s.get(key); value != "" {
			all = append(all, key+" "+value)
		}
	}
	return strings.Join(all, ", ")
}

// serversMessage is the list for a machine.
func serversMessage(f *serversFile) *structpb.Struct {
	var servers []*structpb.Value
	for _, s := range f.servers {
		fields := map[string]*structpb.Value{
			"name": structpb.NewStringValue(s.name), "current": structpb.NewBoolValue(s.name == f.current),
		}
		for _, given := range s.settings {
			fields[given.key] = structpb.NewStringValue(given.value)
		}
		servers = append(servers, structpb.NewStructValue(&structpb.Struct{Fields: fields}))
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"file": structpb.NewStringValue(f.path), "current": structpb.NewStringValue(f.current),
		"servers": structpb.NewListValue(&structpb.ListValue{Values: servers}),
	}}
}

// tellOverride tells when the current server is not the one that is asked.
func (t *tool) tellOverride() {
	for _, name := range []string{"PROBECTL_SERVER", "PROBECTL_KUBE"} {
		if value := t.getenv(name); value != "" && t.plugin == "" {
			t.stderr.line("note: %s is set, and counts more than the current server: %s", name, value)
		}
	}
	if t.plugin != "" {
		t.stderr.line("note: as a plugin of kubectl there is no current server: name one with --server")
	}
}

func newCurrentServerCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "current-server",
		Short: "Which server is the current one?",
		Long: `Print the name of the current server. The exit code is 2 if there is none, and this machine
answers.`,
		Example:           `  probectl config current-server`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			f, err := t.servers()
			if err != nil {
				return err
			}
			if t.format != formatTable {
				err = t.printMessage(structpb.NewStringValue(f.current))
			} else if f.current != "" {
				t.stdout.line("%s", f.current)
			}
			t.tellOverride()
			if err == nil && f.current == "" {
				return &exitError{exitNo, "there is no current server: this machine answers", "Choose one: probectl config use-server NAME"}
			}
			return err
		},
	}
}

func newUseServerCommand(t *tool) *cobra.Command {
	none := false
	command := &cobra.Command{
		Use:   "use-server NAME",
		Short: "Make a server the current one",
		Long: `Make a server the current one: it answers wherever nothing else says whom to ask. With
--none there is no current server any more, and this machine answers.`,
		Example: `  probectl config use-server shop
  probectl config use-server --none`,
		Args: func(command *cobra.Command, args []string) error {
			if none != (len(args) == 0) || len(args) > 1 || len(args) == 1 && args[0] == "" {
				return errors.New("name one server, or say --none")
			}
			return nil
		},
		ValidArgsFunction: arguments(t.serverNames),
		RunE: func(_ *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			err := t.changeServers(func(f *serversFile) error {
				if name != "" {
					if err := existing(f, name); err != nil {
						return err
					}
				}
				f.setCurrent(name)
				return nil
			})
			if err != nil {
				return err
			}
			if none {
				t.stderr.line("There is no current server any more: this machine answers.")
			} else {
				t.stderr.line("The current server is %s.", name)
			}
			t.tellOverride()
			return nil
		},
	}
	command.Flags().BoolVar(&none, "none", false, "no server: this machine answers")
	return command
}

func newSetServerCommand(t *tool) *cobra.Command {
	command := &cobra.Command{
		Use:   "set-server NAME",
		Short: "Write down how to get to a server",
		Long: `Write a server to the configuration file, or change the one of this name: each flag that is
given is written, and what is not given stays as it is. A flag with an empty value, as
--token-file=, takes the key away. These flags can be written:
` + flagList(serverKeys[:]) + `
The server is not asked, and not made the current one.`,
		Example: `  probectl config set-server shop --server probed.shop:50051
  probectl config set-server shop --server-ca ca.pem --token-file ~/.probed-token
  probectl config set-server cluster --kube net/probed --service-account probe-user`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(t.serverNames),
		RunE: func(command *cobra.Command, args []string) error {
			settings, err := t.givenSettings(command)
			if err == nil {
				err = checkServerName(args[0])
			}
			if err != nil {
				return &usageError{err}
			}
			known := false
			err = t.changeServers(func(f *serversFile) error {
				known = f.find(args[0]) != nil
				f.set(args[0], settings)
				return nil
			})
			switch {
			case err != nil:
				return err
			case known:
				t.stderr.line("Changed the server %s.", args[0])
			default:
				t.stderr.line("Added the server %s.", args[0])
				t.advise("Make it the current one: probectl config use-server " + args[0])
			}
			return nil
		},
	}
	return command
}

// flagList is flags in lines of a help text.
func flagList(names []string) string {
	return "  --" + strings.Join(wrap(strings.Join(names, ", --"), 85), "\n  ")
}

// givenSettings is what the flags of a command line say about a server. The environment says nothing here.
func (t *tool) givenSettings(command *cobra.Command) ([]setting, error) {
	var settings []setting
	flags := command.Flags()
	for _, flag := range []string{"each", "retry-max-time"} {
		if flags.Changed(flag) {
			return nil, fmt.Errorf("--%s is about a question, and not written down", flag)
		}
	}
	for _, key := range serverKeys {
		if !flags.Changed(key) {
			continue
		}
		value := flags.Lookup(key).Value.String()
		if slices.Contains(keysOfFiles[:], key) && value != "" {
			absolute, err := filepath.Abs(value)
			if err != nil {
				return nil, err
			}
			value = absolute
		}
		settings = append(settings, setting{key: key, value: value})
	}
	if len(settings) == 0 {
		return nil, errors.New("say something about the server: --server HOST:PORT, or --kube [NAMESPACE/]SERVICE")
	}
	if flags.Changed("server") && flags.Changed("kube") && t.server != "" && t.kube.probed != "" {
		return nil, errors.New("--server and --kube are two ways to a probed: give one of them")
	}
	return settings, nil
}

func newRenameServerCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:               "rename-server OLD NEW",
		Short:             "Give a server another name",
		Long:              `Give a server of the configuration file another name. The current one stays the current one.`,
		Example:           `  probectl config rename-server shop shop-old`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: arguments(t.serverNames),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkServerName(args[1]); err != nil {
				return &usageError{err}
			}
			err := t.changeServers(func(f *serversFile) error {
				if err := existing(f, args[0]); err != nil {
					return err
				}
				if f.find(args[1]) != nil {
					return &exitError{exitNo, "there is a server " + args[1] + " already", ""}
				}
				f.rename(args[0], args[1])
				return nil
			})
			if err == nil {
				t.stderr.line("The server %s is called %s now.", args[0], args[1])
			}
			return err
		},
	}
}

func newDeleteServerCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "delete-server NAME",
		Short: "Forget a server",
		Long: `Take a server out of the configuration file. If it is the current one, there is none
afterwards. Files that it names, as that of a token, stay where they are.`,
		Example:           `  probectl config delete-server shop`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(t.serverNames),
		RunE: func(_ *cobra.Command, args []string) error {
			current := false
			err := t.changeServers(func(f *serversFile) error {
				if err := existing(f, args[0]); err != nil {
					return err
				}
				current = f.current == args[0]
				f.remove(args[0])
				return nil
			})
			if err != nil {
				return err
			}
			t.stderr.line("Deleted the server %s.", args[0])
			if current {
				t.stderr.line("It was the current one: now this machine answers.")
			}
			return nil
		},
	}
}

func newViewConfigCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "view",
		Short: "What does the configuration file say?",
		Long: `Print the configuration file as it is, comments and all. Where it is, is told on standard
error. With -o json or yaml it is the list of config get-servers.`,
		Example:           `  probectl config view`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			f, err := t.servers()
			switch {
			case err != nil:
				return err
			case t.format != formatTable:
				return t.printMessage(serversMessage(f))
			case f.text == nil:
				t.stderr.line("There is no file %s.", f.path)
				return nil
			}
			t.stderr.line("%s", f.path)
			return t.stdout.exact(f.text)
		},
	}
}
