package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// kube is how to find the probed of a cluster: the flags about that. Everything in the cluster is done by kubectl.
type kube struct {
	flags *pflag.FlagSet

	probed         string // a Service or a selector, with its namespace or without
	kubectl        kubectl
	serviceAccount string
	each           bool
}

// kubeFlags are those that make no sense without a cluster.
var kubeFlags = [...]string{"namespace", "context", "kubeconfig", "service-account", "each"}

func (k *kube) bind(root *cobra.Command, getenv func(string) string, plugin bool) {
	flags := root.PersistentFlags()
	k.flags = flags
	probed, otherwise := getenv("PROBECTL_KUBE"), "$PROBECTL_KUBE"
	if plugin {
		probed = cmp.Or(probed, pluginKube)
		otherwise += ", else " + pluginKube
	}
	flags.StringVar(&k.probed, "kube", probed,
		"the probed to ask, in Kubernetes: a pod of a Service, `[NAMESPACE/]SERVICE`, or one with these labels,\n[NAMESPACE/]KEY=VALUE[,KEY=VALUE], through kubectl port-forward (default: "+otherwise+")")
	flags.Lookup("kube").DefValue = "" // what the environment says is not for help texts
	flags.StringVarP(&k.kubectl.namespace, "namespace", "n", "", "the `NAMESPACE` of --kube (else that of kubectl's context)")
	flags.StringVar(&k.kubectl.context, "context", "", "the `CONTEXT` of kubectl's configuration to use for --kube")
	flags.StringVar(&k.kubectl.kubeconfig, "kubeconfig", "", "kubectl's configuration, a `FILE`, to use for --kube")
	flags.StringVar(&k.serviceAccount, "service-account", "", "show the server a token of the service account of this `NAME`, in the namespace of --kube, which kubectl\nmakes for the audience probed")
	flags.BoolVar(&k.each, "each", false, "ask every pod of --kube at the same time, and show the answers side by side")
}

// unused is an error if a flag was given that only makes sense in a cluster.
func (k *kube) unused() error {
	for _, flag := range kubeFlags {
		if k.flags.Changed(flag) {
			return fmt.Errorf("--%s is about a cluster: say which probed to ask there with --kube", flag)
		}
	}
	return nil
}

// selection is which pods --kube means.
type selection struct {
	service  string // the name of a Service; empty: the selector says
	selector string
}

func (s selection) String() string {
	if s.service != "" {
		return "service " + s.service
	}
	return "labels " + s.selector
}

var (
	// A namespace has no dots, and what stands before the slash in the key of a label usually has.
	namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	objectName    = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	isSelector    = regexp.MustCompile(`=| in | notin `)
)

// parseKube reads what --kube means, and the namespace, empty if it names none.
func parseKube(text string) (namespace string, s selection, err error) {
	if before, after, found := strings.Cut(text, "/"); found && namespaceName.MatchString(before) {
		namespace, text = before, after
	}
	switch {
	case isSelector.MatchString(text):
		return namespace, selection{selector: text}, nil
	case namespaceName.MatchString(text):
		return namespace, selection{service: text}, nil
	}
	return "", selection{}, errors.New("give [NAMESPACE/]SERVICE, or [NAMESPACE/]KEY=VALUE for a label of its pods")
}

// check is what is wrong with the flags.
func (k *kube) check(g *guarded) error {
	namespace, chosen, err := parseKube(k.probed)
	switch {
	case err != nil:
		return fmt.Errorf("--kube %s: %w", k.probed, err)
	case k.flags.Changed("kube") && namespace != "" && k.kubectl.namespace != "" && namespace != k.kubectl.namespace:
		return fmt.Errorf("--kube %s and --namespace %s name two namespaces", k.probed, k.kubectl.namespace)
	case k.kubectl.namespace != "" && !namespaceName.MatchString(k.kubectl.namespace):
		return fmt.Errorf("--namespace %s: that is not the name of a namespace", k.kubectl.namespace)
	case k.serviceAccount != "" && !objectName.MatchString(k.serviceAccount):
		return fmt.Errorf("--service-account %s: that is not the name of a service account", k.serviceAccount)
	case k.serviceAccount != "" && g.flags.Changed("token-file"):
		return errors.New("--service-account and --token-file are two ways to a token: give one of them")
	}
	secure, err := g.wantsTLS()
	if err == nil && secure && g.name == "" && chosen.service == "" {
		return errors.New("with labels nobody knows whom the certificate must be for: say it with --server-name")
	}
	return err
}

