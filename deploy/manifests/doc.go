// Package manifests holds what stands in deploy/k8s to what it promises, without a cluster.
package manifests
