# tpcfs. `make help` lists the targets.

GO        ?= go
FUZZTIME  ?= 30s
FUZZJOBS  ?= 1
# Each target's share of the cores.
FUZZWORKERS = $$(n=$$(($$(nproc) / $(FUZZJOBS))); echo $$((n > 0 ? n : 1)))
# Each random crash test of integration/ makes trouble for this long in `make test`.
CRASHTIME ?= 30s
# The power fails this often in `make test` and `make powerloss`.
POWERCUTS ?= 6
# Each test of random operations on mounts (integration/posix) runs this long.
STRESSTIME ?= 8s
# TestNetworkRandom cuts a network for this long.
NETTIME ?= 8s
# What the tests of one package may take; without a bound where one of these is given.
TIMEOUT   ?= $(if $(filter-out file,$(origin CRASHTIME) $(origin POWERCUTS) $(origin STRESSTIME) $(origin NETTIME)),0,40m)
LENGTH    ?= 2
SYNC      ?= 0
SEEDS     ?= 20000

LINT_VERSION := 2.15.0
LINT_MODULE  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT_VERSION)

.DEFAULT_GOAL := help
.PHONY: help run build test check fmt lint fuzz sim mutate exhaust sequences powerloss proof bench clean fuse3

help: ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10

run: build fuse3 ## coordinator, three participants and a mount on ./mnt, until Ctrl-C (data in ./tpcfs-data)
	@mkdir -p ./mnt 2>/dev/null || true
	@exec ./bin/tpcfs up ./mnt --dir ./tpcfs-data

build: ## ./bin/tpcfs
	CGO_ENABLED=0 $(GO) build -trimpath -o ./bin/ ./cmd/tpcfs

# Their tests of one goroutine, which crash at each step, take one step in 24 under the race detector.
ONE_GOROUTINE := ./journal ./participant/store ./integration/sim ./integration/sim/exhaust

test: fuse3 ## everything: all tests of all packages with the race detector, real processes and mounts included (about 10 minutes on two cores; 29 were seen on two that are three times slower)
	$(GO) test -count=1 -timeout $(TIMEOUT) $(ONE_GOROUTINE)
	TPCFS_TEST_CRASHTIME=$(CRASHTIME) TPCFS_TEST_POWERCUTS=$(POWERCUTS) TPCFS_TEST_STRESSTIME=$(STRESSTIME) TPCFS_TEST_NETTIME=$(NETTIME) \
	  $(GO) test -race -count=1 -timeout $(TIMEOUT) ./...

check: fmt lint ## before a commit: gofmt, build, vet, lint, short unit tests with the race detector
	$(GO) build ./...
	$(GO) vet ./...
	$(GO) vet -tags failpoint ./...
	$(GO) test -race -short $$($(GO) list ./... | grep -v '^tpcfs/integration')
	$(GO) test -run '^TestTable$$' ./integration/sim/mutate

fmt:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
	  echo "not formatted (run gofmt -w on them):"; echo "$$unformatted"; exit 1; fi

lint: ## golangci-lint, the import arrows of DESIGN.md among its rules
	@for l in ./bin/golangci-lint "$$($(GO) env GOPATH)/bin/golangci-lint" golangci-lint; do \
	  if "$$l" version 2>/dev/null | grep -qE 'version v?$(LINT_VERSION) '; then exec "$$l" run ./...; fi; \
	done; \
	echo "installing golangci-lint $(LINT_VERSION) into ./bin"; \
	GOBIN="$$PWD/bin" $(GO) install $(LINT_MODULE) && exec ./bin/golangci-lint run ./...

fuzz: ## every fuzz target for FUZZTIME (30s) each, FUZZJOBS (1) of them side by side
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|/[^/]*:func | |' | sort -u | \
	xargs -P $(FUZZJOBS) -n 2 sh -c 'echo "fuzzing $$1, $$0: $(FUZZTIME)"; \
	  out=$$($(GO) test -run "^$$" -fuzz "^$$1\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x \
	    -parallel $(FUZZWORKERS) "$$0" 2>&1) || failed=255; \
	  printf "== %s %s\n%s\n" "$$0" "$$1" "$$out"; exit $${failed:-0}'

sim: ## SEEDS (20000) schedules of the simulator beyond the fixed set, without the race detector
	$(GO) test ./integration/sim -run '^TestSim$$' -count=1 -timeout 0 -v -seeds $(SEEDS)

mutate: ## leaves out one rule after the other (those that contain RULE): a test has to notice each
	$(GO) run ./integration/sim/mutate -rule '$(RULE)'

exhaust: ## every schedule of small clusters: all interleavings, crashes, lost messages within the large boxes (minutes)
	$(GO) test ./integration/sim/exhaust -run '^TestExhaust$$' -count=1 -timeout 0 -v -large

sequences: ## all sequences of up to LENGTH (2) operations, a power loss before each operation of a disk, without the race detector (2: minutes, 3: an hour)
	$(GO) test ./integration/sim -run '^TestCrashInSequences$$' -count=1 -timeout 0 -v -length $(LENGTH)

powerloss: fuse3 ## POWERCUTS (8) power losses of a cluster of processes whose disks forget what was not synced (about 6 s each)
	TPCFS_TEST_POWERCUTS=$(POWERCUTS) $(GO) test -race ./integration -run '^TestPowerLoss$$' -count=1 -timeout 0 -v

proof: fuse3 ## all of the above at full length (most of a day; ONLY=row,... those alone): writes integration/PROOF.md
	$(GO) run ./integration/proof -only '$(ONLY)'

bench: build ## the figures of DESIGN.md as ratios measured in one run; fails where a floor does not hold (SYNC=1ms: on disks whose syncs take that, as root; ONLY=part,...)
	$(GO) test -run '^$$' -bench . ./journal ./journal/disk
	$(GO) run ./integration/bench -tpcfs ./bin/tpcfs -sync $(SYNC) -only '$(ONLY)'

clean: ## removes ./bin (./tpcfs-data, your files, stays)
	rm -rf ./bin

fuse3:
	@if command -v fusermount3 >/dev/null; then :; \
	elif ! command -v apt-get >/dev/null; then \
	  echo "fusermount3 is missing: install the package fuse3 of your system, then try again" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qqy fuse3; \
	elif command -v sudo >/dev/null; then sudo apt-get update -qq && sudo apt-get install -qqy fuse3; \
	else \
	  echo "fusermount3 is missing and there is no sudo: as root, run 'apt-get install fuse3', then try again" >&2; exit 1; \
	fi
