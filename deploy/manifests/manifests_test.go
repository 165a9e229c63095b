package manifests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	source = "../k8s"
	root   = "/probed/deploy/k8s"
)

func tree(t *testing.T) *Tree {
	t.Helper()
	tree, err := Copy(source, root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// kustomizations returns the directories below source that have a kustomization of a kind, as paths in a tree.
func kustomizations(t *testing.T, kind string) []string {
	t.Helper()
	var found []string
	err := fs.WalkDir(os.DirFS(source), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Base(name) != "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		var k struct{ Kind string }
		if err := yaml.Unmarshal(text, &k); err != nil {
			return err
		}
		if k.Kind == kind {
			found = append(found, path.Join(root, path.Dir(name)))
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s: %v", kind, err)
	}
	return found
}

// onTop adds a kustomization with these components on what is in a directory, and returns where it is.
func onTop(t *testing.T, tree *Tree, resource string, components []string, more string) string {
	t.Helper()
	relative := func(to string) string {
		r, err := filepath.Rel("/own", to)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s]\ncomponents:\n", relative(resource))
	for _, c := range components {
		fmt.Fprintf(&text, "  - %s\n", relative(c))
	}
	text.WriteString(more)
	if err := tree.Write("/own/kustomization.yaml", []byte(text.String())); err != nil {
		t.Fatal(err)
	}
	return "/own"
}

// check renders a directory of a tree, and returns all that is wrong with it.
func check(t *testing.T, tree *Tree, directory string) []string {
	t.Helper()
	text, err := tree.Render(directory)
	if err != nil {
		return []string{err.Error()}
	}
	set, err := Decode(text)
	if err != nil {
		return []string{err.Error()}
	}
	found := Check(set)
	if len(set.Workloads) == 1 && len(set.Workloads[0].Template.Spec.Containers) == 1 {
		found = append(found, checkConfig(t, set, false)...)
		if optional(set.Workloads[0]) {
			found = append(found, checkConfig(t, set, true)...)
		}
	}
	return found
}

// optional tells whether the pods start without a Secret that they mount.
func optional(w Workload) bool {
	return slices.ContainsFunc(mountsOf(w), func(m mount) bool {
		return m.volume != nil && m.volume.Secret != nil && m.volume.Secret.Optional != nil && *m.volume.Secret.Optional
	})
}

// TestEach holds every overlay to the rules as it stands, and with every component, and all of them, on it.
func TestEach(t *testing.T) {
	t.Parallel()
	components := kustomizations(t, "Component")
	for _, overlay := range kustomizations(t, "Kustomization") {
		lists := [][]string{nil}
		for _, c := range components {
			lists = append(lists, []string{c})
		}
		backwards := slices.Clone(components)
		slices.Reverse(backwards)
		lists = append(lists, components, backwards)
		for _, list := range lists {
			// What stands in an overlay is not put on it twice, and of a network that is the node's there is nothing to set.
			list = slices.DeleteFunc(slices.Clone(list), func(c string) bool {
				return path.Base(overlay) == "namespace" && path.Base(c) == "oidc" || path.Base(overlay) == "host-network" && path.Base(c) == "icmp"
			})
			name := path.Base(overlay)
			for _, c := range list {
				name += "+" + path.Base(c)
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				tree := tree(t)
				for _, finding := range check(t, tree, onTop(t, tree, overlay, list, "")) {
					t.Error(finding)
				}
			})
		}
	}
}

// TestSources reads the files as they stand for what rendering does not show: a key that stands there twice.
func TestSources(t *testing.T) {
	t.Parallel()
	err := fs.WalkDir(os.DirFS(source), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		for _, finding := range twice(text) {
			t.Errorf("%s: %s", name, finding)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// twice reads YAML, and the YAML of patches in it, strictly.
func twice(text []byte) []string {
	var found []string
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var value any
		if err := yaml.UnmarshalStrict(document, &value); err != nil {
			found = append(found, err.Error())
			continue
		}
		k, ok := value.(map[string]any)
		if !ok {
			continue
		}
		patches, _ := k["patches"].([]any)
		for _, p := range patches {
			if p, ok := p.(map[string]any); ok {
				patch, _ := p["patch"].(string)
				found = append(found, twice([]byte(patch))...)
			}
		}
	}
	return found
}

// TestOwn renders the kustomization that the base shows at its top as one of your own.
func TestOwn(t *testing.T) {
	t.Parallel()
	tree := tree(t)
	text, err := tree.Read(root + "/base/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "what is yours:\n")
	example, _, _ = strings.Cut(example, "#\n# It takes")
	example = strings.ReplaceAll(example, "#   ", "")
	if err := errors.Join(
		tree.Write("/shop/kustomization.yaml", []byte(strings.TrimPrefix(example, "#\n"))),
		tree.Write("/shop/probed.yaml", []byte("audit: {path: \"-\"}\n")),
	); err != nil {
		t.Fatal(err)
	}
	rendered, err := tree.Render("/shop")
	if err != nil {
		t.Fatalf("%v in:\n%s", err, example)
	}
	set, err := Decode(rendered)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range set.Objects {
		if o.GetNamespace() != "shop" {
			t.Errorf("%s is in the namespace %q", o.GetName(), o.GetNamespace())
		}
	}
	if image := set.Workloads[0].Template.Spec.Containers[0].Image; image != "registry/probed:v1.2.3" {
		t.Errorf("the image is %s", image)
	}
	if i := slices.IndexFunc(set.ConfigMaps, func(c *corev1.ConfigMap) bool { return c.Name == "probed" }); i < 0 || set.ConfigMaps[i].Data["probed.yaml"] != "audit: {path: \"-\"}\n" {
		t.Error("the policy of one's own is not there")
	}
	if len(set.Certificates) == 0 || len(set.Services[0].Spec.Ports) != 3 {
		t.Error("the component tls is not there")
	}
}

// TestRights: who shows a token of a service account may do what the operator may, which stands in two files.
func TestRights(t *testing.T) {
	t.Parallel()
	tree := tree(t)
	rules := make(map[string]any)
	for _, file := range []string{"base/probed.yaml", "components/oidc/oidc.yaml"} {
		text, err := tree.Read(path.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		var c struct {
			Policy struct{ Roles []struct{ Rules any } }
		}
		if err := yaml.Unmarshal(text, &c); err != nil || len(c.Policy.Roles) != 1 {
			t.Fatalf("%s: there is not one role, but %d: %v", file, len(c.Policy.Roles), err)
		}
		rules[file] = c.Policy.Roles[0].Rules
	}
	if !reflect.DeepEqual(rules["base/probed.yaml"], rules["components/oidc/oidc.yaml"]) {
		t.Errorf("the rules are %v", rules)
	}
}

// TestImage changes the one line that names the image, as README.md says.
func TestImage(t *testing.T) {
	t.Parallel()
	tree := tree(t)
	const file = root + "/base/kustomization.yaml"
	before, err := tree.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^ *sed -i '(.*)' deploy/k8s/base/kustomization\.yaml$`).FindSubmatch(readme)
	if command == nil {
		t.Fatal("README.md does not say how the image is named")
	}
	sed := exec.Command("sed", string(command[1]))
	sed.Stdin = bytes.NewReader(before)
	after, err := sed.Output()
	if err != nil {
		t.Fatal(err)
	}
	changed, lines := 0, strings.Split(string(before), "\n")
	for i, line := range strings.Split(string(after), "\n") {
		if i >= len(lines) || line != lines[i] {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("%s changes %d lines", command[1], changed)
	}
	if err := tree.Write(file, after); err != nil {
		t.Fatal(err)
	}
	for _, overlay := range kustomizations(t, "Kustomization") {
		text, err := tree.Render(overlay)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "image:"); n != 1 || !strings.Contains(string(text), "image: registry.example.com/probed:v1\n") {
			t.Errorf("%s: %d images, and not this one alone", overlay, n)
		}
	}
}

// TestHostNetwork: what it gives up is what its words say.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	tree := tree(t)
	// Without what it says of itself, it is judged as the others are.
	text, err := tree.Render(root + "/overlays/host-network")
	if err != nil {
		t.Fatal(err)
	}
	set, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	var f findings
	w := set.Workloads[0]
	judge(&f, w)
	if len(f) != 1 || !strings.Contains(f[0], "host namespaces") {
		t.Errorf("Pod Security restricted says %q", f)
	}
	words, err := tree.Read(root + "/overlays/host-network/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"gives up", "privileged", "NetworkPolicy does not hold"} {
		if !strings.Contains(string(words), word) {
			t.Errorf("its comment does not say %q", word)
		}
	}
}

func edit(t *testing.T, tree *Tree, file, from, to string) {
	t.Helper()
	text, err := tree.Read(path.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s has no %q", file, from)
	}
	if err := tree.Write(path.Join(root, file), []byte(strings.ReplaceAll(string(text), from, to))); err != nil {
		t.Fatal(err)
	}
}

// checkConfig has probed check the configuration of the pods, with every file that they would have. Where a Secret is optional,
// without says that it is not there.
func checkConfig(t *testing.T, set *Set, without bool) []string {
	t.Helper()
	w := set.Workloads[0]
	files, err := configFiles(set, w)
	if err != nil {
		return nil // which Check has told
	}
	directory := t.TempDir()
	mounts := mountsOf(w)
	for _, m := range mounts {
		if m.volume == nil {
			return nil // this too
		}
		for name, content := range contentOf(t, set, m.volume, without) {
			write(t, filepath.Join(directory, m.path, name), content)
		}
	}
	args := []string{"check-config"}
	for _, file := range files {
		// The directories of the container begin at one of ours.
		text := file.text
		for _, m := range mounts {
			text = strings.ReplaceAll(text, " "+m.path+"/", " "+directory+m.path+"/")
		}
		at := filepath.Join(directory, file.path)
		write(t, at, []byte(text))
		args = append(args, at)
	}
	command := exec.Command(probed, args...)
	command.Env = []string{"PROBED_POD=probed-0", "PROBED_NAMESPACE=shop", "PROBED_NODE=node1"}
	var told strings.Builder
	command.Stderr = &told
	// Of a warning it tells and is content; here it would be for everybody who applies this.
	if err := command.Run(); err != nil || told.Len() > 0 {
		return []string{fmt.Sprintf("probed check-config: %v\n%s", err, &told)}
	}
	return nil
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// contentOf makes the files of a volume by what makes them in a cluster.
func contentOf(t *testing.T, set *Set, volume *corev1.Volume, without bool) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	switch {
	case volume.Secret != nil && without && volume.Secret.Optional != nil && *volume.Secret.Optional:
	case volume.Secret != nil:
		for _, c := range set.Certificates {
			if c.Spec.SecretName == volume.Secret.SecretName {
				files["tls.crt"], files["tls.key"] = certificate(t, c.Spec.DNSNames)
				return files
			}
		}
		secret := secretOf(t, volume.Secret.SecretName)
		for name, content := range secret.StringData {
			files[name] = []byte(content)
		}
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			switch {
			case source.ServiceAccountToken != nil:
				files[source.ServiceAccountToken.Path] = []byte("a.service.account")
			case source.ConfigMap != nil && source.ConfigMap.Name == "kube-root-ca.crt":
				for _, item := range source.ConfigMap.Items {
					if item.Key == "ca.crt" { // the one that the cluster puts into each namespace has no other
						files[item.Path], _ = certificate(t, []string{"kubernetes"})
					}
				}
			}
		}
	}
	return files
}

// secretOf runs the documented command that makes the Secret of that name.
func secretOf(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	command := exec.Command(probed, "new-token", "operator", "--secret", name, "--token-file", filepath.Join(t.TempDir(), "token"))
	command.Stderr = io.Discard
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	set, err := Decode(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Secrets) != 1 || set.Secrets[0].Name != name {
		t.Fatalf("no Secret %s in:\n%s", name, out)
	}
	return set.Secrets[0]
}

func certificate(t *testing.T, names []string) (certificate, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0), DNSNames: names,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err = x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
