# Plimsoll: entry points. Each only calls `cargo xtask`, which says what it does and how long it takes.

XTASK := cargo run --quiet --package xtask --

.PHONY: help demo demo-down test setup bootstrap
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: bootstrap ## a cluster of three hosts with containers in two pools, on this machine
	@$(XTASK) demo

demo-down: ## remove the demo cluster, every trace of it
	@$(XTASK) demo --down

test: bootstrap ## install what tests need and run all of them
	@$(XTASK) ci

setup: bootstrap ## install the Debian packages for building, demo, tests and benchmarks
	@$(XTASK) setup all

# Cargo links with clang and mold (.cargo/config.toml), so they must be there before xtask can be built.
bootstrap:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs"; exit 1; }
	@command -v clang >/dev/null && command -v mold >/dev/null || { \
		echo "installing Debian packages: clang mold"; \
		apt-get install -y -q --no-install-recommends clang mold >/dev/null 2>&1 || \
		{ apt-get update -q && apt-get install -y -q --no-install-recommends clang mold; }; }
