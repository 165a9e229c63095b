package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// serversFile is the configuration file: servers by name, and which of them is asked where nothing else says whom to ask.
//
//	version: 1
//	current-server: shop
//	servers:
//	  shop:
//	    server: probed.shop:50051
//	    server-ca: ca.pem
//	    token-file: token
//	  cluster:
//	    kube: net/probed
//
// The keys of a server are flags by the same names. The file is edited by hand as well: what nobody knows is refused with
// its line, and a change made here keeps the comments.
type serversFile struct {
	path    string // empty: this machine has no place for one
	current string
	servers []*namedServer // in the order of the file

	document *yaml.Node // all of it, with its comments; nil: there is nothing
	text     []byte
}

// namedServer is a probed and how to get to it.
type namedServer struct {
	name     string
	settings []setting
}

// setting is one key of a server. The name of a file is absolute.
type setting struct {
	key, value string
	line       int
}

// get is the value of a key, or empty.
func (s *namedServer) get(key string) string {
	for _, given := range s.settings {
		if given.key == key {
			return given.value
		}
	}
	return ""
}

const fileVersion = "1"

// The keys of the file, and of a server in it: these are about any, or about one in a cluster.
var (
	fileKeys   = [...]string{"version", "current-server", "servers"}
	serverKeys = [...]string{
		"server", "kube", "connect-timeout", "server-tls", "server-ca", "server-cert", "server-key", "server-name", "token-file",
		"token-over-plaintext", "namespace", "context", "kubeconfig", "service-account",
	}
	keysOfCluster = [...]string{"namespace", "context", "kubeconfig", "service-account"}
	keysOfFiles   = [...]string{"server-ca", "server-cert", "server-key", "token-file", "kubeconfig"}
)

// serversPath is where the file is, by the rules of [os.UserConfigDir]; empty where there is no such place.
func serversPath(getenv func(string) string) string {
	if path := getenv("PROBECTL_CONFIG"); path != "" {
		return path
	}
	dir := ""
	switch home := getenv("HOME"); {
	case runtime.GOOS == "windows":
		dir = getenv("AppData")
	case runtime.GOOS == "darwin" && home != "":
		dir = filepath.Join(home, "Library", "Application Support")
	case filepath.IsAbs(getenv("XDG_CONFIG_HOME")):
		dir = getenv("XDG_CONFIG_HOME")
	case home != "":
		dir = filepath.Join(home, ".config")
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "probectl", "config.yaml")
}

// mostServersFile is how long the file may be, in bytes.
const mostServersFile = 1 << 20