// checkKube makes ready what --kube needs, and is what is wrong with the flags.
func (t *tool) checkKube() error {
	if !t.kube.flags.Changed("connect-timeout") {
		t.connectTimeout = kubePatience
	}
	if t.verbose {
		t.kube.kubectl.tell = func(command string) { t.stderr.line("%s", command) }
	}
	return t.kube.check(t.guarded)
}

// kubePatience is the default of --connect-timeout where kubectl is on the way, which is started several times.
const kubePatience = 10 * time.Second

// found is what a cluster was asked for.
type found struct {
	kubectl   kubectl
	selection selection
	namespace string
	pods      []pod  // in the order of names, at least one
	token     string // of the service account, or ""
}

// find asks the cluster for the pods and the token.
func (k *kube) find(ctx context.Context) (*found, error) {
	namespace, chosen, err := parseKube(k.probed)
	if err != nil {
		return nil, err
	}
	f := &found{kubectl: k.kubectl, selection: chosen}
	if f.kubectl.namespace == "" {
		f.kubectl.namespace = namespace
	}
	var asking sync.WaitGroup
	var tokenErr error
	if k.serviceAccount != "" {
		asking.Go(func() { f.token, tokenErr = f.kubectl.token(ctx, k.serviceAccount) })
	}
	err = f.findPods(ctx)
	asking.Wait()
	if err == nil {
		err = tokenErr
	}
	return f, err
}

// token makes a token of a service account. It stands on no command line and in no error.
func (k kubectl) token(ctx context.Context, serviceAccount string) (string, error) {
	text, err := k.run(ctx, "create", "token", "--audience=probed", serviceAccount)
	if err != nil {
		return "", err
	}
	return checkToken("what kubectl create token wrote", string(text))
}

// nameLabel is the label that most give their pods, with the name of their Service for its value.
const nameLabel = "app.kubernetes.io/name"

// findPods finds the pods that are meant. Those of a Service stand in its selector, so that one kubectl would have to wait
// for another; but what the selector says can be guessed, and a guess that holds has saved a round trip.
func (f *found) findPods(ctx context.Context) error {
	if f.selection.service == "" {
		return f.listPods(ctx, f.selection.selector)
	}
	guessing, cancel := context.WithCancel(ctx)
	var guess []byte
	var guessErr error
	var asking sync.WaitGroup
	asking.Go(func() {
		guess, guessErr = f.kubectl.run(guessing, "get", "pods", "--output=json", "--selector="+nameLabel+"="+f.selection.service)
	})
	defer asking.Wait()
	defer cancel()
	text, err := f.kubectl.run(ctx, "get", "service", "--output=json", f.selection.service)
	if err != nil {
		return err
	}
	service, err := readService(text)
	if err != nil {
		return err
	}
	f.namespace = service.Metadata.Namespace
	selector := selectorText(service.Spec.Selector)
	if selector == "" {
		return &exitError{exitFailed, fmt.Sprintf("the Service %s/%s has no selector, so no pods are its own", f.namespace, f.selection.service),
			"Name the pods by a label: --kube " + f.namespace + "/KEY=VALUE"}
	}
	if service.Spec.Selector[nameLabel] != f.selection.service {
		cancel()
		return f.listPods(ctx, selector)
	}
	if asking.Wait(); guessErr != nil {
		return guessErr
	}
	return f.takePods(guess, service.Spec.Selector, selector)
}

