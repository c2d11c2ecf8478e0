#!/usr/bin/env python3
"""Writes scripts/link-order.txt: the functions that run, in the order in which `make build` lays them out.

    scripts/link-order.py       needs target/release/leveret (make build) and valgrind

A page of program text is in memory when something on it, or within the 64 KiB around it that the kernel maps with it, has run. An
idle broker runs a fifth of its text; laid out by source file that fifth is spread over all of it. So what the start
and an idle server run comes first, then what messages run, then the rest as the linker finds it.

The names carry hashes of the compiler and of the libraries' versions, and functions come and go. Names that are not found are
passed over: the binary is as right as before, and only larger in memory until this is run again.
"""

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVERET = ROOT / "target/release/leveret"
ORDER = ROOT / "scripts/link-order.txt"
IDLE_S = 3
# What runs on one processor has a twin for others, which valgrind does not pretend to be: all of them.
TWINS = re.compile(r"^(.*?)_(?:sse\w*|ssse3\w*|avx\w*|evex\w*|erms)$")
# Under valgrind there is no vDSO to be looked through at the start.
UNSEEN = ("_dl_new_object", "_dl_setup_hash", "__strcmp_sse2", "__strcmp_avx2", "__strcmp_evex", "frame_dummy")
TWIN_CRATES = ("sha26sha256", "crc32fast11specialized")
LOADS = (
    ("throughput", "--size", "16"),
    ("throughput", "--size", "1024", "--persistent", "on", "--confirm", "1000", "--ack", "100", "--prefetch", "1000"),
    ("throughput", "--exchange", "topic", "--bindings", "100", "--keys", "random"),
    ("throughput", "--exchange", "fanout", "--queues", "3", "--consumers", "3"),
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def functions(path):
    """Names of the functions in a file of callgrind's, as the linker knows them."""
    names = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("fn="):
            # Callgrind marks the levels of a recursion with an apostrophe.
            names.append(re.sub(r"'\d+$", "", line[3:].strip()))
    return names


def trace(directory):
    """Runs the broker under callgrind; the functions of the start and of idling, and those of a load."""
    port, out = free_port(), directory / "out"
    broker = subprocess.Popen(
        ["valgrind", "--tool=callgrind", "--demangle=no", "--compress-strings=no", f"--callgrind-out-file={out}", LEVERET,
         "--data-dir", directory / "data", "--listen", f"127.0.0.1:{port}", "--http", "none"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        for line in broker.stdout:
            if b"startup complete" in line:
                break
        time.sleep(IDLE_S)
        subprocess.run(["callgrind_control", "-d", str(broker.pid)], check=True, capture_output=True)
        for words in LOADS:
            subprocess.run([LEVERET, "perf", *words, "--uri", f"amqp://127.0.0.1:{port}", "--time", "1"], check=True,
                           stdout=subprocess.DEVNULL)
    finally:
        broker.terminate()
        broker.wait(timeout=60)
    return functions(Path(f"{out}.1")), functions(out)


def with_twins(names, symbols):
    bases = {found.group(1) for name in names if (found := TWINS.match(name))}
    crates = [crate for crate in TWIN_CRATES if any(crate in name for name in names)]
    for symbol in symbols:
        found = TWINS.match(symbol)
        if found and found.group(1) in bases or any(crate in symbol for crate in crates):
            yield symbol


def main():
    listing = subprocess.run(["nm", "--defined-only", LEVERET], check=True, capture_output=True, text=True).stdout
    symbols = dict.fromkeys(line.split()[2] for line in listing.splitlines() if line.split()[1] in "tTwWi")
    with tempfile.TemporaryDirectory() as directory:
        parts = trace(Path(directory))
    order = {}
    for names in parts:
        # By name, so that a new list differs from the old one only where something has changed.
        for name in sorted({*names, *with_twins(names, symbols), *UNSEEN}):
            if name in symbols:
                order[name] = None
    if not order:
        sys.exit("valgrind has seen no function of the broker")
    ORDER.write_text("".join(f"{name}\n" for name in order))
    print(f"{ORDER.relative_to(ROOT)}: {len(order)} functions")


main()
