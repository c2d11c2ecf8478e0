"""What a publisher gets back: returns, confirms, transactions, by pika."""

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from conftest import bodies, pump, take


@pytest.fixture
def queue(channel):
    return channel.queue_declare("", exclusive=True).method.queue


def count(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_confirm_of_each_message(channel, queue):
    channel.confirm_delivery()
    for number in range(50):
        channel.basic_publish("", queue, b"%d" % number, mandatory=True)
    assert bodies(channel, queue, 50) == [b"%d" % number for number in range(50)]


def test_mandatory_and_unroutable(channel, name):
    channel.confirm_delivery()
    with pytest.raises(UnroutableError) as returned:
        channel.basic_publish("amq.direct", name, b"lost", pika.BasicProperties(message_id="m"), mandatory=True)
    message = returned.value.messages[0]
    assert (message.method.reply_code, message.method.reply_text) == (312, "NO_ROUTE")
    assert (message.method.exchange, message.method.routing_key) == ("amq.direct", name)
    assert (message.body, message.properties.message_id) == (b"lost", "m")
    # Not mandatory: gone, and confirmed all the same.
    channel.basic_publish("amq.direct", name, b"lost")


class Raw:
    """A channel below pika's blocking one: nothing is waited for."""

    def __init__(self, connection):
        self.connection = connection
        self.channel = connection.channel()
        self.impl = self.channel._impl


def test_a_return_precedes_its_ack(broker, connect, name):
    raw = Raw(connect(broker))
    order = []
    raw.impl.add_on_return_callback(lambda _c, method, _p, body: order.append(("return", body)))
    raw.impl.confirm_delivery(lambda frame: order.append(("ack", frame.method.delivery_tag, frame.method.multiple)))
    for number in range(3):
        raw.impl.basic_publish("", name, b"%d" % number, mandatory=True)
    last = lambda: any(entry[0] == "ack" and entry[1] == 3 for entry in order)  # noqa: E731
    pump(raw.connection, last)
    settled = 0
    returned = 0
    for what, *rest in order:
        if what == "return":
            assert rest == [b"%d" % returned]
            returned += 1
        else:
            tag, multiple = rest
            assert tag <= returned, order
            settled = tag if multiple else settled + 1
    assert (returned, settled) == (3, 3)


def test_confirms_cover_every_tag_once(broker, connect, name):
    """Durable and transient, routed and not, mixed in one channel."""
    connection = connect(broker)
    raw = Raw(connection)
    durable, transient = name + ".durable", name + ".transient"
    raw.channel.queue_declare(durable, durable=True)
    raw.channel.queue_declare(transient)
    open_tags = set(range(1, 1001))

    def confirmed(frame):
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        tag = frame.method.delivery_tag
        settled = {t for t in open_tags if t <= tag} if frame.method.multiple else {tag}
        assert settled <= open_tags and tag in open_tags
        open_tags.difference_update(settled)

    raw.impl.confirm_delivery(confirmed)
    persistent = pika.BasicProperties(delivery_mode=2)
    for number in range(1000):
        queue = (durable, transient, name + ".none")[number % 3]
        raw.impl.basic_publish("", queue, b"x", persistent if number % 2 else None)
    pump(connection, lambda: not open_tags)
    assert raw.channel.queue_delete(durable).method.message_count == 334
    assert raw.channel.queue_delete(transient).method.message_count == 333


def test_commit_and_rollback(broker, connect, channel, queue):
    transaction = connect(broker).channel()
    transaction.tx_select()
    for number in range(3):
        transaction.basic_publish("", queue, b"%d" % number)
    assert count(channel, queue) == 0
    transaction.tx_commit()
    assert bodies(channel, queue, 3) == [b"0", b"1", b"2"]
    transaction.basic_publish("", queue, b"never")
    transaction.tx_rollback()
    transaction.basic_publish("", queue, b"then")
    transaction.tx_commit()
    assert bodies(channel, queue, 1) == [b"then"]


def test_acks_are_part_of_the_transaction(broker, connect, channel, name):
    channel.queue_declare(name)
    for text in (b"a", b"b"):
        channel.basic_publish("", name, text)
    transaction = connect(broker).channel()
    transaction.tx_select()
    tags = [method.delivery_tag for method, _, _ in take(transaction, name, 2, auto_ack=False)]
    transaction.basic_ack(tags[0])
    transaction.tx_commit()
    transaction.basic_ack(tags[1])
    transaction.tx_rollback()
    # Rolled back: the tag is open again.
    transaction.basic_ack(tags[1])
    transaction.connection.close()
    # Acked, never committed: it comes back.
    method, _, body = take(channel, name, 1)[0]
    assert (body, method.redelivered) == (b"b", True)
    assert channel.queue_delete(name).method.message_count == 0


def test_a_transaction_is_dropped_with_its_channel(channel, queue, connect, broker):
    transaction = connect(broker).channel()
    transaction.tx_select()
    transaction.basic_publish("", queue, b"never")
    transaction.close()
    channel.basic_publish("", queue, b"mark")
    assert bodies(channel, queue, 1) == [b"mark"]


def test_mandatory_in_a_transaction(broker, connect, name):
    transaction = connect(broker).channel()
    returned = []
    transaction.add_on_return_callback(lambda _c, method, _p, body: returned.append((method.reply_code, body)))
    transaction.tx_select()
    transaction.basic_publish("", name, b"nowhere", mandatory=True)
    transaction.connection.process_data_events(time_limit=0.1)
    assert returned == []
    transaction.tx_commit()
    pump(transaction.connection, lambda: returned)
    assert returned == [(312, b"nowhere")]


def test_no_mixing_of_confirms_and_transactions(broker, connect):
    connection = connect(broker)
    one = connection.channel()
    one.confirm_delivery()
    with pytest.raises(ChannelClosedByBroker) as refused:
        one.tx_select()
    assert refused.value.reply_code == 406
    assert refused.value.reply_text == "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    other = connection.channel()
    other.tx_select()
    with pytest.raises(ChannelClosedByBroker) as refused:
        other.confirm_delivery()
    assert refused.value.reply_text == "PRECONDITION_FAILED - cannot switch from tx to confirm mode"
    for commit_or_rollback in ("tx_commit", "tx_rollback"):
        with pytest.raises(ChannelClosedByBroker) as refused:
            getattr(connection.channel(), commit_or_rollback)()
        assert refused.value.reply_text == "PRECONDITION_FAILED - channel is not transactional"


def test_order_of_one_channel_is_kept(channel, queue):
    for number in range(5000):
        channel.basic_publish("", queue, b"%d" % number)
    got = []
    channel.basic_consume(queue, lambda _c, _m, _p, body: got.append(int(body)), auto_ack=True)
    pump(channel.connection, lambda: len(got) == 5000)
    assert got == list(range(5000))


def test_rpc_by_reply_to_and_correlation_id(broker, connect):
    """The tutorial's fibonacci, one server, calls that overlap."""
    server = connect(broker)
    requests = server.channel()
    queue = requests.queue_declare("", exclusive=True).method.queue

    def answer(channel, method, properties, body):
        a, b = 0, 1
        for _ in range(int(body)):
            a, b = b, a + b
        channel.basic_publish(
            "", properties.reply_to, str(a), pika.BasicProperties(correlation_id=properties.correlation_id)
        )
        channel.basic_ack(method.delivery_tag)

    requests.basic_qos(prefetch_count=1)
    requests.basic_consume(queue, answer)
    client = connect(broker)
    calls = client.channel()
    replies = calls.queue_declare("", exclusive=True).method.queue
    got = {}
    calls.basic_consume(replies, lambda _c, _m, p, body: got.setdefault(p.correlation_id, int(body)), auto_ack=True)
    for number in range(20):
        calls.basic_publish(
            "", queue, str(number), pika.BasicProperties(reply_to=replies, correlation_id=f"call {number}")
        )
    for _ in range(400):
        server.process_data_events(time_limit=0.01)
        client.process_data_events(time_limit=0.01)
        if len(got) == 20:
            break
    fibonacci = [0, 1]
    while len(fibonacci) < 20:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert got == {f"call {n}": value for n, value in enumerate(fibonacci)}
