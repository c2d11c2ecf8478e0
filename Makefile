# What can be done here; `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help build build-pgo run test interop check sim fuzz fuzz-build bench bench-check flamegraph link-order inspect

DIR ?= leveret-data
SEED ?= 1
STEPS ?= 100000
TARGET ?= frame_decoder
SECONDS ?= 60
INTEROP_LAPIN := tests/interop/lapin/Cargo.toml

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

# What the start and an idle server run lies together, where the linker is the one that can do it (lld, the compiler's default
# there): 1.8 MB in memory instead of 3.4. `make link-order` writes the list anew. Names of the newer form stay the same when types change.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
ifeq ($(HOST),x86_64-unknown-linux-gnu)
LINK_ORDER := -C symbol-mangling-version=v0 -C link-arg=-Wl,--symbol-ordering-file=scripts/link-order.txt -C link-arg=-Wl,--no-warn-symbol-ordering
endif

# `make build CPU=native` or CPU=x86-64-v3: for a newer processor than the oldest that is still about. From the command line
# only, since some environments have a variable of that name.
ifeq ($(origin CPU),command line)
export RUSTFLAGS := $(RUSTFLAGS) -C target-cpu=$(CPU)
endif

# Linked statically, at a fixed place: it runs on an empty root, and an idle broker has a megabyte less in memory.
STATIC := -C target-feature=+crt-static -C relocation-model=static

build: ## the release binary, target/release/leveret; CPU=native for this machine's processor alone
	@# Cargo does not know of the list.
	@[ scripts/link-order.txt -ot target/release/leveret ] || touch src/main.rs
	cargo rustc --release --bin leveret -- $(STATIC) $(LINK_ORDER)

build-pgo: ## the same, built a second time with counts of how it ran under load: target/pgo/release/leveret, a tenth to a fifth less CPU
	scripts/build-pgo $(STATIC) $(LINK_ORDER)

link-order: build ## write scripts/link-order.txt anew, after a new compiler or much new code; needs valgrind
	scripts/link-order.py

run: build ## build and run the broker with its data in ./leveret-data
	target/release/leveret --data-dir leveret-data $(ARGS)

test: ## every test; sets up .venv and node_modules itself
	scripts/test

interop: ## only the real clients; BROKER=leveret|rabbitmq|HOST:PORT
	scripts/test interop

check: ## formatting, clippy and docs, warnings as errors
	cargo fmt --check
	cargo fmt --check --manifest-path $(INTEROP_LAPIN)
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --manifest-path $(INTEROP_LAPIN) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --document-private-items

sim: ## simulation from one seed on: SEED=1 STEPS=100000; LEVERET_SEED=n traces that seed alone
	LEVERET_SIM_SEED=$(SEED) LEVERET_SIM_STEPS=$(STEPS) cargo test --release --test simulation -- --nocapture

fuzz: ## fuzz one target: TARGET=frame_decoder SECONDS=60
	mkdir -p fuzz/target/corpus/$(TARGET)
	toolchain=$$(scripts/setup-fuzz.sh) && cargo $$toolchain fuzz run $(TARGET) fuzz/target/corpus/$(TARGET) fuzz/corpus/$(TARGET) -- -max_total_time=$(SECONDS)

fuzz-build: ## build every fuzz target
	toolchain=$$(scripts/setup-fuzz.sh) && cargo $$toolchain fuzz build

bench: build ## measure every scenario against relay and RabbitMQ: ARGS='--only t16,p16 --rounds 3'
	scripts/bench.py $(ARGS)

flamegraph: ## draw where the time of the hot path goes: docs/flamegraph.svg; ARGS are words of `leveret perf throughput`
	scripts/flamegraph.sh $(ARGS)

bench-check: ## instructions of the hot path against benches/baseline.json; more than 2 % worse fails
	scripts/bench-check.py $(ARGS)

inspect: build ## read a data directory and check it: DIR=leveret-data
	target/release/leveret inspect $(DIR)
