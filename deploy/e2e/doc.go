// Package e2e deploys probed to a real cluster and asks it.
package e2e
