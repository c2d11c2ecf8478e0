"""Publishers and consumers at random while their broker is killed again and again; checked against what they noted."""

import random
import threading
import time

import pika
import pytest
from pika.exceptions import AMQPError

from conftest import in_thread, parameters, pump

QUEUES = 4
LIVES = 4
PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Notes:
    """What the clients of one queue noted; each list is written by one thread only."""

    def __init__(self):
        self.sent = 0
        self.confirmed = set()
        # (number, redelivered) in the order of arrival
        self.got = []
        # numbers whose ack was followed by an answer of the broker to something later
        self.acked = set()


def publish(broker, queue, notes, stop, seed):
    """Numbered messages with a window of confirms, reconnecting until told to stop; each number is sent once."""
    choose = random.Random(seed)
    while not stop.is_set():
        try:
            connection = pika.BlockingConnection(parameters(broker))
            channel = connection.channel()
            waiting = {}

            def confirmed(frame, waiting=waiting):
                assert isinstance(frame.method, pika.spec.Basic.Ack)
                tag = frame.method.delivery_tag
                for one in [t for t in waiting if t == tag or (frame.method.multiple and t <= tag)]:
                    notes.confirmed.add(waiting.pop(one))

            channel._impl.confirm_delivery(confirmed)
            tag = 0
            while not stop.is_set() or waiting:
                for _ in range(choose.randrange(40)):
                    if len(waiting) >= 200 or stop.is_set():
                        break
                    tag += 1
                    waiting[tag] = notes.sent
                    body = b"%d " % notes.sent + b"x" * choose.choice((0, 10, 1000, 5000))
                    notes.sent += 1
                    channel._impl.basic_publish("", queue, body, PERSISTENT)
                connection.process_data_events(time_limit=0.001)
            connection.close()
        except AMQPError:
            time.sleep(0.02)


def consume(broker, queue, notes, stop, seed):
    """Acks, requeues and drops connections at random."""
    choose = random.Random(seed)
    while not stop.is_set():
        try:
            connection = pika.BlockingConnection(parameters(broker))
            channel = connection.channel()
            channel.basic_qos(prefetch_count=choose.choice((1, 10, 100)))
            noted = []

            def take(channel, method, _properties, body, noted=noted):
                number = int(body.split(b" ", 1)[0])
                notes.got.append((number, method.redelivered))
                if choose.random() < 0.05:
                    channel.basic_nack(method.delivery_tag)
                elif choose.random() < 0.98:
                    channel.basic_ack(method.delivery_tag)
                    noted.append(number)

            channel.basic_consume(queue, take)
            for _ in range(choose.randrange(20, 200)):
                connection.process_data_events(time_limit=0.01)
                if stop.is_set():
                    break
            # The answer tells that every ack before it was read.
            settled = list(noted)
            channel.queue_declare(queue, passive=True)
            notes.acked.update(settled)
            connection.close()
        except AMQPError:
            time.sleep(0.02)


@pytest.mark.timeout(300)
def test_random_clients_and_kills(own_broker, connect, name):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    choose = random.Random(seed)
    channel = connect(own_broker).channel()
    all_notes = {f"{name}.{number}": Notes() for number in range(QUEUES)}
    for queue in all_notes:
        channel.queue_declare(queue, durable=True)
    channel.connection.close()

    stop = threading.Event()
    joins = []
    for queue, notes in all_notes.items():
        for work in (publish, consume):
            arguments = (own_broker, queue, notes, stop, choose.randrange(1 << 32))
            joins.append(in_thread(lambda work=work, arguments=arguments: work(*arguments)))
    settled_before = {}
    try:
        for _ in range(LIVES):
            time.sleep(choose.uniform(0.5, 2.5))
            # Acks that were read half a second ago are on the disk.
            settled_before = {queue: set(notes.acked) for queue, notes in all_notes.items()}
            time.sleep(0.6)
            own_broker.kill()
            own_broker.start()
    finally:
        stop.set()
        for join in joins:
            join(60)

    channel = connect(own_broker).channel()
    for queue, notes in all_notes.items():
        left = []
        count = channel.queue_declare(queue, passive=True).method.message_count
        tag = channel.basic_consume(
            queue,
            lambda _c, method, _p, body, left=left: left.append((int(body.split(b" ", 1)[0]), method.redelivered)),
            auto_ack=True,
        )
        pump(channel.connection, lambda left=left, count=count: len(left) == count, timeout_s=60)
        channel.basic_cancel(tag)
        everything = notes.got + left
        seen = {number for number, _ in everything}
        lost = notes.confirmed - seen
        assert not lost, f"{queue}: {len(lost)} of {len(notes.confirmed)} confirmed messages never came: {sorted(lost)[:5]}"
        assert max(seen, default=-1) < notes.sent
        # A number comes again only with the flag up.
        before = set()
        for number, redelivered in everything:
            assert redelivered or number not in before, f"{queue}: {number} came twice without `redelivered`"
            before.add(number)
        # What was acked and flushed before the last kill is not there at the end.
        returned = settled_before[queue] & {number for number, _ in left}
        assert not returned, f"{queue}: acked long ago and back: {sorted(returned)[:5]}"
        assert len(notes.confirmed) > 100 and len(notes.got) > 100
