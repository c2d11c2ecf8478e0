"""The binary as operators meet it: start, stop, refusals, `ctl` by its names, the HTTP API's first routes."""

import base64
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pika
import pytest

import broker as brokers
from conftest import bodies, parameters

pytestmark = pytest.mark.leveret_only("about leveret's own binary")

BINARY = pathlib.Path(os.environ.get("LEVERET_BIN", brokers.ROOT / "target/interop/leveret"))


def run(*words, timeout_s=20, **more):
    """Runs the binary to its end; gives (exit code, stdout, stderr)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "LEVERET_"))}
    done = subprocess.run(
        [more.pop("binary", BINARY), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**environment, **more.pop("env", {})},
        **more,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def ctl(broker, tmp_path):
    """`ctl("list_queues", "name")` runs the binary as `rabbitmqctl` on the shared broker; gives its stdout."""
    name = tmp_path / "rabbitmqctl"
    name.symlink_to(BINARY)

    def ctl(*words, code=0):
        got, out, err = run(*words, binary=name, env={"LEVERET_DATA_DIR": str(broker.directory / "data")})
        assert got == code, (got, out, err)
        return out if code == 0 else out + err

    return ctl


def rows(text):
    """Lines of a listing, split at tabs; the lines of courtesy before them left out."""
    return [line.split("\t") for line in text.splitlines() if not line.startswith(("Timeout:", "Listing "))]


def test_help_and_version():
    code, out, _ = run("--help")
    assert code == 0
    for option in ("--config", "--data-dir", "--listen", "--http", "--sync", "--log-level", "--version", "ctl", "inspect"):
        assert option in out
    code, out, _ = run("--version")
    assert code == 0 and re.search(r"leveret \d+\.\d+\.\d+", out)


@pytest.mark.parametrize("words", [["--nonsense"], ["--listen", "nowhere"], ["--sync", "perhaps"], ["--listen"], ["surplus"]])
def test_a_bad_command_line(tmp_path, words):
    code, out, err = run(*words, cwd=tmp_path)
    assert code == 64, (code, out, err)
    assert words[0] in out + err
    assert not list(tmp_path.iterdir()), "nothing is made before the command line is understood"


def test_a_second_broker_on_the_same_directory(broker):
    data = broker.directory / "data"
    code, out, err = run("--data-dir", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert code not in (0, 101, -6)
    assert str(data) in out + err


def test_a_port_in_use(broker, tmp_path):
    code, out, err = run("--data-dir", tmp_path / "data", "--listen", f"127.0.0.1:{broker.port}", "--http", "127.0.0.1:0")
    assert code not in (0, 101, -6)
    assert str(broker.port) in out + err


def test_a_data_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    code, out, err = run("--data-dir", tmp_path / "file", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert code not in (0, 101, -6)
    assert str(tmp_path / "file") in out + err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_an_orderly_stop(own_broker, connect, number):
    connection = connect(own_broker)
    since = time.monotonic()
    own_broker.process.send_signal(number)
    assert own_broker.process.wait(10) == 0
    assert time.monotonic() - since < 1.5
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        connection.process_data_events(time_limit=5)
    assert closed.value.reply_code == 320
    assert closed.value.reply_text == "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
    own_broker.start()


def test_ready_line_on_stdout(own_broker):
    text = own_broker.log.read_text()
    assert "Server startup complete; 0 plugins started." in text
    assert text.index("started TCP listener on 127.0.0.1:") < text.index("Server startup complete")


def test_the_directory_is_its_owners(own_broker):
    data = own_broker.directory / "data"
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "control.sock").stat().st_mode & 0o777 == 0o600


def test_two_listeners(tmp_path):
    broker = brokers.Broker("--listen", "127.0.0.1:0").start()
    try:
        ports = set(map(int, re.findall(r"started TCP listener on 127\.0\.0\.1:(\d+)", broker.log.read_text())))
        assert len(ports) >= 2
        for port in ports:
            pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).close()
    finally:
        broker.remove()


def test_ipv6():
    broker = brokers.Broker("--listen", "[::1]:0").start()
    try:
        port = int(re.search(r"started TCP listener on \[::1\]:(\d+)", broker.log.read_text())[1])
        connection = pika.BlockingConnection(pika.ConnectionParameters("::1", port))
        connection.channel().queue_declare("", exclusive=True)
        connection.close()
    finally:
        broker.remove()


def test_ping_and_status(ctl):
    assert "Ping succeeded" in ctl("ping")
    status = ctl("status")
    assert re.search(r"(?i)leveret|rabbitmq", status)


def test_list_queues(ctl, channel, name):
    channel.queue_declare(name, durable=True)
    channel.confirm_delivery()
    for _ in range(3):
        channel.basic_publish("", name, b"x")
    channel.basic_get(name)
    listed = rows(ctl("list_queues", "name", "messages", "messages_ready", "messages_unacknowledged", "consumers"))
    assert listed[0] == ["name", "messages", "messages_ready", "messages_unacknowledged", "consumers"]
    assert [name, "3", "2", "1", "0"] in listed
    assert [name, "3"] in rows(ctl("list_queues"))
    assert [name, "3"] in rows(ctl("-q", "list_queues", "--no-table-headers", "-p", "/"))
    as_json = json.loads(ctl("list_queues", "name", "durable", "--formatter", "json"))
    assert {"name": name, "durable": True} in as_json
    # 2: what is unacked stays.
    ctl("purge_queue", name)
    assert [name, "1"] in rows(ctl("list_queues"))
    ctl("delete_queue", name)
    assert name not in ctl("list_queues")


def test_list_the_rest(ctl, connect, broker, channel, name):
    channel.exchange_declare(name, "topic", auto_delete=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, name, "a.b")
    tag = channel.basic_consume(queue, lambda *_: None)
    assert [name, "topic"] in rows(ctl("list_exchanges"))
    assert ["amq.direct", "direct"] in rows(ctl("list_exchanges", "name", "type"))
    bindings = rows(ctl("list_bindings"))
    assert [name, "exchange", queue, "queue", "a.b", "[]"] in bindings
    consumers = ctl("list_consumers")
    assert tag in consumers and queue in consumers
    connections = rows(ctl("list_connections", "user", "peer_host", "state"))
    assert ["guest", "127.0.0.1", "running"] in connections
    channels = rows(ctl("list_channels", "number", "consumer_count"))
    assert ["1", "1"] in channels


def test_users_vhosts_and_permissions(ctl, broker, name):
    def login(password, vhost="/"):
        credentials = pika.PlainCredentials(name, password)
        return pika.BlockingConnection(parameters(broker, credentials=credentials, virtual_host=vhost))

    ctl("add_user", name, "first")
    try:
        assert name in [row[0] for row in rows(ctl("list_users"))]
        with pytest.raises(pika.exceptions.AMQPConnectionError, match="530"):
            login("first")
        ctl("set_permissions", name, "^mine", ".*", "^mine")
        assert [name, "^mine", ".*", "^mine"] in rows(ctl("list_permissions"))
        connection = login("first")
        connection.channel().queue_declare("mine", exclusive=True)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
            connection.channel().queue_declare("yours")
        assert refused.value.reply_code == 403
        assert refused.value.reply_text == (
            f"ACCESS_REFUSED - configure access to queue 'yours' in vhost '/' refused for user '{name}'"
        )
        connection.close()
        ctl("change_password", name, "second")
        with pytest.raises(pika.exceptions.ProbableAuthenticationError):
            login("first")
        login("second").close()
        ctl("add_vhost", name)
        assert [name] in rows(ctl("list_vhosts"))
        ctl("set_permissions", "-p", name, name, ".*", ".*", ".*")
        connection = login("second", vhost=name)
        connection.channel().queue_declare(name, durable=True)
        assert rows(ctl("list_queues", "-p", name, "name")) == [["name"], [name]]
        connection.close()
        # Everything of it outlives a crash.
        broker.kill()
        broker.start()
        connection = login("second", vhost=name)
        connection.channel().queue_declare(name, passive=True)
        connection.close()
        ctl("delete_vhost", name)
        with pytest.raises(pika.exceptions.AMQPConnectionError, match="530"):
            login("second", vhost=name)
    finally:
        ctl("delete_user", name)
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        login("second")


def test_refusals_of_ctl(ctl, tmp_path):
    ctl("no_such_command", code=64)
    ctl("delete_user", "nobody-at-all", code=67)
    code, out, err = run("ctl", "ping", "--data-dir", tmp_path)
    assert code == 69, (code, out, err)


def test_stop_by_ctl(own_broker):
    code, out, err = run("ctl", "stop", env={"LEVERET_DATA_DIR": str(own_broker.directory / "data")})
    assert code == 0, (out, err)
    assert own_broker.process.wait(10) == 0


def test_default_user_from_the_environment(tmp_path, monkeypatch):
    environment = {
        "RABBITMQ_DEFAULT_USER": "someone",
        "RABBITMQ_DEFAULT_PASS": "secret",
        "RABBITMQ_DEFAULT_VHOST": "place",
    }
    log = tmp_path / "log"
    command = [BINARY, "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        give_up = time.monotonic() + 20
        while "Server startup complete" not in log.read_text():
            assert process.poll() is None and time.monotonic() < give_up, log.read_text()
            time.sleep(0.01)
        port = int(re.search(r"started TCP listener on 127\.0\.0\.1:(\d+)", log.read_text())[1])
        credentials = pika.PlainCredentials("someone", "secret")
        connection = pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", port, virtual_host="place", credentials=credentials)
        )
        connection.channel().queue_declare("any", exclusive=True)
        connection.close()
        with pytest.raises(pika.exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    finally:
        process.kill()
        process.wait(10)


class Http:
    """GET on the shared broker's HTTP API."""

    def __init__(self, broker):
        found = re.findall(r"HTTP \(non-TLS\) listener started on port (\d+)", broker.log.read_text())
        self.base = f"http://127.0.0.1:{found[-1]}"

    def get(self, path, user="guest:guest"):
        """(status, decoded JSON); a request without credentials is refused without a body"""
        request = urllib.request.Request(self.base + path)
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")


