#!/usr/bin/env python3
"""Measures every scenario of docs/benchmarks.md and writes its table.

    scripts/bench.py [--only ID,ID] [--brokers relay,leveret,rabbitmq] [--rounds 3] [--seconds 4] [--long] [--out FILE]

Brokers run pinned to core 0, the load generator (`leveret perf`) to core 1. All brokers are up at once and take
turns within a round (A B C, A B C, …), so that a slow minute of the machine hits all of them; those that wait are
stopped (SIGSTOP) and use nothing. Every number in the table is the median over the rounds. A run that loses, doubles
or misorders a message fails and shows `failed` instead of a number.

Further brokers: BROKER="NAME=HOST:PORT[:PID]", more than one separated by blanks.
Everything is bounded: each run has a time limit, and the files of a run are removed with it.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVERET = ROOT / "target/release/leveret"
BROKER_CORE, LOAD_CORE = "0", "1"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


# ---------------------------------------------------------------------------------------------------------- brokers

class Broker:
    """A broker that can be started on an empty or a used directory, stopped, killed, paused."""

    name = "?"

    def __init__(self, directory):
        self.directory = Path(directory)
        self.pid = self.uri = None

    def start(self):
        raise NotImplementedError

    def version(self):
        return self.name

    def fresh(self):
        """Empty directory, new process."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        return self.start()

    def kill(self):
        if self.pid:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            wait_for_end(self.pid)
            self.pid = None

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def signal(self, number):
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def wait_for_end(pid):
    for _ in range(500):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            if not Path(f"/proc/{pid}").exists():
                return
        time.sleep(0.02)


class Leveret(Broker):
    name = "leveret"

    def start(self):
        """Starts it; returns the seconds from exec to the ready line."""
        log = self.directory / "log"
        data = self.directory / "data"
        mine = os.sched_getaffinity(0)
        with open(log, "wb") as out:
            # Inherited: another program between would be counted as part of the start.
            os.sched_setaffinity(0, {int(BROKER_CORE)})
            before = time.perf_counter()
            try:
                process = subprocess.Popen(
                    [LEVERET, "--data-dir", data, "--listen", "127.0.0.1:0", "--http", "none", "--log-level", "info"],
                    stdout=subprocess.PIPE, stderr=out)
            finally:
                os.sched_setaffinity(0, mine)
        self.pid = process.pid
        port = None
        for line in process.stdout:
            text = line.decode(errors="replace")
            if found := re.search(r"TCP listener on .*:(\d+)", text):
                port = int(found.group(1))
            if "Server startup complete" in text:
                break
        else:
            raise RuntimeError(f"leveret did not start; see {log}")
        took = time.perf_counter() - before
        # Whatever else it says goes nowhere, but is read: a full pipe would stop it.
        self.sink = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        process.stdout.close()
        self.uri = f"amqp://127.0.0.1:{port}"
        return took

    def version(self):
        return subprocess.run([LEVERET, "--version"], capture_output=True, text=True).stdout.strip()


class RabbitMQ(Broker):
    name = "rabbitmq"

    def start(self):
        before = time.perf_counter()
        done = subprocess.run([ROOT / "scripts/rabbitmq-start.sh", self.directory], text=True, stdout=subprocess.PIPE,
                              env={**os.environ, "RABBITMQ_CPUS": BROKER_CORE, "RABBITMQ_SCHEDULERS": "1"}, check=True)
        took = time.perf_counter() - before
        place, pid = done.stdout.split()[-2:]
        self.pid, self.uri = int(pid), f"amqp://{place}"
        return took

    def kill(self):
        if self.pid:
            self.signal(signal.SIGCONT)
            subprocess.run([ROOT / "scripts/rabbitmq-stop.sh", self.directory, "KILL"], check=False)
            self.pid = None

    def version(self):
        found = subprocess.run(["dpkg-query", "-W", "-f=${Version}", "rabbitmq-server"], capture_output=True, text=True)
        return f"RabbitMQ {found.stdout.strip() or '?'}"

    @staticmethod
    def is_installed():
        return Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists()


class Other(Broker):
    """A broker that somebody else started; it is neither paused nor restarted."""

    def __init__(self, text):
        super().__init__(tempfile.gettempdir())
        self.name, _, place = text.partition("=")
        host, port, *pid = place.split(":")
        self.uri, self.other_pid = f"amqp://{host}:{port}", pid[0] if pid else None

    def start(self):
        return 0.0

    def fresh(self):
        return None

    def signal(self, number):
        pass


