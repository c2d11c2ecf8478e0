#!/usr/bin/env python3
"""Counts the instructions of the hot path and compares them with what they were.

    scripts/bench-check.py            fails when a scenario of benches/hot_path.rs costs over 2 % more than benches/baseline.json
    scripts/bench-check.py --update   writes that file
    scripts/bench-check.py topic      only scenarios whose name contains a word

Instructions are counted by callgrind, within the benchmark's function `measured` only, and do not depend on the machine's
load. They do depend on the compiler: counts of another rustc are shown and not judged. A warm-up is taken out by running
every scenario with two numbers of rounds and taking the difference.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/baseline.json"
TOLERANCE = 0.02
ROUNDS = (3, 8)
# `recover` opens a server a round and has no warm-up; each of its rounds is long.
ROUNDS_OF = {"recover": (1, 2)}


def build():
    """Builds the benchmark and returns its path. Thin LTO: a fifth of the time, the same order of counts."""
    done = subprocess.run(
        ["cargo", "bench", "--bench", "hot_path", "--no-run", "--message-format=json"], cwd=ROOT, check=True,
        env={**os.environ, "CARGO_PROFILE_BENCH_LTO": "thin"}, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "hot_path":
            return message["executable"]
    sys.exit("cargo names no executable")


def count(binary, name, rounds):
    """Instructions and operations of so many rounds of a scenario."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured*",
             f"--callgrind-out-file={directory}/out", binary, "--count", name, str(rounds)],
            capture_output=True, text=True, timeout=900)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return int(found.group(1)), int(done.stdout)


def per_operation(binary, name):
    few, many = (count(binary, name, rounds) for rounds in ROUNDS_OF.get(name, ROUNDS))
    if many[0] <= few[0]:
        sys.exit(f"{name}: no instruction is counted; is `measured` still a function of its own?")
    return (many[0] - few[0]) / (many[1] - few[1])


def main():
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    update = "--update" in sys.argv[1:]
    compiler = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    binary = build()
    names = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    names = [name for name in names if all(word in name for word in words)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        counts = dict(zip(names, pool.map(lambda name: round(per_operation(binary, name), 1), names)))
    old = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"rustc": compiler, "instructions": {}}
    same_compiler = old["rustc"] == compiler
    worse = []
    print(f"{'scenario':<34}{'instructions':>14}{'before':>12}{'change':>10}")
    for name, now in counts.items():
        before = old["instructions"].get(name)
        change = now / before - 1 if before else None
        print(f"{name:<34}{now:>14,.1f}{f'{before:,.1f}' if before else '–':>12}"
              f"{f'{change:+.1%}' if before else 'new':>10}")
        if change is not None and change > TOLERANCE:
            worse.append(name)
    gone = set(old["instructions"]) - set(names) if not words else set()
    if update:
        kept = {} if not words else old["instructions"]
        BASELINE.write_text(json.dumps({"rustc": compiler, "instructions": {**kept, **counts}}, indent=1) + "\n")
        print(f"{BASELINE} is written")
    elif not same_compiler:
        print(f"the counts before are of {old['rustc']}, these of {compiler}: not judged; --update takes them over")
    elif worse or gone:
        sys.exit(f"over {TOLERANCE:.0%} more: {', '.join(worse) or '–'}; gone: {', '.join(sorted(gone)) or '–'}\n"
                 "If that is meant, run scripts/bench-check.py --update and say why in the commit.")


if __name__ == "__main__":
    main()
