# DJQS. `make help` lists what there is; `make` alone builds the three programs.

PREFIX  ?= /usr/local
BINDIR  ?= $(DESTDIR)$(PREFIX)/bin
CARGO   ?= cargo

.DEFAULT_GOAL := all
.PHONY: help all demo test crash crash-check lint fuzz bench install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

all: ## Build server, worker and client (release) in target/release
	$(CARGO) build --release --locked --bins

demo: all ## Run all three: the sample tasks, then a real command over real files
	scripts/demo target/release

test: ## Run every test (about a minute; DJQS_MODEL_OPS, DJQS_SEED: see CONTRIBUTING.md)
	$(CARGO) test --locked

crash: ## Crash the real server: 1,000 kills under load, a fault in every system call (an hour; wants strace)
	@command -v strace >/dev/null || { test "$$(id -u)" = 0 && apt-get install -y strace; } || echo "no strace: no faults"
	DJQS_CRASH_CYCLES=$${DJQS_CRASH_CYCLES:-1000} DJQS_CRASH_FAULTS=$${DJQS_CRASH_FAULTS:-all} \
		$(CARGO) test --release --locked --test crash -- --nocapture

crash-check: ## Build faults into the server, and see whether the crash tests find each of them
	scripts/crash-check

lint: ## Check format, clippy and docs, with warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

install: all ## Install djqs-server, djqs-worker and djqs-client under PREFIX (default /usr/local)
	install -d $(BINDIR)
	install -m 0755 target/release/server $(BINDIR)/djqs-server
	install -m 0755 target/release/worker $(BINDIR)/djqs-worker
	install -m 0755 target/release/client $(BINDIR)/djqs-client

clean: ## Remove what was built
	$(CARGO) clean
