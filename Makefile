# What a developer and CI run. `make` alone lists it.
#
# Nothing here asks a service but the Go module proxy, and Debian's packages in test-system.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# What the programs call themselves. A clone without tags is named by its commit.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# What the image calls itself; localhost stands for "of no registry".
IMAGE ?= localhost/probed:$(VERSION)
IMAGE_ARCH ?= amd64 arm64
IMAGE_FILE ?= bin/probed.oci.tar
IMAGE_BUILD ?= .build/image
REVISION ?= $(shell git rev-parse HEAD)
CREATED ?= $(shell git log -1 --format=%ct)
FUZZTIME ?= 30s
BENCH ?= .

# Tools are built once, at the versions of tools/go.mod, and out of the product's module graph.
TOOLS := $(CURDIR)/.build/bin
PLUGINS := $(addprefix $(TOOLS)/,protoc-gen-go protoc-gen-go-grpc protoc-gen-grpc-gateway protoc-gen-openapiv3 openapiv3-merge)
PROTO_IMPORTS := .build/proto

# The services that REST has, in the order that a reader meets them.
OPENAPI := names resolver exchange policy

# Static and without paths of the machine that built it, so that the same commit gives the same bytes, and they run in
# an empty image. The tag leaves out the pages of grpc-go that trace calls, which nobody serves: with their templates, the linker
# keeps every method there is.
BUILD := CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

.PHONY: lint-tools help demo build test test-system release-parts release-check release check-ecosystem check-manifests e2e lint generate check-generate check-breaking soak fuzz bench growth microbench vuln image push check-image clean FORCE

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-15s %s\n", $$1, $$2 }'

demo: build ## show a session on loopback; ends by itself
	@demo/run

build: bin/probed bin/probectl ## bin/probed and bin/probectl

# Go knows better than make what has changed.
bin/probed bin/probectl: bin/%: FORCE
	$(BUILD) -o $@ ./cmd/$*

test: ## the tests that need no more than Go, a C compiler, ip and nft, race detector on
	@command -v "$$(go env CC)" >/dev/null || { echo >&2 'the race detector needs a C compiler: apt-get install gcc libc6-dev'; exit 1; }
	@command -v ip >/dev/null && command -v nft >/dev/null || { echo >&2 'tests of the network make one with ip and nft: apt-get install iproute2 nftables'; exit 1; }
	go vet -tags system ./...
	CGO_ENABLED=1 go test -race ./...

test-system: ## the tests that need root, namespaces and Debian packages; installs what is missing
	tools/test-system

check-ecosystem: ## the tests with what people use beside probed; installs what is missing (root)
	tools/ecosystem

lint-tools: $(TOOLS)/golangci-lint $(TOOLS)/buf

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf $(PROTO_IMPORTS) ## golangci-lint, buf lint, formats
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
		[ -z "$$unformatted" ] || { printf >&2 'gofmt -w these:\n%s\n' "$$unformatted"; exit 1; }
	$(TOOLS)/golangci-lint run
	cd tools && $(TOOLS)/golangci-lint run --config ../.golangci.yml
	cd tools/release && $(TOOLS)/golangci-lint run --config ../../.golangci.yml
	cd deploy && $(TOOLS)/golangci-lint run --config ../.golangci.yml --build-tags e2e,fault
	cd ecosystem && $(TOOLS)/golangci-lint run --config ../.golangci.yml
	$(TOOLS)/buf lint api/proto
	$(TOOLS)/buf format --diff --exit-code api/proto

generate: $(TOOLS)/buf $(PLUGINS) $(PROTO_IMPORTS) ## gen/, the OpenAPI document and the embedded tables
	$(TOOLS)/buf generate
	$(TOOLS)/buf build --path api/proto/probe/v1 -o .build/openapi/contract.binpb
	$(TOOLS)/openapiv3-merge $(OPENAPI:%=.build/openapi/probe/v1/%_service.openapi.json) >.build/openapi/merged.json
	@mkdir -p service/gateway/openapi
	go -C tools run ./openapi -image $(CURDIR)/.build/openapi/contract.binpb -patch $(CURDIR)/api/openapi.yaml \
		$(CURDIR)/.build/openapi/merged.json >.build/openapi/openapi.json
	mv .build/openapi/openapi.json service/gateway/openapi/openapi.json
	go generate ./...

check-generate: $(TOOLS)/buf $(PLUGINS) ## is what is committed what generate gives?
	tools/check-generate

