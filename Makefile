# Shared Volume: `make help` says what there is.
.DEFAULT_GOAL := help
.PHONY: help setup check test bench demo fmt lint doc install

CARGO ?= cargo
PREFIX ?= /usr/local
# What the property tests draw from: the same for two runs of one commit. `make test SEED=$$RANDOM`
# looks elsewhere. `failpoints` lets the crash tests end a process at a named step.
SEED ?= 2026

help: ## Shows this.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## Installs what building, the demonstration and the tests need (see tests/setup.sh).
	@tests/setup.sh

check: fmt-check lint doc test ## Everything that has to pass before a commit.

test: setup ## Runs all tests, on real mounts and real servers on loopback.
	PROPTEST_RNG_SEED=$(SEED) $(CARGO) test --workspace --features failpoints --no-fail-fast

# How long the stress test runs.
SVOL_STRESS_SECONDS ?= 300

.PHONY: stress
stress: ## Stresses a mount for SVOL_STRESS_SECONDS (300); all of the POSIX suites.
	tests/setup.sh stress
	SVOL_STRESS_SECONDS=$(SVOL_STRESS_SECONDS) $(CARGO) test --features failpoints \
	    --test stress --test posix --test killed --test teardown --test readdir -- --nocapture

.PHONY: soak
soak: setup ## Reads under all faults at once for SVOL_SOAK_SECONDS (600), compares every byte.
	SVOL_SOAK_SECONDS=$${SVOL_SOAK_SECONDS:-600} $(CARGO) test --features failpoints --test soak -- --nocapture

bench: ## Measures; prints ratios against peers and floors of the same run.
	tests/setup.sh bench
	$(CARGO) bench --bench mount

demo: ## Shows the main job on a small world of its own.
	@tests/setup.sh run
	$(CARGO) build --release --quiet
	./target/release/svol demo

fmt: ## Formats the code.
	$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all --check

lint: ## Clippy, warnings denied.
	$(CARGO) clippy --workspace --all-targets --features failpoints -- -D warnings

doc: ## Builds the documentation, warnings denied.
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

install: ## Builds and installs svol under PREFIX (/usr/local).
	$(CARGO) build --release
	install -D -m 0755 target/release/svol $(DESTDIR)$(PREFIX)/bin/svol
