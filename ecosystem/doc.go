// Package ecosystem holds probed and probectl to what people use beside them, as it comes from Debian or from its makers:
// Prometheus, blackbox_exporter, a browser, clients that others generate, grpcurl, shells. Each has a package of tests below. It
// is a module of its own, so that what they take stays out of the product's.
//
// They run by make check-ecosystem, which installs what is missing.
package ecosystem
