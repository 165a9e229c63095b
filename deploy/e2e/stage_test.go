//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/e2e-framework/klient/k8s"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// runLabel is on everything a run makes that is in no namespace.
const runLabel = "probed-e2e"

// stage is what the tests play on: the cluster, and what of ours is deployed there.
type stage struct {
	run       string // names it, beside others
	directory string // for files
	manifests string // the directory deploy/k8s
	image     string
	probed    string // the programs, as built for this machine
	probectl  string
	nodes     map[string]corev1.Node
	kinds     bool // whether the kinds of others are ours to serve
	places    []*place
	setting   sync.WaitGroup
	forwards  *forwards
}

func newStage(ctx context.Context, config *rest.Config, directory string) (*stage, error) {
	probed, err := binary("E2E_PROBED", "probed")
	if err != nil {
		return nil, err
	}
	probectl, err := binary("E2E_PROBECTL", "probectl")
	if err != nil {
		return nil, err
	}
	manifests, err := filepath.Abs(filepath.Join("..", "k8s"))
	if err != nil {
		return nil, err
	}
	s := &stage{
		run:       cmp.Or(os.Getenv("E2E_RUN"), envconf.RandomName("", 6)),
		directory: directory, manifests: manifests, probed: probed, probectl: probectl,
		image: cmp.Or(os.Getenv("E2E_IMAGE"), "localhost/probed:e2e"),
		nodes: make(map[string]corev1.Node), forwards: newForwards(ctx),
	}
	s.places = places()
	for _, p := range s.places {
		p.stage, p.namespace, p.set = s, "probed-e2e-"+s.run+"-"+p.name, make(chan struct{})
		if p.resources, err = resources.New(config); err != nil {
			return nil, err
		}
		p.resources.WithNamespace(p.namespace)
	}
	return s, nil
}

// place is one way to deploy probed, in a namespace of its own.
type place struct {
	name       string
	bases      []string                            // the resources of deploy/k8s it is made of
	more       []string                            // further resources, of testdata
	components []string                            // of deploy/k8s
	privileged bool                                // whether its namespace has to be; else it enforces Pod Security restricted
	follow     func(context.Context, *place) error // what comes after kubectl apply, and before all is ready
	workloads  []k8s.Object                        // what has to get ready

	stage     *stage
	namespace string
	resources *resources.Resources
	set       chan struct{} // closed when it is deployed, or err says why not
	err       error
}

// at waits for a place, which has to be in place.
func at(ctx context.Context, t testing.TB, name string) *place {
	t.Helper()
	s := stageOf(ctx)
	p := s.places[slices.IndexFunc(s.places, func(p *place) bool { return p.name == name })]
	select {
	case <-p.set:
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	if p.err != nil {
		t.Fatalf("%s is not deployed: %v", name, p.err)
	}
	return p
}

// deploy does as a user would: a namespace, a kustomization that says what is wanted, kubectl apply -k.
func (p *place) deploy(ctx context.Context) error {
	level := "restricted"
	if p.privileged {
		level = "privileged"
	}
	if err := p.resources.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace, Labels: map[string]string{
		runLabel:                             p.stage.run,
		"pod-security.kubernetes.io/enforce": level,
		"pod-security.kubernetes.io/warn":    level,
	}}}); err != nil {
		return err
	}
	if err := p.apply(ctx); err != nil {
		return err
	}
	if p.follow != nil {
		if err := p.follow(ctx, p); err != nil {
			return err
		}
	}
	for _, workload := range p.workloads {
		if err := p.await(ctx, workload.DeepCopyObject().(k8s.Object), rolledOut); err != nil {
			return fmt.Errorf("%s %s is not ready: %w\n%s", p.namespace, workload.GetName(), err, p.describe(ctx))
		}
	}
	if p.privileged {
		return nil
	}
	return p.enforces(ctx)
}

// enforces is that the namespace lets no pod in that is not as restricted: else it says nothing that ours are.
func (p *place) enforces(ctx context.Context) error {
	err := p.resources.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "intruder", Namespace: p.namespace},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "intruder", Image: p.stage.image}}},
	}, func(o *metav1.CreateOptions) { o.DryRun = []string{metav1.DryRunAll} })
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		return fmt.Errorf("%s does not enforce Pod Security: a pod that says nothing of it: %w", p.namespace, cmp.Or(err, errors.New("let in")))
	}
	return nil
}

