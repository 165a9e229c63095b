package main

import (
	"fmt"
	"strings"
	"testing"
)

// clusterFiles is the cluster of the scripts, see standIn: Services and pods with probeds of the world in them.
func clusterFiles(world map[string]string) map[string]string {
	files := map[string]string{
		"service-probed":   serviceText("probed", `"selector": {"app.kubernetes.io/name": "probed", "tier": "probe"}`),
		"service-guarded":  serviceText("guarded", `"selector": {"app": "guarded"}`),
		"service-plain":    serviceText("plain", `"selector": {"app": "plain"}`),
		"service-empty":    serviceText("empty", `"selector": {"app": "empty"}`),
		"service-external": serviceText("external", `"type": "ExternalName", "externalName": "db.example.com"`),

		// What has the one label is more than what has both.
		"pods-app.kubernetes.io_name=probed": podList(
			podText("probed-b", "node2", probeLabels, isReady), podText("probed-a", "node1", probeLabels, `{"phase": "Running"}`),
			podText("other", "node3", `{"app.kubernetes.io/name": "probed"}`, isReady),
			podText("probed-0", "node1", probeLabels, `{"phase": "Failed", "reason": "Evicted"}`)),
		"pods-tier=probe":              podList(podText("named", "node1", probeLabels, isReady, 9464, 4711)),
		"pods-tier in (probe)":         podList(podText("named", "node1", probeLabels, isReady, 9464, 4711)),
		"pods-example.test_tier=probe": podList(podText("named", "node1", probeLabels, isReady, 9464, 4711)),
		"pods-app=guarded":             podList(podText("guarded", "node1", "{}", isReady)),
		"pods-app=plain":               podList(podText("plain", "node1", "{}", isReady)),
		"pods-state=ill":               podList(illPods...),

		// Two that see the same, one that does not, and those that cannot be asked.
		"pods-mesh=well": podList(podText("m-2", "node2", "{}", isReady), podText("m-1", "node1", "{}", isReady)),
		"pods-mesh=ill": podList(podText("m-1", "node1", "{}", isReady), podText("m-2", "node2", "{}", isReady), podText("m-3", "node3", "{}", isReady),
			podText("hang", "node4", "{}", isReady), podText("m-5", "node5", "{}", lostNode)),
		"pods-mesh=split":  podList(podText("m-1", "node1", "{}", isReady), podText("m-2", "node2", "{}", isReady), podText("m-3", "node3", "{}", isReady)),
		"pods-mesh=denied": podList(podText("plain", "node1", "{}", isReady), podText("m-2", "node2", "{}", isReady)),
		"pods-mesh=lost":   podList(podText("m-1", "node1", "{}", isReady), podText("m-5", "node5", "{}", lostNode)),
		"pods-mesh=rolls":  podList(podText("m-1", "node1", "{}", isReady), deleted(podText("m-2", "node2", "{}", isReady))),
		"pods-mesh=goes":   podList(deleted(podText("m-1", "node1", "{}", isReady)), podText("m-5", "node5", "{}", lostNode)),
		"pods-mesh=hostile": strings.ReplaceAll(podList(podText("m-1", "NODE", "{}", isReady), podText("m-2", "node2", "{}",
			`{"phase": "Pending", "reason": "NODE", "message": "NODE"}`)), "NODE", `\u001b]0;owned\u0007\u202e`),
		"forward-m-1": "to " + world["SERVER"],
		"forward-m-2": "to " + world["SERVER"],
		"forward-m-3": "to " + world["NAMELESS"],

		"forward-probed-b": "to " + world["SERVER"],
		"forward-named":    "to " + world["SERVER"],
		"forward-guarded":  "to " + world["GUARDED"],
		"forward-plain":    "to " + world["PLAIN"],
		"forward-silent":   "to " + world["SILENT"],
		"forward-dying":    "dies " + world["SERVER"] + " 1000000",
		"forward-early":    "dies " + world["SERVER"] + " 100",
	}
	for _, fault := range []string{"forbidden", "gone", "refused", "ends", "garbage", "hang"} {
		files["forward-"+fault] = fault
	}
	for _, name := range []string{"forbidden", "gone", "refused", "ends", "garbage", "hang", "silent", "dying", "early"} {
		files["pods-pod="+name] = podList(podText(name, "node1", "{}", isReady))
	}
	return files
}

const (
	probeLabels = `{"app.kubernetes.io/name": "probed", "tier": "probe", "pod-template-generation": "1"}`
	isReady     = `{"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}`
	lostNode    = `{"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
		"containerStatuses": [{"name": "probed", "ready": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}`
)