func (f *found) listPods(ctx context.Context, selector string) error {
	text, err := f.kubectl.run(ctx, "get", "pods", "--output=json", "--selector="+selector)
	if err != nil {
		return err
	}
	return f.takePods(text, nil, selector)
}

// takePods reads the pods that kubectl wrote, those that have the labels. The selector is what they were chosen by.
func (f *found) takePods(text []byte, labels map[string]string, selector string) (err error) {
	if f.pods, err = readPods(text, labels); err != nil {
		return err
	}
	if len(f.pods) == 0 {
		return f.noPod(selector)
	}
	f.namespace = f.pods[0].namespace
	return nil
}

func (f *found) noPod(selector string) error {
	where := "the namespace " + f.namespace
	if f.namespace == "" {
		where = "the namespace " + f.kubectl.namespace
	}
	if f.namespace == "" && f.kubectl.namespace == "" {
		where = "the namespace of kubectl's context"
	}
	text, advice := fmt.Sprintf("no pod in %s has the labels %s", where, selector), "Is it another namespace? Say so with -n."
	if f.selection.service != "" {
		text += ", by which the Service " + f.selection.service + " chooses its pods"
		advice = "Is its Deployment or DaemonSet there, and does it have pods?"
	}
	return &exitError{exitFailed, text, advice}
}

// parting tells whether a pod is being deleted and another is ready, so that nothing is wrong: a rollout or an eviction.
func (f *found) parting(p pod) bool {
	return p.deleted && slices.ContainsFunc(f.pods, func(p pod) bool { return p.notReady == "" })
}

// pick chooses the pod to ask, the same each time.
func (f *found) pick() (pod, error) {
	for _, p := range f.pods {
		if p.notReady == "" {
			return p, nil
		}
	}
	var why []string
	for _, p := range f.pods[:min(len(f.pods), 3)] {
		why = append(why, p.String()+": "+p.notReady)
	}
	if more := len(f.pods) - len(why); more > 0 {
		why = append(why, fmt.Sprintf("and %d more", more))
	}
	return pod{}, &exitError{exitFailed, fmt.Sprintf("no pod of %s in %s is ready: %s", f.selection, f.namespace, strings.Join(why, "; ")), f.pods[0].tellMore()}
}

// certificateName is whom the certificate of a probed must be for, unless --server-name says it: the name of the Service
// within its namespace, which is what manifests can say that do not know theirs. That it is the right namespace is what
// kubectl and the API server stand for. Empty: nobody knows.
func (f *found) certificateName() string { return f.selection.service }

// openKube finds a pod in the cluster and connects to the probed in it.
func (t *tool) openKube(ctx context.Context) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, t.connectTimeout)
	defer cancel()
	waiting := t.waitForKubectl()
	defer waiting.stop()
	f, err := t.kube.find(ctx)
	if err != nil {
		return nil, err
	}
	p, err := f.pick()
	if err != nil {
		return nil, err
	}
	return t.openPod(ctx, f, p)
}

// waitForKubectl shows that it is kubectl that takes so long.
func (t *tool) waitForKubectl() *progress {
	return startProgress(t.stderr, t.stdout, func(elapsed time.Duration) string { return fmt.Sprintf("waiting for kubectl, %v", elapsed) })
}

// openPod connects to the probed in a pod, until ctx ends.
func (t *tool) openPod(ctx context.Context, f *found, p pod) (*server, error) {
	forward, err := f.kubectl.startForward(ctx, p)
	if err != nil {
		return nil, err
	}
	s, err := t.dial(ctx, door{
		address: forward.address, certificateName: f.certificateName(), token: f.token, via: forward,
		name: fmt.Sprintf("pod %s/%s on %s, port %d", p.namespace, p.name, p.node, p.port),
	})
	if err != nil {
		forward.stop()
		return nil, err
	}
	s.where = t.chosen.where(fmt.Sprintf("pod %s/%s on %s by kubectl port-forward", p.namespace, p.name, p.node))
	closeConn := s.close
	s.close = func() {
		closeConn()
		forward.stop()
	}
	return s, nil
}
