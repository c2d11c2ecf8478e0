"""Many channels, many connections, much coming and going."""

import resource
import selectors
import socket
import time

import pytest

from conftest import bodies
from wire import Handshake, content, long, method, short


def test_2000_channels_on_one_connection(broker, connect):
    connection = connect(broker)
    channels = [connection.channel() for _ in range(2000)]
    queue = channels[0].queue_declare("", exclusive=True).method.queue
    for number, channel in enumerate(channels):
        channel.basic_publish("", queue, b"%d" % number)
    assert sorted(map(int, bodies(channels[-1], queue, 2000))) == list(range(2000))
    for channel in channels[::2]:
        channel.close()
    again = [connection.channel() for _ in range(1000)]
    again[-1].basic_publish("", queue, b"last")
    assert bodies(channels[1], queue, 1) == [b"last"]


class Session(Handshake):
    """A connection by hand, so that 5,000 of them fit beside the broker; each step non-blocking."""

    def __init__(self, address):
        super().__init__()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(address)

    def on_ready(self):
        """Writes what is to be written and reads what has come."""
        if self.output:
            try:
                self.output = self.output[self.socket.send(self.output) :]
            except BlockingIOError:
                return
        try:
            octets = self.socket.recv(65536)
        except BlockingIOError:
            return
        assert octets, f"closed by the broker after {self.seen}"
        self.receive(octets)


def drive(sessions, done, timeout_s):
    """Runs all sessions until `done(session)` holds for each."""
    give_up = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for session in sessions:
            selector.register(session.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, session)
        left = len(sessions)
        while left:
            assert time.monotonic() < give_up, f"{left} of {len(sessions)} not served"
            for key, _ in selector.select(0.5):
                session = key.data
                session.on_ready()
                if not session.output:
                    selector.modify(session.socket, selectors.EVENT_READ, session)
                else:
                    selector.modify(session.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, session)
                if done(session):
                    selector.unregister(session.socket)
                    left -= 1


def test_5000_connections(broker, channel, name):
    """All open at once, each with a channel; each publishes, a usual client reads it all."""
    count = 5000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 500
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    channel.queue_declare(name)
    sessions = []
    try:
        for start in range(0, count, 500):
            wave = [Session((broker.host, broker.port)) for _ in range(500)]
            sessions += wave
            drive(wave, lambda session: session.ready, 60)
        for number, session in enumerate(sessions):
            queue = name.encode()
            # The answer to the passive declare shows that the message has arrived.
            session.output = content(1, b"", queue, b"%d" % number)
            session.output += method(1, 50, 10, b"\0\0", short(queue), b"\1", long(b""))
        drive(sessions, lambda session: session.seen[-1] == (50, 11), 60)
        assert sorted(map(int, bodies(channel, name, count, timeout_s=60))) == list(range(count))
        if broker.kind == "leveret":
            # One thread for all of them: the loop; what blocks has two helpers.
            assert len(broker.threads()) <= 4, broker.threads()
    finally:
        for session in sessions:
            session.socket.close()
        channel.queue_delete(name)


@pytest.mark.leveret_only("a goal of its own")
def test_memory_of_idle_connections(own_broker):
    sessions = []
    before = own_broker.anonymous_octets()
    try:
        for _ in range(4):
            wave = [Session((own_broker.host, own_broker.port)) for _ in range(250)]
            sessions += wave
            drive(wave, lambda session: session.ready, 60)
        assert (own_broker.anonymous_octets() - before) / len(sessions) < 16 * 1024
    finally:
        for session in sessions:
            session.socket.close()