class Relay(Broker):
    name = "relay"

    def start(self):
        return None

    def fresh(self):
        return None


# -------------------------------------------------------------------------------------------------------- scenarios

@dataclass
class Row:
    """One line of the table: which value of a run's result, and what is aimed at."""
    title: str
    path: str
    goal: str = ""
    unit: str = ""
    scale: float = 1.0
    places: int = 2
    compare: bool = True


@dataclass
class Scenario:
    id: str
    title: str
    rows: list
    run: object
    brokers: tuple = ()
    long: bool = False
    notes: str = ""
    rounds_max: int = 99
    results: dict = field(default_factory=dict)


class Context:
    def __init__(self, options):
        self.options = options
        self.commands = {}

    def perf(self, broker, command, *words, timeout=120):
        words = [str(word) for word in words]
        line = [str(LEVERET), "perf", command, "--json", "--live", "off", "--pin", LOAD_CORE]
        if command == "limit":
            line += ["--relay-pin", BROKER_CORE]
        else:
            line += ["--uri", broker.uri]
            known = getattr(broker, "other_pid", None) or broker.pid
            if known:
                line += ["--pid", str(known)]
        line += words
        self.last = "leveret perf " + " ".join([command, *words])
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{self.last}: exit {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)


def throughput(*words, relay=True, **by_broker):
    """A scenario of `perf throughput`; the relay gets those words that it knows."""
    def run(context, broker):
        seconds = ["--time", context.options.seconds]
        if broker.name == "relay":
            pairs = dict(zip(words[::2], words[1::2]))
            kept = [word for key in ("--size", "--rate") if key in pairs for word in (key, pairs[key])]
            return context.perf(broker, "limit", *kept, *seconds) if relay else None
        return context.perf(broker, "throughput", *words, *by_broker.get(broker.name, ()), *seconds)
    return run


def latency(*words, relay=True):
    def run(context, broker):
        seconds = ["--time", context.options.seconds]
        if broker.name == "relay":
            pairs = dict(zip(words[::2], words[1::2]))
            if not relay:
                return None
            return context.perf(broker, "limit", "--spin", "on", "--size", pairs["--size"], "--rate", pairs["--rate"],
                                *seconds)
        return context.perf(broker, "latency", *words, *seconds)
    return run


def fill_and_drain(messages, *words):
    def run(context, broker):
        count = messages if broker.name == "leveret" else messages // 5
        words_ = ["--name", "bench-fill", "--messages", count, *words]
        fill = context.perf(broker, "fill", *words_)
        drain = context.perf(broker, "drain", "--name", "bench-fill", "--keep", "off")
        if drain["delivered"] != count:
            raise RuntimeError(f"{count} were put in, {drain['delivered']} came out")
        return {"fill": fill, "drain": drain}
    return run


def queued_memory(messages):
    def run(context, broker):
        if broker.name == "leveret":
            count = messages
        else:
            count = messages // 5
        broker.fresh()
        fill = context.perf(broker, "fill", "--messages", count, timeout=600)
        anon = fill["broker"]["anon_octets"]
        each = (anon - fill["broker"]["anon_octets_before"]) / count
        return {"anon": anon, "each": each, "at_1m": fill["broker"]["anon_octets_before"] + each * messages}
    return run


def connections(context, broker):
    count = 10_000 if broker.name == "leveret" else 1_000
    broker.fresh()
    return context.perf(broker, "connections", "--connections", count, timeout=120)