// apply is kubectl apply -k of a kustomization on top of what is deployed. What the API server warns of, as Pod Security does,
// is an error.
func (p *place) apply(ctx context.Context) error {
	directory, err := os.MkdirTemp(p.stage.directory, p.name+"-")
	if err != nil {
		return err
	}
	colon := strings.LastIndex(p.stage.image, ":")
	if colon < 0 {
		return fmt.Errorf("E2E_IMAGE=%s has no tag", p.stage.image)
	}
	kustomization := types.Kustomization{
		TypeMeta:  types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
		Namespace: p.namespace,
		Images:    []types.Image{{Name: "localhost/probed", NewName: p.stage.image[:colon], NewTag: p.stage.image[colon+1:]}},
	}
	add := func(to *[]string, from string, paths ...string) error { // which have to be relative
		for _, path := range paths {
			relative, err := filepath.Rel(directory, filepath.Join(from, path))
			if err != nil {
				return err
			}
			*to = append(*to, relative)
		}
		return nil
	}
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		return err
	}
	if err := errors.Join(
		add(&kustomization.Resources, p.stage.manifests, p.bases...),
		add(&kustomization.Resources, testdata, p.more...),
		add(&kustomization.Components, filepath.Join(p.stage.manifests, "components"), p.components...),
	); err != nil {
		return err
	}
	text, err := yaml.Marshal(kustomization)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(directory, "kustomization.yaml"), text, 0o600); err != nil {
		return err
	}
	_, err = p.stage.kubectl(ctx, "", "apply", "--warnings-as-errors", "-k", directory)
	return err
}

// await waits until an object is there and as it should be.
func (p *place) await(ctx context.Context, object k8s.Object, as func(k8s.Object) bool) error {
	return poll(ctx, 2*time.Minute, func(ctx context.Context) (bool, error) {
		err := p.resources.Get(ctx, object.GetName(), p.namespace, object)
		return err == nil && as(object), ctx.Err()
	})
}

// rolledOut is whether all pods of a workload are of its latest kind, and ready.
func rolledOut(object k8s.Object) bool {
	switch o := object.(type) {
	case *appsv1.Deployment:
		s := o.Status
		return s.ObservedGeneration >= o.Generation && s.UpdatedReplicas == *o.Spec.Replicas && s.AvailableReplicas == s.UpdatedReplicas && s.Replicas == s.UpdatedReplicas
	case *appsv1.DaemonSet:
		s := o.Status
		return s.ObservedGeneration >= o.Generation && s.DesiredNumberScheduled > 0 && s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberAvailable == s.DesiredNumberScheduled
	case *corev1.Pod:
		return slices.ContainsFunc(o.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	}
	return false
}

// describe is what there is to see of a place that did not get ready.
func (p *place) describe(ctx context.Context) string {
	pods, _ := p.stage.kubectl(ctx, "", "get", "pods", "--namespace", p.namespace, "--output", "wide")
	events, _ := p.stage.kubectl(ctx, "", "get", "events", "--namespace", p.namespace)
	logs, _ := p.stage.kubectl(ctx, "", "logs", "--namespace", p.namespace, "--selector", probedLabels, "--tail", "10", "--prefix")
	return pods + events + logs
}

// pods are those that a selector finds and that nobody has told to end, by name.
func (p *place) pods(ctx context.Context, t testing.TB, selector string) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := p.resources.List(ctx, &list, resources.WithLabelSelector(selector)); err != nil {
		t.Fatal(err)
	}
	pods := slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	if len(pods) == 0 {
		t.Fatalf("%s has no pods with %s", p.namespace, selector)
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return pods
}

// setKinds has the API server know the kinds of cert-manager and the Prometheus Operator. Where they are known, and not from
// us, those two are there and do what the tests do else.
func (s *stage) setKinds(ctx context.Context) error {
	known, err := s.kubectl(ctx, "", "get", "customresourcedefinitions", "--selector", "!"+runLabel, "--output", "name")
	if err != nil {
		return err
	}
	if s.kinds = !strings.Contains(known, ".cert-manager.io\n"); !s.kinds {
		return nil
	}
	text, err := os.ReadFile(filepath.Join("testdata", "crds.yaml"))
	if err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, strings.ReplaceAll(string(text), "RUN", s.run), "apply", "-f", "-"); err != nil {
		return err
	}
	_, err = s.kubectl(ctx, "", "wait", "--for=condition=Established", "customresourcedefinitions", "--selector", runLabel+"="+s.run, "--timeout=30s")
	return err
}

// kubectl runs the user's own, and returns what it writes. The error says what it complains of.
func (s *stage) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return tell(ctx, stdin, "kubectl", args...)
}

func tell(ctx context.Context, stdin, name string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	command := exec.CommandContext(ctx, name, args...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // so that it tells what it has
	command.WaitDelay = 5 * time.Second
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &out, &complaint
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, complaint.String())
	}
	return out.String(), nil
}
