package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// kubectlPatience is how long kubectl may take to complete something.
const kubectlPatience = time.Second

// fromKubectl is what kubectl prints a line each, without the kind before the slash; nothing if it takes too long.
func (t *tool) fromKubectl(ctx context.Context, args ...string) []cobra.Completion {
	ctx, cancel := context.WithTimeout(ctx, kubectlPatience)
	defer cancel()
	text, err := t.kube.kubectl.run(ctx, args...)
	if err != nil {
		return nil
	}
	var candidates []cobra.Completion
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if _, name, found := strings.Cut(line, "/"); found && args[0] == "get" {
			line = name
		}
		if line != "" {
			candidates = append(candidates, line)
		}
	}
	return candidates
}

func (t *tool) kubeContexts(command *cobra.Command, _ string) ([]cobra.Completion, bool) {
	return t.fromKubectl(command.Context(), "config", "get-contexts", "--output=name"), true
}

func (t *tool) kubeNamespaces(command *cobra.Command, _ string) ([]cobra.Completion, bool) {
	k := t.kube.kubectl
	t.kube.kubectl.namespace = "" // which is being typed
	defer func() { t.kube.kubectl = k }()
	return t.fromKubectl(command.Context(), "get", "namespaces", "--output=name"), true
}

func (t *tool) kubeServiceAccounts(command *cobra.Command, _ string) ([]cobra.Completion, bool) {
	if namespace, _, err := parseKube(t.kube.probed); err == nil && namespace != "" && t.kube.kubectl.namespace == "" {
		t.kube.kubectl.namespace = namespace
	}
	return t.fromKubectl(command.Context(), "get", "serviceaccounts", "--output=name"), true
}

// kubeServices is the completer of --kube: a Service, or a namespace to go on with.
func (t *tool) kubeServices(command *cobra.Command, typed string) ([]cobra.Completion, bool) {
	if namespace, _, found := strings.Cut(typed, "/"); found {
		t.kube.kubectl.namespace = namespace
		return prefixedWith(namespace+"/", t.fromKubectl(command.Context(), "get", "services", "--output=name")), true
	}
	candidates := t.fromKubectl(command.Context(), "get", "services", "--output=name")
	namespaces, _ := t.kubeNamespaces(command, typed)
	for _, namespace := range namespaces {
		candidates = append(candidates, namespace+"/\ta namespace")
	}
	return candidates, len(namespaces) == 0
}