def declarations(queues, bindings):
    def run(context, broker):
        count = (queues, bindings) if broker.name == "leveret" else (queues // 20, bindings // 20)
        broker.fresh()
        result = context.perf(broker, "declare", "--queues", count[0], "--bindings", count[1], timeout=300)
        # Its durable queues must not meet the next round's transient ones.
        broker.fresh()
        return result
    return run


def restart(messages, size):
    def run(context, broker):
        broker.fresh()
        count = messages if broker.name == "leveret" else messages // 20
        context.perf(broker, "fill", "--messages", count, "--size", size, timeout=600)
        broker.kill()
        took = broker.start()
        drain = context.perf(broker, "drain", "--size", size, timeout=600)
        if drain["delivered"] != count:
            raise RuntimeError(f"{count} were confirmed, {drain['delivered']} came back")
        return {"ready_ms": took * 1e3, "messages": count}
    return run


def start_empty(context, broker):
    took = broker.fresh()
    time.sleep(1)
    memory = Path(f"/proc/{broker.pid}/smaps_rollup").read_text()
    octets = {key: int(value) * 1024 for key, value in re.findall(r"^(Rss|Anonymous): +(\d+)", memory, re.M)}
    return {"ready_ms": took * 1e3, "rss": octets["Rss"], "anon": octets["Anonymous"]}


def disk_octets(context, broker):
    """Two runs on one directory: the second writes into segments that the first has emptied."""
    # Without a warm-up: the disk would count its messages, and `published` does not.
    words = ("--size", 1024, "--persistent", "on", "--confirm", 1000, "--ack", 100, "--prefetch", 1000, "--warmup", 0,
             "--time", context.options.seconds)
    context.perf(broker, "throughput", *words)
    # What others and the first run have left to be written is not this run's.
    os.sync()
    before = device_octets(broker.directory)
    result = context.perf(broker, "throughput", *words)
    after = device_octets(broker.directory)
    payload = result["published"] * 1024
    counted = {"counted": result["broker"]["disk_written_octets"] / payload}
    return counted if before is None else {"written": (after - before) / payload, **counted}


def device_octets(directory):
    """Octets that the disk under a directory was given to write so far; None where nobody can tell.

    The kernel's account of a process counts pages as they become dirty, and where the page cache
    holds large folios a folio counts whole although only its dirty blocks are written."""
    device = os.stat(directory).st_dev
    try:
        figures = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    except FileNotFoundError:
        return None
    return int(figures[6]) * 512


def one_flush(directory):
    """Microseconds of a pwrite of 1 KiB and fdatasync on a file that is filled already: p50 and p99."""
    path = Path(directory) / "flush-probe"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(4 << 20), 0)
        os.fsync(descriptor)
        times = []
        for index in range(2_000):
            before = time.perf_counter_ns()
            os.pwrite(descriptor, b"x" * 1024, index * 1024)
            os.fdatasync(descriptor)
            times.append((time.perf_counter_ns() - before) / 1e3)
            time.sleep(0.0005)
    finally:
        os.close(descriptor)
        path.unlink()
    times.sort()
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


def confirm_latency(context, broker):
    words = ("--rate", 1000, "--size", 1024, "--persistent", "on", "--ack", 1, "--time", context.options.seconds)
    if broker.name == "relay":
        return None
    result = context.perf(broker, "latency", *words)
    flush = one_flush(broker.directory)
    confirm = result["confirm_us"]
    result["flush"] = flush
    result["flushes"] = {key: confirm[key] / flush[key] for key in ("p50", "p99")}
    return result


def bystander(context, broker):
    """p99 of a stream of messages alone, beside 100 commits and 100 declarations a second, and beside as many as go.

    One thread sends the stream and the rest, so that they do not compete for a core; three turns, medians."""
    words = ("--rate", 100_000 if broker.name == "leveret" else 5_000, "--confirm", 0, "--time", context.options.seconds)
    beside = ("--beside", "tx,queue", "--beside-rate")
    found = {"alone": [], "some": [], "many": []}
    rounds = []
    for _ in range(3):
        for name, more in (("alone", ()), ("some", (*beside, 100)), ("many", (*beside, 0))):
            result = context.perf(broker, "latency", *words, *more)
            found[name].append(result["end_to_end_us"]["p99"])
            if name == "many":
                rounds.append(result["beside_us"]["count"] / result["seconds"])
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {**middle, "moved": 100 * (middle["some"] / middle["alone"] - 1),
            "moved_many": 100 * (middle["many"] / middle["alone"] - 1), "rounds": statistics.median(rounds), "read": found}


