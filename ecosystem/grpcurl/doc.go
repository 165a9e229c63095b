// Package grpcurl holds docs/grpcurl.md to what grpcurl prints. Each command of the page is run as it stands there, but for the
// addresses, and has to print what stands below it.
package grpcurl
