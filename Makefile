# DJQS. `make help` lists the targets; `make` alone builds the three programs.

PREFIX  ?= /usr/local
BINDIR  ?= $(DESTDIR)$(PREFIX)/bin
CARGO   ?= cargo
FUZZ_SECONDS ?= 60
DIFFERENTIAL_COMMANDS ?= 200000

.DEFAULT_GOAL := all
.PHONY: help all demo test quick clients differential crash crash-check lint fuzz bench install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

all: ## Build server, worker and client (release) in target/release
	$(CARGO) build --release --locked --bins

demo: all ## Run all three: the sample tasks, then a real command over real files
	scripts/demo target/release

test: ## Run every test (about two minutes; fails if one is skipped; DJQS_MODEL_OPS, DJQS_SEED: see CONTRIBUTING.md)
	CARGO="$(CARGO)" scripts/check-test-count

# Each of these takes less than seven seconds. Left out are the model of the state machine, the fleet, the crash tests and
# the random tests.
QUICK = architecture beanstalk broker client client_library docs journal native_protocol server state unix_socket verbs waiting worker

quick: ## Run the quick tests, for use while editing (about 20 seconds once built)
	$(CARGO) test --locked --lib $(QUICK:%=--test %)

clients: ## Test all calls of third-party beanstalkd clients in five languages; installs the clients
	$(CARGO) build --locked --bin server
	tests/clients/run target/debug/server

differential: ## Compare the replies of beanstalkd and this server to 200,000 random commands
	scripts/debian-package beanstalkd beanstalkd
	DJQS_DIFFERENTIAL_COMMANDS=$(DIFFERENTIAL_COMMANDS) $(CARGO) test --locked --test differential -- --nocapture

crash: ## Crash the real server: 1,000 kills, faults in every system call, all cuts and bit flips (15 minutes; needs strace)
	@command -v strace >/dev/null || { test "$$(id -u)" = 0 && apt-get install -y strace; } || echo "no strace: no faults"
	DJQS_CRASH_CYCLES=$${DJQS_CRASH_CYCLES:-1000} DJQS_CRASH_FAULTS=$${DJQS_CRASH_FAULTS:-all} \
		$(CARGO) test --release --locked --test crash -- --nocapture
	DJQS_CRASH_CYCLES=$${DJQS_ENDS_CYCLES:-150} $(CARGO) test --release --locked --test kill_ends -- --nocapture
	DJQS_EXHAUSTIVE=1 $(CARGO) test --release --locked --test journal_crash --test journal_damage --test journal_threads --test journal_space

crash-check: ## Build faults into the server and check that the crash tests find each
	scripts/crash-check

BENCH_FLAGS ?= --out docs

bench: all ## Benchmark against beanstalkd and Redis (30 minutes; root installs them); writes docs/benchmarks.md
	scripts/bench-peers
	$(CARGO) build --release --locked -p djqs-bench
	target/release/djqs-bench $(BENCH_FLAGS)

lint: ## Check format, clippy and docs, with warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --lib --no-default-features -- -D warnings
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	scripts/check-library-size
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fuzz: ## Fuzz the decoder and the journal's recovery, a minute each (FUZZ_SECONDS); installs cargo-fuzz if missing
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	cd fuzz && for target in $$($(CARGO) fuzz list); do \
	    $(CARGO) fuzz run --sanitizer none $$target -- $$(test -f $$target.dict && echo -dict=$$target.dict) \
	        -max_len=9000 -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

install: ## Install what `make` has built as djqs-server, djqs-worker and djqs-client under PREFIX (default /usr/local)
	@for program in server worker client; do \
	    test -x target/release/$$program || { echo "nothing to install yet: run make first, without sudo" >&2; exit 1; }; \
	done
	install -d $(BINDIR)
	install -m 0755 target/release/server $(BINDIR)/djqs-server
	install -m 0755 target/release/worker $(BINDIR)/djqs-worker
	install -m 0755 target/release/client $(BINDIR)/djqs-client

clean: ## Remove build output
	$(CARGO) clean
