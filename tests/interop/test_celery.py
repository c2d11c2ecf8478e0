"""Celery with a real worker, and kombu's broadcasts and events."""

import os
import queue
import subprocess
import sys
import textwrap
import threading
import time

import kombu
import kombu.pidbox
import pytest
from celery import Celery

from conftest import in_thread

TASKS = """
import os
import time

from celery import Celery

app = Celery("tasks", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=False,
    broker_heartbeat=10,
    result_expires=60,
    task_default_queue=os.environ["TASK_QUEUE"],
    task_send_sent_event=True,
    worker_send_task_events=True,
)


@app.task
def add(a, b):
    return a + b


@app.task
def fail(text):
    raise ValueError(text)


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(1)
    return "survived"


@app.task
def priority_of(word):
    return word
"""


@pytest.fixture
def celery(broker, tmp_path, name):
    """An application whose worker runs as a process of its own: `celery -A tasks worker`."""
    (tmp_path / "tasks.py").write_text(TASKS)
    environment = {
        **os.environ,
        "AMQP_URL": broker.url,
        "TASK_QUEUE": name,
        "PYTHONPATH": str(tmp_path),
        "C_FORCE_ROOT": "1",
    }
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel=info", "--concurrency=2"]
    log = tmp_path / "worker.log"
    with open(log, "wb") as out:
        worker = subprocess.Popen(
            [*command, f"--hostname={name}@localhost"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        give_up = time.monotonic() + 40
        while b" ready." not in log.read_bytes():
            assert worker.poll() is None and time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        app = Celery("tasks", broker=broker.url, backend="rpc://")
        app.conf.task_default_queue = name
        app.worker_name = f"{name}@localhost"
        app.worker_log = log
        yield app
        app.close()
    finally:
        # The worker's children too: its own session is its process group.
        os.killpg(worker.pid, 15)
        try:
            worker.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, 9)
            worker.wait(5)


def test_tasks_results_control_and_events(celery, tmp_path):
    """One worker for all of these: it takes seconds to start."""
    events = queue.Queue()
    stop, listening = threading.Event(), threading.Event()

    def listen():
        with celery.connection_for_read() as connection:
            receiver = celery.events.Receiver(connection, handlers={"*": events.put})
            with receiver.consumer_context(wakeup=True) as (own, _, _):
                listening.set()
                while not stop.is_set():
                    try:
                        own.drain_events(timeout=0.2)
                    except TimeoutError:
                        pass

    listener = in_thread(listen)
    try:
        assert listening.wait(20)
        send = celery.send_task
        assert send("tasks.add", (2, 3)).get(timeout=20) == 5
        results = [send("tasks.add", (number, number)) for number in range(100)]
        assert [result.get(timeout=20) for result in results] == [2 * number for number in range(100)]
        with pytest.raises(ValueError, match="no good"):
            send("tasks.fail", ("no good",)).get(timeout=20)
        assert send("tasks.third_time").get(timeout=20) == 2
        assert send("tasks.add", (1, 1), countdown=0.5).get(timeout=20) == 2
        # The process that runs the task dies before its ack: another one gets the message.
        assert send("tasks.die_once", (str(tmp_path / "died"),)).get(timeout=30) == "survived"

        # pidbox: a fan-out to all workers, answers to a queue of the asker's own.
        name = celery.worker_name
        assert celery.control.ping(destination=[name], timeout=5) == [{name: {"ok": "pong"}}]
        inspect = celery.control.inspect(destination=[name], timeout=5)
        assert "tasks.add" in inspect.registered()[name]
        assert inspect.active_queues()[name][0]["name"] == celery.conf.task_default_queue
        stats = inspect.stats()[name]
        assert stats["broker"]["transport"] == "amqp"

        kinds = set()
        give_up = time.monotonic() + 10
        while not {"task-received", "task-started", "task-succeeded", "task-failed", "task-retried"} <= kinds:
            assert time.monotonic() < give_up, kinds
            try:
                kinds.add(events.get(timeout=1)["type"])
            except queue.Empty:
                pass
    finally:
        stop.set()
        listener()


def test_kombu_pidbox(broker, name):
    """Broadcast and reply as Celery's remote control does it."""
    with kombu.Connection(broker.url) as connection, kombu.Connection(broker.url) as caller:
        mailbox = kombu.pidbox.Mailbox(name, type="fanout")
        node = mailbox(connection).Node("one", state={}, channel=connection.default_channel)
        node.handlers["double"] = lambda state, value: value * 2
        with node.listen():
            stop = threading.Event()

            def serve():
                while not stop.is_set():
                    try:
                        connection.drain_events(timeout=0.1)
                    except TimeoutError:
                        pass

            serving = in_thread(serve)
            try:
                asked = mailbox(caller)
                replies = asked.multi_call("double", {"value": 21}, timeout=3, limit=1)
            finally:
                stop.set()
                serving()
        assert replies == [{"one": 42}]


def test_kombu_producer_and_consumer(broker, name):
    exchange = kombu.Exchange(name, "topic", durable=True, auto_delete=True)
    orders = kombu.Queue(name, exchange, routing_key="orders.#", max_length=100, auto_delete=True)
    got = []

    def take(body, message):
        got.append((body, message.delivery_info["routing_key"], message.headers.get("n")))
        message.ack()

    with kombu.Connection(broker.url) as connection:
        with connection.Consumer(orders, callbacks=[take], accept=["json"]) as consumer:
            consumer.qos(prefetch_count=10)
            producer = connection.Producer(serializer="json")
            for number in range(20):
                producer.publish(
                    {"order": number},
                    exchange=exchange,
                    routing_key=f"orders.{number}",
                    headers={"n": number},
                    declare=[orders],
                    retry=True,
                    compression="zlib",
                )
            while len(got) < 20:
                connection.drain_events(timeout=10)
        assert [body["order"] for body, _, _ in got] == list(range(20))
        assert [number for _, _, number in got] == list(range(20))
        simple = connection.SimpleQueue(f"{name}.simple", queue_opts={"durable": True})
        simple.put({"a": [1, "two", None]}, headers={"x": 1})
        message = simple.get(timeout=10)
        assert message.payload == {"a": [1, "two", None]}
        message.ack()
        with pytest.raises(simple.Empty):
            simple.get(block=False)
        simple.close()
        simple.queue.bind(connection).delete()


def test_kombu_knows_the_broker_by_its_version(broker):
    """kombu chooses the meaning of global qos by product and version; both must be there."""
    with kombu.Connection(broker.url) as connection:
        properties = connection.connection.server_properties
        assert properties["product"] == "RabbitMQ"
        major = int(properties["version"].split(".")[0])
        assert connection.transport.qos_semantics_matches_spec(connection.connection) == (major >= 4)