// readServers reads the file. That there is none is fine, and the same as an empty one.
func readServers(path string) (*serversFile, error) {
	f := &serversFile{path: path}
	if path == "" {
		return f, nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // a pipe would be waited for
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f.text, err = io.ReadAll(io.LimitReader(file, mostServersFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(f.text) > mostServersFile:
		return nil, fmt.Errorf("%s is longer than 1 MiB, which no list of servers is", path)
	}
	err = f.parse()
	return f, err
}

// parse reads the text of the file.
func (f *serversFile) parse() error {
	decoder := yaml.NewDecoder(bytes.NewReader(f.text))
	var document yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && !errors.Is(decoder.Decode(&yaml.Node{}), io.EOF) {
		err = errors.New("it has more than one document")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	top := document.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil // comments alone
	}
	keys, err := f.mapping(top, "the file", fileKeys[:])
	if err != nil {
		return err
	}
	f.document = &document
	for _, key := range keys {
		switch {
		case key.name == "servers":
			err = f.parseServers(key.value)
		case key.value.Kind != yaml.ScalarNode:
			err = f.wrong(key.value, "%s has one value", key.name)
		case key.name == "version" && key.value.Value != fileVersion:
			err = f.wrong(key.value, "it is of version %s, and this probectl knows version %s: is there a newer one?", key.value.Value, fileVersion)
		case key.name == "current-server" && key.value.Tag != "!!null":
			f.current = key.value.Value
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *serversFile) parseServers(node *yaml.Node) error {
	if node.Tag == "!!null" {
		return nil
	}
	entries, err := f.mapping(node, "servers", nil)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := checkServerName(entry.name); err != nil {
			return f.wrong(entry.key, "%v", err)
		}
		s := &namedServer{name: entry.name}
		keys, err := f.mapping(entry.value, "the server "+entry.name, serverKeys[:])
		if err != nil {
			return err
		}
		for _, key := range keys {
			if key.value.Kind != yaml.ScalarNode || key.value.Tag == "!!null" {
				return f.wrong(key.key, "%s has one value: leave it out if there is none", key.name)
			}
			given := setting{key.name, key.value.Value, key.key.Line}
			if slices.Contains(keysOfFiles[:], given.key) {
				if given.value, err = f.fileName(given.value); err != nil {
					return f.wrong(key.key, "%s: %v", key.name, err)
				}
			}
			s.settings = append(s.settings, given)
		}
		if line, err := s.check(); err != nil {
			return fmt.Errorf("%s:%d: the server %s: %w", f.path, cmp.Or(line, entry.key.Line), s.name, err)
		}
		f.servers = append(f.servers, s)
	}
	return nil
}

// fileName is the absolute name of a file that this one names.
func (f *serversFile) fileName(name string) (string, error) {
	if below, ok := strings.CutPrefix(name, "~/"); ok {
		home, err := os.UserHomeDir()
		return filepath.Join(home, below), err
	}
	switch {
	case strings.HasPrefix(name, "~"):
		return "", errors.New("of what begins with ~, only ~/ is known here")
	case filepath.IsAbs(name):
		return name, nil
	}
	return filepath.Join(filepath.Dir(f.path), name), nil
}

// pair is a key of a mapping and its value.
type pair struct {
	name       string
	key, value *yaml.Node
}

// mapping is the pairs of a node, which must be one, with these keys, nil for any, and each once.
func (f *serversFile) mapping(node *yaml.Node, what string, known []string) ([]pair, error) {
	if node.Kind != yaml.MappingNode {
		return nil, f.wrong(node, "%s has lines of KEY: VALUE", what)
	}
	var pairs []pair
	for i := 0; i+1 < len(node.Content); i += 2 {
		p := pair{node.Content[i].Value, node.Content[i], node.Content[i+1]}
		switch {
		case p.key.Kind != yaml.ScalarNode || p.value.Kind == yaml.AliasNode || p.value.Anchor != "":
			return nil, f.wrong(p.key, "anchors, aliases and keys of several values are not read here")
		case known != nil && strings.Contains(p.name, "token") && !slices.Contains(known, p.name):
			return nil, f.wrong(p.key, "there is no key %q, and no token stands here: write it to a file, and name that with token-file", p.name)
		case known != nil && !slices.Contains(known, p.name):
			return nil, f.wrong(p.key, "%s has no key %q: there are %s", what, p.name, strings.Join(known, ", "))
		case slices.ContainsFunc(pairs, func(other pair) bool { return other.name == p.name }):
			return nil, f.wrong(p.key, "%s has %s twice", what, p.name)
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// wrong is an error about a place in the file.
func (f *serversFile) wrong(at *yaml.Node, format string, values ...any) error {
	return fmt.Errorf("%s:%d: %s", f.path, at.Line, fmt.Sprintf(format, values...))
}

var serverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// checkServerName is what is wrong with the name of a server. It has no colon: HOST:PORT is always an address.
func checkServerName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%s is an address, and would hide it: call the server something else", name)
	}
	if !serverName.MatchString(name) {
		return fmt.Errorf("%q is no name of a server: it has letters, digits, dots, - and _, 63 at most, and begins with a letter or a digit", name)
	}
	return nil
}

// check is what is wrong with a server, and in which line; 0: with all of it.
func (s *namedServer) check() (line int, err error) {
	if (s.get("server") == "") == (s.get("kube") == "") {
		return 0, errors.New("it has one of server (HOST:PORT) and kube ([NAMESPACE/]SERVICE)")
	}
	for _, given := range s.settings {
		switch given.key {
		case "server":
			_, err = serverAddress(given.value)
		case "kube":
			var namespace string
			var which selection
			namespace, which, err = parseKube(given.value)
			switch other := s.get("namespace"); {
			case err != nil:
			case namespace != "" && other != "" && other != namespace:
				err = fmt.Errorf("%s and the key namespace name two namespaces", given.value)
			case which.service == "" && s.transport() == "TLS" && s.get("server-name") == "":
				err = errors.New("with labels nobody knows whom the certificate must be for: say it with server-name")
			}
		case "server-tls", "token-over-plaintext":
			switch {
			case given.value != "true" && given.value != "false":
				err = errors.New("it is one of true, false")
			case given.key == "server-tls" && given.value == "false" && slices.ContainsFunc(implyingTLS[:], func(key string) bool { return s.get(key) != "" }):
				err = errors.New("false does not go with the other keys about TLS")
			}
		case "server-cert":
			if s.get("server-key") == "" {
				err = errors.New("it goes with server-key, the key of that certificate")
			}
		case "server-key":
			if s.get("server-cert") == "" {
				err = errors.New("it goes with server-cert, the certificate that it is the key of")
			}
		case "token-file":
			if s.get("service-account") != "" {
				err = errors.New("it and service-account are two ways to a token: have one of them")
			}
		case "connect-timeout":
			if d, e := time.ParseDuration(given.value); e != nil || d <= 0 {
				err = errors.New("it takes a time, as 300ms or 2s")
			}
		default:
			if slices.Contains(keysOfCluster[:], given.key) && s.get("kube") == "" {
				err = errors.New("it is about a cluster, and goes with kube")
			} else if kind := map[string]*regexp.Regexp{"namespace": namespaceName, "service-account": objectName}[given.key]; kind != nil && !kind.MatchString(given.value) {
				err = fmt.Errorf("%s is not the name of one", given.value)
			}
		}
		if err != nil {
			return given.line, fmt.Errorf("%s: %w", given.key, err)
		}
	}
	return 0, nil
}

// find is the server of a name, or nil.
func (f *serversFile) find(name string) *namedServer {
	for _, s := range f.servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

// names is those of all servers.
func (f *serversFile) names() []string {
	var names []string
	for _, s := range f.servers {
		names = append(names, s.name)
	}
	return names
}

// unknown is the error that there is no server of a name.
func (f *serversFile) unknown(name string) error {
	if len(f.servers) == 0 {
		return fmt.Errorf("%s has no server %q, and no other: add one with probectl config set-server", cmp.Or(f.path, "no file"), name)
	}
	return fmt.Errorf("%s has no server %q: there are %s", f.path, name, strings.Join(f.names(), ", "))
}

// setCurrent makes a server the one that is asked; empty: this machine.
func (f *serversFile) setCurrent(name string) {
	f.current = name
	if name == "" {
		deleteKey(f.top(), "current-server")
		return
	}
	setKey(f.top(), "current-server", scalar(name))
}

// set sets keys of a server, which need not be there yet. An empty value takes a key away.
func (f *serversFile) set(name string, settings []setting) {
	servers := child(f.top(), "servers")
	entry := child(servers, name)
	for _, given := range settings {
		switch {
		case given.value == "":
			deleteKey(entry, given.key)
		case given.key == "server":
			deleteKey(entry, "kube")
			for _, key := range keysOfCluster {
				deleteKey(entry, key)
			}
		case given.key == "kube":
			deleteKey(entry, "server")
		}
		if given.value != "" {
			setKey(entry, given.key, scalar(given.value))
		}
	}
}

// remove takes a server away.
func (f *serversFile) remove(name string) {
	deleteKey(child(f.top(), "servers"), name)
	if f.current == name {
		f.setCurrent("")
	}
}

// rename gives a server another name.
func (f *serversFile) rename(from, to string) {
	servers := child(f.top(), "servers")
	for i := 0; i < len(servers.Content); i += 2 {
		if servers.Content[i].Value == from {
			servers.Content[i].Value = to
		}
	}
	if f.current == from {
		f.setCurrent(to)
	}
}

// top is the mapping of the file, and makes it if there is none.
func (f *serversFile) top() *yaml.Node {
	if f.document == nil {
		top := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		f.document = &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{top}}
		setKey(top, "version", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fileVersion})
		if len(bytes.TrimSpace(f.text)) == 0 {
			f.text = []byte("# The servers of probectl; probectl config --help tells about them.")
		}
		top.Content[0].HeadComment = strings.TrimSpace(string(f.text)) // comments are all there was
	}
	return f.document.Content[0]
}

func scalar(value string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	if value == "true" || value == "false" {
		node.Tag = "!!bool"
	}
	return node
}

// child is the mapping under a key of another, which is made if it is missing.
func child(of *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if of.Content[i].Value == key && of.Content[i+1].Kind == yaml.MappingNode {
			if len(of.Content[i+1].Content) == 0 {
				of.Content[i+1].Style = 0 // {} grows lines
			}
			return of.Content[i+1]
		}
	}
	node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	setKey(of, key, node)
	return node
}

func setKey(of *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if old := of.Content[i+1]; of.Content[i].Value == key {
			value.HeadComment, value.LineComment, value.FootComment = old.HeadComment, old.LineComment, old.FootComment
			of.Content[i+1] = value
			return
		}
	}
	of.Content = append(of.Content, scalar(key), value)
}

func deleteKey(of *yaml.Node, key string) {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if of.Content[i].Value == key {
			of.Content = slices.Delete(of.Content, i, i+2)
			return
		}
	}
}

// write puts the file in place of the one before, all of it or nothing, and for this user alone. What could not be read
// again is not written.
func (f *serversFile) write() error {
	if f.path == "" {
		return errors.New("there is no place for a configuration file: name one in PROBECTL_CONFIG")
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(f.document), encoder.Close()); err != nil {
		return err
	}
	if err := (&serversFile{path: f.path, text: text.Bytes()}).parse(); err != nil {
		return &usageError{withoutLine(f.path, err)}
	}
	path := behindLinks(f.path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".config-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(text.Bytes())
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// behindLinks is the file that a path leads to: a link to it stays one.
func behindLinks(path string) string {
	if behind, err := filepath.EvalSymlinks(path); err == nil {
		return behind
	}
	return path
}

// withoutLine is an error about the file as it would be, whose lines nobody has seen.
func withoutLine(path string, err error) error {
	text := strings.TrimPrefix(err.Error(), path+":")
	if number, rest, found := strings.Cut(text, ": "); found {
		if _, err := strconv.Atoi(number); err == nil {
			text = rest
		}
	}
	return errors.New(text)
}

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
