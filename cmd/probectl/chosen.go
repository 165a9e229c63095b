package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// chosen is how it was settled who answers. The zero value: by nothing, or by an address.
type chosen struct {
	name string // of a server in the file
	by   string // what named it: --server, PROBECTL_SERVER; empty: it is the current one
	file string
	keys []string // that count, since nothing else says what they do
}

// String tells a person which server that is; empty when it has no name.
func (c chosen) String() string {
	switch {
	case c.name == "":
		return ""
	case c.by == "":
		return "the current server " + c.name
	}
	return "the server " + c.name
}

// where adds to the place of an answer which server that is.
func (c chosen) where(place string) string {
	if c.name == "" {
		return place
	}
	return place + ", " + c.String()
}

// blame makes an error about flags one about the command line, or about the file, if that is what says so.
func (c chosen) blame(err error) error {
	if err == nil {
		return nil
	}
	about, ok := errors.AsType[*flagError](err)
	if c.name != "" {
		err = fmt.Errorf("%w (%s of %s)", err, c, c.file)
	}
	if ok && slices.Contains(c.keys, about.flag) {
		return &exitError{exitFailed, err.Error(), "Mend that file, or say something else: probectl config set-server " + c.name + " --" + about.flag + " …"}
	}
	return &usageError{err}
}

// which tells who is asked: the server, its name in the configuration file, and by what it is the one.
func (t *tool) which() []string {
	flags := t.kube.flags
	switch {
	case t.local():
		return []string{"in process", "", "nothing names a server"}
	case t.chosen.name != "" && t.chosen.by == "":
		return []string{t.address(), t.chosen.name, "current server of " + t.chosen.file}
	case t.chosen.name != "":
		return []string{t.address(), t.chosen.name, t.chosen.by}
	case t.server != "" && flags.Changed("server"):
		return []string{t.address(), "", "--server"}
	case t.server != "":
		return []string{t.address(), "", "PROBECTL_SERVER"}
	case flags.Changed("kube"):
		return []string{t.address(), "", "--kube"}
	case t.getenv("PROBECTL_KUBE") != "":
		return []string{t.address(), "", "PROBECTL_KUBE"}
	}
	return []string{t.address(), "", "being a plugin of kubectl"}
}

// address is where the server is, as it was said.
func (t *tool) address() string {
	if t.server == "" {
		return "kube " + t.kube.probed
	}
	return t.server
}

// variablesOf are those of the environment that say what a key of a server does, but for those about who asks, see
// [guarded.leaveOutEnvironment].
var variablesOf = map[string]string{
	"server-tls": "PROBECTL_SERVER_TLS", "server-ca": "PROBECTL_SERVER_CA", "server-name": "PROBECTL_SERVER_NAME",
}

// takeNamed finds the server in the file, if it is one of those that is to be asked, and makes its keys what the flags of
// these names say: those that are given count more, and so does the environment unless a flag has named the server. Who
// asks the environment does not say.
func (t *tool) takeNamed() error {
	flags := t.kube.flags
	name, by := t.server, "PROBECTL_SERVER"
	switch {
	case flags.Changed("server"):
		by = "--server"
	case t.server == "" && t.kube.probed == "":
		by = ""
	}
	if _, err := netip.ParseAddr(name); err == nil || t.kube.probed != "" || by == "--server" && name == "" || strings.Contains(name, ":") {
		return nil // which no name of the file can be
	}
	f, err := t.servers()
	if err != nil {
		return err
	}
	if by == "" {
		name = f.current
	}
	s := f.find(name)
	switch {
	case s == nil && by == "" && name != "":
		return &exitError{exitFailed, "the current server is missing: " + f.unknown(name).Error(),
			"Choose another: probectl config use-server NAME, or --none, so that this machine answers."}
	case s == nil:
		t.otherServers = f.names()
		return nil
	}
	t.chosen = chosen{name: name, by: by, file: f.path}
	t.server, t.kube.probed = s.get("server"), s.get("kube")
	defer t.guarded.leaveOutEnvironment()
	given := map[string]bool{}
	for _, key := range serverKeys {
		given[key] = flags.Changed(key)
	}
	for _, setting := range s.settings {
		key := setting.key
		variable := by != "--server" && variablesOf[key] != "" && t.getenv(variablesOf[key]) != ""
		switch {
		case key == "server", key == "kube", given[key], variable:
		case key == "service-account" && given["token-file"], key == "token-file" && given["service-account"]: // another way to a token
		case given["server-tls"] && !t.guarded.tls && slices.Contains(implyingTLS[:], key):
		default:
			if err := flags.Set(key, setting.value); err != nil {
				return wrongFile(fmt.Sprintf("%s:%d: %v", f.path, setting.line, err))
			}
			t.chosen.keys = append(t.chosen.keys, key)
		}
	}
	return nil
}
