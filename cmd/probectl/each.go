package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// asked is a pod, and what came of asking it.
type asked[Answer any] struct {
	pod
	answer Answer
	err    error         // why it could not be asked; there is no answer then
	done   chan struct{} // closed when one of the two is there
}

// interrupted tells whether it was not waited for.
func (a *asked[Answer]) interrupted() bool {
	return errors.Is(a.err, context.Canceled) || status.Code(a.err) == codes.Canceled
}

// mostPods is how many pods are asked at the same time. There is a kubectl for each.
const mostPods = 32

// askEach asks every pod that --kube means at the same time, and tells of them in the order of their nodes: of each to a
// machine, as soon as it and those before it are known, and then of all to a person. It returns an error for those that
// could not be asked, if there is no other, save those that are parting. The answers' own verdict is the code that machine returns.
func askEach[Answer any](
	ctx context.Context, t *tool,
	ask func(context.Context, *server) (Answer, error),
	machine func(*asked[Answer]) (code int, err error),
	person func([]*asked[Answer]),
) error {
	return t.interruptible(ctx, func(ctx context.Context) error {
		f, err := t.findAll(ctx)
		if err != nil {
			return err
		}
		all := make([]*asked[Answer], len(f.pods))
		for i, p := range f.pods {
			all[i] = &asked[Answer]{pod: p, done: make(chan struct{})}
		}
		asking, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		var next, answered atomic.Int64
		for range min(mostPods, len(all)) {
			running.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
					a := all[i]
					a.err = t.askPod(asking, f, a.pod, func(s *server) (err error) {
						a.answer, err = ask(asking, s)
						return err
					})
					if !a.interrupted() {
						answered.Add(1)
					}
					close(a.done)
				}
			})
		}
		defer running.Wait()
		defer cancel()

		progress := startProgress(t.stderr, t.stdout, func(time.Duration) string {
			return fmt.Sprintf("%d of %d pods", answered.Load(), len(all))
		})
		defer progress.stop()
		worst, complete := exitYes, 0
		for _, a := range all {
			<-a.done
			code := exitFailed
			err := progress.during(func() (err error) {
				switch {
				case a.interrupted():
					code = exitInterrupted
					return t.printErrorFrom(a.pod, status.Error(codes.Canceled, "interrupted before it answered"))
				case a.err != nil:
					if f.parting(a.pod) {
						code = exitYes
					}
					_, text, _ := explain(a.err)
					return t.printErrorFrom(a.pod, status.Error(codes.Unavailable, text))
				}
				code, err = machine(a)
				return err
			})
			if err != nil {
				return err
			}
			worst = worse(worst, code)
			if code != exitInterrupted {
				complete++
			}
		}
		progress.stop()
		if t.format == formatTable {
			person(all)
		}
		switch {
		case worst == exitInterrupted:
			return &exitError{code: worst, text: fmt.Sprintf("interrupted: %d of %d pods answered by then", complete, len(all))}
		case worst != exitYes:
			return &exitError{code: worst}
		}
		return nil
	})
}

// worse is the code that counts more: that there is no answer more than what is wrong with the command line, that more than
// a failure, and that more than a no.
func worse(a, b int) int {
	rank := []int{exitYes, exitNo, exitFailed, exitUsage, exitInterrupted}
	return rank[max(slices.Index(rank, a), slices.Index(rank, b))]
}

// findAll finds the pods, in the order of their nodes, of which those come last that have none.
func (t *tool) findAll(ctx context.Context) (*found, error) {
	ctx, cancel := context.WithTimeout(ctx, t.connectTimeout)
	defer cancel()
	waiting := t.waitForKubectl()
	defer waiting.stop()
	f, err := t.kube.find(ctx)
	if err == nil {
		slices.SortStableFunc(f.pods, func(a, b pod) int {
			if (a.node == "") != (b.node == "") {
				return cmp.Compare(b.node, a.node)
			}
			return cmp.Compare(a.node, b.node)
		})
	}
	return f, err
}

// askPod calls ask with the probed in a pod. The error is why it has no answer.
func (t *tool) askPod(ctx context.Context, f *found, p pod, ask func(*server) error) error {
	if f.parting(p) {
		return &exitError{exitFailed, "it is being deleted, which is no failure while another pod is ready", ""}
	}
	if p.notReady != "" {
		return &exitError{exitFailed, "it is not ready: " + p.notReady, p.tellMore()}
	}
	opening, cancel := context.WithTimeout(ctx, t.connectTimeout)
	defer cancel()
	s, err := t.openPod(opening, f, p)
	if err != nil {
		return err
	}
	defer s.close()
	return ask(s)
}

// printFrom prints to a machine what a pod said, or whatever else is known: the text of an object of JSON, to which the
// pod is added.
func (t *tool) printFrom(p pod, members string) error {
	if t.format == formatTable {
		return nil
	}
	return t.printDocument(fmt.Appendf(nil, `{"pod":%s,"namespace":%s,"node":%s,%s}`,
		jsonText(p.name), jsonText(p.namespace), jsonText(p.node), members), false)
}

// printErrorFrom is printFrom for an error. That of a pod that could not be asked has the shape of one of the service.
func (t *tool) printErrorFrom(p pod, err error) error {
	failure, err := marshal(errorMessage(err))
	if err != nil {
		return err
	}
	return t.printFrom(p, `"error":`+string(failure))
}

// tellNotAsked tells a person why pods could not be asked.
func tellNotAsked[Answer any](p *printer, all []*asked[Answer]) {
	for _, a := range all {
		if a.err == nil || a.interrupted() {
			continue
		}
		_, text, advice := explain(a.err)
		p.line("")
		p.line("NOT ASKED: %s", a.pod)
		p.lines("  ", text+"\n"+advice)
	}
}

// group is pods that say the same.
type group[Answer any] struct {
	key     string
	members []*asked[Answer]
}

// grouped puts pods together that were asked and say the same, as key has it: the many before the few, so that those
// who say something else stand last.
func grouped[Answer any](all []*asked[Answer], key func(Answer) string) []*group[Answer] {
	var groups []*group[Answer]
	for _, a := range all {
		if a.err != nil {
			continue
		}
		k := key(a.answer)
		i := slices.IndexFunc(groups, func(g *group[Answer]) bool { return g.key == k })
		if i < 0 {
			i, groups = len(groups), append(groups, &group[Answer]{key: k})
		}
		groups[i].members = append(groups[i].members, a)
	}
	slices.SortStableFunc(groups, func(a, b *group[Answer]) int { return cmp.Compare(len(b.members), len(a.members)) })
	return groups
}

// count is how many pods these are, and on how many nodes.
func count[Answer any](members []*asked[Answer]) string {
	nodes := map[string]bool{}
	for _, a := range members {
		nodes[a.node] = true
	}
	return fmt.Sprintf("%d %s on %d %s", len(members), plural(uint64(len(members)), "pod"), len(nodes), plural(uint64(len(nodes)), "node"))
}

// from is where these are.
func from[Answer any](members []*asked[Answer]) string {
	if len(members) == 1 {
		return listed(members)
	}
	return count(members) + ": " + listed(members)
}

// listed is the pods by name.
func listed[Answer any](members []*asked[Answer]) string {
	names := make([]string, len(members))
	for i, a := range members {
		names[i] = a.String()
	}
	return strings.Join(names, ", ")
}
