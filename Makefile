# Anteroom. `make help` lists the targets.

MODULES  := proto pkg services
# golangci-lint does not accept "work" as the packages of the workspace.
PACKAGES := $(MODULES:%=./%/...)
COMMANDS := room gateway anteroom

# Tools are built once. They are pinned in modules of their own under deploy/tools, so
# that the project's modules have none of their dependencies.
TOOLS := .run/bin

# How long each fuzz test of `make fuzz` runs.
FUZZTIME ?= 30s
# For `make bench`: which shapes of load to measure (or goals, grow or all), how long to
# measure each, and the directory for profiles (empty for none).
SHAPE ?= all
WINDOW ?= 10s
PROFILE ?=
# For `make microbench`: which benchmarks to run (go test's -bench), how often (-count), and
# the file for the results.
BENCH ?= .
COUNT ?= 1
MICROBENCH := .run/bench/micro-$(shell date +%Y%m%d-%H%M%S).txt
# How long `make soak` runs; an interrupt ends it earlier.
SOAK ?= 24h
# End-to-end tests with a thousand or more users or attackers. They run alone and print tables.
ALONE := ^Test(Abuse|Chaos|RollingRestart)$$
# The address that `make run` listens on.
LISTEN ?= 127.0.0.1:8080

export PATH := $(CURDIR)/$(TOOLS):$(PATH)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The first start downloads and compiles everything, so the build leaves out what takes
# time: optimisation, debug information, cgo, assembly, and what this command does not need
# (the load generator, gRPC's tracing pages, HTTP/2 for the page). One single-threaded
# compiler for each core wastes the least CPU. It takes a tenth less if the garbage collector
# stops the program while it runs, and starts at a heap of 32 MiB instead of 128, because
# fresh memory costs more than collecting. (gcstart is an internal flag of the compiler, so
# it is passed only if it exists.) On two slow cores this takes about half as long as a plain
# go run. For a fast binary use make build.
#
# The standard library compiles while the modules are downloaded: first what the longest
# chain of dependencies needs, then packages outside any chain, so that no core waits for
# another at the end of that half. The second half works likewise: what only the command
# needs is left for the time in which the gateway's packages wait for each other. go install
# keeps the order of its arguments; go build with an output directory does not.
DEV_FIRST = crypto/tls encoding/json go/doc mime/multipart log/slog runtime/pprof os/exec compress/gzip
DEV_THEN  = github.com/danielgtaylor/huma/v2/adapters/humago ./services/gateway/server ./services/cmd/anteroom
DEV_TAGS  = devonly,grpcnotrace,nethttpomithttp2,purego,noasm,math_big_pure_go
DEV_FLAGS = -p $$(getconf _NPROCESSORS_ONLN) -tags=$(DEV_TAGS) -gcflags="all=-N -l -dwarf=false $$gcstart" -ldflags='-s -w' -buildvcs=false

.PHONY: run
run: export CGO_ENABLED = 0
run: ## run everything in one process on port 8080, nothing to install
	@mkdir -p .run
	@export GOMAXPROCS=1 GODEBUG=gcstoptheworld=1$${GODEBUG:+,$$GODEBUG}; \
	gcstart=$$(go tool compile -d help 2>&1 | sed -n 's/^[[:space:]]*gcstart[[:space:]].*/-d=gcstart=32/p'); \
	go list -deps ./services/cmd/anteroom >/dev/null & go build $(DEV_FLAGS) $(DEV_FIRST) && wait $$! && \
	GOBIN="$(CURDIR)/.run" go install $(DEV_FLAGS) $(DEV_THEN)
	@exec .run/anteroom dev --listen $(LISTEN)

.PHONY: cluster
cluster: build $(TOOLS)/goreman ## run Redis, 2 room services, 3 gateways and HAProxy on loopback
	@deploy/local/install.sh redis-server haproxy
	@exec deploy/local/cluster.sh up

# Without -trimpath: with it, make test would have to compile everything a second time.
.PHONY: build
build: ## build the binaries to bin/
	@mkdir -p bin
	go build -o bin/ $(COMMANDS:%=./services/cmd/%)

.PHONY: deps
deps: ## install what the tests need (Debian and Ubuntu; elsewhere say what is missing)
	@deploy/local/install.sh

# With the race detector the simulation runs only a few seeds. So it runs a second time
# without the detector, as two processes with half of the seeds each because it uses only one
# core, and prints their tables. The end-to-end tests run processes with deadlines of their
# own, so they come last and without the race detector. Tests wait more than they compute, so
# one more package than there are cores is tested at a time. make lint vets the code. GOGC=400
# collects garbage a quarter as often and makes the part with the detector a seventh shorter.
.PHONY: test
test: deps build ## run every test, on real Redis and real processes
	GOGC=400 go test -race -vet=off -p $$(($$(getconf _NPROCESSORS_ONLN) + 1)) -timeout 5m $$(go list work | grep -v /services/e2e)
	go test -c -o .run/sim.test ./services/sim
	cd services/sim && printf '1 101' | xargs -n 1 -P 2 ../../.run/sim.test -test.run '^TestSimulation$$' -test.timeout 5m -seeds 100 -seed
	ANTEROOM_BIN="$(CURDIR)/bin" go test -vet=off -count=1 -timeout 8m -v -run '$(ALONE)' ./services/e2e
	ANTEROOM_BIN="$(CURDIR)/bin" go test -vet=off -count=1 -timeout 5m -parallel 8 -skip '$(ALONE)' ./services/e2e/...

.PHONY: e2e
e2e: deps build ## run the end-to-end tests alone
	ANTEROOM_BIN="$(CURDIR)/bin" go test -count=1 -timeout 5m -v ./services/e2e/...

