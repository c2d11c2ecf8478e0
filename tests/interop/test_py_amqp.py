"""py-amqp, the client beneath kombu: what its own style does otherwise than pika's."""

import threading

import amqp
import pytest


@pytest.fixture
def connection(broker):
    made = amqp.Connection(f"{broker.host}:{broker.port}", userid="guest", password="guest", confirm_publish=True)
    made.connect()
    yield made
    if made.connected:
        made.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
def test_login(broker, mechanism):
    with amqp.Connection(f"{broker.host}:{broker.port}", userid="guest", password="guest", login_method=mechanism) as made:
        assert made.connected
    wrong = amqp.Connection(
        f"{broker.host}:{broker.port}", userid="guest", password="wrong", login_method=mechanism
    )
    with pytest.raises(amqp.AccessRefused):
        wrong.connect()


def test_round_trip(connection):
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    headers = {"text": "ü", "i": 1, "l": 2**40, "f": 0.25, "b": True, "n": None, "list": [1, {"x": [2]}]}
    message = amqp.Message(
        "grüße".encode(), content_type="text/plain", application_headers=headers, delivery_mode=2, priority=1
    )
    # Returns when the broker has confirmed.
    channel.basic_publish_confirm(message, "", queue)
    got = channel.basic_get(queue)
    assert got.body == "grüße".encode() or got.body == "grüße"
    assert got.headers == headers
    assert got.properties["delivery_mode"] == 2
    channel.basic_ack(got.delivery_tag)
    assert channel.basic_get(queue) is None


def test_consume_cancel_and_recover(connection):
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    got = []
    tag = channel.basic_consume(queue, callback=got.append)
    channel.basic_publish(amqp.Message("one"), "", queue)
    while len(got) < 1:
        connection.drain_events(timeout=10)
    channel.basic_recover(requeue=True)
    while len(got) < 2:
        connection.drain_events(timeout=10)
    assert [message.delivery_info["redelivered"] for message in got] == [False, True]
    channel.basic_ack(got[1].delivery_tag)
    channel.basic_cancel(tag)


def test_bindings(connection, name):
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    channel.exchange_declare(name, "topic", auto_delete=True)
    channel.exchange_bind(name, "amq.fanout")
    channel.queue_bind(queue, name, "a.*")
    channel.basic_publish_confirm(amqp.Message("one"), "amq.fanout", "a.b")
    assert channel.basic_get(queue, no_ack=True).body == "one"
    channel.queue_unbind(queue, name, "a.*")


def test_errors_by_class(connection, name):
    with pytest.raises(amqp.NotFound) as error:
        connection.channel().queue_declare(name, passive=True)
    assert error.value.reply_code == 404
    assert error.value.method_sig == (50, 10)
    with pytest.raises(amqp.PreconditionFailed) as error:
        connection.channel().exchange_declare("amq.topic", "fanout", durable=True)
    assert error.value.method_sig == (40, 10)
    with pytest.raises(amqp.AccessRefused):
        connection.channel().queue_declare("amq.mine")
    with pytest.raises(amqp.exceptions.AMQPNotImplementedError) as error:
        connection.channel().basic_qos(100, 0, False)
    assert (error.value.reply_code, error.value.method_sig) == (540, (60, 10))


def test_transactions(connection):
    plain = amqp.Connection(connection.host, userid="guest", password="guest")
    with plain:
        channel = plain.channel()
        queue = channel.queue_declare(exclusive=True).queue
        channel.tx_select()
        channel.basic_publish(amqp.Message("one"), "", queue)
        assert plain.channel().queue_declare(queue, passive=True).message_count == 0
        channel.tx_commit()
        assert plain.channel().queue_declare(queue, passive=True).message_count == 1


def test_heartbeats_from_the_client(broker):
    """`heartbeat_tick` is called by whoever uses py-amqp: every half interval, as kombu does it."""
    with amqp.Connection(f"{broker.host}:{broker.port}", userid="guest", password="guest", heartbeat=2) as made:
        stop = threading.Event()
        for _ in range(8):
            stop.wait(0.5)
            made.heartbeat_tick()
            try:
                made.drain_events(timeout=0.01)
            except TimeoutError:
                pass
        made.channel().close()
