"""AMQPStorm: a client whose threads share one connection."""

import threading

import amqpstorm
import pytest


@pytest.fixture
def storm(broker):
    with amqpstorm.Connection(broker.host, "guest", "guest", port=broker.port, heartbeat=5) as connection:
        yield connection


def test_amqpstorm_round_trip(storm, name):
    with storm.channel() as channel:
        channel.confirm_deliveries()
        channel.queue.declare(name, durable=True)
        for number in range(100):
            message = amqpstorm.Message.create(channel, str(number), {"delivery_mode": 2, "headers": {"n": number}})
            assert message.publish(name) is True
        channel.basic.qos(10)
        got = []

        def take(message):
            got.append((message.body, message.properties["headers"]["n"]))
            message.ack()
            if len(got) == 100:
                message.channel.stop_consuming()

        channel.basic.consume(take, name)
        channel.start_consuming()
        assert got == [(str(number), number) for number in range(100)]
        assert channel.queue.delete(name)["message_count"] == 0


def test_amqpstorm_threads_share_a_connection(storm, name):
    failures = []

    def work(number):
        try:
            with storm.channel() as channel:
                queue = channel.queue.declare("", exclusive=True)["queue"]
                for count in range(50):
                    channel.basic.publish(f"{number} {count}", queue)
                for count in range(50):
                    message = None
                    while message is None:
                        message = channel.basic.get(queue, no_ack=True)
                    assert message.body == f"{number} {count}"
        except BaseException as error:  # noqa: BLE001 (told below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_amqpstorm_errors(storm, name):
    with pytest.raises(amqpstorm.AMQPChannelError) as error:
        storm.channel().queue.declare(name, passive=True)
    assert error.value.error_code == 404
    with pytest.raises(amqpstorm.AMQPMessageError, match="312"):
        with storm.channel() as channel:
            channel.confirm_deliveries()
            channel.basic.publish("x", name, mandatory=True)


def test_amqpstorm_transaction(storm):
    with storm.channel() as channel:
        queue = channel.queue.declare("", exclusive=True)["queue"]
        with channel.tx:
            channel.basic.publish("kept", queue)
        with pytest.raises(KeyError):
            with channel.tx:
                channel.basic.publish("lost", queue)
                raise KeyError
        assert channel.basic.get(queue, no_ack=True).body == "kept"
        assert channel.basic.get(queue, no_ack=True) is None