.PHONY: soak
soak: ## simulate seed after seed in virtual time until interrupted (SOAK=1h)
	go test -c -o .run/sim.test ./services/sim
	@cd services/sim && exec ../../.run/sim.test -test.run TestSoak -test.timeout 0 -soak $(SOAK) -seed $$(date +%s)

.PHONY: mutants
mutants: ## break the rules on purpose and see which test finds it
	go run ./services/sim/mutants

.PHONY: bench
bench: build ## measure the cluster under load (SHAPE=small,hot WINDOW=10s PROFILE=dir)
	@deploy/local/install.sh redis-server
	@go build -o .run/bench-cluster ./services/bench
	@ANTEROOM_BIN="$(CURDIR)/bin" exec .run/bench-cluster --shape '$(SHAPE)' --window $(WINDOW) $(if $(PROFILE),--profile '$(PROFILE)')

# Not every sh has pipefail, so the output goes to the file first.
.PHONY: microbench
microbench: ## run the benchmarks of single parts (BENCH=regexp COUNT=1)
	@deploy/local/install.sh redis-server
	@mkdir -p $(dir $(MICROBENCH))
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) work > $(MICROBENCH) || { cat $(MICROBENCH); exit 1; }
	@grep -v 'no test files' $(MICROBENCH) && echo "$(MICROBENCH) has the figures: benchstat compares them with those of another run"

.PHONY: benchstat
benchstat: $(TOOLS)/benchstat ## compare two results of bench or microbench (OLD=file.txt NEW=file.txt)
	@benchstat $(OLD) $(NEW)

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (30s)
	@go list -f '{{.ImportPath}} {{.Dir}}' work | while read -r pkg dir; do \
	  for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$dir"/*_test.go 2>/dev/null); do \
	    echo "$$pkg $$name" && go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$pkg" </dev/null || exit 1; \
	  done; \
	done

# Cheap checks come first, and tools that must be built come last. No check changes
# the tree.
.PHONY: lint
lint: lint-modules lint-go lint-proto lint-helm ## formatting, vet, linters, stale go.mod or generated code, the Helm chart

.PHONY: lint-modules
lint-modules:
	@files=$$(gofmt -l $(MODULES) deploy/tools); [ -z "$$files" ] || { echo "not formatted (make fmt):"; echo "$$files"; exit 1; }
	@for m in $(MODULES); do \
	  echo "go mod tidy, go build without the workspace: $$m"; \
	  (cd $$m && GOWORK=off go mod tidy -diff) || { echo "$$m/go.mod is not tidy (make tidy)"; exit 1; }; \
	  (cd $$m && GOWORK=off go build ./...) || exit 1; \
	done
	go vet work
	go vet -tags=devonly ./services/cmd/anteroom

.PHONY: lint-go
lint-go: $(TOOLS)/golangci-lint
	golangci-lint run $(PACKAGES)

.PHONY: lint-proto
lint-proto: $(TOOLS)/buf
	cd proto && buf lint
	deploy/tools/proto/breaking.sh
	deploy/tools/proto/generate.sh --check

# Without optimisation and debug information it compiles in a third of the time. -count=1,
# because Go's cache of results does not notice changes of files outside the module.
HELM_FLAGS := $(foreach host,github.com helm.sh k8s.io sigs.k8s.io golang.org google.golang.org,-gcflags='$(host)/...=-N -l -dwarf=false')
.PHONY: lint-helm
lint-helm:
	GOWORK=off go -C deploy/tools/helm mod tidy -diff
	GOWORK=off go test -C deploy/tools/helm -count=1 -vet=off -ldflags='-s -w' $(HELM_FLAGS) .

.PHONY: gen
gen: $(TOOLS)/buf ## rebuild the generated code
	deploy/tools/proto/generate.sh

.PHONY: fmt
fmt: $(TOOLS)/buf ## format Go and proto files
	gofmt -w $(MODULES) deploy/tools
	cd proto && buf format -w

.PHONY: tidy
tidy: ## tidy every go.mod
	@for m in $(MODULES) deploy/tools/*/; do echo "go mod tidy: $$m" && (cd $$m && GOWORK=off go mod tidy) || exit 1; done

.PHONY: image
image: ## build the container images
	docker compose build

.PHONY: clean
clean: ## remove what was built and the cluster's data
	rm -rf bin .run

# buf has little to do here and takes long to compile. Without optimisation that takes
# 104 s of CPU from a cold cache instead of 200 s, and buf still lints in 0.1 s.
UNOPTIMISED := $(foreach host,github.com buf.build cel.dev,-gcflags='$(host)/...=-N -l')

$(TOOLS)/buf: deploy/tools/proto/go.mod deploy/tools/proto/go.sum
	GOWORK=off go build -C deploy/tools/proto -ldflags='-s -w' $(UNOPTIMISED) -o "$(CURDIR)/$(TOOLS)/" tool
	@touch $@

$(TOOLS)/golangci-lint: deploy/tools/lint/go.mod deploy/tools/lint/go.sum
	GOWORK=off go build -C deploy/tools/lint -ldflags='-s -w' -o "$(CURDIR)/$(TOOLS)/" tool
	@touch $@

$(TOOLS)/goreman: deploy/tools/cluster/go.mod deploy/tools/cluster/go.sum
	GOWORK=off go build -C deploy/tools/cluster -o "$(CURDIR)/$(TOOLS)/" tool
	@touch $@

$(TOOLS)/benchstat: deploy/tools/bench/go.mod deploy/tools/bench/go.sum
	GOWORK=off go build -C deploy/tools/bench -o "$(CURDIR)/$(TOOLS)/" tool
	@touch $@
