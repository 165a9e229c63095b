package manifests

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// The labels that every object has, and those of them that pods are selected by.
var (
	recommended = labels.Set{
		"app.kubernetes.io/name": "probed", "app.kubernetes.io/component": "probe", "app.kubernetes.io/part-of": "probed",
	}
	selected = labels.Set{"app.kubernetes.io/name": "probed", "app.kubernetes.io/component": "probe"}
)

// findings are what does not hold, a line each.
type findings []string

func (f *findings) add(object metav1.Object, format string, args ...any) {
	*f = append(*f, fmt.Sprintf("%T", object)[strings.LastIndex(fmt.Sprintf("%T", object), ".")+1:]+" "+object.GetName()+": "+fmt.Sprintf(format, args...))
}

// Check tells what of a set does not hold. Nothing: all does.
func Check(set *Set) []string {
	var f findings
	for _, o := range set.Objects {
		checkLabels(&f, o, o.GetLabels())
		if o.GetNamespace() != "" {
			f.add(o, "it names the namespace %s: that is for who applies it", o.GetNamespace())
		}
	}
	for _, s := range set.Secrets {
		f.add(s, "a secret that everybody can read")
	}
	for _, a := range set.ServiceAccounts {
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			f.add(a, "every pod of the account gets its token (automountServiceAccountToken)")
		}
	}
	if len(set.Workloads) != 1 {
		return append(f, fmt.Sprintf("there are %d workloads, not one", len(set.Workloads)))
	}
	w := set.Workloads[0]
	checkLabels(&f, w, w.Template.Labels)
	checkSelector(&f, w, "its own", w.Selector)
	checkRollout(&f, w)
	checkSecurity(&f, w)
	checkPod(&f, set, w)
	if len(w.Template.Spec.Containers) != 1 || len(w.Template.Spec.InitContainers) != 0 {
		f.add(w, "there is more in the pod than probed")
		return f
	}
	checkContainer(&f, w, &w.Template.Spec.Containers[0])
	checkVolumes(&f, set, w)
	checkEnd(&f, set, w)
	checkAround(&f, set, w)
	return f
}

func checkLabels(f *findings, o metav1.Object, have labels.Set) {
	for _, key := range slices.Sorted(maps.Keys(recommended)) {
		if have[key] != recommended[key] {
			f.add(o, "the label %s is %q and not %q", key, have[key], recommended[key])
		}
	}
}

// checkSelector holds a selector to the two labels, neither more nor less: with less it has what is not probed's, and one of a
// workload can never be changed.
func checkSelector(f *findings, o metav1.Object, whose string, selector *metav1.LabelSelector) {
	if selector == nil || len(selector.MatchExpressions) > 0 || !maps.Equal(labels.Set(selector.MatchLabels), selected) {
		f.add(o, "%s selector is %q and not %q", whose, metav1.FormatLabelSelector(selector), selected)
	}
}

// checkRollout: there is always one that is ready.
func checkRollout(f *findings, w Workload) {
	value := func(v interface{ String() string }) string {
		if s := v.String(); s != "<nil>" {
			return s
		}
		return "unset"
	}
	if d := w.DaemonSet; d != nil {
		unavailable, surge := "0", "1"
		if w.Template.Spec.HostNetwork { // two do not fit on one node's ports
			unavailable, surge = surge, unavailable
		}
		r := d.Spec.UpdateStrategy.RollingUpdate
		if r == nil || value(r.MaxUnavailable) != unavailable || value(r.MaxSurge) != surge {
			f.add(w, "its rollout is not maxUnavailable %s, maxSurge %s", unavailable, surge)
		}
		if !slices.Contains(w.Template.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists}) {
			f.add(w, "it is not on nodes with a taint")
		}
		return
	}
	d := w.Deployment
	if r := d.Spec.Strategy.RollingUpdate; r == nil || value(r.MaxUnavailable) != "0" || value(r.MaxSurge) != "1" {
		f.add(w, "its rollout is not maxUnavailable 0, maxSurge 1")
	}
	if d.Spec.Replicas == nil || *d.Spec.Replicas < 2 {
		f.add(w, "there are less than two replicas")
	}
	spread := w.Template.Spec.TopologySpreadConstraints
	if len(spread) != 1 || spread[0].TopologyKey != corev1.LabelHostname || spread[0].WhenUnsatisfiable != corev1.ScheduleAnyway {
		f.add(w, "it is not spread over the nodes where it can be")
		return
	}
	checkSelector(f, w, "the spread's", spread[0].LabelSelector)
}

// judge asks what the API server asks in a namespace of Pod Security restricted, by its own means.
func judge(f *findings, w Workload) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		f.add(w, "%v", err)
		return
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &w.Template.ObjectMeta, &w.Template.Spec))
	if !result.Allowed {
		f.add(w, "not restricted: %s: %s", result.ForbiddenReason(), result.ForbiddenDetail())
	}
}

