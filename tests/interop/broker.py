"""Starts, kills and restarts the broker under test.

    BROKER=leveret     the binary of this repository (LEVERET_BIN, or target/interop/leveret); the default
    BROKER=rabbitmq    Debian's RabbitMQ, by scripts/rabbitmq-start.sh
    BROKER=HOST:PORT   one that runs already; tests that kill their broker are left out
"""

import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_S = 60


def lasting_port():
    """A free port below the range from which clients get theirs.

    A client that tries again and again while its broker is down would otherwise connect to itself one day, and hold
    the port when the broker comes back.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as text:
        below = int(text.read().split()[0])
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(below // 2, below)))
                return probe.getsockname()[1]
            except OSError:
                pass


def kind():
    """What BROKER names: `leveret`, `rabbitmq` or `address`."""
    broker = os.environ.get("BROKER", "leveret")
    return broker if broker in ("leveret", "rabbitmq") else "address"


class Broker:
    """One broker on a free loopback port, with a data directory of its own.

    `start` → `port`; `kill` and `start` again as often as wanted: data and port stay the same; `remove` in the end.
    """

    def __init__(self, *options, port=0):
        """`options`: more words for leveret's command line; `port`: 0 for any, `lasting_port()` for one to be killed."""
        self.kind = kind()
        self.options = options
        self.host, self.port, self.pid = "127.0.0.1", port, None
        if self.kind == "address":
            self.host, port = os.environ["BROKER"].rsplit(":", 1)
            self.port = int(port)
            return
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="interop-"))
        self.log = self.directory / "stdout"
        self.process = None

    @property
    def url(self):
        return f"amqp://guest:guest@{self.host}:{self.port}/%2F"

    def start(self):
        """Starts the broker on its directory; returns when it accepts connections."""
        if self.kind == "leveret":
            self._start_leveret()
        elif self.kind == "rabbitmq":
            script = ROOT / "scripts/rabbitmq-start.sh"
            out = subprocess.run([script, self.directory, str(self.port)], check=True, stdout=subprocess.PIPE, timeout=START_S)
            address, pid = out.stdout.split()
            self.port, self.pid = int(address.rsplit(b":", 1)[1]), int(pid)
        return self

    def _start_leveret(self):
        binary = os.environ.get("LEVERET_BIN", ROOT / "target/interop/leveret")
        command = [
            binary,
            "--data-dir", self.directory / "data",
            "--listen", f"127.0.0.1:{self.port}",
            "--http", "127.0.0.1:0",
            *self.options,
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "LEVERET_"))}
        read_from = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self.pid = self.process.pid
        give_up = time.monotonic() + START_S
        while True:
            said = self.log.read_bytes()[read_from:].decode(errors="replace")
            if "Server startup complete;" in said:
                break
            if self.process.poll() is not None or time.monotonic() > give_up:
                self._end(signal.SIGKILL)
                raise RuntimeError(f"leveret did not start:\n{said}")
            time.sleep(0.005)
        self.port = int(re.search(r"started TCP listener on 127\.0\.0\.1:(\d+)", said)[1])

    @property
    def generation(self):
        """4: answers as RabbitMQ 4.x does where that differs from 3.x (leveret always does); else 3."""
        if self.kind == "leveret":
            return 4
        with socket.create_connection((self.host, self.port), 5) as raw:
            # 4.x answers a header that nobody knows with AMQP 1.0's, 3.x with 0-9-1's.
            raw.sendall(b"GET / HT")
            return 4 if raw.recv(8) == b"AMQP\3\1\0\0" else 3

    def alive(self):
        if self.kind == "leveret":
            return self.process.poll() is None
        with socket.create_connection((self.host, self.port), 5):
            return True

    def kill(self):
        """SIGKILL: what is not on the disk is lost."""
        if self.kind == "rabbitmq":
            # Its declare-ok does not wait for the disk: what it knows of queues lies in its own memory up to 2 s.
            time.sleep(2.5)
        self._end(signal.SIGKILL)

    def stop(self):
        """SIGTERM: an orderly stop. The exit code of leveret."""
        return self._end(signal.SIGTERM)

    def _end(self, number):
        if self.kind == "leveret" and self.process is not None:
            self.process.send_signal(number)
            self.pid = None
            return self.process.wait(timeout=20)
        if self.kind == "rabbitmq" and self.pid is not None:
            word = "KILL" if number == signal.SIGKILL else "TERM"
            subprocess.run([ROOT / "scripts/rabbitmq-stop.sh", self.directory, word], check=True, timeout=60)
            self.pid = None
        return None

    def remove(self):
        """Kills the broker if it still runs and deletes its directory."""
        if self.kind == "address":
            return
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def panics(self):
        """Lines of leveret's log that tell of a panic: none, ever."""
        if self.kind != "leveret" or not self.log.exists():
            return []
        with open(self.log, errors="replace") as log:
            return [line for line in log if "panicked at" in line]

    def anonymous_octets(self):
        """Memory of the broker's process that no file stands behind."""
        with open(f"/proc/{self.pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return sum(int(lines[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))

    def threads(self):
        """Names of the broker's threads."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task")
        return sorted((task / "comm").read_text().strip() for task in tasks.iterdir())
