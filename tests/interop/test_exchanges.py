"""Publish/subscribe: every type of exchange, bindings between exchanges, by pika."""

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

from conftest import bodies, take


@pytest.fixture
def queue(channel):
    """A queue of the test's own, named by the broker."""
    return channel.queue_declare("", exclusive=True).method.queue


@pytest.fixture
def exchange(channel, name):
    """`exchange(type, suffix)` declares one of the test's own and gives its name."""

    made = []

    def declare(kind, suffix="", auto_delete=False):
        made.append(name + suffix)
        channel.exchange_declare(made[-1], kind, auto_delete=auto_delete)
        return made[-1]

    yield declare
    if channel.is_open:
        for exchange in made:
            channel.exchange_delete(exchange)


def count(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_fanout_reaches_every_queue(channel, exchange):
    logs = exchange("fanout")
    queues = [channel.queue_declare("", exclusive=True).method.queue for _ in range(10)]
    for queue in queues:
        channel.queue_bind(queue, logs)
    channel.basic_publish(logs, "ignored", b"to all")
    for queue in queues:
        method, _, body = take(channel, queue, 1)[0]
        assert (body, method.exchange, method.routing_key) == (b"to all", logs, "ignored")
        assert channel.basic_get(queue)[0] is None


def test_direct_by_routing_key(channel, exchange, queue):
    logs = exchange("direct")
    other = channel.queue_declare("", exclusive=True).method.queue
    for key in ("info", "warning", "error"):
        channel.queue_bind(queue, logs, key)
    channel.queue_bind(other, logs, "error")
    for key in ("info", "debug", "error"):
        channel.basic_publish(logs, key, key.encode())
    assert bodies(channel, queue, 2) == [b"info", b"error"]
    assert bodies(channel, other, 1) == [b"error"]
    assert count(channel, queue) == count(channel, other) == 0


TOPICS = [
    # binding key, keys that match, keys that do not
    ("*.orange.*", ["quick.orange.rabbit", ".orange."], ["orange", "quick.orange", "a.b.orange.c"]),
    ("lazy.#", ["lazy", "lazy.fox", "lazy.a.b.c"], ["lazyfox", "a.lazy"]),
    ("#", ["", "a", "a.b.c", "..."], []),
    # An empty routing key has no word at all; between two dots there is an empty one.
    ("*", ["a", "#", "*"], ["", "a.b", "."]),
    ("#.end", ["end", "a.end", "a.b.end", ".end"], ["end.a", "ends"]),
    ("a.#.b", ["a.b", "a.x.b", "a.x.y.b", "a.a.b.b"], ["a", "b", "a.b.c"]),
    ("#.#", ["", "a", "a.b"], []),
    ("*.#", ["a", "a.b.c", "."], [""]),
    ("#.*", ["a", "a.b.c", "."], [""]),
    ("a..b", ["a..b"], ["a.b", "a.x.b"]),
    ("a.*.b", ["a.x.b", "a..b"], ["a.b", "a.x.y.b"]),
    ("", [""], ["a", "."]),
    ("*.*.#.*", ["a.b.c", "a.b.c.d.e"], ["a.b", "a"]),
    ("#.a.#.b.#", ["a.b", "x.a.y.b.z", "a.a.b"], ["b.a", "a", "x.a.y"]),
]  # fmt: skip


@pytest.mark.parametrize("binding_key, matching, others", TOPICS, ids=[row[0] or "empty" for row in TOPICS])
def test_topic(channel, exchange, queue, binding_key, matching, others):
    topics = exchange("topic")
    channel.queue_bind(queue, topics, binding_key)
    for key in matching + others:
        channel.basic_publish(topics, key, key.encode())
    # What is published after the others shows that none of them is still on its way.
    assert bodies(channel, queue, len(matching)) == [key.encode() for key in matching]
    assert channel.basic_get(queue)[0] is None


def test_topic_with_many_overlapping_bindings_delivers_once(channel, exchange, queue):
    topics = exchange("topic")
    for binding_key in ("#", "a.#", "*.b", "a.*", "a.b", "#.b", "a.b.#"):
        channel.queue_bind(queue, topics, binding_key)
    channel.basic_publish(topics, "a.b", b"once")
    assert bodies(channel, queue, 1) == [b"once"]
    assert channel.basic_get(queue)[0] is None
    for binding_key in ("#", "a.#", "*.b", "a.*", "#.b", "a.b.#"):
        channel.queue_unbind(queue, topics, binding_key)
    channel.basic_publish(topics, "a.c", b"no")
    channel.basic_publish(topics, "a.b", b"still")
    assert bodies(channel, queue, 1) == [b"still"]


HEADERS = [
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 0}, True),
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
    ({"x-match": "all", "a": 1}, {"a": 2}, False),
    ({"a": 1, "b": 2}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": "x"}, {"b": "x"}, True),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2, "b": "y"}, False),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "all"}, {"a": 1}, True),
    ({"x-match": "all", "a": None}, {"a": "anything"}, True),
    ({"x-match": "all", "a": None}, {"b": "anything"}, False),
    ({"x-match": "all", "x-a": 1}, {}, True),
    ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
    ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
    ({"x-match": "all-with-x", "x-a": 1}, {}, False),
    ({"x-match": "any-with-x", "x-a": 1, "b": 2}, {"x-a": 1}, True),
    ({"x-match": "all", "a": True}, {"a": True}, True),
    ({"x-match": "all", "a": True}, {"a": False}, False),
]


