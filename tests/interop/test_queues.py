"""Declaring, sharing, losing and deleting queues, by pika."""

import re
import time

import pytest
from pika.exceptions import ChannelClosedByBroker

from conftest import bodies, break_socket, pump


def refused(code, text, call, *arguments, **more):
    """The call must close its channel with this code, and a text that matches."""
    with pytest.raises(ChannelClosedByBroker) as error:
        call(*arguments, **more)
    assert error.value.reply_code == code
    assert re.search(text, error.value.reply_text), error.value.reply_text


def exists(connection, queue):
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except ChannelClosedByBroker as error:
        assert error.reply_code == 404
        return False
    channel.close()
    return True


def soon(condition, timeout_s=10):
    """What happens at the end of a connection is seen by others a moment later."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_named_by_the_broker(channel):
    names = [channel.queue_declare("", exclusive=True).method.queue for _ in range(10)]
    assert len(set(names)) == 10
    assert all(re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", name) for name in names)


def test_passive_declare_counts(channel, name):
    channel.queue_declare(name)
    for _ in range(5):
        channel.basic_publish("", name, b"x")
    channel.basic_get(name)
    answer = channel.queue_declare(name, passive=True).method
    assert (answer.queue, answer.message_count, answer.consumer_count) == (name, 4, 0)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(name, lambda *_: None)
    pump(channel.connection, lambda: True)
    answer = channel.queue_declare(name, passive=True, durable=True, auto_delete=True).method
    assert (answer.message_count, answer.consumer_count) == (3, 1)
    # Whatever else a passive declare says is ignored.
    channel.queue_declare(name, passive=True, arguments={"x-max-length": 5})


def test_declared_again_alike(channel, name):
    arguments = {"x-max-length": 10, "x-unknown": "ignored"}
    channel.queue_declare(name, durable=True, arguments=arguments)
    channel.basic_publish("", name, b"x")
    assert channel.queue_declare(name, durable=True, arguments=arguments).method.message_count in (0, 1)
    channel.queue_declare(name, durable=True, arguments={"x-max-length": 10})
    channel.queue_delete(name)


UNLIKE = [
    ({"durable": False}, "inequivalent arg 'durable' for queue '.*' in vhost '/': received 'false' but current is 'true'"),
    ({"auto_delete": True}, "inequivalent arg 'auto_delete' for queue '.*' in vhost '/': received 'true' but current is 'false'"),
    ({"arguments": {"x-max-length": 11}}, "inequivalent arg 'x-max-length' for queue '.*' in vhost '/': received '11' but current is '10'"),
    ({"arguments": {}}, "inequivalent arg 'x-max-length' for queue '.*' in vhost '/': received none but current is the value '10' of type '[a-z]+'"),
    (
        {"arguments": {"x-max-length": 10, "x-message-ttl": 5}},
        "inequivalent arg 'x-message-ttl' for queue '.*' in vhost '/': received the value '5' of type '[a-z]+' but current is none",
    ),
]  # fmt: skip


@pytest.mark.parametrize("change, text", UNLIKE, ids=lambda value: str(value)[:30])
def test_declared_again_unlike(broker, connect, channel, name, change, text):
    alike = {"durable": True, "auto_delete": False, "arguments": {"x-max-length": 10}}
    channel.queue_declare(name, **alike)
    refused(406, "^PRECONDITION_FAILED - " + text, connect(broker).channel().queue_declare, name, **{**alike, **change})
    channel.queue_delete(name)


def test_exclusive_is_for_its_connection_only(broker, connect, channel, name):
    channel.queue_declare(name, exclusive=True)
    text = f"^RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{re.escape(name)}' in vhost '/'"
    other = connect(broker)
    refused(405, text, other.channel().queue_declare, name, exclusive=True)
    refused(405, text, other.channel().queue_declare, name, passive=True)
    refused(405, text, other.channel().basic_consume, name, lambda *_: None)
    refused(405, text, other.channel().basic_get, name)
    refused(405, text, other.channel().queue_bind, name, "amq.direct", "k")
    refused(405, text, other.channel().queue_purge, name)
    refused(405, text, other.channel().queue_delete, name)
    # Publishing to it is free for everybody.
    other.channel().basic_publish("", name, b"from another")
    assert bodies(channel, name, 1) == [b"from another"]
    channel.connection.close()
    assert not exists(other, name)


def test_exclusive_goes_when_the_socket_breaks(broker, connect, name):
    doomed = connect(broker)
    doomed.channel().queue_declare(name, exclusive=True)
    break_socket(doomed)
    other = connect(broker)

    def gone():
        try:
            return not exists(other, name)
        except AssertionError:  # 405: the broker has not noticed yet
            return False

    soon(gone)


def test_auto_delete_goes_with_its_last_consumer(broker, connect, channel, name):
    channel.queue_declare(name, auto_delete=True)
    other = connect(broker)
    first, second = other.channel(), other.channel()
    tag = first.basic_consume(name, lambda *_: None)
    second.basic_consume(name, lambda *_: None)
    first.basic_cancel(tag)
    assert exists(connect(broker), name)
    second.close()
    soon(lambda: not exists(channel.connection, name))


def test_auto_delete_stays_without_a_first_consumer(broker, connect, name):
    declaring = connect(broker)
    declaring.channel().queue_declare(name, auto_delete=True)
    declaring.close()
    other = connect(broker)
    assert exists(other, name)
    other.channel().queue_delete(name)


def test_delete_and_purge_count(channel, name):
    channel.queue_declare(name)
    for _ in range(5):
        channel.basic_publish("", name, b"x")
    channel.basic_get(name)
    assert channel.queue_purge(name).method.message_count == 4
    channel.basic_publish("", name, b"x")
    assert channel.queue_delete(name).method.message_count == 1
    assert channel.queue_delete(name).method.message_count == 0


def test_delete_only_if(broker, connect, channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, b"x")
    where = f"queue '{re.escape(name)}' in vhost '/'"
    other = connect(broker)
    refused(406, f"^PRECONDITION_FAILED - {where} not empty$", other.channel().queue_delete, name, if_empty=True)
    channel.basic_consume(name, lambda *_: None)
    refused(406, f"^PRECONDITION_FAILED - {where} in use$", other.channel().queue_delete, name, if_unused=True)
    channel.queue_delete(name)


def test_consumers_learn_that_their_queue_is_gone(broker, connect, channel, name):
    channel.queue_declare(name)
    consumer = connect(broker).channel()
    cancelled = []
    consumer.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tags = [consumer.basic_consume(name, lambda *_: None) for _ in range(2)]
    channel.queue_delete(name)
    pump(consumer.connection, lambda: len(cancelled) == 2)
    assert sorted(cancelled) == sorted(tags)
    assert consumer.is_open


def test_an_exclusive_consumer_keeps_others_away(broker, connect, channel, name):
    channel.queue_declare(name)
    other = connect(broker)
    tag = channel.basic_consume(name, lambda *_: None, exclusive=True)
    text = f"^ACCESS_REFUSED - queue '{re.escape(name)}' in vhost '/' in exclusive use$"
    refused(403, text, other.channel().basic_consume, name, lambda *_: None)
    channel.basic_cancel(tag)
    usual = other.channel()
    usual.basic_consume(name, lambda *_: None)
    refused(403, text, channel.basic_consume, name, lambda *_: None, exclusive=True)
    usual.queue_delete(name)


def test_names_of_any_letters(channel):
    for name in ("ünïcödé 名前", "with 'quotes' \"and\" \\ slashes/", "x" * 255, "..", "%2F"):
        channel.queue_declare(name, exclusive=True)
        channel.basic_publish("", name, name.encode())
        assert bodies(channel, name, 1) == [name.encode()]


def test_transient_and_not_exclusive(channel, name):
    """RabbitMQ 4.3 refuses these by default; half of the field declares them, so leveret does not."""
    channel.queue_declare(name, durable=False, exclusive=False)
    channel.queue_delete(name)
