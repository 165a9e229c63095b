// Package prometheus holds probed's metrics to Prometheus, and what deploy/observability has for its users: promtool lints live
// scrapes and runs the tests of the alerts, and servers of Prometheus scrape a probed that does a bit of everything, and
// are asked every query of the dashboard and of the alerts.
package prometheus
