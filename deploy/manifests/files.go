package manifests

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// mount is a directory of the container; volume is nil if there is none of that name.
type mount struct {
	path     string
	readOnly bool
	volume   *corev1.Volume
}

func mountsOf(w Workload) []mount {
	spec := &w.Template.Spec
	mounts := make([]mount, 0, len(spec.Containers[0].VolumeMounts))
	for _, m := range spec.Containers[0].VolumeMounts {
		found := mount{path: m.MountPath, readOnly: m.ReadOnly}
		if i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }); i >= 0 {
			found.volume = &spec.Volumes[i]
		}
		mounts = append(mounts, found)
	}
	return mounts
}

// configFile is one that probed is told to read with --config, at its path in the container.
type configFile struct {
	path, text string
}

// configFiles returns the files of --config in their order, out of the ConfigMaps that are mounted where they shall be. The
// container has no other argument.
func configFiles(set *Set, w Workload) ([]configFile, error) {
	args := w.Template.Spec.Containers[0].Args
	files := make([]configFile, 0, len(args))
	for _, arg := range args {
		name, ok := strings.CutPrefix(arg, "--config=")
		if !ok {
			return nil, fmt.Errorf("the argument %s is not --config", arg)
		}
		text, ok := textAt(set, w, name)
		if !ok {
			return nil, fmt.Errorf("%s is not in a ConfigMap that is mounted there", name)
		}
		files = append(files, configFile{path: name, text: text})
	}
	return files, nil
}

func textAt(set *Set, w Workload, file string) (string, bool) {
	for _, m := range mountsOf(w) {
		if m.path != path.Dir(file) || m.volume == nil || m.volume.ConfigMap == nil {
			continue
		}
		for _, c := range set.ConfigMaps {
			if c.Name == m.volume.ConfigMap.Name {
				text, has := c.Data[path.Base(file)]
				return text, has
			}
		}
	}
	return "", false
}
