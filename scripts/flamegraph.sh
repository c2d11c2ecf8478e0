#!/bin/sh
# Draws where the time of the hot path goes: docs/flamegraph.svg.
#
#   scripts/flamegraph.sh [PERF_WORDS…]     the words of `leveret perf throughput`; none: 16 octets, transient, auto-ack
#
# Needs Linux's `perf`. The broker is built with symbols and frame pointers, pinned to core 0, the load to core 1;
# the samples are of the broker's process, user and kernel.
set -eu
cd "$(dirname "$0")/.."

command -v inferno-flamegraph > /dev/null 2>&1 || cargo install --quiet --locked inferno@0.12.8 >&2
RUSTFLAGS="-C force-frame-pointers=yes" cargo build --quiet --profile profiling --bin leveret --target-dir target/flamegraph
leveret=target/flamegraph/profiling/leveret
directory=$(mktemp -d)
# shellcheck disable=SC2154 # set by the trap's own words
trap 'kill -9 "$broker" 2> /dev/null || true; rm -rf "$directory"' EXIT

taskset -c 0 "$leveret" --data-dir "$directory/data" --listen 127.0.0.1:0 --http none > "$directory/log" &
broker=$!
until grep -q "Server startup complete" "$directory/log"; do sleep 0.05; done
port=$(sed -n 's/.*TCP listener on .*:\([0-9]*\)$/\1/p' "$directory/log")

[ $# -gt 0 ] || set -- --size 16 --in-flight 20000
"$leveret" perf throughput --uri "amqp://127.0.0.1:$port" --pin 1 --time 8 --json --live off "$@" > "$directory/result" &
load=$!
sleep 2
perf record --quiet -e cpu-clock -F 2000 --call-graph fp -p "$broker" -o "$directory/data.perf" -- sleep 5
wait "$load"
perf script -i "$directory/data.perf" 2> /dev/null | inferno-collapse-perf | inferno-flamegraph \
    --title "leveret perf throughput $*" --subtitle "time of the broker's process, by function" > docs/flamegraph.svg
grep -E '"(cpu_us_per_message|delivered_per_s)"' "$directory/result"