def test_http(broker, channel, name):
    http = Http(broker)
    status, overview = http.get("/api/overview")
    assert status == 200 and overview["rabbitmq_version"]
    assert http.get("/api/overview", user=None)[0] == 401
    assert http.get("/api/overview", user="guest:wrong")[0] == 401
    channel.queue_declare(name)
    channel.confirm_delivery()
    channel.basic_publish("", name, b"x")
    status, queue = http.get(f"/api/queues/%2F/{name}")
    assert (status, queue["name"], queue["messages"], queue["messages_ready"]) == (200, name, 1, 1)
    status, queues = http.get("/api/queues")
    assert status == 200 and name in [queue["name"] for queue in queues]
    assert http.get("/api/queues/%2F/not-there")[0] == 404
    assert http.get("/api/health/checks/ready-to-serve-clients", user=None) == (200, {"status": "ok"})
    assert http.get("/api/health/checks/alarms")[0] == 200
    channel.queue_delete(name)


def test_inspect_changes_nothing(own_broker, connect, name):
    channel = connect(own_broker).channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True)
    for number in range(100):
        channel.basic_publish("", name, b"%d" % number, pika.BasicProperties(delivery_mode=2))
    own_broker.kill()
    data = own_broker.directory / "data"
    before = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in data.rglob("*")}
    code, out, err = run("inspect", data)
    assert code == 0, (out, err)
    assert out.strip()
    assert {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in data.rglob("*")} == before
    own_broker.start()
    assert bodies(connect(own_broker).channel(), name, 100) == [b"%d" % number for number in range(100)]