// illPods are pods that are not ready, each for another reason.
var illPods = []string{
	podText("a", "node1", "{}", `{"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady",
		"message": "containers with unready status: [probed]"}], "containerStatuses": [{"name": "probed", "ready": false,
		"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"probed-tokens\" not found"}}}]}`),
	podText("b", "", "{}", `{"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
		"message": "0/2 nodes are available"}]}`),
	deleted(podText("c", "node2", "{}", isReady)),
	podText("d", "node2", "{}", `{"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [{"name": "probed",
		"ready": false, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}`),
	podText("e", "node2", "{}", `{"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady",
		"message": "containers with unready status: [probed]"}], "containerStatuses": [{"name": "probed", "ready": false, "state": {"running": {}}}]}`),
	podText("f", "node2", "{}", lostNode),
	podText("g", "node2", "{}", `{"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}],
		"initContainerStatuses": [{"name": "done", "ready": true, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
			{"name": "wait", "ready": false, "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no disk"}}}],
		"containerStatuses": [{"name": "probed", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}`),
}

func serviceText(name, spec string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": %q, "namespace": "shop"}, "spec": {%s}}`, name, spec)
}

func podList(pods ...string) string {
	return `{"apiVersion": "v1", "kind": "List", "items": [` + strings.Join(pods, ",\n") + "]}"
}

// podText is a pod in the namespace shop. Of its ports the last is called grpc.
func podText(name, node, labels, status string, ports ...int) string {
	var list []string
	for i, port := range ports {
		list = append(list, fmt.Sprintf(`{"name": %q, "containerPort": %d}`, map[bool]string{true: "grpc", false: "ops"}[i == len(ports)-1], port))
	}
	return fmt.Sprintf(`{"metadata": {"name": %q, "namespace": "shop", "labels": %s}, "spec": {"nodeName": %q, "containers": [{"ports": [%s]}]}, "status": %s}`,
		name, labels, node, strings.Join(list, ", "), status)
}

// deleted is a pod that is being deleted.
func deleted(pod string) string {
	return strings.Replace(pod, `"namespace"`, `"deletionTimestamp": "2026-01-01T00:00:00Z", "namespace"`, 1)
}

// TestNotReady: the most telling reason is the one that is told.
func TestNotReady(t *testing.T) {
	t.Parallel()
	pods, err := readPods([]byte(podList(append(illPods, podText("z", "node1", "{}", isReady))...)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		`its container probed waits: CreateContainerConfigError: secret "probed-tokens" not found`,
		"no node takes it: Unschedulable: 0/2 nodes are available",
		"it is being deleted",
		"its container probed ended with 137: OOMKilled",
		"its container probed runs, and is not ready",
		"its containers are, as far as is known, so perhaps nothing is heard from node2",
		"its container wait ended with 1: Error: no disk",
		"",
	} {
		if pods[i].notReady != want {
			t.Errorf("%s: %s, want %s", pods[i].name, pods[i].notReady, want)
		}
	}
}

// TestReadPods: what has been replaced is left out unless there is nothing else, and labels count.
func TestReadPods(t *testing.T) {
	t.Parallel()
	old := podText("old", "node1", "{}", `{"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}`)
	for _, test := range []struct {
		text   string
		labels map[string]string
		want   string
	}{
		{podList(), nil, "[]"},
		{podList(old), nil, "[old on node1]"},
		{podList(old, podText("new", "node1", "{}", isReady)), nil, "[new on node1]"},
		{podList(podText("b", "node1", `{"x": "1"}`, isReady), podText("a", "", `{"x": "1", "y": ""}`, isReady)), nil, "[a on no node b on node1]"},
		{podList(podText("b", "node1", `{"x": "1"}`, isReady), podText("a", "node2", `{"x": "1", "y": ""}`, isReady)), map[string]string{"x": "1", "y": ""}, "[a on node2]"},
		{podList(podText("b", "node1", `{"x": "1"}`, isReady)), map[string]string{"x": "2"}, "[]"},
	} {
		pods, err := readPods([]byte(test.text), test.labels)
		if got := fmt.Sprint(pods); err != nil || got != test.want {
			t.Errorf("%s %v: %s, %v, want %s", test.text, test.labels, got, err, test.want)
		}
	}
}

// TestPort: it is the one called grpc, of a container that stays.
func TestPort(t *testing.T) {
	t.Parallel()
	const (
		main    = `"containers": [{"ports": [{"name": "ops", "containerPort": 9464}, {"name": "grpc", "containerPort": 1}]}]`
		other   = `"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]`
		sidecar = `"initContainers": [{}, {"restartPolicy": "Always", "ports": [{"name": "grpc", "containerPort": 2}]}]`
		passing = `"initContainers": [{"ports": [{"name": "grpc", "containerPort": 3}]}]`
	)
	for spec, want := range map[string]int32{
		main: 1, other: 50051, other + "," + sidecar: 2, other + "," + passing: 50051, main + "," + sidecar: 1, sidecar: 2,
	} {
		pods, err := readPods(fmt.Appendf(nil, `{"items": [{"metadata": {"name": "a", "namespace": "shop"}, "spec": {%s}}]}`, spec), nil)
		if err != nil || len(pods) != 1 || pods[0].port != want {
			t.Errorf("%s: %+v, %v, want %d", spec, pods, err, want)
		}
	}
}

func TestParseKube(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, namespace, service, selector string }{
		{"probed", "", "probed", ""},
		{"shop/probed", "shop", "probed", ""},
		{"app=probed", "", "", "app=probed"},
		{"shop/app=probed,tier!=x", "shop", "", "app=probed,tier!=x"},
		{"app.kubernetes.io/name=probed", "", "", "app.kubernetes.io/name=probed"},
		{"shop/app.kubernetes.io/name=probed", "shop", "", "app.kubernetes.io/name=probed"},
		{"app in (a,b)", "", "", "app in (a,b)"},
		{"shop/app notin (a)", "shop", "", "app notin (a)"},
	} {
		namespace, s, err := parseKube(test.text)
		if err != nil || namespace != test.namespace || s.service != test.service || s.selector != test.selector {
			t.Errorf("%s: %q, %+v, %v", test.text, namespace, s, err)
		}
	}
	for _, text := range []string{"", "/", "shop/", "/probed", "a/b/c", "-x", "Shop/probed", "svc probed", "probed:50051", "shop.example/probed"} {
		if namespace, s, err := parseKube(text); err == nil {
			t.Errorf("%s: %q, %+v", text, namespace, s)
		}
	}
}

