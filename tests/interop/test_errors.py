"""What a client is told when it does something wrong, and what stays untouched by it; by pika.

Where 4.x answers otherwise than 3.x, both answers are here: `broker.generation` chooses.
"""

import re

import pika
import pytest
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from conftest import bodies, parameters, pump


def send(channel, method):
    """Sends a method without waiting for an answer, then runs until the broker has closed something."""
    channel._impl._send_method(method)
    give_up = [200]

    def closed():
        give_up[0] -= 1
        assert give_up[0], "nothing was closed"
        return channel.is_closed

    pump(channel.connection, closed)


def channel_error(code, text, provoke, channel):
    """`provoke(channel)` must end in channel.close(code, text); the connection and its other channels go on."""
    connection = channel.connection
    bystander = connection.channel()
    queue = bystander.queue_declare("", exclusive=True).method.queue
    with pytest.raises(ChannelClosedByBroker) as error:
        provoke(channel)
    assert (error.value.reply_code, error.value.reply_text) == (code, text)
    bystander.basic_publish("", queue, b"untouched")
    assert bodies(bystander, queue, 1) == [b"untouched"]
    # The number of the closed channel is free again.
    again = connection.channel(channel.channel_number)
    again.queue_declare(queue, passive=True)


def published(method_channel, *arguments):
    """basic.publish is not answered: a following synchronous method meets the closed channel."""
    method_channel.basic_publish(*arguments)
    method_channel.basic_qos(prefetch_count=1)