def test_inspect_of_some_other_directory(tmp_path):
    code, out, err = run("inspect", tmp_path)
    assert (code, err) == (0, ""), "nothing lies in an empty one"
    (tmp_path / "letter.txt").write_text("dear sir")
    code, out, err = run("inspect", tmp_path)
    assert (code, out) == (69, "")
    assert err == f"leveret: cannot read {tmp_path}: this is no data directory\n"


def test_sync_off(tmp_path):
    broker = brokers.Broker("--sync", "off").start()
    try:
        channel = pika.BlockingConnection(parameters(broker)).channel()
        channel.confirm_delivery()
        channel.queue_declare("q", durable=True)
        for _ in range(100):
            channel.basic_publish("", "q", b"x", pika.BasicProperties(delivery_mode=2))
        channel.connection.close()
        assert broker.stop() == 0
        broker.start()
        connection = pika.BlockingConnection(parameters(broker))
        assert connection.channel().queue_declare("q", passive=True).method.message_count == 100
        connection.close()
    finally:
        broker.remove()


def test_junk_in_place_of_a_header(broker):
    """4.x answers what is no AMQP 0-9-1 with the header of AMQP 1.0 and closes."""
    for junk, answer in [
        (b"GET / HTTP/1.1\r\n\r\n", b"AMQP\3\1\0\0"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00", b"AMQP\3\1\0\0"),
        (b"AMQP\0\0\x0a\x00", b"AMQP\0\0\x09\x01"),
    ]:
        with socket.create_connection((broker.host, broker.port), 5) as raw:
            raw.sendall(junk)
            got = b""
            while octets := raw.recv(100):
                got += octets
            assert got == answer
