# ctrfs: everything that is done with this tree, each under one name. `make` alone lists them.
#
# Nothing needs to be installed first: test/setup fetches what a target needs, where it is missing, and says so.

# Expanded when a recipe runs, which is after test/setup has made sure that there is one.
GO       = GOTOOLCHAIN=local $(shell test/setup go)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# -trimpath and no time stamps: the same tree gives the same program, wherever it lies.
BUILD    = build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)'

# The race detector needs C; the program never does.
export CGO_ENABLED = 0

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    = 5s
# The transcripts in which much happens at once. ALL=1 is all of them: CI has twenty minutes.
BUSY        = $(if $(ALL),.*,^(autostart|busy|console|events|exec|exec-input|hello|log|nested|restart|run|state|stdin|stop|tty)$$)
# About half of the black-box tests, by the time that they take.
FIRST       = ^Test([A-K]|Net|Memory)
ARGS        =

.PHONY: help build cross demo test chaos test-v2 ci lint bench fuzz fresh clean tools test-tools v2-tools units blackbox blackbox-first blackbox-rest blackbox-security race single race-units race-transcripts single-units single-transcripts

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name what; do printf '  make %-8s %s\n' "$$name" "$$what"; done

build: tools ## make bin/ctrfs, one static program
	$(GO) $(BUILD) -o bin/ctrfs ./cmd/ctrfs

cross: tools ## check that it builds for every architecture that it is meant for
	for arch in amd64 arm64; do GOARCH=$$arch $(GO) $(BUILD) -o /dev/null ./cmd/ctrfs && GOARCH=$$arch $(GO) vet ./... || exit 1; done

demo: build ## show a container from mkdir to log (as root; KEEP=1 leaves it mounted to play with)
	@CTRFS=$(CURDIR)/bin/ctrfs examples/demo

test: test-tools ## run all tests (as root)
	@mkdir -p bin && rm -f bin/baseline
	@$(GO) test -count=1 -run TestNothingLeft ./test -args -baseline $(CURDIR)/bin/baseline
	$(MAKE) -k units blackbox
	$(MAKE) -k race-units single-units
	$(MAKE) -k -j2 race-transcripts single-transcripts
	$(GO) test -count=1 -run TestNothingLeft ./test -args -baseline $(CURDIR)/bin/baseline

# Packages test in parallel; the black-box suites after them, three at a time: most of the time they wait. Each looks for what its own
# instances leave, and TestNothingLeft, before and after all, for what anybody leaves on the machine.
units:
	$(GO) test $$($(GO) list ./... | grep -vE '/test(/security)?$$')

blackbox:
	$(MAKE) -k -j3 blackbox-first blackbox-rest blackbox-security

blackbox-first:
	$(GO) test -count=1 -timeout 15m -run '$(FIRST)' ./test

blackbox-rest:
	$(GO) test -count=1 -timeout 15m -skip '$(FIRST)' ./test

blackbox-security:
	$(GO) test -count=1 -timeout 15m ./test/security

# Once more with the race detector in the tests, and in the ctrfs that the transcripts mount.
race: race-units race-transcripts

race-units:
	CGO_ENABLED=1 $(GO) test -race ./fs/... ./engine/...

race-transcripts:
	CGO_ENABLED=1 $(GO) build -race -tags osusergo,netgo -ldflags '-linkmode external -extldflags -static' -o bin/ctrfs.race ./cmd/ctrfs
	GORACE=atexit_sleep_ms=0 CTRFS_BINARY=$(CURDIR)/bin/ctrfs.race $(GO) test -count=1 -timeout 10m -run 'TestTranscripts/$(BUSY)|TestExamples' ./test

# And with one thread to run Go code on, where a server that waits for itself hangs at once instead of now and then.
single: single-units single-transcripts

single-units:
	GOMAXPROCS=1 $(GO) test -count=1 -timeout 10m ./fs/...

single-transcripts:
	GOMAXPROCS=1 $(GO) test -count=1 -timeout 10m -run 'TestTranscripts/$(BUSY)|TestExamples' ./test

# Everything that lasts is tried for longer: DURATION of chaos, SEED to do one run's operations again (0 for others), CYCLES of a
# container's life, and the server's death at each and every step.
DURATION = 10m
SEED     = 0
CYCLES   = 10000

chaos: test-tools ## kill server and keeper in every way for a long time (as root; DURATION=1h, SEED=7, CYCLES=10000)
	$(GO) test -count=1 -timeout 0 -v -run 'TestChaos|TestCycles|TestCrashPoints|TestWaiters' ./test -args -duration $(DURATION) -seed $(SEED) -cycles $(CYCLES) -every -keeper

test-v2: v2-tools ## run the black-box tests on a machine with cgroup v2 only and Linux 6.1 (in qemu, as root)
	@test/machine/run

ci: lint cross test test-v2 fuzz fresh ## all that must hold before a change is merged

lint: tools ## gofmt, vet, staticcheck, and the rules of this house
	@test -z "$$($(GO)fmt -l .)" || { $(GO)fmt -d .; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags crashpoints ./engine/crash
	$(GO) run $(STATICCHECK) ./...
	test/houserules

bench: tools ## measure a start against other runtimes (as root; ARGS='-n 500 -peers crun,runc')
	@$(GO) run ./test/bench $(ARGS)

fuzz: tools ## fuzz every parser for a moment (FUZZTIME=1m for longer)
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

fresh: tools ## check that generated files and go.mod are as their sources say
	@mkdir -p bin; git diff > bin/before; $(GO) generate ./...; git diff > bin/after; cmp bin/before bin/after
	$(GO) mod tidy -diff

clean: ## remove what was built
	rm -rf bin

tools:
	@test/setup tools

test-tools:
	@test/setup test

v2-tools:
	@test/setup v2
