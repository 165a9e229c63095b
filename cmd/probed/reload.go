package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"probed/service/blackbox"
	"probed/service/guard"
	"probed/service/policy"
)

// watchInterval is how often the files of the configuration are looked at. They are read and not watched: a volume that
// Kubernetes mounts changes by links that move, and what counts is what a file says.
const watchInterval = 5 * time.Second

// expiryInterval is how often sessions under way are held against the time at which their credentials expire.
const expiryInterval = time.Minute

// rules are who callers are and what they may do: what a reload exchanges, all of it at once.
type rules struct {
	policy        *policy.Policy
	authenticator *guard.Authenticator
	modules       blackbox.Modules
	issuers       issuerClients // of the authenticator
}

// prepare makes of a configuration what is to be in force, and returns what puts it there. Nothing has changed when it
// fails.
func (s *server) prepare(c *config) (apply func(), err error) {
	next := &rules{modules: c.modules, policy: &policy.Policy{
		Loopback: s.listeners.reachable == 0, Listeners: s.listeners.own(), UnixPaths: s.options.unixPaths, Open: c.policy == nil,
	}}
	if c.policy != nil {
		next.policy.Lift, next.policy.Roles = c.policy.lift, c.policy.roles
	}
	if err := s.authenticator(next, c); err != nil {
		return nil, err
	}
	steps := []func(){func() { s.retire(s.rules.Swap(next)) }}
	for _, one := range []struct {
		name     string
		listener *listenerTLS
		files    *tlsFiles
		protocol string
	}{{"grpc", &s.grpcTLS, c.grpc.tls, "h2"}, {"http", &s.httpTLS, c.http.tls, "http/1.1"}} {
		if one.files == nil {
			continue
		}
		step, expires, err := one.listener.load(one.files, one.protocol)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step, func() { s.counts.Certificate(one.name, expires) })
	}
	return func() {
		for _, step := range steps {
			step()
		}
	}, nil
}

// reload puts in force what the configuration says now. A configuration that is wrong, or with which probed would not have
// started, changes nothing; the log and the metrics say so.
func (s *server) reload() {
	c, err := s.putInForce()
	s.counts.Reloaded(err == nil)
	if err != nil {
		s.log.Error("the configuration is as it was: the file has faults", "files", s.options.config, "error", err.Error())
		return
	}
	for _, what := range s.begun.changed(c) {
		s.log.Warn("a change of the configuration waits for a restart", "files", s.options.config, "section", what)
	}
	for _, warning := range c.warnings {
		s.log.Warn("configuration", "warning", warning.String())
	}
	s.log.Info("the configuration is in force", "files", s.options.config)
	s.recheck()
}

// recheck ends the sessions of callers who may not have them any more.
func (s *server) recheck() {
	s.retired.Go(func() { s.service.Recheck(s.rules.Load().authenticator.Identify) })
}

// putInForce puts what the configuration says now in force. From then on its files are watched, also when they are wrong:
// these are what has to change.
func (s *server) putInForce() (*config, error) {
	c, err := readConfig(s.options.config, s.getenv)
	if wrong, ok := errors.AsType[*configError](err); ok {
		s.watched = wrong.watched
	}
	if err != nil {
		return nil, err
	}
	s.watched = c.watched
	if err := checkExposure(s.exposure(c)); err != nil {
		return nil, err
	}
	apply, err := s.prepare(c)
	if err != nil {
		return nil, err
	}
	apply()
	return c, nil
}

// retire closes what tells callers apart no more. Requests that wait for an issuer then still get their answer.
func (s *server) retire(before *rules) {
	if before == nil {
		return
	}
	s.retired.Go(func() {
		wait(s.running, issuerTimeout)
		before.authenticator.Close()
	})
}

// changed are the sections that differ and that a reload does not put in force.
func (c *config) changed(next *config) (sections []string) {
	for _, section := range []struct {
		name string
		same bool
	}{
		{"listeners", reflect.DeepEqual([]any{c.grpc, c.http, c.ops, c.echo, c.allowedHosts}, []any{next.grpc, next.http, next.ops, next.echo, next.allowedHosts})},
		{"limits", proto.Equal(c.limits, next.limits)},
		{"drain", proto.Equal(c.drain, next.drain)},
		{"audit", c.audit == next.audit},
	} {
		if !section.same {
			sections = append(sections, section.name)
		}
	}
	return sections
}

// watch puts in force what changes, until a signal to end comes or ctx ends: when one of the files of the configuration
// says something else, and at a SIGHUP, which also makes the audit log begin anew, for who has moved its file away.
func (s *server) watch(ctx context.Context, signals <-chan os.Signal) {
	ticker := time.NewTicker(cmp.Or(s.options.watchEvery, watchInterval))
	defer ticker.Stop()
	expiry := time.NewTicker(expiryInterval)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case signal := <-signals:
			if signal != syscall.SIGHUP {
				return
			}
			if s.audit != nil {
				if err := s.audit.Reopen(); err != nil {
					s.log.Error("the audit log", "error", err.Error())
				}
			}
		case <-ticker.C:
			s.tellHealth()
			if !s.watched.changed() {
				continue
			}
		case <-expiry.C:
			s.recheck()
			continue
		}
		if len(s.options.config) > 0 {
			s.reload()
		}
	}
}

// watched are files, and what each said when it was added: before it was read, so that no change is lost in between.
type watched struct {
	files []string
	said  [][sha256.Size]byte
}

// add notes what a file says, that is about to be read.
func (w *watched) add(file string) {
	w.files, w.said = append(w.files, file), append(w.said, fingerprint(file))
}

// changed tells whether one of them says something else.
func (w watched) changed() bool {
	for i, file := range w.files {
		if fingerprint(file) != w.said[i] {
			return true
		}
	}
	return false
}

// fingerprint is of what a file says; that it is missing is a thing to say.
func fingerprint(file string) [sha256.Size]byte {
	data, err := readRegular(file)
	if err != nil {
		data = fmt.Appendf(nil, "cannot be read: %v", err)
	}
	return sha256.Sum256(data)
}