// checkSecurity lets one thing be less than restricted: the node's network, where it says so.
func checkSecurity(f *findings, w Workload) {
	if !w.Template.Spec.HostNetwork {
		judge(f, w)
		return
	}
	if !strings.HasPrefix(w.GetAnnotations()["kubernetes.io/description"], "WARNING:") {
		f.add(w, "on the node's network, without a warning (kubernetes.io/description)")
	}
	if w.Template.Spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
		f.add(w, "on the node's network, without the cluster's DNS")
	}
	if c := w.Template.Spec.SecurityContext; c != nil && slices.ContainsFunc(c.Sysctls, func(s corev1.Sysctl) bool { return strings.HasPrefix(s.Name, "net.") }) {
		f.add(w, "a setting of the network, which is the node's")
	}
}

func checkPod(f *findings, set *Set, w Workload) {
	spec := &w.Template.Spec
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		f.add(w, "the pod gets a token of its account (automountServiceAccountToken)")
	}
	if !slices.ContainsFunc(set.ServiceAccounts, func(a *corev1.ServiceAccount) bool { return a.Name == spec.ServiceAccountName }) {
		f.add(w, "the service account %q is not there", spec.ServiceAccountName)
	}
	if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
		f.add(w, "the pod gets variables for each Service (enableServiceLinks)")
	}
	if c := spec.SecurityContext; c == nil || c.RunAsUser == nil || *c.RunAsUser == 0 || c.RunAsGroup == nil || *c.RunAsGroup == 0 {
		f.add(w, "the pod does not say that its user and its group are not root's")
	}
}

func checkContainer(f *findings, w Workload, c *corev1.Container) {
	if c.SecurityContext == nil || c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
		f.add(w, "the root can be written to (readOnlyRootFilesystem)")
	}
	for _, wanted := range []struct {
		of   corev1.ResourceList
		name corev1.ResourceName
		text string
	}{
		{c.Resources.Requests, corev1.ResourceCPU, "request of CPU"},
		{c.Resources.Requests, corev1.ResourceMemory, "request of memory"},
		{c.Resources.Limits, corev1.ResourceMemory, "limit of memory"},
	} {
		if q := wanted.of[wanted.name]; q.Sign() <= 0 {
			f.add(w, "no %s", wanted.text)
		}
	}
	if _, has := c.Resources.Limits[corev1.ResourceCPU]; has {
		f.add(w, "a limit of CPU: what is throttled measures its throttle")
	}
	checkEnvironment(f, w, c)
	for name, path := range map[string]string{"startup": "/readyz", "liveness": "/livez", "readiness": "/readyz"} {
		p := map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe}[name]
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.String() != "ops" {
			f.add(w, "the %s probe does not ask %s of the port ops", name, path)
		}
	}
	ports := make(map[string]int32)
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if want := map[string]int32{"grpc": 50051, "http": 8080, "ops": 9464}; !maps.Equal(ports, want) {
		f.add(w, "its ports are %v and not %v", ports, want)
	}
	// What is before the first / is a registry if there is a dot or a colon in it.
	if registry, _, _ := strings.Cut(c.Image, "/"); strings.ContainsAny(registry, ".:") {
		f.add(w, "the image names a registry: %s", c.Image)
	}
}

func checkEnvironment(f *findings, w Workload, c *corev1.Container) {
	fields := make(map[string]string)
	var memory string
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			fields[e.Name] = e.ValueFrom.FieldRef.FieldPath
		}
		if e.Name == "GOMEMLIMIT" {
			memory = e.Value
		}
	}
	want := map[string]string{"PROBED_POD": "metadata.name", "PROBED_NAMESPACE": "metadata.namespace", "PROBED_NODE": "spec.nodeName"}
	if !maps.Equal(fields, want) {
		f.add(w, "the environment has %v and not %v", fields, want)
	}
	// Kubernetes writes Mi for what Go writes MiB for.
	have, err := resource.ParseQuantity(strings.TrimSuffix(memory, "B"))
	if limit := c.Resources.Limits[corev1.ResourceMemory]; err != nil || have.Cmp(limit) >= 0 {
		f.add(w, "GOMEMLIMIT %q is not within the limit of memory %s", memory, limit.String())
	}
}

