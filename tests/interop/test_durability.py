"""What is there again after `kill -9` and a new start, and what is not."""

import time

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from conftest import bodies, in_thread, parameters, pump, take

PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Publisher:
    """Publishes numbered persistent messages with many confirms in flight until the broker is gone.

    `confirmed` holds the numbers that the broker confirmed, `sent` how many were handed to the client.
    """

    def __init__(self, broker, queue, window=500):
        self.broker, self.queue, self.window = broker, queue, window
        self.confirmed, self.unconfirmed, self.sent = set(), set(), 0

    def run(self, enough):
        """Goes on until `enough` are confirmed; the broker is killed while more are on their way."""
        connection = pika.BlockingConnection(parameters(self.broker))
        channel = connection.channel()
        channel.queue_declare(self.queue, durable=True)
        channel._impl.confirm_delivery(self.keep)
        killing = None
        give_up = time.monotonic() + 60
        try:
            while True:
                assert time.monotonic() < give_up
                while len(self.unconfirmed) < self.window:
                    self.unconfirmed.add(self.sent)
                    channel._impl.basic_publish("", self.queue, b"%d" % self.sent, PERSISTENT)
                    self.sent += 1
                connection.process_data_events(time_limit=0.001)
                if killing is None and len(self.confirmed) >= enough:
                    killing = in_thread(self.broker.kill)
        except pika.exceptions.AMQPError:
            assert killing is not None, "the connection broke before the kill"
        killing()
        return self

    def keep(self, frame):
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        number = frame.method.delivery_tag - 1
        settled = {one for one in self.unconfirmed if one <= number} if frame.method.multiple else {number}
        assert settled <= self.unconfirmed, "confirmed twice"
        self.unconfirmed -= settled
        self.confirmed |= settled


def check_after_crash(channel, queue, publisher):
    """Every confirmed message is there, once and in order; of the others at most one copy each."""
    count = channel.queue_declare(queue, durable=True).method.message_count
    got = [int(body) for body in bodies(channel, queue, count, timeout_s=60)]
    assert len(set(got)) == len(got), "a message came twice"
    assert got == sorted(got), "order"
    assert not got or got[-1] < publisher.sent
    lost = publisher.confirmed - set(got)
    assert not lost, f"{len(lost)} of {len(publisher.confirmed)} confirmed messages lost: {sorted(lost)[:10]}"
    return got


@pytest.mark.parametrize("enough", [1, 500, 3000])
def test_confirmed_messages_outlive_a_kill_while_confirms_are_in_flight(own_broker, connect, name, enough):
    publisher = Publisher(own_broker, name).run(enough)
    own_broker.start()
    check_after_crash(connect(own_broker).channel(), name, publisher)


def test_killed_again_and_again(own_broker, connect, name):
    """Each life adds to what the one before left behind."""
    expected = []
    for life in range(4):
        expected.append(Publisher(own_broker, f"{name}.{life}", window=100).run(300))
        own_broker.start()
        if life % 2:
            # Killed once more right after the start, before anybody asked for anything.
            own_broker.kill()
            own_broker.start()
    channel = connect(own_broker).channel()
    for life, publisher in enumerate(expected):
        check_after_crash(channel, f"{name}.{life}", publisher)


def test_what_stays_and_what_goes(own_broker, connect, name):
    channel = connect(own_broker).channel()
    channel.confirm_delivery()
    channel.exchange_declare(f"{name}.x", "topic", durable=True)
    channel.exchange_declare(f"{name}.transient-x", "fanout")
    channel.queue_declare(f"{name}.durable", durable=True, arguments={"x-max-length": 1000})
    channel.queue_declare(f"{name}.auto-delete", durable=True, auto_delete=True)
    channel.queue_declare(f"{name}.transient")
    channel.queue_declare(f"{name}.exclusive", exclusive=True)
    channel.queue_declare(f"{name}.durable-exclusive", durable=True, exclusive=True)
    channel.queue_bind(f"{name}.durable", f"{name}.x", "kept.#")
    channel.queue_bind(f"{name}.transient", f"{name}.x", "kept.#")
    channel.queue_bind(f"{name}.durable", f"{name}.transient-x")
    channel.exchange_bind(f"{name}.x", "amq.topic", "#")
    for number in range(10):
        channel.basic_publish(f"{name}.x", "kept.yes", b"persistent %d" % number, PERSISTENT)
        channel.basic_publish(f"{name}.x", "kept.yes", b"transient %d" % number)
    channel.basic_publish("", f"{name}.auto-delete", b"persistent", PERSISTENT)
    channel.queue_declare(f"{name}.unbound", durable=True)
    channel.queue_bind(f"{name}.unbound", f"{name}.x", "kept.#")
    channel.queue_unbind(f"{name}.unbound", f"{name}.x", "kept.#")
    channel.queue_declare(f"{name}.deleted", durable=True)
    channel.basic_publish("", f"{name}.deleted", b"persistent", PERSISTENT)
    channel.queue_delete(f"{name}.deleted")

    own_broker.kill()
    own_broker.start()

    connection = connect(own_broker)
    channel = connection.channel()
    for queue in ("transient", "exclusive", "durable-exclusive", "deleted"):
        with pytest.raises(ChannelClosedByBroker) as error:
            connection.channel().queue_declare(f"{name}.{queue}", passive=True)
        assert error.value.reply_code == 404, queue
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().exchange_declare(f"{name}.transient-x", passive=True)
    assert error.value.reply_code == 404

    # The same declarations are still alike: durable things kept their types and arguments.
    channel.exchange_declare(f"{name}.x", "topic", durable=True)
    channel.queue_declare(f"{name}.durable", durable=True, arguments={"x-max-length": 1000})
    channel.queue_declare(f"{name}.auto-delete", durable=True, auto_delete=True)
    assert bodies(channel, f"{name}.durable", 10) == [b"persistent %d" % number for number in range(10)]
    assert bodies(channel, f"{name}.auto-delete", 1) == [b"persistent"]
    assert channel.basic_get(f"{name}.durable")[0] is None
    # Bindings work as before.
    channel.basic_publish("amq.topic", "kept.again", b"through both")
    assert bodies(channel, f"{name}.durable", 1) == [b"through both"]
    assert channel.basic_get(f"{name}.unbound")[0] is None


