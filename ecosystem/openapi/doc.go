// Package openapi holds the OpenAPI document of probed to a validator, to what probed answers, to a generator of clients, and the
// page that renders it to a real browser (Debian's chromium).
package openapi