// checkVolumes: what is mounted is there, what is there is mounted, and the files that probed is told to read come from it.
func checkVolumes(f *findings, set *Set, w Workload) {
	mounted := make(map[string]bool)
	for _, m := range mountsOf(w) {
		if m.volume == nil {
			f.add(w, "%s is mounted from a volume that is not there", m.path)
			continue
		}
		if !m.readOnly {
			f.add(w, "%s can be written to", m.path)
		}
		if m.volume.ConfigMap != nil {
			mounted[m.volume.ConfigMap.Name] = true
		}
	}
	for _, c := range set.ConfigMaps {
		if !mounted[c.Name] {
			f.add(c, "nobody reads it")
		}
	}
	if _, err := configFiles(set, w); err != nil {
		f.add(w, "%v", err)
	}
}

// checkEnd: the kubelet waits for as long as probed takes to end.
func checkEnd(f *findings, set *Set, w Workload) {
	hook := w.Template.Spec.Containers[0].Lifecycle
	if hook == nil || hook.PreStop == nil || hook.PreStop.Sleep == nil {
		f.add(w, "SIGTERM comes before nodes know that the pod leaves (preStop.sleep)")
		return
	}
	if w.Template.Spec.TerminationGracePeriodSeconds == nil {
		f.add(w, "no terminationGracePeriodSeconds")
		return
	}
	delay, timeout, err := drainOf(set, w)
	if err != nil {
		f.add(w, "%v", err)
		return
	}
	// Some seconds more, for the last words of what did not end by itself.
	const spare = 5 * time.Second
	need := time.Duration(hook.PreStop.Sleep.Seconds)*time.Second + delay + timeout + spare
	if have := time.Duration(*w.Template.Spec.TerminationGracePeriodSeconds) * time.Second; have < need {
		f.add(w, "terminationGracePeriodSeconds is %s, and it takes %s to end", have, need)
	}
}

// drainOf reads how long probed takes to end out of its configuration.
func drainOf(set *Set, w Workload) (delay, timeout time.Duration, err error) {
	files, err := configFiles(set, w)
	if err != nil {
		return 0, 0, err
	}
	// The defaults of probed where it is reachable.
	delay, timeout = 5*time.Second, 20*time.Second
	for _, file := range files {
		var c struct {
			Drain struct{ Delay, Timeout string }
		}
		if err := yaml.Unmarshal([]byte(file.text), &c); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", file.path, err)
		}
		for text, into := range map[string]*time.Duration{c.Drain.Delay: &delay, c.Drain.Timeout: &timeout} {
			if text == "" {
				continue
			}
			if *into, err = time.ParseDuration(text); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", file.path, err)
			}
		}
	}
	return delay, timeout, nil
}

// checkAround holds what refers to the pods to them.
func checkAround(f *findings, set *Set, w Workload) {
	named := func(name string) bool {
		return slices.ContainsFunc(w.Template.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
	}
	if len(set.Services) != 1 {
		f.add(w, "there are %d services, not one", len(set.Services))
	}
	for _, s := range set.Services {
		checkSelector(f, s, "its", &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		for _, p := range s.Spec.Ports {
			if !named(p.TargetPort.String()) {
				f.add(s, "the port %s leads to %s, which the pod does not have", p.Name, p.TargetPort.String())
			}
		}
		if headless := s.Spec.ClusterIP == corev1.ClusterIPNone; headless != (w.DaemonSet != nil) {
			f.add(s, "headless: %t", headless)
		}
	}
	if has := len(set.Budgets) == 1; has != (w.Deployment != nil) {
		f.add(w, "a budget for its disruption: %t", has)
	}
	for _, b := range set.Budgets {
		checkSelector(f, b, "its", b.Spec.Selector)
		if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.String() == "0" {
			f.add(b, "no node can be drained")
		}
	}
	if has := len(set.Policies) == 1; has == w.Template.Spec.HostNetwork {
		f.add(w, "a network policy: %t", has)
	}
	for _, p := range set.Policies {
		checkSelector(f, p, "its", &p.Spec.PodSelector)
		if len(p.Spec.Egress) > 0 || len(p.Spec.PolicyTypes) != 1 || p.Spec.PolicyTypes[0] != "Ingress" {
			f.add(p, "it speaks of egress: probed would see what no other pod of the namespace sees")
		}
		for _, rule := range p.Spec.Ingress {
			if len(rule.From) == 0 {
				f.add(p, "it lets everybody in")
			}
			if len(rule.Ports) == 0 {
				f.add(p, "it opens every port")
			}
			for _, port := range rule.Ports {
				if port.Port == nil || !named(port.Port.String()) {
					f.add(p, "it opens the port %s, which the pod does not have", cmp.Or(port.Port.String(), "any"))
				}
			}
		}
	}
	for _, m := range set.PodMonitors {
		checkSelector(f, m, "its", &m.Spec.Selector)
		for _, e := range m.Spec.PodMetricsEndpoints {
			if e.Port == nil || *e.Port != "ops" {
				f.add(m, "it does not ask the port ops")
			}
		}
	}
}