def test_messages_come_back_as_they_were(own_broker, connect, name):
    channel = connect(own_broker).channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True)
    properties = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"text": "grüße", "number": -1, "list": [1, {"a": True}], "nothing": None},
        delivery_mode=2,
        priority=4,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    bodies_sent = [b"", b"x", bytes(range(256)) * 16, b"y" * 300_000, b"z" * 3_000_000]
    for body in bodies_sent:
        channel.basic_publish("", name, body, properties)
    own_broker.kill()
    own_broker.start()
    got = take(connect(own_broker).channel(), name, len(bodies_sent))
    assert [body for _, _, body in got] == bodies_sent
    assert all(vars(read) == vars(properties) for _, read, _ in got)


def test_acked_stays_acked_and_unacked_comes_back_redelivered(own_broker, connect, name):
    connection = connect(own_broker)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True)
    for number in range(100):
        channel.basic_publish("", name, b"%d" % number, PERSISTENT)
    consumer = connection.channel()
    consumer.basic_qos(prefetch_count=60)
    got = []
    consumer.basic_consume(name, lambda _c, method, _p, body: got.append((method.delivery_tag, int(body))))
    pump(connection, lambda: len(got) == 60)
    acked = {body for tag, body in got if body % 3 == 0}
    for tag, body in got:
        if body in acked:
            consumer.basic_ack(tag)
    connection.process_data_events(time_limit=0)
    # 60 - 20 are unacked; the broker hands out 20 more, so that it has read every ack.
    pump(connection, lambda: len(got) == 80)
    # An ack promises nothing about the disk; half a second is what it may take.
    time.sleep(0.5)
    own_broker.kill()
    own_broker.start()
    again = take(connect(own_broker).channel(), name, 80)
    seen = {int(body): method.redelivered for method, _, body in again}
    assert sorted(seen) == sorted(set(range(100)) - acked)
    assert [int(body) for _, _, body in again] == sorted(seen)
    assert all(seen[body] for _, body in got if body not in acked), "delivered before: redelivered"


@pytest.mark.leveret_only("RabbitMQ tells nothing about what nobody has seen")
def test_what_nobody_has_seen_is_not_redelivered(own_broker, connect, name):
    channel = connect(own_broker).channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True)
    for number in range(100):
        channel.basic_publish("", name, b"%d" % number, PERSISTENT)
    own_broker.kill()
    own_broker.start()
    again = take(connect(own_broker).channel(), name, 100)
    assert not any(method.redelivered for method, _, _ in again)


def test_a_transaction_is_all_or_nothing(own_broker, connect, name):
    """Committed before the kill: there. Sent and not committed: gone."""
    connection = connect(own_broker)
    channel = connection.channel()
    for queue in ("a", "b"):
        channel.queue_declare(f"{name}.{queue}", durable=True)
    channel.tx_select()
    for number in range(20):
        channel.basic_publish("", f"{name}.a", b"%d" % number, PERSISTENT)
        channel.basic_publish("", f"{name}.b", b"%d" % number, PERSISTENT)
    channel.tx_commit()
    for queue in ("a", "b"):
        channel.basic_publish("", f"{name}.{queue}", b"uncommitted", PERSISTENT)
    connection.process_data_events(time_limit=0.1)
    own_broker.kill()
    own_broker.start()
    channel = connect(own_broker).channel()
    for queue in ("a", "b"):
        assert bodies(channel, f"{name}.{queue}", 20) == [b"%d" % number for number in range(20)]
        assert channel.basic_get(f"{name}.{queue}")[0] is None


def test_an_orderly_stop_keeps_what_it_must(own_broker, connect, name):
    connection = connect(own_broker)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True)
    for number in range(1000):
        channel.basic_publish("", name, b"%d" % number, PERSISTENT)
    for method, _, _ in take(channel, name, 500, auto_ack=False):
        channel.basic_ack(method.delivery_tag)
    # An answer to something later: the acks were read.
    channel.queue_declare(name, passive=True)
    since = time.monotonic()
    code = own_broker.stop()
    if own_broker.kind == "leveret":
        assert code == 0
        assert time.monotonic() - since < 2
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
            connection.process_data_events(time_limit=5)
        assert closed.value.reply_code == 320
    own_broker.start()
    assert bodies(connect(own_broker).channel(), name, 500) == [b"%d" % number for number in range(500, 1000)]


def test_names_and_bindings_of_many(own_broker, connect, name):
    """A few hundred durable queues with their bindings and messages."""
    connection = connect(own_broker)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare(name, "direct", durable=True)
    for number in range(200):
        queue = f"{name}.{number}"
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, name, f"k{number % 20}")
    for number in range(20):
        channel.basic_publish(name, f"k{number}", b"%d" % number, PERSISTENT)
    own_broker.kill()
    own_broker.start()
    channel = connect(own_broker).channel()
    channel.confirm_delivery()
    for number in range(20):
        channel.basic_publish(name, f"k{number}", b"again %d" % number, PERSISTENT)
    for number in range(200):
        key = number % 20
        assert bodies(channel, f"{name}.{number}", 2) == [b"%d" % key, b"again %d" % key]
