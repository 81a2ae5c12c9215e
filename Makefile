# Sumeru's commands. `make help` lists them; every one works from a fresh clone on Debian 12 with Rust, as root.
# All build results are in one folder: target/ (or $CARGO_TARGET_DIR).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CARGO := cargo
# Cargo.lock is part of the source: a build that would change it fails.
LOCKED := --locked
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO_TARGET_DIR := $(TARGET)

# What a change to a crate needs to be checked against while it is being written: no guests, no peers' benches.
INNER := --workspace --exclude sumeru-e2e --exclude sumeru-bench
# Under CI every failure of a run is wanted, at a desk the first one.
NEXTEST_PROFILE := $(if $(CI),ci,default)

step = @printf '\n==> %s  [%dm%02ds]\n' '$(1)' $$((($$(date +%s) - $(STARTED)) / 60)) $$((($$(date +%s) - $(STARTED)) % 60))
STARTED := $(shell date +%s)

##@ Use
.PHONY: demo
demo: ## Two nodes, three guests, networks and disks through the engine; KEEP=1 leaves it running
	$(call step,prerequisites of the demo)
	scripts/install-prerequisites --for build,demo
	$(call step,release build)
	$(CARGO) build $(LOCKED) --release -p sumeru
	$(call step,demo)
	KEEP=$(KEEP) $(CARGO) run $(LOCKED) --release -p sumeru-e2e --bin demo

.PHONY: build
build: ## The sumeru binary, optimised: target/release/sumeru
	$(CARGO) build $(LOCKED) --release -p sumeru

PREFIX ?= /usr/local
INTO = $(DESTDIR)$(PREFIX)
.PHONY: install
install: build ## Install binary, man pages, shell completion and examples below PREFIX (default /usr/local)
	install -D -m 755 $(TARGET)/release/sumeru $(INTO)/bin/sumeru
	install -d $(INTO)/share/man/man1 $(INTO)/share/bash-completion/completions $(INTO)/share/zsh/site-functions \
		$(INTO)/share/fish/vendor_completions.d $(INTO)/share/doc/sumeru/examples
	$(INTO)/bin/sumeru man $(INTO)/share/man/man1
	$(INTO)/bin/sumeru completion bash >$(INTO)/share/bash-completion/completions/sumeru
	$(INTO)/bin/sumeru completion zsh >$(INTO)/share/zsh/site-functions/_sumeru
	$(INTO)/bin/sumeru completion fish >$(INTO)/share/fish/vendor_completions.d/sumeru.fish
	install -m 644 README.md LICENSE CHANGELOG.md $(INTO)/share/doc/sumeru
	install -m 644 examples/*.toml $(INTO)/share/doc/sumeru/examples

##@ Check
.PHONY: check
check: ## The inner loop of about two minutes: format, lints, unit tests of the crates
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(INNER) --all-targets -- -D warnings
	$(CARGO) nextest run $(INNER) --lib --bins

.PHONY: test
test: prerequisites static docs doctest loom guests ## Everything that CI runs, real guests included
	$(call step,make test passed)

.PHONY: prerequisites
prerequisites:
	$(call step,prerequisites of the tests)
	scripts/install-prerequisites --for build,test,docs

.PHONY: static
static: ## Format, rooms, dependencies, links, lints
	$(call step,format)
	$(CARGO) fmt --all --check
	$(call step,dependencies between rooms)
	scripts/check-rooms
	$(call step,third-party dependencies and their licences)
	scripts/check-dependencies
	$(call step,links)
	scripts/check-links
	$(call step,clippy)
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

.PHONY: doctest
doctest:
	$(call step,examples in the documentation)
	$(CARGO) test $(LOCKED) --workspace --doc

.PHONY: loom
loom: ## The lock-free parts in every interleaving (loom); built apart, because --cfg loom changes everything
	$(call step,loom)
	RUSTFLAGS="--cfg loom" $(CARGO) test $(LOCKED) -p sumeru-engine --release --lib --target-dir $(TARGET)/loom loom

# How many frames, and the world to begin with.
FRAMES ?= 10000000
SEED ?= 1
.PHONY: long-reference
long-reference: ## The switch against a naive reference pipeline: ten million frames (FRAMES=, SEED=), progress on standard error
	$(call step,$(FRAMES) frames through the reference pipeline)
	SUMERU_REFERENCE_FRAMES=$(FRAMES) SUMERU_REFERENCE_SEED=$(SEED) $(CARGO) test $(LOCKED) -p sumeru-switch --release --test reference -- --nocapture

.PHONY: guests
guests:
	$(call step,release build)
	$(CARGO) build $(LOCKED) --release -p sumeru
	$(call step,reference tables)
	scripts/reference $(TARGET)/release/sumeru
	$(call step,crates and replayed corpora and real peers and guests)
	SUMERU_BIN=$(TARGET)/release/sumeru $(CARGO) nextest run $(LOCKED) --workspace --profile $(NEXTEST_PROFILE)

.PHONY: audit
audit: ## Known vulnerabilities, licences, duplicates (cargo-deny; fetches the advisory database)
	command -v cargo-deny >/dev/null || { echo "audit: cargo-deny is absent; run: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check

##@ Measure
# Peer and Sumeru in one run; results go to bench/results/NAME.json and NAME.md. ARGS are passed on.
BENCHES := bench-switch bench-flow-scale bench-isolation bench-blk bench-idle
.PHONY: $(BENCHES)
bench-switch: ## Cycles per packet beside OVS-DPDK: forwarding, learning, rules, connections, tunnels
bench-flow-scale: ## Millions of rules and flows: memory, insertion, storms, transactions, convergence; curves beside OVS-DPDK
bench-isolation: ## What a quiet tenant notices of a flooding one and of a tuple-space explosion, beside OVS-DPDK
bench-blk: ## vhost-user-blk requests per second beside QEMU's storage daemon
bench-idle: ## Processor time, memory and wake-up time of an idle daemon
$(BENCHES):
	$(call step,prerequisites of the benches)
	scripts/install-prerequisites --for build,bench
	$(call step,release build)
	$(CARGO) build $(LOCKED) --release -p sumeru
	$(call step,$@)
	$(CARGO) run $(LOCKED) --release -p sumeru-bench --bin $@ $(if $(ARGS),-- $(ARGS))

##@ Fuzz
ifneq ($(wildcard fuzz/fuzz.mk),)
include fuzz/fuzz.mk
else
.PHONY: fuzz
fuzz: ## Ten minutes of each fuzz target (TARGETS= for some, FUZZ_SECONDS= for another time); totals go to fuzz/results.md
	fuzz/run $(TARGETS)
endif

##@ Read
.PHONY: docs
docs: ## The book (target/book) and the documentation of the crates (target/doc)
	$(call step,book)
	scripts/build-book
	$(call step,documentation of the crates)
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps

.PHONY: help
help: ## This list
	@awk 'BEGIN { print "make TARGET, for example: make demo KEEP=1"; FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
