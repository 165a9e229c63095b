package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// pod is one that a probed may run in.
type pod struct {
	namespace, name string
	node            string // empty: it is on none yet
	port            int32  // of its gRPC listener
	notReady        string // why it is not; empty: it is
	deleted         bool   // it is being
}

func (p pod) String() string {
	if p.node == "" {
		return p.name + " on no node"
	}
	return p.name + " on " + p.node
}

// tellMore is what tells more of a pod that is not ready.
func (p pod) tellMore() string {
	return fmt.Sprintf("More is told by: kubectl describe pod -n %s %s", p.namespace, p.name)
}

// podJSON is of a Pod what is used of it.
type podJSON struct {
	Metadata struct {
		Name, Namespace   string
		DeletionTimestamp string
		Labels            map[string]string
	}
	Spec struct {
		NodeName                   string
		InitContainers, Containers []podContainer
	}
	Status struct {
		Phase, Reason, Message                   string
		Conditions                               []podCondition
		InitContainerStatuses, ContainerStatuses []containerStatus
	}
}

type podContainer struct {
	RestartPolicy string // Always: an init container that stays, a sidecar
	Ports         []struct {
		Name          string
		ContainerPort int32
	}
}

type podCondition struct {
	Type, Status, Reason, Message string
}

type containerStatus struct {
	Name  string
	Ready bool
	State struct {
		Running             *struct{}
		Waiting, Terminated *struct {
			Reason, Message string
			ExitCode        int
		}
	}
}

// readPods reads what kubectl get pods -o json wrote, in the order of names. Those that do not have all the labels are
// left out.
func readPods(text []byte, labels map[string]string) ([]pod, error) {
	var list struct{ Items []podJSON }
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("kubectl get pods wrote something else than pods: %w", err)
	}
	var pods, ended []pod
	for i := range list.Items {
		p := &list.Items[i]
		if p.Metadata.Name == "" || p.Metadata.Namespace == "" {
			return nil, fmt.Errorf("kubectl get pods wrote something else than pods: one has no name")
		}
		if !hasLabels(p.Metadata.Labels, labels) {
			continue
		}
		read := pod{
			namespace: p.Metadata.Namespace, name: p.Metadata.Name, node: p.Spec.NodeName, port: p.port(), notReady: p.notReady(),
			deleted: p.Metadata.DeletionTimestamp != "",
		}
		if p.Status.Phase == "Failed" || p.Status.Phase == "Succeeded" {
			ended = append(ended, read)
		} else {
			pods = append(pods, read)
		}
	}
	if len(pods) == 0 {
		pods = ended // which have been replaced otherwise
	}
	slices.SortFunc(pods, func(a, b pod) int { return cmp.Compare(a.name, b.name) })
	return pods, nil
}

func hasLabels(all, wanted map[string]string) bool {
	for key, value := range wanted {
		if has, ok := all[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// port is the one that a container calls grpc, one of those that stay.
func (p *podJSON) port() int32 {
	sidecars := slices.DeleteFunc(slices.Clone(p.Spec.InitContainers), func(c podContainer) bool { return c.RestartPolicy != "Always" })
	for _, container := range slices.Concat(p.Spec.Containers, sidecars) {
		for _, port := range container.Ports {
			if port.Name == "grpc" {
				return port.ContainerPort
			}
		}
	}
	return 50051 // which is defaultPort
}

func (p *podJSON) condition(name string) (podCondition, bool) {
	i := slices.IndexFunc(p.Status.Conditions, func(c podCondition) bool { return c.Type == name })
	if i < 0 {
		return podCondition{}, false
	}
	return p.Status.Conditions[i], true
}

// notReady is why a pod is not ready, the most telling reason there is.
func (p *podJSON) notReady() string {
	ready, _ := p.condition("Ready")
	switch scheduled, known := p.condition("PodScheduled"); {
	case p.Metadata.DeletionTimestamp != "":
		return "it is being deleted"
	case ready.Status == "True":
		return ""
	case known && scheduled.Status == "False":
		return "no node takes it" + because(scheduled.Reason, scheduled.Message)
	case p.Status.Reason != "":
		return "it is " + p.Status.Phase + because(p.Status.Reason, p.Status.Message)
	}
	containersReady := len(p.Status.ContainerStatuses) > 0
	for _, container := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch state := container.State; {
		case state.Waiting != nil && state.Waiting.Reason != "PodInitializing":
			return fmt.Sprintf("its container %s waits", container.Name) + because(state.Waiting.Reason, state.Waiting.Message)
		case state.Terminated != nil && !container.Ready: // an init container that has done its work is ready
			return fmt.Sprintf("its container %s ended with %d", container.Name, state.Terminated.ExitCode) +
				because(state.Terminated.Reason, state.Terminated.Message)
		case state.Running != nil && !container.Ready:
			return fmt.Sprintf("its container %s runs, and is not ready", container.Name)
		case !container.Ready:
			containersReady = false
		}
	}
	switch {
	case containersReady && p.Spec.NodeName != "":
		return "its containers are, as far as is known, so perhaps nothing is heard from " + p.Spec.NodeName
	case ready.Message != "":
		return ready.Message
	}
	return "it is " + cmp.Or(p.Status.Phase, "not ready")
}

// because is a reason in one word and its message, behind what they are the reason of.
func because(reason, message string) string {
	if reason != "" {
		reason = ": " + reason
	}
	if message != "" {
		message = ": " + message
	}
	return reason + message
}

// serviceJSON is of a Service what is used of it.
type serviceJSON struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct{ Selector map[string]string }
}

// readService reads what kubectl get service -o json wrote.
func readService(text []byte) (*serviceJSON, error) {
	service := &serviceJSON{}
	if err := json.Unmarshal(text, service); err != nil {
		return nil, fmt.Errorf("kubectl get service wrote something else than a Service: %w", err)
	}
	if service.Metadata.Name == "" || service.Metadata.Namespace == "" {
		return nil, fmt.Errorf("kubectl get service wrote something else than a Service: it has no name")
	}
	return service, nil
}

// selectorText is a selector as kubectl takes it.
func selectorText(labels map[string]string) string {
	var terms []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		terms = append(terms, key+"="+labels[key])
	}
	return strings.Join(terms, ",")
}