@pytest.mark.parametrize("arguments, headers, expected", HEADERS, ids=str)
def test_headers(channel, exchange, queue, arguments, headers, expected):
    headers_exchange = exchange("headers")
    channel.queue_bind(queue, headers_exchange, arguments=arguments)
    channel.basic_publish(headers_exchange, "", b"it", BasicProperties(headers=headers))
    channel.basic_publish("", queue, b"mark")
    expected_bodies = [b"it", b"mark"] if expected else [b"mark"]
    assert bodies(channel, queue, len(expected_bodies)) == expected_bodies


def test_bindings_between_exchanges(channel, exchange, queue):
    """Paths join and cycle; the queue gets the message once."""
    entry, left, right, last = (exchange("fanout", f".{n}") for n in range(4))
    for source, destination in [(entry, left), (entry, right), (left, last), (right, last), (last, entry)]:
        channel.exchange_bind(destination, source)
    channel.queue_bind(queue, last)
    channel.queue_bind(queue, left)
    channel.basic_publish(entry, "", b"once")
    assert bodies(channel, queue, 1) == [b"once"]
    assert channel.basic_get(queue)[0] is None
    channel.queue_unbind(queue, left)
    channel.exchange_unbind(last, left)
    channel.exchange_unbind(last, right)
    channel.basic_publish(entry, "", b"nowhere")
    channel.basic_publish(last, "", b"directly")
    assert bodies(channel, queue, 1) == [b"directly"]


def test_binding_filters_between_exchanges(channel, exchange, queue):
    topics, sink = exchange("topic", ".topics"), exchange("fanout", ".sink")
    channel.queue_bind(queue, sink)
    channel.exchange_bind(sink, topics, "orders.*")
    channel.basic_publish(topics, "orders.new", b"yes")
    channel.basic_publish(topics, "orders.new.big", b"no")
    method, _, body = take(channel, queue, 1)[0]
    assert (body, method.exchange, method.routing_key) == (b"yes", topics, "orders.new")
    assert channel.basic_get(queue)[0] is None


def test_predeclared_exchanges(channel, queue):
    for exchange, kind in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ]:
        channel.exchange_declare(exchange, kind, durable=True)
        channel.exchange_declare(exchange, passive=True)
        channel.queue_bind(queue, exchange, queue)
        channel.queue_unbind(queue, exchange, queue)


def test_an_auto_delete_exchange_goes_with_its_last_binding(channel, exchange, queue):
    fanout = exchange("fanout", auto_delete=True)
    channel.exchange_declare(fanout, passive=True)
    channel.queue_bind(queue, fanout)
    channel.queue_unbind(queue, fanout)
    with pytest.raises(ChannelClosedByBroker) as refused:
        channel.exchange_declare(fanout, passive=True)
    assert refused.value.reply_code == 404


def test_a_binding_stays_until_its_own_arguments_are_unbound(channel, exchange, queue):
    direct = exchange("direct")
    channel.queue_bind(queue, direct, "k")
    channel.queue_bind(queue, direct, "k")
    channel.queue_bind(queue, direct, "k", arguments={"n": 1})
    channel.basic_publish(direct, "k", b"once")
    assert bodies(channel, queue, 1) == [b"once"]
    assert channel.basic_get(queue)[0] is None
    channel.queue_unbind(queue, direct, "k")
    channel.basic_publish(direct, "k", b"by the other")
    assert bodies(channel, queue, 1) == [b"by the other"]
    channel.queue_unbind(queue, direct, "not there")
