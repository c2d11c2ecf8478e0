"""A broker with nothing to do uses no processor, whatever it is waiting for."""

import os
import pathlib
import socket
import time

import pika
import pytest

from conftest import parameters, take

pytestmark = pytest.mark.leveret_only("a goal of its own")


def cpu_s(broker):
    """Processor time of all the broker's threads."""
    tasks = pathlib.Path(f"/proc/{broker.pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def nothing(broker, connect):
    pass


def idle_connections(broker, connect):
    for _ in range(50):
        connect(broker).channel()


def a_consumer_of_an_empty_queue(broker, connect):
    channel = connect(broker).channel()
    channel.queue_declare("q", durable=True)
    channel.basic_consume("q", lambda *_: None)


def a_backlog_and_a_full_prefetch(broker, connect):
    channel = connect(broker).channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    for _ in range(200):
        channel.basic_publish("", "q", b"x" * 1000, pika.BasicProperties(delivery_mode=2))
    channel.basic_qos(prefetch_count=10)
    channel.basic_consume("q", lambda *_: None)
    channel.connection.process_data_events(time_limit=0.2)


def a_consumer_that_does_not_read(broker, connect):
    channel = connect(broker).channel()
    channel.queue_declare("q")
    stuck = connect(broker).channel()
    stuck.basic_consume("q", lambda *_: None, auto_ack=True)
    body = os.urandom(1_000_000)
    for _ in range(30):
        channel.basic_publish("", "q", body)
    channel.queue_declare("q", passive=True)


def half_a_large_body(broker, connect):
    # Not by `connect`: in the middle of a body there is no closing in order.
    connection = broker.kept = pika.BlockingConnection(parameters(broker))
    number = connection.channel().channel_number
    frames = [
        pika.frame.Method(number, pika.spec.Basic.Publish(exchange="", routing_key="q")),
        pika.frame.Header(number, 20_000_000, pika.BasicProperties(delivery_mode=2)),
        *[pika.frame.Body(number, b"x" * 100_000)] * 100,
    ]
    connection.channel(number + 1).queue_declare("q", durable=True)
    connection._impl._output_marshaled_frames([frame.marshal() for frame in frames])
    connection.process_data_events(time_limit=0.5)


def a_transaction_left_open(broker, connect):
    channel = connect(broker).channel()
    channel.queue_declare("q", durable=True)
    channel.tx_select()
    channel.basic_publish("", "q", b"x", pika.BasicProperties(delivery_mode=2))
    channel.connection.process_data_events(time_limit=0.1)


def everything_settled(broker, connect):
    channel = connect(broker).channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    for _ in range(500):
        channel.basic_publish("", "q", b"x" * 5000, pika.BasicProperties(delivery_mode=2))
    for method, _, _ in take(channel, "q", 500, auto_ack=False):
        channel.basic_ack(method.delivery_tag)
    channel.queue_declare("q", passive=True)


def half_a_handshake(broker, connect):
    raw = socket.create_connection((broker.host, broker.port))
    raw.sendall(b"AMQP\0\0\x09\x01\x01")
    broker.kept = raw


WAITING = [
    nothing,
    idle_connections,
    a_consumer_of_an_empty_queue,
    a_backlog_and_a_full_prefetch,
    a_consumer_that_does_not_read,
    half_a_large_body,
    a_transaction_left_open,
    everything_settled,
    half_a_handshake,
]


@pytest.mark.parametrize("wait_for", WAITING, ids=[one.__name__ for one in WAITING])
def test_costs_nothing(own_broker, connect, wait_for):
    wait_for(own_broker, connect)
    # Flushes, checkpoints and what else is done behind the last message may take a moment.
    time.sleep(0.7)
    before = cpu_s(own_broker)
    time.sleep(1)
    used = cpu_s(own_broker) - before
    assert used < 0.02, f"{used * 1e3:.1f} ms of processor in a second"