check-breaking: $(TOOLS)/buf ## does the contract keep what it promised? (AGAINST=REF; the last tag, else the commit before)
	tools/check-breaking $(AGAINST)

# Anew each time: it builds probed, which the cache of tests does not see.
check-manifests: ## is deploy/k8s what it promises, and the dashboard? needs no cluster
	go -C deploy test -count=1 ./manifests ./observability

e2e: ## deploy to the cluster that KUBECONFIG names, and test it there (E2E_LOAD, E2E_FAULT: see tools/e2e)
	tools/e2e

soak: ## every promise of docs/endurance.md at its number; prints the table (about 40 minutes)
	tools/soak

fuzz: ## every fuzz target for FUZZTIME (30s) each
	tools/fuzz $(FUZZTIME)

bench: ## measure against what people would use instead; fails when a bar does not hold (ROW=NAME: one row)
	tools/bench $(ROW)

growth: ## measure how cost grows with sessions, bytes and addresses; writes docs/growth
	tools/growth

microbench: ## the benchmarks of the engines that match BENCH (all), with their allocations
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...

vuln: $(TOOLS)/govulncheck ## known vulnerabilities in what is used; needs their database, which is on the network
	tools/vuln

# The tools run here, so they are built for here. The commit stands for the time, so that the same commit gives the same image,
# and nothing else of the repository is in the programs, so that it does without one too.
image: ## bin/probed.oci.tar, an OCI image with probed in it, for amd64 and arm64; needs no daemon (IMAGE=NAME:TAG, IMAGE_ARCH=ARCH)
	for arch in $(IMAGE_ARCH); do \
		GOOS=linux GOARCH=$$arch $(BUILD) -buildvcs=false -o $(IMAGE_BUILD)/$$arch/probed ./cmd/probed; \
	done
	@mkdir -p '$(dir $(IMAGE_FILE))'
	env -u GOOS -u GOARCH go run service/roots/pem.go >$(IMAGE_BUILD)/ca-certificates.crt
	env -u GOOS -u GOARCH go -C tools run ./image -name '$(IMAGE)' -version '$(VERSION)' -revision '$(REVISION)' \
		-created '$(CREATED)' -roots '$(abspath $(IMAGE_BUILD))/ca-certificates.crt' -o '$(abspath $(IMAGE_FILE))' \
		$(IMAGE_ARCH:%='$(abspath $(IMAGE_BUILD))/%/probed')

# What a release has besides the programs that goreleaser builds.
release-parts:
	@rm -rf bin/release
	@mkdir -p bin/release/completions
	for shell in bash zsh fish; do go run ./cmd/probectl completion $$shell >bin/release/completions/probectl.$$shell; done
	go run ./cmd/probectl completion powershell >bin/release/completions/probectl.ps1
	tools/notices ./cmd/probed ./cmd/probectl >bin/release/THIRD_PARTY
	$(MAKE) image IMAGE_FILE=bin/release/probed.oci.tar

release-check: $(TOOLS)/goreleaser $(TOOLS)/bill ## all of a release but to publish it, from a clone of HEAD, into .build/release/dist, and is it what it promises?
	tools/release/check

release: $(TOOLS)/goreleaser $(TOOLS)/bill $(TOOLS)/push ## publish the tag that HEAD has (IMAGE=REGISTRY/NAME of the image; docs/releasing.md)
	tools/release/publish

check-image: ## is the image what it promises? builds it twice
	go -C tools test -count=1 ./image ./push

push: $(TOOLS)/push ## copy what make image has made to the registry that IMAGE names
	$(TOOLS)/push $(IMAGE_FILE) $(IMAGE)

clean: ## remove what the targets above have made
	rm -rf bin .build

# A tool is named by the last element of its path among the `tool` lines of tools/go.mod.
$(TOOLS)/%: tools/go.mod
	GOBIN=$(TOOLS) go -C tools install $$(sed -n 's|^\t\([^ ]*/$*\)$$|\1|p' tools/go.mod)
	@touch $@

# Of a module of its own: it has some hundred dependencies, and none of them is for anything else.
$(TOOLS)/goreleaser: tools/release/go.mod
	GOBIN=$(TOOLS) go -C tools/release install github.com/goreleaser/goreleaser/v2
	@touch $@

$(TOOLS)/bill $(TOOLS)/push: FORCE
	go -C tools build -o $@ ./$(@F)

$(PROTO_IMPORTS): tools/go.mod tools/proto-imports
	tools/proto-imports $(CURDIR)/$@
	@touch $@
