"""A client beside the test's own traffic that measures what it notices of it."""

import subprocess
import sys

# Publishes and gets a small message again and again until its input ends; prints each round trip's seconds. A process of
# its own, so that it waits for the broker and not for the test's interpreter.
BYSTANDER = """
import select, sys, time, pika
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
print("ready", flush=True)
times = []
while not select.select([sys.stdin], [], [], 0.002)[0]:
    since = time.perf_counter()
    channel.basic_publish("", queue, b"ping")
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (method is not None, body) == (True, b"ping")
    times.append(time.perf_counter() - since)
print(*times)
connection.close()
"""


class Bystander:
    """`with Bystander(broker) as bystander: …`; afterwards `bystander.times` holds its round trips in seconds, sorted."""

    def __init__(self, broker):
        self.process = subprocess.Popen(
            [sys.executable, "-c", BYSTANDER, broker.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            out, _ = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        self.times = sorted(map(float, out.split()))

    def at(self, share):
        """The time in milliseconds that this share of the round trips did not exceed."""
        return self.times[min(int(len(self.times) * share), len(self.times) - 1)] * 1e3
