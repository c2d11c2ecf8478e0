"""Opening, idling and ending connections, by pika."""

import subprocess
import sys
import time

import pika
import pytest

from conftest import in_thread, parameters, pump


def test_server_properties(broker, connect):
    properties = connect(broker)._impl.server_properties
    assert properties["product"] == "RabbitMQ"
    assert [number.isdigit() for number in properties["version"].split(".")[:2]] == [True, True]
    for key in ("platform", "copyright", "information", "cluster_name"):
        assert isinstance(properties[key], str) and properties[key], key
    assert set(properties["capabilities"]) == {
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    }
    assert all(value is True for value in properties["capabilities"].values())


@pytest.mark.leveret_only("names itself where RabbitMQ names Erlang")
def test_the_platform_says_who_it_is(broker, connect):
    properties = connect(broker)._impl.server_properties
    assert "leveret" in (properties["platform"] + properties["information"]).lower()


def test_what_the_broker_proposes(broker, connect):
    tuned = connect(broker)._impl.params
    assert (tuned.channel_max, tuned.frame_max) in ((2047, 131072), (65535, 131072))
    assert connect(broker)._impl.params.heartbeat == 60


def test_heartbeats_keep_an_idle_connection(broker, connect):
    connection = connect(broker, heartbeat=1)
    channel = connection.channel()
    received = connection._impl._heartbeat_checker
    connection.sleep(3.5)
    assert received._heartbeat_frames_received >= 3
    channel.basic_qos(prefetch_count=1)


def test_a_silent_client_is_dropped(broker, connect, channel, name):
    """Two missed intervals of one second: its unacked message is free for others."""
    program = (
        "import sys, time, pika\n"
        "p = pika.URLParameters(sys.argv[1])\n"
        "p.heartbeat = 1\n"
        "channel = pika.BlockingConnection(p).channel()\n"
        "print(channel.basic_get(sys.argv[2])[2].decode(), flush=True)\n"
        "time.sleep(30)\n"
    )
    channel.queue_declare(name)
    channel.basic_publish("", name, b"held")
    silent = subprocess.Popen([sys.executable, "-c", program, broker.url, name], stdout=subprocess.PIPE, text=True)
    try:
        assert silent.stdout.readline() == "held\n"
        since = time.monotonic()
        got = []
        channel.basic_consume(name, lambda _c, m, _p, body: got.append((body, m.redelivered)), auto_ack=True)
        pump(channel.connection, lambda: got, timeout_s=10)
        assert got == [(b"held", True)]
        assert time.monotonic() - since > 0.9
    finally:
        silent.kill()
        silent.communicate()


def test_no_heartbeat_when_the_client_wants_none(broker, connect):
    connection = connect(broker, heartbeat=0)
    connection.sleep(1)
    connection.channel().basic_qos(prefetch_count=1)


def test_open_and_close_again_and_again(broker):
    for _ in range(100):
        connection = pika.BlockingConnection(parameters(broker))
        connection.channel()
        connection.close()


def test_channels_are_opened_and_closed_again_and_again(broker, connect):
    connection = connect(broker)
    for _ in range(500):
        connection.channel(1).close()


def test_update_secret(broker, connect):
    connection = connect(broker)
    connection.update_secret("guest", "renewed")
    connection.channel().basic_qos(prefetch_count=1)


def test_many_publishers_at_once(broker, connect, channel, name):
    """Ten connections in threads; each one's order is kept in the common queue."""
    channel.queue_declare(name)

    def publisher(number):
        connection = pika.BlockingConnection(parameters(broker))
        own = connection.channel()
        own.confirm_delivery()
        for count in range(100):
            own.basic_publish("", name, b"%d %d" % (number, count))
        connection.close()

    for join in [in_thread(lambda number=number: publisher(number)) for number in range(10)]:
        join()
    seen = {}
    for _ in range(1000):
        number, count = map(int, channel.basic_get(name, auto_ack=True)[2].split())
        assert seen.get(number, -1) == count - 1
        seen[number] = count
    assert channel.queue_delete(name).method.message_count == 0
