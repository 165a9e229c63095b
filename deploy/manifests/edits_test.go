package manifests

import (
	"path"
	"strings"
	"testing"
)

// TestEdits makes every rule fail: each edit of a file is a mistake, and is told as what it is.
func TestEdits(t *testing.T) {
	t.Parallel()
	const (
		deployment = "base/deployment.yaml"
		service    = "base/service.yaml"
		config     = "base/probed.yaml"
		base       = "base/kustomization.yaml"
		network    = "base/networkpolicy.yaml"
		account    = "base/serviceaccount.yaml"
		budget     = "base/poddisruptionbudget.yaml"
		mesh       = "overlays/mesh/kustomization.yaml"
		host       = "overlays/host-network/kustomization.yaml"
		oidc       = "components/oidc/kustomization.yaml"
		issuer     = "components/oidc/oidc.yaml"
		tls        = "components/tls/kustomization.yaml"
		names      = "components/tls/tls.yaml"
		cert       = "components/tls/certificate.yaml"
		monitor    = "components/podmonitor/podmonitor.yaml"
		rule       = "components/prometheusrule/prometheusrule.yaml"
	)
	for name, c := range map[string]struct {
		file, from, to string
		on             string // what is rendered; the directory of the file, or what a component is put on, unless set
		want           string
	}{
		// The API's own types.
		"a field that is not":        {deployment, "replicas: 2", "replica: 2", "", `unknown field "spec.replica"`},
		"a field of the other kind":  {mesh, "      - {op: remove, path: /spec/replicas}\n", "", "", `unknown field "spec.replicas"`},
		"a field of a Deployment":    {mesh, "      - {op: remove, path: /spec/strategy}\n", "", "", `unknown field "spec.strategy"`},
		"a type that is not":         {deployment, "replicas: 2", "replicas: two", "", "int32"},
		"a certificate's field":      {cert, "dnsNames:", "dnsName:", "", `unknown field "spec.dnsName"`},
		"a monitor's field":          {monitor, "podMetricsEndpoints:", "endpoints:", "", `unknown field "spec.endpoints"`},
		"a rule's field":             {rule, "expr: absent", "expression: absent", "", "expression"},
		"a kustomization's field":    {base, "resources:", "resource:", "", `unknown field "resource"`},
		"a version that is not":      {budget, "policy/v1", "policy/v1beta1", "", "no kind"},
		"an object of the cluster":   {account, "kind: ServiceAccount\nmetadata:\n  name: probed\nautomountServiceAccountToken: false\n", "kind: Namespace\nmetadata:\n  name: probed\n", "", "Namespace is not known to belong to a namespace"},
		"a namespace":                {account, "  name: probed\n", "  name: probed\n  namespace: shop\n", "", "it names the namespace shop"},
		"a patch that meets nothing": {tls, "containers/0/args/-", "containers/1/args/-", "", "containers/1/args"},
		"a secret in the tree":       {account, "kind: ServiceAccount\nmetadata:\n  name: probed\nautomountServiceAccountToken: false\n", "kind: Secret\nmetadata:\n  name: probed\n", "", "a secret that everybody can read"},
		"no workload":                {base, "  - deployment.yaml\n", "", "", "there are 0 workloads"},
		"a file that is not":         {base, "  - service.yaml\n", "  - missing.yaml\n", "", "missing.yaml"},

		// Pod Security.
		"root":                   {deployment, "runAsNonRoot: true", "runAsNonRoot: false", "", "runAsNonRoot"},
		"user 0":                 {deployment, "runAsUser: 65532", "runAsUser: 0", "", "runAsUser"},
		"group 0":                {deployment, "runAsGroup: 65532", "runAsGroup: 0", "", "not root's"},
		"more privileges":        {deployment, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "", "allowPrivilegeEscalation"},
		"a capability":           {deployment, "drop: [ALL]", "add: [NET_RAW]", "", "capabilities"},
		"no seccomp":             {deployment, "type: RuntimeDefault", "type: Unconfined", "", "seccomp"},
		"a path of the node":     {deployment, "configMap: {name: probed}", "hostPath: {path: /etc}", "", "hostPath"},
		"a port of the node":     {deployment, "containerPort: 9464", "containerPort: 9464\n              hostPort: 9464", "", "hostPort"},
		"the node's network":     {deployment, "enableServiceLinks: false", "enableServiceLinks: false\n      hostNetwork: true", "", "without a warning"},
		"no warning":             {host, "WARNING:", "Note:", "", "without a warning"},
		"the node's names":       {host, "            dnsPolicy: ClusterFirstWithHostNet\n", "", "", "without the cluster's DNS"},
		"a policy for nothing":   {host, "      $patch: delete\n      apiVersion: networking.k8s.io/v1", "      apiVersion: networking.k8s.io/v1", "", "a network policy: true"},
		"two on one node's port": {host, "rollingUpdate: {maxUnavailable: 1, maxSurge: 0}", "rollingUpdate: {maxUnavailable: 0, maxSurge: 1}", "", "maxUnavailable 1, maxSurge 0"},
		"a node's own setting":   {"components/icmp/kustomization.yaml", "ping_group_range", "ping_group_range", "overlays/host-network", "which is the node's"},

		// The pod.
		"a token by the pod":     {deployment, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "", "the pod gets a token"},
		"a token by the account": {account, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "", "every pod of the account"},
		"an account not there":   {deployment, "serviceAccountName: probed", "serviceAccountName: default", "", `"default" is not there`},
		"variables":              {deployment, "enableServiceLinks: false", "enableServiceLinks: true", "", "enableServiceLinks"},
		"a root to write":        {deployment, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "", "readOnlyRootFilesystem"},
		"no request of CPU":      {deployment, "{cpu: 20m, memory: 32Mi}", "{memory: 32Mi}", "", "no request of CPU"},
		"no request of memory":   {deployment, "{cpu: 20m, memory: 32Mi}", "{cpu: 20m}", "", "no request of memory"},
		"no limit of memory":     {deployment, "limits: {memory: 128Mi}", "limits: {}", "", "no limit of memory"},
		"a limit of CPU":         {deployment, "limits: {memory: 128Mi}", "limits: {memory: 128Mi, cpu: 100m}", "", "a limit of CPU"},
		"memory beyond it":       {deployment, "112MiB", "256MiB", "", "GOMEMLIMIT"},
		"where it is":            {deployment, "fieldPath: spec.nodeName", "fieldPath: status.hostIP", "", "the environment has"},
		"a probe less":           {deployment, "          startupProbe:\n            httpGet: {path: /readyz, port: ops}\n            periodSeconds: 1\n            failureThreshold: 30\n", "", "", "the startup probe"},
		"another port's probe":   {deployment, "{path: /livez, port: ops}", "{path: /livez, port: http}", "", "the liveness probe"},
		"another path":           {deployment, "readinessProbe:\n            httpGet: {path: /readyz", "readinessProbe:\n            httpGet: {path: /livez", "", "the readiness probe"},
		"a port less":            {deployment, "            - name: grpc\n              containerPort: 50051\n", "", "", "its ports are"},
		"a second container":     {deployment, "      containers:\n", "      containers:\n        - {name: shell, image: shell}\n", "", "more in the pod than probed"},
		"a registry":             {base, "newName: localhost/probed", "newName: registry.example.com/probed", "", "names a registry"},
		"one replica":            {deployment, "replicas: 2", "replicas: 1", "", "less than two replicas"},
		"none in a rollout":      {deployment, "{maxUnavailable: 0, maxSurge: 1}", "{maxUnavailable: 1, maxSurge: 0}", "", "maxUnavailable 0, maxSurge 1"},
		"none on a node":         {mesh, "{maxUnavailable: 0, maxSurge: 1}", "{maxUnavailable: 1}", "", "maxUnavailable 0, maxSurge 1"},
		"nodes without":          {mesh, "value: [{operator: Exists}]", "value: [{key: a, operator: Exists}]", "", "nodes with a taint"},
		"both on one node":       {deployment, "topologyKey: kubernetes.io/hostname", "topologyKey: zone", "", "not spread"},
		"pods that wait":         {deployment, "ScheduleAnyway", "DoNotSchedule", "", "not spread"},

		// Labels and selectors.
		"a label less":          {base, "      app.kubernetes.io/part-of: probed\n", "", "", "app.kubernetes.io/part-of"},
		"no labels on pods":     {base, "includeTemplates: true", "includeTemplates: false", "", "the label app.kubernetes.io/name"},
		"no labels of its own":  {monitor, "  labels:\n    app.kubernetes.io/name: probed\n", "  labels:\n", "", "PodMonitor probed: the label"},
		"a selector that moves": {base, "includeTemplates: true", "includeTemplates: true\n    includeSelectors: true", "", "its own selector"},
		"a service of others":   {service, "    app.kubernetes.io/component: probe\n", "", "", "Service probed: its selector"},
		"a budget of others":    {budget, "      app.kubernetes.io/component: probe\n", "", "", "PodDisruptionBudget probed: its selector"},
		"a policy of others":    {network, "      app.kubernetes.io/component: probe\n", "", "", "NetworkPolicy probed: its selector"},
		"a monitor of others":   {monitor, "      app.kubernetes.io/component: probe\n", "", "", "PodMonitor probed: its selector"},
		"a spread of others":    {deployment, "labelSelector:\n            matchLabels:\n              app.kubernetes.io/name: probed\n", "labelSelector:\n            matchLabels:\n", "", "the spread's selector"},

		// What is around the pods.
		"a port that is not":       {service, "targetPort: ops", "targetPort: metrics", "", "the port ops leads to metrics"},
		"a component's port":       {tls, "targetPort: grpc", "targetPort: rpc", "", "the port grpc leads to rpc"},
		"a service with a head":    {mesh, "{op: add, path: /spec/clusterIP, value: None}", "{op: add, path: /spec/type, value: ClusterIP}", "", "headless: false"},
		"a base without":           {service, "ipFamilyPolicy: PreferDualStack", "clusterIP: None", "", "headless: true"},
		"no budget":                {base, "  - poddisruptionbudget.yaml\n", "", "", "a budget for its disruption: false"},
		"a budget for a DaemonSet": {mesh, "      $patch: delete\n", "", "", "a budget for its disruption: true"},
		"nodes that stay":          {budget, "maxUnavailable: 1", "maxUnavailable: 0", "", "no node can be drained"},
		"no policy":                {base, "  - networkpolicy.yaml\n", "", "", "a network policy: false"},
		"a rule of egress":         {network, "policyTypes: [Ingress]", "policyTypes: [Ingress, Egress]", "", "egress"},
		"everybody":                {network, "    - from:\n        - namespaceSelector: {}\n      ports:", "    - ports:", "", "lets everybody in"},
		"every port":               {network, "      ports:\n        - port: ops\n", "", "", "opens every port"},
		"a door that is not":       {network, "port: ops", "port: metrics", "", "opens the port metrics"},
		"a component's door":       {tls, "{port: grpc}", "{port: rpc}", "", "opens the port rpc"},
		"a monitor's port":         {monitor, "port: ops", "port: http", "", "does not ask the port ops"},

		// What probed reads.
		"a file not mounted":        {deployment, "--config=/etc/probed/probed.yaml", "--config=/etc/probed.yaml", "", "/etc/probed.yaml is not in a ConfigMap"},
		"a file of another name":    {base, "files: [probed.yaml]", "files: [config.yaml=probed.yaml]", "", "/etc/probed/probed.yaml is not in a ConfigMap"},
		"another argument":          {deployment, "- --config=/etc/probed/probed.yaml", "- --config=/etc/probed/probed.yaml\n            - --insecure-no-auth", "", "the argument --insecure-no-auth"},
		"a volume not there":        {deployment, "{name: tokens, mountPath", "{name: token, mountPath", "", "from a volume that is not there"},
		"a mount to write":          {deployment, "mountPath: /etc/probed-tokens, readOnly: true", "mountPath: /etc/probed-tokens", "", "can be written to"},
		"a file nobody reads":       {oidc, "containers/0/volumeMounts/-, value: {name: oidc,", "containers/0/volumeMounts/-, value: {name: issuer,", "", "ConfigMap probed-oidc: nobody reads it"},
		"no time to end":            {deployment, "terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 30", "", "and it takes 35s to end"},
		"a drain that takes longer": {config, "timeout: 20s", "timeout: 60s", "", "and it takes 1m15s to end"},
		"SIGTERM at once":           {deployment, "sleep: {seconds: 5}", "httpGet: {port: ops}", "", "preStop.sleep"},
		"a key that is not":         {config, "tokens_file:", "token_file:", "", "token_file"},
		"another secret's file":     {config, "/etc/probed-tokens/tokens.yaml", "/etc/probed-tokens/token.yaml", "", "token.yaml"},
		"a token nobody has":        {config, "token:operator", "token:someone", "", "nobody is token:someone"},
		"a policy that warns":       {config, `          hosts: ["*"] # said on purpose: to look a name up can carry data out, to whoever answers for it` + "\n", "", "", "resolve without hosts"},
		"a secret that must be":     {issuer, "tokens_file_optional: true", "tokens_file_optional: false", "", "tokens.yaml"},
		"an issuer less":            {issuer, "- name: kubernetes", "- name: cluster", "", "there is no issuer of the name kubernetes"},
		"a variable not there":      {names, "$(PROBED_NAMESPACE)", "$(PROBED_CLUSTER)", "", "PROBED_CLUSTER"},
		"no certificate":            {cert, "secretName: probed-tls", "secretName: other", "", "tls.crt"},
		"a scalar twice":            {names, "listeners:\n", "audit: {path: \"-\"}\nlisteners:\n", "", "it stands in"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := tree(t)
			edit(t, tree, c.file, c.from, c.to)
			directory := path.Join(root, path.Dir(c.file))
			if strings.HasPrefix(c.file, "components/") {
				on := "base"
				if c.on != "" {
					on = c.on
				}
				directory = onTop(t, tree, path.Join(root, on), []string{directory}, "")
			}
			found := check(t, tree, directory)
			if !strings.Contains(strings.Join(found, "\n"), c.want) {
				t.Errorf("no finding about %q, but %d: %s", c.want, len(found), strings.Join(found, "\n"))
			}
		})
	}
}

// TestTwice: a key that stands twice is found where it stands, also in a patch.
func TestTwice(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a document":        "a: 1\nb: 2\na: 3\n",
		"the second":        "a: 1\n---\nb: 2\nb: 3\n",
		"a patch":           "patches:\n  - patch: |-\n      a: 1\n      a: 2\n",
		"a patch of a list": "patches:\n  - patch: |-\n      - {op: add, op: remove}\n",
	} {
		if len(twice([]byte(text))) != 1 {
			t.Errorf("%s: nothing is found in %q", name, text)
		}
	}
	if found := twice([]byte("a: 1\n---\na: 2\n")); len(found) != 0 {
		t.Errorf("it finds %q", found)
	}
}
