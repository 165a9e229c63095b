package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/blackbox"
)

// modules reads what Prometheus may ask for.
func (r *reader) modules(all map[string]*configv1.Module) {
	if len(all) > 0 {
		r.c.modules = make(blackbox.Modules, len(all))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		field := fmt.Sprintf("modules[%q]", name)
		var files blackbox.TLSFiles
		if prober, options := moduleTLS(all[name]); options != nil {
			files = r.moduleFiles(field+"."+prober+".tls_config", options)
		}
		module, problems := blackbox.New(name, all[name], files)
		for _, problem := range problems {
			if !r.unread[field+"."+problem.Field] { // else it is empty because it could not be read, which has been told
				r.report(field+"."+problem.Field, "%s", problem.Text)
			}
		}
		if prober := all[name].GetProber(); module != nil && !module.Served() {
			r.warn(field+".prober", "a probe with this module is refused: probed has the probers tcp and dns, and not %s", prober)
		}
		r.c.modules[name] = module
	}
}

// moduleTLS is how a module speaks TLS, and in which of its parts that stands; nil: it is not said.
func moduleTLS(m *configv1.Module) (prober string, options *configv1.ModuleTls) {
	switch m.GetProber() {
	case "tcp":
		return "tcp", m.GetTcp().GetTlsConfig()
	case "dns":
		return "dns", m.GetDns().GetTlsConfig()
	}
	return "", nil
}

// moduleFiles reads the files of a module. That one is missing is no fault of the configuration: blackbox_exporter tells it
// with the probe as well, and a file with many modules has to do where one of them is not used.
func (r *reader) moduleFiles(field string, m *configv1.ModuleTls) (files blackbox.TLSFiles) {
	read := func(name, file string) string {
		if file == "" {
			return ""
		}
		file = r.path(field+"."+name, file)
		r.c.watched.add(file)
		text, err := readRegular(file)
		if err != nil {
			err = fmt.Errorf("%s: %w", file, err)
			r.warn(field+"."+name, "%v: a probe with this module fails", err)
			files.Err = errors.Join(files.Err, err)
		}
		return string(text)
	}
	files.CA, files.Certificate, files.Key = read("ca_file", m.GetCaFile()), read("cert_file", m.GetCertFile()), read("key_file", m.GetKeyFile())
	if files.Err == nil && files.CA != "" {
		if _, err := readCertificates(r.path(field+".ca_file", m.GetCaFile())); err != nil {
			r.warn(field+".ca_file", "%v: a probe with this module fails", err)
			files.Err = err
		}
	}
	if files.Err == nil && files.Certificate != "" && files.Key != "" {
		if _, err := tls.X509KeyPair([]byte(files.Certificate), []byte(files.Key)); err != nil {
			err = fmt.Errorf("%s and its key: %s", m.GetCertFile(), strings.TrimPrefix(err.Error(), "tls: "))
			r.warn(field+".cert_file", "%v: a probe with this module fails", err)
			files.Err = err
		}
	}
	return files
}

// modulesSummary tells which modules there are, and which of them are not served.
func modulesSummary(modules blackbox.Modules) string {
	var served, refused []string
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if modules[name].Served() {
			served = append(served, name)
		} else {
			refused = append(refused, name)
		}
	}
	text := "/probe serves " + strings.Join(served, ", ")
	if served == nil {
		text = "/probe serves none"
	}
	if refused != nil {
		text += "; not " + strings.Join(refused, ", ")
	}
	return text
}
