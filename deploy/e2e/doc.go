// Package e2e deploys probed to a real cluster as its users do, asks it from here and from within, and breaks the cluster's
// network to see what it tells then. It is all tests, behind the build tags e2e and, for what breaks the network, fault; and
// tools/e2e runs them.
//
// The cluster is the one that KUBECONFIG names. It is taken to
//
//   - have kubectl here that goes with it, and an administrator's rights for whom KUBECONFIG names: namespaces are made, and
//     kinds of cert-manager and the Prometheus Operator where they are not known (then the tests do their controllers' work);
//   - have the image E2E_IMAGE on its nodes, or in a registry they reach;
//   - enforce Pod Security and NetworkPolicy, and reject what goes to a Service without endpoints;
//   - issue service-account tokens as https://kubernetes.default.svc.cluster.local, which is what the component oidc says;
//   - give pods, Services and nodes private addresses, which the policy of the base admits;
//   - have the ports 50051, 8080 and 9464 of every node free, for the overlay host-network.
//
// The tests with the tag fault need in addition a second node, of the name node2, and in E2E_FAULT a command that breaks the
// wire between it and the others: "$E2E_FAULT node2 cut", dns, "loss 30", "mtu 1300 --blackhole"; and mends it: none.
//
// Every namespace of a run has the label probed-e2e with the run's own value, and is deleted at its end, whatever came of it.
package e2e
