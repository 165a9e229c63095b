package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// Object is one of any kind.
type Object interface {
	metav1.Object
	runtime.Object
}

// Set is what is applied together, by kind.
type Set struct {
	Objects         []Object
	Workloads       []Workload
	ConfigMaps      []*corev1.ConfigMap
	Secrets         []*corev1.Secret
	Services        []*corev1.Service
	ServiceAccounts []*corev1.ServiceAccount
	Budgets         []*policyv1.PodDisruptionBudget
	Policies        []*networkingv1.NetworkPolicy
	Certificates    []*certmanagerv1.Certificate
	PodMonitors     []*monitoringv1.PodMonitor
}

// Workload is what makes pods: one of the two.
type Workload struct {
	Object
	Deployment *appsv1.Deployment
	DaemonSet  *appsv1.DaemonSet
	Selector   *metav1.LabelSelector
	Template   *corev1.PodTemplateSpec
}

// namespaced are the kinds that may occur: each belongs to a namespace, so that whoever has one needs no right beyond it, and
// what two teams apply does not meet.
var namespaced = []string{
	"Certificate", "ConfigMap", "DaemonSet", "Deployment", "Issuer", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor",
	"PrometheusRule", "Secret", "Service", "ServiceAccount",
}

// Decode reads documents of YAML strictly: a kind or a field that the API does not have, and a field that stands there twice,
// are errors.
func Decode(documents []byte) (*Set, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
		certmanagerv1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})

	set := &Set{}
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(documents))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return set, nil
		}
		if err != nil {
			return nil, err
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in:\n%s", err, document)
		}
		if !slices.Contains(namespaced, kind.Kind) {
			return nil, fmt.Errorf("%s is not known to belong to a namespace", kind.Kind)
		}
		if err := set.add(object); err != nil {
			return nil, err
		}
	}
}

func (s *Set) add(object runtime.Object) error {
	o, ok := object.(Object)
	if !ok {
		return fmt.Errorf("%T has no name", object)
	}
	s.Objects = append(s.Objects, o)
	switch o := object.(type) {
	case *appsv1.Deployment:
		s.Workloads = append(s.Workloads, Workload{Object: o, Deployment: o, Selector: o.Spec.Selector, Template: &o.Spec.Template})
	case *appsv1.DaemonSet:
		s.Workloads = append(s.Workloads, Workload{Object: o, DaemonSet: o, Selector: o.Spec.Selector, Template: &o.Spec.Template})
	case *corev1.ConfigMap:
		s.ConfigMaps = append(s.ConfigMaps, o)
	case *corev1.Secret:
		s.Secrets = append(s.Secrets, o)
	case *corev1.Service:
		s.Services = append(s.Services, o)
	case *corev1.ServiceAccount:
		s.ServiceAccounts = append(s.ServiceAccounts, o)
	case *policyv1.PodDisruptionBudget:
		s.Budgets = append(s.Budgets, o)
	case *networkingv1.NetworkPolicy:
		s.Policies = append(s.Policies, o)
	case *certmanagerv1.Certificate:
		s.Certificates = append(s.Certificates, o)
	case *monitoringv1.PodMonitor:
		s.PodMonitors = append(s.PodMonitors, o)
	}
	return nil
}
