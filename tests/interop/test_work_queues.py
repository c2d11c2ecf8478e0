"""Hello world and work queues: the tutorials that everybody starts with, by pika."""

import os
import subprocess
import sys
import textwrap

import pytest

from broker import ROOT
from conftest import bodies, pump, take


class Worker:
    """A consumer on a connection of its own that remembers what it got."""

    def __init__(self, connection, queue, acks=True, prefetch=0, **more):
        self.connection = connection
        self.channel = connection.channel()
        if prefetch:
            self.channel.basic_qos(prefetch_count=prefetch)
        self.got = []
        self.methods = []
        self.acks = acks
        self.tag = self.channel.basic_consume(queue, self.take, **more)

    def take(self, channel, method, properties, body):
        self.got.append(body)
        self.methods.append(method)
        if self.acks:
            channel.basic_ack(method.delivery_tag)


def pump_all(workers, count):
    """Runs the workers until they have `count` messages between them."""
    done = lambda: sum(len(worker.got) for worker in workers) >= count  # noqa: E731
    for _ in range(1000):
        for worker in workers:
            worker.connection.process_data_events(time_limit=0.005)
        if done():
            return
    raise AssertionError([worker.got for worker in workers])


def test_hello_world(channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, b"Hello World!")
    method, _, body = take(channel, name, 1)[0]
    assert body == b"Hello World!"
    assert (method.exchange, method.routing_key, method.redelivered) == ("", name, False)
    assert channel.basic_get(name) == (None, None, None)


def test_three_consumers_are_served_in_turn(broker, connect, channel, name):
    channel.queue_declare(name, durable=True)
    workers = [Worker(connect(broker), name) for _ in range(3)]
    for number in range(12):
        channel.basic_publish("", name, b"%d" % number)
    pump_all(workers, 12)
    assert sorted(worker.got for worker in workers) == [
        [b"0", b"3", b"6", b"9"],
        [b"1", b"4", b"7", b"10"],
        [b"2", b"5", b"8", b"11"],
    ]


def test_a_killed_consumers_message_goes_to_the_next(broker, connect, channel, name):
    program = textwrap.dedent(
        """
        import sys
        import pika

        channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
        channel.basic_consume(sys.argv[2], lambda c, m, p, body: print(body.decode(), flush=True))
        channel.start_consuming()
        """
    )
    channel.queue_declare(name)
    channel.basic_publish("", name, b"task")
    doomed = subprocess.Popen(
        [sys.executable, "-c", program, broker.url, name], stdout=subprocess.PIPE, text=True
    )
    try:
        assert doomed.stdout.readline() == "task\n"
        second = Worker(connect(broker), name)
        second.connection.process_data_events(time_limit=0.1)
        assert second.got == []
    finally:
        doomed.kill()
        doomed.communicate()
    pump(second.connection, lambda: second.got)
    assert second.got == [b"task"]
    assert second.methods[0].redelivered


def test_auto_ack_forgets_at_once(broker, connect, channel, name):
    channel.queue_declare(name)
    worker = Worker(connect(broker), name, acks=False, auto_ack=True)
    for number in range(10):
        channel.basic_publish("", name, b"%d" % number)
    pump(worker.connection, lambda: len(worker.got) == 10)
    worker.connection.close()
    assert channel.queue_declare(name, passive=True).method.message_count == 0
    assert channel.basic_get(name) == (None, None, None)


def test_prefetch_one_leaves_work_to_others(broker, connect, channel, name):
    """The stalled consumer holds its one message; all others go to the one that acks."""
    channel.queue_declare(name)
    stalled = Worker(connect(broker), name, acks=False, prefetch=1)
    busy = Worker(connect(broker), name, prefetch=1)
    for number in range(20):
        channel.basic_publish("", name, b"%d" % number)
    pump_all([busy, stalled], 20)
    assert len(stalled.got) == 1
    assert len(busy.got) == 19
    assert busy.got == sorted(busy.got, key=int)


def test_prefetch_is_counted_for_each_consumer(broker, connect, channel, name):
    channel.queue_declare(name)
    for number in range(20):
        channel.basic_publish("", name, b"%d" % number)
    connection = connect(broker)
    shared = connection.channel()
    shared.basic_qos(prefetch_count=3)
    got = {"a": [], "b": []}
    for tag in got:
        shared.basic_consume(
            name, lambda _c, m, _p, _b: got[m.consumer_tag].append(m.delivery_tag), consumer_tag=tag
        )
    pump(connection, lambda: all(len(tags) == 3 for tags in got.values()))
    connection.process_data_events(time_limit=0.1)
    assert [len(tags) for tags in got.values()] == [3, 3]
    shared.basic_ack(max(got["a"] + got["b"]), multiple=True)
    pump(connection, lambda: all(len(tags) == 6 for tags in got.values()))