func TestPluginName(t *testing.T) {
	t.Parallel()
	for program, want := range map[string]string{
		"probectl": "", "/usr/bin/probectl": "", "kubectl": "", "/usr/bin/kubectl-probectl": "probectl", "kubectl-probe": "probe",
		"kubectl_complete-probectl": "probectl, completes",
	} {
		name, completes := pluginName(program)
		if completes {
			name += ", completes"
		}
		if name != want {
			t.Errorf("%s: %s, want %s", program, name, want)
		}
	}
}

// FuzzPods: whatever a kubectl writes is pods with names or an error.
func FuzzPods(f *testing.F) {
	f.Add([]byte(podList(illPods...)))
	f.Add([]byte(podList(podText("a", "node1", probeLabels, isReady, 9464, 4711))))
	f.Add([]byte(`{"items": [{"metadata": {"name": "x"}}]}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pods, err := readPods(text, nil)
		for _, p := range pods {
			if err != nil || p.name == "" || p.namespace == "" {
				t.Errorf("%+v, %v", p, err)
			}
		}
	})
}

// FuzzForwardingFrom: what is taken for an address is one on loopback with a port, whatever the pieces a line comes in.
func FuzzForwardingFrom(f *testing.F) {
	f.Add([]byte("Forwarding from 127.0.0.1:35347 -> 4444\n"), 5)
	f.Add([]byte("W1123 warning\r\nForwarding from 127.0.0.1:35347 -> 4444\r\nHandling connection for 35347\n"), 20)
	f.Add([]byte("Forwarding from 127.0.0.1:99999 -> 4444\nForwarding from [::1]:1 -> 4444\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, at int) {
		out := &forwardOutput{listening: make(chan string, 1)}
		at = max(0, min(at, len(text)))
		_, _ = out.Write(text[:at])
		_, _ = out.Write(text[at:])
		select {
		case address := <-out.listening:
			if got, err := serverAddress(address); err != nil || got != address || !strings.HasPrefix(address, "127.0.0.1:") {
				t.Errorf("%q, %v", address, err)
			}
		default:
			whole := &forwardOutput{listening: make(chan string, 1)}
			if _, _ = whole.Write(text); len(text) < mostLine && (out.done || whole.done) {
				t.Errorf("an address is there only when %q comes in one piece", text)
			}
		}
	})
}
