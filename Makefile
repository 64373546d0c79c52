# Every target that a person calls carries a line of help after "##"; `make help` prints them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A Go that lies where its own installer puts it is found without a change to PATH.
export PATH := $(PATH):/usr/local/go/bin

TOOLS   := $(CURDIR)/bin/tools
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Pinned tools. Each is built once into bin/tools, under a name that carries its version.
GOLANGCI_LINT_VERSION      := v2.15.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
GOLANGCI_LINT      ?= $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
PROTOC_GEN_GO      := $(TOOLS)/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)
PROTOC_GEN_GO_GRPC := $(TOOLS)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)

# How long the slices of torture and bench in `make test` are, and the whole runs.
TORTURE_TIME  ?= 10m
TORTURE_SLICE ?= 45s
BENCH_ROUNDS  ?= 10
BENCH_SLICE   ?= 2

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what is missing on this machine (as root), or say what to ask for
	@scripts/setup.sh

.PHONY: build
build: ## Build bin/orrery
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/orrery ./cmd/orrery

.PHONY: up
up: setup build ## Start Orrery here, with a first datastore called demo
	@bin/orrery up --demo

.PHONY: down
down: build ## Stop the plane; databases keep running, data stays
	@bin/orrery down

.PHONY: clean
clean: build ## Remove everything: plane, databases, all their data, and what was built
	@bin/orrery admin destroy --yes
	@rm -rf bin

.PHONY: test
test: ## Check everything: vet, format, generated code, tests, e2e, slices of torture and bench
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory check unit e2e torture-slice bench-slice

.PHONY: check
check: ## The quick checks of `make test`: vet, gofmt, generated code
	@scripts/check.sh

.PHONY: unit
unit: ## The tests of each package, with the race detector
	@go run ./scripts/gotest -race -timeout 15m $$(go list ./... | grep -v '/test/')

.PHONY: e2e
e2e: build ## The whole plane from outside, with real databases
	@go run ./scripts/gotest -timeout 15m -count 1 ./test/e2e/...

.PHONY: torture
torture: build ## Kill everything at random for TORTURE_TIME (10m) while jobs run, then check
	@go run ./test/torture -orrery bin/orrery -for $(TORTURE_TIME)

.PHONY: torture-slice
torture-slice: build
	@go run ./test/torture -orrery bin/orrery -for $(TORTURE_SLICE)

.PHONY: bench
bench: build ## Measure against hand-made floors, BENCH_ROUNDS (10) rounds, as ratios
	@go run ./test/bench -orrery bin/orrery -rounds $(BENCH_ROUNDS)

.PHONY: bench-slice
bench-slice: build
	@go run ./test/bench -orrery bin/orrery -rounds $(BENCH_SLICE) -short

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run golangci-lint, with the import rules of the design
	@$(GOLANGCI_LINT) run ./...

.PHONY: generate
generate: $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC) ## Make generated code anew (wants protoc)
	@scripts/generate.sh $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC)

$(TOOLS)/golangci-lint-%:
	@echo "building golangci-lint $* (once; takes some minutes)"
	@scripts/tool.sh $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint $*

$(TOOLS)/protoc-gen-go-grpc-%:
	@scripts/tool.sh $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc $*

$(TOOLS)/protoc-gen-go-v%:
	@scripts/tool.sh $@ google.golang.org/protobuf/cmd/protoc-gen-go v$*
