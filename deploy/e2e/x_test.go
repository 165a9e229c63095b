//go:build e2e

package e2e

import (
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
	_ "k8s.io/api/core/v1"
	_ "k8s.io/apimachinery/pkg/apis/meta/v1"
	_ "k8s.io/client-go/rest"
	_ "sigs.k8s.io/e2e-framework/pkg/env"
	_ "sigs.k8s.io/yaml"

	_ "github.com/prometheus/client_model/go"
	_ "probed/gen/probe/v1"
	_ "probed/internal/probetest"
)
