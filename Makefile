# Every step of CI is one target that anyone can run. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
BIN := bin
export CGO_ENABLED := 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TEST_TIMEOUT ?= 15m
FUZZTIME ?= 15s
E2E_TIMEOUT ?= 50m
# Below integration/conformance; empty: no report is written.
CONFORMANCE_REPORT ?= reports/standard-default-report.yaml
LAB_NODES ?= 3
LAB_FLAGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what the tests and the demo need (nftables, iproute2, conntrack, iptables), or name it
	@hack/deps.sh

.PHONY: deps-image
deps-image: ## the same for LOCAL_BASE=1 make image (podman, mmdebstrap)
	@hack/deps.sh image

.PHONY: deps-full
deps-full: ## the same, and containerd, runc and CNI plugins for real kubelets in the lab
	@hack/deps.sh full

.PHONY: build
build: ## build portway-agent, portway-controller, portwayctl and the demo into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/portway-demo ./integration/demo

.PHONY: demo
demo: deps build ## the Gateway API TCP guide, working in this machine's kernel (its own namespaces)
	@$(BIN)/portway-demo -agent $(BIN)/portway-agent -examples examples

.PHONY: test
test: deps ## all tests: pure, kernel (in network namespaces) and traffic
	@unshare -n true 2>/dev/null || unshare -Urn true 2>/dev/null || \
		echo "make test: no network namespaces to be had here: kernel and traffic tests are skipped (with CI=true they fail)" >&2
	$(GO) test -timeout $(TEST_TIMEOUT) ./...
	$(GO) -C integration/bench/report test ./...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	hack/fuzz.sh $(FUZZTIME)

.PHONY: deps-bench
deps-bench: ## the same, and haproxy and nginx for make bench; never started as services
	@hack/deps.sh bench

.PHONY: bench
bench: ## beside its peers, and part by part → docs/benchmarks/ (30 minutes; BENCH=quick 5, prints; BENCH=full)
	hack/bench.sh

.PHONY: bench-cluster
bench-cluster: deps ## the product in the lab's Kubernetes: latencies, a cold controller → docs/benchmarks/ (root)
	hack/bench-cluster.sh

.PHONY: bench-report
bench-report: ## docs/benchmarks/README.md and its plots from docs/benchmarks/results.json
	$(GO) -C integration/bench/report run . render -results $(CURDIR)/docs/benchmarks/results.json -to $(CURDIR)/docs/benchmarks

.PHONY: generate
generate: ## deep copies, CRDs and reference (docs/api.md) of our own API group
	hack/generate.sh

.PHONY: manifests
manifests: ## deploy/install.yaml and deploy/base, rendered from the chart deploy/chart
	hack/manifests.sh

.PHONY: chart
chart: ## tests of the Helm chart, without a cluster (builds helm: some minutes the first time)
	cd integration/chart && $(GO) test -count=1 ./...

.PHONY: lint
lint: ## linters, pinned in hack/tools, at zero findings
	hack/lint.sh

.PHONY: verify
verify: deps ## what is generated or documented is what the code says and the kernel lists
	hack/verify.sh

.PHONY: e2e
e2e: deps deps-image lab ## real-Kubernetes tests in labs of their own, installation on real kubelets among them (root)
	@if hack/deps.sh full; then $(BIN)/lab build --full; elif [ "$${CI:-}" = true ]; then exit 1; else \
		echo "make e2e: no real kubelets here: TestInstall runs in the small lab" >&2; fi
	cd integration/lab && $(GO) test -count=1 ./...
	cd integration/e2e && E2E=1 $(GO) test -count=1 -timeout $(E2E_TIMEOUT) -v .

.PHONY: conformance
conformance: deps lab ## the Gateway API conformance suite in the lab → integration/conformance/reports/
	cd integration/e2e && $(GO) run ./cmd/conformance -report '$(CONFORMANCE_REPORT)'

.PHONY: lab
lab: build ## the cluster lab's programs (about 12 minutes of two cores the first time)
	$(GO) -C integration/lab build -trimpath -o $(CURDIR)/$(BIN)/lab ./cmd/lab
	$(BIN)/lab build

.PHONY: lab-full
lab-full: deps-full lab ## the same with a kubelet (about a minute more the first time)
	$(BIN)/lab build --full

.PHONY: lab-up
lab-up: lab ## a real Kubernetes in namespaces (builds the lab first): LAB_NODES, LAB_FLAGS
	$(BIN)/lab up $(LAB_NODES) --dual --bin $(BIN) $(LAB_FLAGS)

.PHONY: lab-shell
lab-shell: ## a shell beside the lab's API server; KUBECONFIG is set
	$(BIN)/lab shell

.PHONY: lab-down
lab-down: ## end the lab
	$(BIN)/lab down

.PHONY: image
image: ## container image with podman, buildah or docker: IMAGE, IMAGE_ARCH, IMAGE_ARCHIVE, LOCAL_BASE=1 (see hack/image.sh)
	@VERSION='$(VERSION)' hack/image.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) out