CHANNEL_ERRORS = {
    "publish to no exchange": (
        404, "NOT_FOUND - no exchange 'nope' in vhost '/'", lambda c: published(c, "nope", "k", b"x"),
    ),
    "passive exchange": (
        404, "NOT_FOUND - no exchange 'nope' in vhost '/'", lambda c: c.exchange_declare("nope", passive=True),
    ),
    "passive queue": (
        404, "NOT_FOUND - no queue 'nope' in vhost '/'", lambda c: c.queue_declare("nope", passive=True),
    ),
    "consume from no queue": (
        404, "NOT_FOUND - no queue 'nope' in vhost '/'", lambda c: c.basic_consume("nope", lambda *_: None),
    ),
    "get from no queue": (404, "NOT_FOUND - no queue 'nope' in vhost '/'", lambda c: c.basic_get("nope")),
    "purge no queue": (404, "NOT_FOUND - no queue 'nope' in vhost '/'", lambda c: c.queue_purge("nope")),
    "bind no queue": (
        404, "NOT_FOUND - no queue 'nope' in vhost '/'", lambda c: c.queue_bind("nope", "amq.direct", "k"),
    ),
    "get from the last declared queue, none declared": (
        404, "NOT_FOUND - no previously declared queue", lambda c: c.basic_get(""),
    ),
    "reserved queue name": (
        403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        lambda c: c.queue_declare("amq.mine"),
    ),
    "reserved exchange name": (
        403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        lambda c: c.exchange_declare("amq.mine"),
    ),
    "declare the default exchange": (
        403, "ACCESS_REFUSED - operation not permitted on the default exchange",
        lambda c: c.exchange_declare("", "direct", durable=True),
    ),
    "bind to the default exchange": (
        403, "ACCESS_REFUSED - operation not permitted on the default exchange",
        lambda c: c.queue_bind(c.queue_declare("", exclusive=True).method.queue, "", "k"),
    ),
    "delete a predeclared exchange": (
        403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
        lambda c: c.exchange_delete("amq.direct"),
    ),
    "another type": (
        406,
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': "
        "received 'topic' but current is 'direct'",
        lambda c: c.exchange_declare("amq.direct", "topic", durable=True),
    ),
    "another durability": (
        406,
        "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': "
        "received 'false' but current is 'true'",
        lambda c: c.exchange_declare("amq.direct", "direct"),
    ),
    "ack of an unknown tag": (
        406, "PRECONDITION_FAILED - unknown delivery tag 7", lambda c: (c.basic_ack(7), c.basic_qos(prefetch_count=1)),
    ),
    "nack of an unknown tag": (
        406, "PRECONDITION_FAILED - unknown delivery tag 8", lambda c: (c.basic_nack(8), c.basic_qos(prefetch_count=1)),
    ),
    "reject of an unknown tag": (
        406, "PRECONDITION_FAILED - unknown delivery tag 9", lambda c: (c.basic_reject(9), c.basic_qos(prefetch_count=1)),
    ),
    "another user's id": (
        406, "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'",
        lambda c: published(c, "", "k", b"x", pika.BasicProperties(user_id="other")),
    ),
    "expiration that is no number": (
        406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer",
        lambda c: published(c, "", "k", b"x", pika.BasicProperties(expiration="abc")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("code, text, provoke", CHANNEL_ERRORS.values(), ids=CHANNEL_ERRORS.keys())
def test_closes_the_channel_only(channel, code, text, provoke):
    channel_error(code, text, provoke, channel)


def test_double_ack(channel):
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"x")
    tag = channel.basic_get(queue)[0].delivery_tag

    def twice(channel):
        channel.basic_ack(tag)
        channel.basic_ack(tag)
        channel.basic_qos(prefetch_count=1)

    channel_error(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}", twice, channel)


def test_internal_exchange(channel, name):
    channel.exchange_declare(name, "fanout", internal=True)
    text = f"ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'"
    channel_error(403, text, lambda c: published(c, name, "", b"x"), channel)
    channel.connection.channel().exchange_delete(name)


def test_exchange_in_use(channel, name):
    channel.exchange_declare(name, "fanout")
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, name)
    text = f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"
    channel_error(406, text, lambda c: c.exchange_delete(name, if_unused=True), channel)
    channel.connection.channel().exchange_delete(name)
    channel.connection.channel().exchange_delete(name)


def test_unknown_exchange_type(broker, channel, name):
    declare = lambda c: c.exchange_declare(name, "nonsense")  # noqa: E731
    if broker.generation == 4:
        channel_error(406, "PRECONDITION_FAILED - unknown exchange type 'nonsense'", declare, channel)
    else:
        with pytest.raises(ConnectionClosedByBroker) as error:
            declare(channel)
        assert error.value.reply_code == 503


CONNECTION_ERRORS = {
    "immediate": (
        540, "NOT_IMPLEMENTED - immediate=true",
        lambda c: (
            c._impl._send_method(
                pika.spec.Basic.Publish(exchange="", routing_key="k", immediate=True), (pika.BasicProperties(), b"x")
            ),
            c.basic_qos(prefetch_count=1),
        ),
    ),
    "prefetch size": (540, r"NOT_IMPLEMENTED - prefetch_size!=0 \(100\)", lambda c: c.basic_qos(prefetch_size=100)),
    "recover without requeue": (540, "NOT_IMPLEMENTED - requeue=false", lambda c: c.basic_recover(requeue=False)),
    "flow off": (540, "NOT_IMPLEMENTED - active=false", lambda c: c.flow(False)),
    "consumer tag used twice": (
        530, "NOT_ALLOWED - attempt to reuse consumer tag 'twice'",
        lambda c: [
            c._impl._send_method(pika.spec.Basic.Consume(queue=q, consumer_tag="twice"))
            for q in [c.queue_declare("", exclusive=True).method.queue] * 2
        ] and send(c, pika.spec.Basic.Qos()),
    ),
    "second channel.open": (504, "CHANNEL_ERROR - second 'channel.open' seen", lambda c: send(c, pika.spec.Channel.Open())),
}  # fmt: skip


@pytest.mark.parametrize("code, text, provoke", CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS.keys())
def test_closes_the_connection(broker, connect, channel, code, text, provoke):
    queue = channel.queue_declare("", exclusive=True).method.queue
    with pytest.raises(ConnectionClosedByBroker) as error:
        provoke(connect(broker).channel())
    assert error.value.reply_code == code
    assert re.fullmatch(text, error.value.reply_text), error.value.reply_text
    # Other connections do not notice.
    channel.basic_publish("", queue, b"untouched")
    assert bodies(channel, queue, 1) == [b"untouched"]


def test_a_method_on_a_channel_that_is_not_open(broker, connect):
    connection = connect(broker)
    channel = connection.channel()
    frame = pika.frame.Method(channel.channel_number + 1, pika.spec.Basic.Qos())
    connection._impl._output_marshaled_frames([frame.marshal()])
    with pytest.raises(ConnectionClosedByBroker) as error:
        pump(connection, lambda: connection.is_closed)
    assert (error.value.reply_code, error.value.reply_text) == (504, "CHANNEL_ERROR - expected 'channel.open'")


def test_wrong_password(broker):
    credentials = pika.PlainCredentials("guest", "wrong")
    with pytest.raises(ProbableAuthenticationError) as error:
        pika.BlockingConnection(parameters(broker, credentials=credentials))
    text = "Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
    assert f"(403) 'ACCESS_REFUSED - {text}'" in str(error.value)


def test_unknown_user(broker):
    credentials = pika.PlainCredentials("nobody", "guest")
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(parameters(broker, credentials=credentials))


def test_unknown_vhost(broker):
    with pytest.raises((ProbableAccessDeniedError, AMQPConnectionError)) as error:
        pika.BlockingConnection(parameters(broker, virtual_host="nope"))
    assert "(530) 'NOT_ALLOWED - vhost nope not found'" in str(error.value)


@pytest.mark.parametrize("frame_max", [131072, 8192])
def test_frame_max_as_the_client_wants_it(broker, connect, frame_max):
    channel = connect(broker, frame_max=frame_max).channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    body = bytes(range(256)) * 1000
    channel.basic_publish("", queue, body)
    assert bodies(channel, queue, 1) == [body]


def test_a_frame_max_of_4096_is_accepted(broker, connect):
    """4.1 and later refuse it and with it every older amqplib; leveret, like 3.x, does not."""
    channel = connect(broker, frame_max=4096).channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"x" * 10_000)
    assert bodies(channel, queue, 1) == [b"x" * 10_000]


def test_channel_max_as_the_client_wants_it(broker, connect):
    connection = connect(broker, channel_max=5)
    channels = [connection.channel() for _ in range(5)]
    with pytest.raises(pika.exceptions.NoFreeChannels):
        connection.channel()
    assert len(channels) == 5


@pytest.mark.leveret_only("RabbitMQ waits for the whole body before it refuses; its 4.x has another limit")
def test_a_message_over_the_limit(channel):
    """128 MiB, as 3.x. The header is enough to refuse it; the frames that the client goes on to send are ignored."""
    limit = 134217728
    queue = channel.queue_declare("", exclusive=True).method.queue
    number = channel.channel_number

    def publish(channel):
        frames = [
            pika.frame.Method(number, pika.spec.Basic.Publish(exchange="", routing_key=queue)),
            pika.frame.Header(number, limit + 1, pika.BasicProperties()),
            *[pika.frame.Body(number, b"x" * 100_000)] * 20,
        ]
        channel.connection._impl._output_marshaled_frames([frame.marshal() for frame in frames])
        pump(channel.connection, lambda: channel.is_closed)
        raise channel._closing_reason

    text = f"PRECONDITION_FAILED - message size {limit + 1} is larger than configured max size {limit}"
    channel_error(406, text, publish, channel)