def scaling(*variants):
    """The cost of a message under several settings; the ratio of the worst to the first."""
    def run(context, broker):
        costs = []
        for words in variants:
            result = context.perf(broker, "throughput", "--in-flight", 20000, *words, "--time",
                                  max(2, context.options.seconds // 2))
            costs.append(result["broker"]["cpu_us_per_message"])
        return {"first": costs[0], "worst": max(costs), "ratio": max(costs) / costs[0], "costs": costs}
    return run


def depth(context, broker):
    """The cost of a message on an empty queue and behind a backlog of 1 M and 10 M."""
    costs = []
    broker.fresh()
    for messages in (200_000, 1_000_000, *([10_000_000] if context.options.long else [])):
        fill = context.perf(broker, "fill", "--name", f"depth{messages}", "--messages", messages, timeout=600)
        drain = context.perf(broker, "drain", "--name", f"depth{messages}", "--keep", "off", timeout=600)
        costs.append(fill["broker"]["cpu_us_per_message"] + drain["broker"]["cpu_us_per_message"])
    return {"first": costs[0], "worst": max(costs), "ratio": max(costs) / costs[0], "costs": costs}


CPU = "broker.cpu_us_per_message"
RATE = "delivered_per_s"
WINDOW = ("--persistent", "on", "--confirm", 1000, "--ack", 100, "--prefetch", 1000)
FLOW = ("--in-flight", 20000)


def cost(goal):
    return Row("CPU of the broker per message", CPU, goal, "µs", 1, 3)


def rate(goal, path=RATE):
    return Row("messages a second", path, goal, "/s", 1, 0)


def times(path, *goals):
    keys = ("p50", "p99", "p99.9")
    return [Row(f"{path.split('_us')[0].replace('_', ' ')} {key}", f"{path}.{key}", goal, "µs", 1, 0)
            for key, goal in zip(keys, goals)]


SCENARIOS = [
    Scenario("t16", "16 B transient, auto-ack", [cost("≤ 0.25"), rate("≥ 3,500,000")],
             throughput("--size", 16, *FLOW)),
    Scenario("t16open", "16 B transient, auto-ack, publisher without bound", [cost(""), rate("")],
             throughput("--size", 16, relay=False),
             notes="the publisher sends what the socket takes; a broker that lets it run ahead shows fewer deliveries"),
    Scenario("t1k", "1 KiB transient, auto-ack", [cost("≤ 1.2"), rate("")], throughput("--size", 1024, *FLOW)),
    Scenario("t64k", "64 KiB transient, auto-ack", [cost("≤ 1.3 × relay"), rate("")],
             throughput("--size", 65536, "--in-flight", 200)),
    Scenario("p16", "16 B persistent, confirm window 1,000, ack every 100, prefetch 1,000",
             [cost("≤ 0.5"), rate(""),
              Row("of that in the flusher", "broker.threads_us_per_message.flusher", "", "µs", 1, 3)],
             throughput("--size", 16, *WINDOW, relay=False)),
    Scenario("p16w", "the same with a confirm window of 10,000", [cost("≤ 0.5"), rate("≥ 800,000")],
             throughput("--size", 16, "--persistent", "on", "--confirm", 10000, "--ack", 100, "--prefetch", 1000,
                        relay=False)),
    Scenario("p1k", "1 KiB persistent, the same with a window of 1,000",
             [cost("≤ 2.2"), rate("≥ 300,000"),
              Row("of that in the flusher", "broker.threads_us_per_message.flusher", "shown apart", "µs", 1, 3)],
             throughput("--size", 1024, *WINDOW, relay=False)),
    Scenario("fanout", "fan-out to 10 queues, per delivery", [cost("≤ 0.12"), rate("")],
             throughput("--exchange", "fanout", "--queues", 10, "--consumers", 10, *FLOW, relay=False)),
    Scenario("topic", "topic exchange, 1,000 wildcard bindings, random keys", [cost("≤ 1"), rate("")],
             throughput("--exchange", "topic", "--bindings", 1000, "--keys", "random", *FLOW, relay=False)),
    Scenario("fill", "fill 1 M × 100 B persistent with confirms, drain with acks",
             [Row("fill, CPU per message", "fill." + CPU, "≤ 0.4", "µs", 1, 3),
              Row("drain, CPU per message", "drain." + CPU, "≤ 0.2", "µs", 1, 3),
              Row("fill, messages a second", "fill.published_per_s", "", "/s", 1, 0),
              Row("drain, messages a second", "drain.delivered_per_s", "", "/s", 1, 0)],
             fill_and_drain(1_000_000), brokers=("leveret", "rabbitmq", "other"), rounds_max=3, notes="others than leveret: 200,000 messages"),
    Scenario("l100k", "16 B at 100,000/s, confirms on", times("end_to_end_us", "≤ 60", "≤ 250", "≤ 1,000"),
             latency("--rate", 100_000, "--size", 16), brokers=("relay", "leveret", "other")),
    Scenario("l400k", "16 B at 400,000/s, confirms on", times("end_to_end_us", "", "≤ 2,000"),
             latency("--rate", 400_000, "--size", 16), brokers=("relay", "leveret", "other")),
    Scenario("l1k", "1 KiB persistent at 1,000/s",
             [*times("end_to_end_us", "≤ 50", "≤ 150"), *times("confirm_us", "≤ 1.3 flushes", "≤ 3 flushes"),
              Row("one flush beside it, p50", "flush.p50", "", "µs", 1, 0, False),
              Row("one flush beside it, p99", "flush.p99", "", "µs", 1, 0, False),
              Row("confirm p50, in flushes", "flushes.p50", "≤ 1.3", "", 1, 2, False),
              Row("confirm p99, in flushes", "flushes.p99", "≤ 3", "", 1, 2, False)],
             confirm_latency, brokers=("leveret", "rabbitmq")),
    Scenario("bystander", "100,000/s while another client commits and declares durably",
             [Row("p99 alone", "alone", "", "µs", 1, 0, False),
              Row("p99 beside 100 commits and 100 declarations a second", "some", "", "µs", 1, 0, False),
              Row("moved by", "moved", "< 10", "%", 1, 1, False),
              Row("p99 beside one after the other", "many", "", "µs", 1, 0, False),
              Row("moved by", "moved_many", "", "%", 1, 1, False),
              Row("so many a second", "rounds", "", "/s", 1, 0, False)],
             bystander, brokers=("leveret", "rabbitmq"), notes="RabbitMQ at 5,000/s"),
    Scenario("disk", "disk written per octet of persistent payload, 1 KiB, steady state",
             [Row("octets given to the disk, all processes", "written", "≤ 1.3", "", 1, 2),
              Row("pages that the kernel counts for the process", "counted", "", "", 1, 2)], disk_octets, brokers=("leveret", "rabbitmq"), rounds_max=2),
    Scenario("queues", "cost per message with 1, 100 and 10,000 queues",
             [Row("with one", "first", "", "µs", 1, 3), Row("worst", "worst", "", "µs", 1, 3),
              Row("ratio", "ratio", "≤ 1.5", "×", 1, 2)],
             scaling(("--queues", 1), ("--queues", 100, "--consumers", 10, "--keys", "cycle"),
                     ("--queues", 10_000, "--consumers", 10, "--keys", "cycle")),
             brokers=("leveret",), rounds_max=2),
    Scenario("peers", "cost per message with 1, 100 and 1,000 connections",
             [Row("with two", "first", "", "µs", 1, 3), Row("worst", "worst", "", "µs", 1, 3),
              Row("ratio", "ratio", "≤ 1.5", "×", 1, 2)],
             scaling((), ("--producers", 50, "--consumers", 50, "--queues", 50),
                     ("--producers", 500, "--consumers", 500, "--queues", 500)),
             brokers=("leveret",), rounds_max=2),
    Scenario("depth", "cost per message (fill and drain) by backlog",
             [Row("200,000", "first", "", "µs", 1, 3), Row("worst", "worst", "", "µs", 1, 3),
              Row("ratio", "ratio", "≤ 1.5", "×", 1, 2)],
             depth, brokers=("leveret",), rounds_max=1),
    Scenario("idle", "idle connection with a channel",
             [Row("anonymous memory", "broker.anon_octets_per_connection", "≤ 2,000", "B", 1, 0),
              Row("resident memory", "broker.rss_octets_per_connection", "", "B", 1, 0),
              Row("opened", "opened_per_s", "", "/s", 1, 0)],
             connections, brokers=("leveret", "rabbitmq"), rounds_max=2, notes="RabbitMQ: 1,000; else 10,000"),
    Scenario("queued", "1 M × 100 B queued",
             [Row("anonymous memory", "at_1m", "≤ 16", "MB", 1e-6, 1)],
             queued_memory(1_000_000), brokers=("leveret", "rabbitmq"), rounds_max=1,
             notes="RabbitMQ: from 200,000"),
    Scenario("queued10", "10 M × 100 B queued", [Row("anonymous memory", "at_1m", "≤ 20", "MB", 1e-6, 1)],
             queued_memory(10_000_000), brokers=("leveret",), rounds_max=1, long=True),
    Scenario("restart", "restart after kill -9 with 3.5 M × 100 B",
             [Row("to the ready line", "ready_ms", "≤ 60", "ms", 1, 1)],
             restart(3_500_000, 100), brokers=("leveret", "rabbitmq"), rounds_max=1, notes="RabbitMQ: 175,000"),
    Scenario("restart10", "restart after kill -9 with 10 M × 1 KiB",
             [Row("to the ready line", "ready_ms", "≤ 300", "ms", 1, 1)],
             restart(10_000_000, 1024), brokers=("leveret",), rounds_max=1, long=True),
    Scenario("start", "start with an empty directory; idle memory",
             [Row("to the ready line", "ready_ms", "≤ 3", "ms", 1, 1),
              Row("anonymous memory", "anon", "", "MB", 1e-6, 2), Row("resident memory", "rss", "≤ 3", "MB", 1e-6, 2)],
             start_empty, brokers=("leveret", "rabbitmq"), rounds_max=5),
    Scenario("declare", "10,000 durable queues and 100,000 bindings, pipelined",
             [Row("queues", "queues.per_s", "≥ 20,000", "/s", 1, 0), Row("bindings", "bindings.per_s", "≥ 20,000", "/s", 1, 0),
              Row("memory of a queue", "queues.anon_octets_each", "≤ 600", "B", 1, 0),
              Row("memory of a binding", "bindings.anon_octets_each", "", "B", 1, 0)],
             declarations(10_000, 100_000), brokers=("leveret", "rabbitmq"), rounds_max=2,
             notes="RabbitMQ: 500 and 5,000"),
    Scenario("declare1m", "10,000 durable queues and 1 M bindings, pipelined",
             [Row("bindings", "bindings.per_s", "≥ 20,000", "/s", 1, 0)],
             declarations(10_000, 1_000_000), brokers=("leveret",), rounds_max=1, long=True),
]


# ---------------------------------------------------------------------------------------------------------- running

def takes_part(scenario, broker):
    if not scenario.brokers:
        return True
    return broker.name in scenario.brokers or (isinstance(broker, Other) and "other" in scenario.brokers)


def measure(options, brokers, scenarios):
    context = Context(options)
    for number in range(options.rounds):
        for scenario in scenarios:
            if number >= scenario.rounds_max:
                continue
            for broker in brokers:
                if not takes_part(scenario, broker):
                    continue
                for other in brokers:
                    if other is not broker:
                        other.pause()
                broker.resume()
                context.last = ""
                try:
                    result = scenario.run(context, broker)
                    line = "" if result is None else brief(scenario, result)
                except Exception as error:  # One broken run must not cost the others.
                    result, line = {"failed": str(error)}, f"failed: {error}"
                    revive(broker)
                if result is not None:
                    scenario.results.setdefault(broker.name, []).append(result)
                    context.commands[scenario.id, broker.name] = context.last
                    print(f"round {number + 1}  {scenario.id:<10} {broker.name:<9} {line}", file=sys.stderr, flush=True)
    return context


def revive(broker):
    """After a failed run: a broker that is gone is started anew."""
    if broker.pid and not Path(f"/proc/{broker.pid}").exists():
        broker.pid = None
        broker.fresh()


def brief(scenario, result):
    return "  ".join(f"{row.title} {shown(value_of(result, row), row)}" for row in scenario.rows)


def value_of(result, row):
    value = result
    # `p99.9` has a point of its own.
    for key in re.findall(r"p99\.99?|[^.]+", row.path):
        if not isinstance(value, dict) or value.get(key) is None:
            return None
        value = value[key]
    return value * row.scale


def median(results, row):
    if any("failed" in result for result in results):
        return "failed"
    values = [value for value in (value_of(result, row) for result in results) if value is not None]
    return statistics.median(values) if values else None


def shown(value, row):
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.{row.places}f}{' ' + row.unit if row.unit else ''}"


# --------------------------------------------------------------------------------------------------------- reporting

def table(options, brokers, scenarios, context):
    names = [broker.name for broker in brokers]
    lines = [machine(options, brokers), "",
             "| scenario | reading | " + " | ".join(names) + " | goal | × relay | × better than others |",
             "|---|---|" + "---:|" * len(names) + "---|---:|---:|"]
    for scenario in scenarios:
        if not scenario.results:
            continue
        for index, row in enumerate(scenario.rows):
            found = {name: median(scenario.results.get(name, []), row) if name in scenario.results else None
                     for name in names}
            title = scenario.title + (f" ({scenario.notes})" if scenario.notes else "") if index == 0 else ""
            cells = [shown(found[name], row) for name in names]
            lines.append(f"| {title} | {row.title} | " + " | ".join(cells)
                         + f" | {row.goal} | {to_relay(found)} | {to_others(found, row)} |")
    lines += ["", "<details><summary>Commands</summary>", "", "```"]
    for scenario in scenarios:
        command = context.commands.get((scenario.id, "leveret"))
        if command:
            lines.append(f"{scenario.id:<10} {command}")
    return "\n".join([*lines, "```", "", "</details>"])


def number(value):
    return isinstance(value, (int, float)) and value > 0


def to_relay(found):
    ours, relay = found.get("leveret"), found.get("relay")
    return f"{ours / relay:.2f}" if number(ours) and number(relay) else ""


def to_others(found, row):
    """How many times better leveret is than the best of the other brokers."""
    ours = found.get("leveret")
    others = [value for name, value in found.items() if name not in ("leveret", "relay") and number(value)]
    if not row.compare or not number(ours) or not others:
        return ""
    more_is_better = row.unit == "/s"
    return f"{ours / max(others):.1f}" if more_is_better else f"{min(others) / ours:.1f}"


def machine(options, brokers):
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    versions = ", ".join(broker.version() for broker in brokers if not isinstance(broker, Relay))
    today = datetime.date.today().isoformat()
    return (f"Measured {today} at {commit.stdout.strip()} with `scripts/bench.py --rounds {options.rounds} --seconds "
            f"{options.seconds}{' --long' if options.long else ''}`: {versions}; {cpu.group(1) if cpu else 'unknown CPU'}, "
            f"{os.cpu_count()} cores, Linux {platform.release()}, load {options.load_before:.1f} before. Broker on core {BROKER_CORE}, load on core {LOAD_CORE}; "
            "medians over the rounds, brokers taking turns.")


def write(path, text):
    path = Path(path)
    old = path.read_text() if path.exists() else f"# Benchmarks\n\n{START}\n{END}\n"
    if START not in old:
        old += f"\n{START}\n{END}\n"
    head, rest = old.split(START, 1)
    tail = rest.split(END, 1)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{START}\n{text}\n{END}{tail}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="ids of scenarios, separated by commas")
    parser.add_argument("--brokers", help="relay, leveret, rabbitmq, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each measured run")
    parser.add_argument("--long", action="store_true", help="also what takes minutes and gigabytes")
    parser.add_argument("--out", default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--directory", help="where brokers keep their data (a real disk)", default=ROOT / "target/bench")
    options = parser.parse_args()
    if not LEVERET.exists():
        sys.exit(f"{LEVERET} is missing: make build")
    if os.cpu_count() < 2:
        sys.exit("two cores are needed: one for the broker, one for the load")
    wanted = options.brokers.split(",") if options.brokers else ["relay", "leveret", "rabbitmq"]
    directory = Path(options.directory)
    options.load_before = os.getloadavg()[0]
    if options.load_before > 0.5:
        print(f"the machine is busy (load {options.load_before:.1f}): times will be worse than the brokers are",
              file=sys.stderr)
    brokers = [make(directory / name) for name, make in
               (("relay", Relay), ("leveret", Leveret), ("rabbitmq", RabbitMQ))
               if name in wanted and (name != "rabbitmq" or RabbitMQ.is_installed())]
    brokers += [Other(text) for text in os.environ.get("BROKER", "").split() if "=" in text]
    only = options.only.split(",") if options.only else None
    unknown = set(only or ()) - {scenario.id for scenario in SCENARIOS}
    if unknown:
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; there are "
                 + ", ".join(scenario.id for scenario in SCENARIOS))
    scenarios = [scenario for scenario in SCENARIOS
                 if (scenario.id in only if only else options.long or not scenario.long)]
    try:
        for broker in brokers:
            broker.fresh()
        context = measure(options, brokers, scenarios)
        directory.mkdir(parents=True, exist_ok=True)
        raw = {scenario.id: scenario.results for scenario in scenarios}
        (directory / "results.json").write_text(json.dumps(raw, indent=1))
        write(options.out, table(options, brokers, scenarios, context))
        print(f"{options.out} is written; every run's result is in {directory / 'results.json'}", file=sys.stderr)
    finally:
        for broker in brokers:
            broker.kill()
            if not isinstance(broker, (Other, Relay)):
                shutil.rmtree(broker.directory, ignore_errors=True)
    if any("failed" in result for scenario in scenarios for results in scenario.results.values() for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
