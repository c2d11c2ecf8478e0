"""Fixtures: a broker for all tests, brokers to be killed, connections that are closed in the end."""

import contextlib
import itertools
import socket
import threading
import time

import pika
import pytest

import broker as brokers


def pytest_collection_modifyitems(config, items):
    """Leaves out what the broker under test is known not to do; nothing is reported as skipped."""
    out = []
    for item in items:
        own = "own_broker" in item.fixturenames and brokers.kind() == "address"
        other = item.get_closest_marker("leveret_only") and brokers.kind() != "leveret"
        if own or other:
            out.append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_report_header():
    return f"broker: {brokers.kind()}"


@pytest.fixture(scope="session")
def _shared_broker():
    shared = brokers.Broker().start()
    yield shared
    shared.remove()


@pytest.fixture
def broker(_shared_broker):
    """The broker that all tests share; it must outlive each of them."""
    if not _shared_broker.alive():
        _shared_broker.start()
    panics = len(_shared_broker.panics())
    yield _shared_broker
    assert _shared_broker.alive(), "the broker ended during this test"
    assert _shared_broker.panics()[panics:] == []


@pytest.fixture
def own_broker():
    """A broker of the test's own, to be killed and started again at will."""
    own = brokers.Broker(port=brokers.lasting_port()).start()
    yield own
    panics = own.panics()
    own.remove()
    assert panics == []


_count = itertools.count()


@pytest.fixture
def name(request):
    """A name that no other test uses, for queues and exchanges."""
    return f"{request.node.name}.{next(_count)}"


def parameters(broker, **more):
    """pika's parameters for the broker; short timeouts, no retries."""
    more.setdefault("blocked_connection_timeout", 30)
    return pika.ConnectionParameters(broker.host, broker.port, socket_timeout=10, **more)


@pytest.fixture
def connect():
    """`connect(broker, **parameters)` → a blocking pika connection, closed after the test."""
    made = []

    def connect(to, **more):
        connection = pika.BlockingConnection(parameters(to, **more))
        made.append((connection, to, to.pid))
        return connection

    yield connect
    for connection, to, pid in made:
        if connection.is_open and to.pid == pid:
            connection.close()


@pytest.fixture
def channel(broker, connect):
    """A channel on a connection of its own to the shared broker."""
    return connect(broker).channel()


def break_socket(connection):
    """Ends a pika connection as the end of its process would: without a word of AMQP."""
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(time_limit=5)
    assert connection.is_closed


def take(channel, queue, count, timeout_s=20, auto_ack=True):
    """Reads exactly `count` messages by basic.get, waiting for each; returns (method, properties, body) triples."""
    out = []
    give_up = time.monotonic() + timeout_s
    while len(out) < count:
        got = channel.basic_get(queue, auto_ack=auto_ack)
        if got[0] is not None:
            out.append(got)
        else:
            assert time.monotonic() < give_up, f"{len(out)} of {count} messages in {queue}"
            time.sleep(0.005)
    return out


def bodies(channel, queue, count, **more):
    """The bodies of the next `count` messages."""
    return [body for _, _, body in take(channel, queue, count, **more)]


def pump(connection, until, timeout_s=20):
    """Runs pika's event loop until `until()` holds."""
    give_up = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < give_up, "did not happen in time"
        connection.process_data_events(time_limit=0.02)


def in_thread(work):
    """Runs `work` in a thread; the returned function joins it and hands on its exception."""
    failed = []

    def run():
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (handed on)
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join(timeout_s=60):
        thread.join(timeout_s)
        assert not thread.is_alive(), "thread still runs"
        if failed:
            raise failed[0]

    return join
