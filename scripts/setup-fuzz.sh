#!/bin/sh
# Installs cargo-fuzz when it is missing and prints the toolchain to fuzz with, for `cargo $(scripts/setup-fuzz.sh) fuzz …`.
# Sanitizers need a nightly compiler.
set -eu

rustup run nightly rustc --version > /dev/null 2>&1 || {
    echo "fuzzing needs a nightly toolchain: rustup toolchain install nightly" >&2
    exit 69
}
cargo fuzz --version > /dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz@0.13.2 >&2
echo +nightly
