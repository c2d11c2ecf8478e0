"""aio-pika: pipelined confirms, many tasks on one connection, reconnecting by itself."""

import asyncio
import itertools
import time

import aio_pika
import pytest


def run(work, timeout_s=60):
    """Runs the coroutine function in a loop of its own, bounded in time."""

    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work()

    return asyncio.run(bounded())


def message(body, **more):
    return aio_pika.Message(body, **more)


def test_a_thousand_publishers_in_one_channel(broker, name):
    async def work():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            queue = await channel.declare_queue(name, durable=True)
            persistent = aio_pika.DeliveryMode.PERSISTENT
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(message(b"%d" % number, delivery_mode=persistent), name)
                    for number in range(1000)
                )
            )
            got = []
            async with queue.iterator() as messages:
                async for one in messages:
                    async with one.process():
                        got.append(int(one.body))
                    if len(got) == 1000:
                        break
            assert sorted(got) == list(range(1000))
            await queue.delete()

    run(work)


def test_returned_messages_raise(broker, name):
    async def work():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.DeliveryError) as error:
                await channel.default_exchange.publish(message(b"x"), name, mandatory=True)
            assert error.value.frame.reply_code == 312

    run(work)


def test_rpc_pattern(broker, name):
    async def work():
        async with await aio_pika.connect(broker.url) as connection:
            server = await aio_pika.patterns.RPC.create(await connection.channel())

            async def multiply(*, x, y):
                return x * y

            await server.register(name, multiply, auto_delete=True)
            client = await aio_pika.patterns.RPC.create(await connection.channel())
            results = await asyncio.gather(*(client.call(name, kwargs={"x": n, "y": n}) for n in range(50)))
            assert results == [n * n for n in range(50)]

    run(work)


def test_transaction(broker):
    async def work():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(exclusive=True)
            with pytest.raises(KeyError):
                async with channel.transaction():
                    await channel.default_exchange.publish(message(b"never"), queue.name)
                    raise KeyError
            async with channel.transaction():
                await channel.default_exchange.publish(message(b"kept"), queue.name)
            one = await queue.get(timeout=10)
            assert one.body == b"kept"
            await one.ack()

    run(work)


def test_reconnects_and_goes_on_after_a_kill(own_broker, name):
    """A robust connection declares and consumes again by itself; what was confirmed arrives at least once."""

    async def work():
        connection = await aio_pika.connect_robust(own_broker.url, reconnect_interval=0.2)
        consumer_channel = await connection.channel()
        await consumer_channel.set_qos(prefetch_count=50)
        queue = await consumer_channel.declare_queue(name, durable=True)
        got = []

        async def take(one):
            got.append((int(one.body), one.redelivered))
            await one.ack()

        await queue.consume(take)
        publisher = await aio_pika.connect_robust(own_broker.url, reconnect_interval=0.2)
        channel = await publisher.channel(publisher_confirms=True)
        confirmed = []
        numbers = itertools.count()
        stop = False

        async def publish():
            while not stop:
                number = next(numbers)
                one = message(b"%d" % number, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                try:
                    await asyncio.wait_for(channel.default_exchange.publish(one, name), 5)
                    confirmed.append(number)
                except (aio_pika.exceptions.AMQPError, ConnectionError, RuntimeError, TimeoutError):
                    await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish())

        async def until(condition):
            give_up = time.monotonic() + 40
            while not condition():
                assert time.monotonic() < give_up and not (publishing.done() and publishing.exception())
                await asyncio.sleep(0.01)

        await until(lambda: len(confirmed) > 200)
        await asyncio.to_thread(own_broker.kill)
        before = len(confirmed)
        await asyncio.to_thread(own_broker.start)
        await until(lambda: len(confirmed) > before + 200)
        stop = True
        await publishing
        await until(lambda: set(confirmed) <= {number for number, _ in got})
        # Whatever came twice was announced as such.
        seen = set()
        for number, redelivered in got:
            assert number not in seen or redelivered
            seen.add(number)
        await publisher.close()
        await connection.close()

    run(work, 85)