def test_global_prefetch_is_shared_by_the_channel(broker, connect, channel, name):
    channel.queue_declare(name)
    for number in range(20):
        channel.basic_publish("", name, b"%d" % number)
    connection = connect(broker)
    shared = connection.channel()
    shared.basic_qos(prefetch_count=4, global_qos=True)
    got = []
    for tag in ("a", "b"):
        shared.basic_consume(name, lambda _c, m, _p, _b: got.append(m.delivery_tag), consumer_tag=tag)
    pump(connection, lambda: len(got) == 4)
    connection.process_data_events(time_limit=0.1)
    assert got == [1, 2, 3, 4]
    shared.basic_ack(2, multiple=True)
    pump(connection, lambda: len(got) == 6)
    connection.process_data_events(time_limit=0.1)
    assert len(got) == 6


def test_requeue_goes_back_to_its_place(channel, name):
    channel.queue_declare(name)
    for number in range(5):
        channel.basic_publish("", name, b"%d" % number)
    tags = [method.delivery_tag for method, _, _ in take(channel, name, 5, auto_ack=False)]
    channel.basic_nack(tags[3], requeue=True)
    channel.basic_reject(tags[1], requeue=True)
    channel.basic_nack(tags[4], requeue=False)
    channel.basic_reject(tags[0], requeue=False)
    channel.basic_ack(tags[2])
    again = take(channel, name, 2)
    assert [(body, method.redelivered) for method, _, body in again] == [(b"1", True), (b"3", True)]
    assert channel.basic_get(name) == (None, None, None)


def test_nack_of_many_at_once(channel, name):
    channel.queue_declare(name)
    for number in range(6):
        channel.basic_publish("", name, b"%d" % number)
    tags = [method.delivery_tag for method, _, _ in take(channel, name, 5, auto_ack=False)]
    channel.basic_nack(tags[3], multiple=True, requeue=True)
    assert bodies(channel, name, 5) == [b"0", b"1", b"2", b"3", b"5"]
    channel.basic_ack(tags[4])


def test_recover_brings_unacked_messages_back(channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, b"one")
    take(channel, name, 1, auto_ack=False)
    assert channel.basic_get(name) == (None, None, None)
    channel.basic_recover(requeue=True)
    method, _, body = take(channel, name, 1)[0]
    assert (body, method.redelivered) == (b"one", True)


def test_acks_in_any_order(channel, name):
    channel.queue_declare(name)
    for number in range(100):
        channel.basic_publish("", name, b"%d" % number)
    tags = [method.delivery_tag for method, _, _ in take(channel, name, 100, auto_ack=False)]
    for tag in tags[::2] + tags[-1::-2]:
        channel.basic_ack(tag)
    channel.basic_recover(requeue=True)
    assert channel.queue_declare(name, passive=True).method.message_count == 0


def test_a_cancelled_consumer_can_still_ack(broker, connect, channel, name):
    channel.queue_declare(name)
    worker = Worker(connect(broker), name, acks=False)
    channel.basic_publish("", name, b"last")
    pump(worker.connection, lambda: worker.got)
    assert worker.channel.basic_cancel(worker.tag) == []
    channel.basic_publish("", name, b"after")
    worker.connection.process_data_events(time_limit=0.1)
    assert worker.got == [b"last"]
    worker.channel.basic_ack(worker.methods[0].delivery_tag)
    worker.connection.close()
    assert bodies(channel, name, 1) == [b"after"]


@pytest.mark.parametrize("version", ["0.12.0", "0.13.1"])
def test_call_style_of_2017(broker, name, version):
    """`basic_consume(callback, queue=…, no_ack=True)`, as programs of that time are written."""
    program = textwrap.dedent(
        """
        import collections
        import collections.abc
        import sys

        # An alias of that time's Python that this pika asks for.
        collections.Callable = collections.abc.Callable
        import pika

        host, port, queue = sys.argv[1], int(sys.argv[2]), sys.argv[3]
        connection = pika.BlockingConnection(pika.ConnectionParameters(host=host, port=port))
        channel = connection.channel()
        channel.queue_declare(queue=queue, durable=True)
        channel.basic_qos(prefetch_count=1)
        for number in range(3):
            channel.basic_publish(
                exchange="",
                routing_key=queue,
                body="message %d" % number,
                properties=pika.BasicProperties(delivery_mode=2),
            )

        seen = []

        def take(ch, method, properties, body):
            seen.append(body.decode())
            if len(seen) <= 3:
                ch.basic_ack(delivery_tag=method.delivery_tag)
            if len(seen) == 3:
                ch.stop_consuming()

        channel.basic_consume(take, queue=queue)
        channel.start_consuming()

        def take_without_ack(ch, method, properties, body):
            seen.append(body.decode())
            ch.stop_consuming()

        channel.basic_publish(exchange="", routing_key=queue, body="last")
        channel.basic_consume(take_without_ack, queue=queue, no_ack=True)
        channel.start_consuming()
        channel.queue_delete(queue=queue)
        connection.close()
        print(pika.__version__, *seen, sep=",")
        """
    )
    out = subprocess.run(
        [sys.executable, "-c", program, broker.host, str(broker.port), name],
        env={**os.environ, "PYTHONPATH": str(ROOT / f".venv/pika-{version}")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert out.stdout.strip() == f"{version},message 0,message 1,message 2,last"
