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
