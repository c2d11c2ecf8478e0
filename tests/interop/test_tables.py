"""Field tables of every type go through the broker octet for octet, by pika's framing with tables written by hand."""

import struct

import pika
import pytest

from conftest import pump


def text(value):
    """A long string's octets."""
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(value)) + value


def table(*entries):
    """A field table of (name, letter, octets) entries."""
    octets = b"".join(struct.pack(">B", len(name)) + name.encode() + letter + value for name, letter, value in entries)
    return text(octets)


def array(*entries):
    return text(b"".join(letter + value for letter, value in entries))


FIELDS = {
    "boolean true": (b"t", b"\1"),
    "boolean false": (b"t", b"\0"),
    "signed 8 bit": (b"b", b"\x80"),
    "unsigned 8 bit": (b"B", b"\xff"),
    "signed 16 bit": (b"s", struct.pack(">h", -12345)),
    "unsigned 16 bit": (b"u", struct.pack(">H", 54321)),
    "signed 32 bit": (b"I", struct.pack(">i", -(2**31))),
    "unsigned 32 bit": (b"i", struct.pack(">I", 2**32 - 1)),
    "signed 64 bit": (b"l", struct.pack(">q", -(2**63))),
    "float": (b"f", struct.pack(">f", 1.5)),
    "double": (b"d", struct.pack(">d", 0.1)),
    "decimal": (b"D", struct.pack(">BI", 3, 314159)),
    "string": (b"S", text("grüße")),
    "string of any octets": (b"S", text(bytes(range(256)))),
    "empty string": (b"S", text("")),
    "octets": (b"x", text(b"\0\xce\xff")),
    "timestamp": (b"T", struct.pack(">Q", 2**63 - 1)),
    "void": (b"V", b""),
    "empty array": (b"A", array()),
    "array": (b"A", array((b"S", text("one")), (b"I", struct.pack(">i", 2)), (b"V", b""), (b"A", array()))),
    "empty table": (b"F", table()),
    "table": (b"F", table(("a", b"t", b"\1"), ("b", b"F", table(("c", b"S", text("deep")))))),
    "nested": None,
}
nested = (b"S", text("bottom"))
for level in range(30):
    nested = (b"F", table(("t", *nested))) if level % 2 else (b"A", array(nested))
FIELDS["nested"] = nested

# What one client writes and another never does: `L` for the signed 64 bit. RabbitMQ reads it and writes `l`.
OTHER_LETTERS = {"signed 64 bit, other letter": ((b"L", struct.pack(">q", -5)), (b"l", struct.pack(">q", -5)))}


class Written(pika.BasicProperties):
    """Properties of which only the headers are set, to octets written by hand."""

    def __init__(self, octets):
        super().__init__()
        self.octets = octets

    def encode(self):
        return [struct.pack(">H", pika.BasicProperties.FLAG_HEADERS), self.octets]


class Read(pika.spec.BasicProperties):
    """Properties that keep their octets as they came."""

    def decode(self, encoded, offset=0):
        self.octets = encoded[offset:]
        return self


@pytest.fixture
def round_trip(channel, monkeypatch):
    """`round_trip(table)` publishes a message with these headers and gives the octets of the headers that come back."""
    queue = channel.queue_declare("", exclusive=True).method.queue
    monkeypatch.setattr(pika.spec, "BasicProperties", Read)
    monkeypatch.setitem(pika.spec.props, pika.spec.BasicProperties.INDEX, Read)

    def go(octets):
        got = []
        tag = channel.basic_consume(queue, lambda _c, _m, properties, _b: got.append(properties.octets), auto_ack=True)
        channel.basic_publish("", queue, b"x", Written(octets))
        pump(channel.connection, lambda: got)
        channel.basic_cancel(tag)
        flags = struct.unpack_from(">H", got[0])[0]
        assert flags == pika.BasicProperties.FLAG_HEADERS
        return got[0][2:]

    return go


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
def test_comes_back_octet_for_octet(round_trip, field):
    octets = table(("field", *field))
    assert round_trip(octets) == octets


def test_all_types_in_one_table(round_trip):
    octets = table(*((key, *field) for key, field in FIELDS.items()))
    assert round_trip(octets) == octets


@pytest.mark.leveret_only("RabbitMQ answers these with 541: its numbers have no infinity")
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")], ids=str)
def test_numbers_that_are_none(round_trip, value):
    octets = table(("d", b"d", struct.pack(">d", value)), ("f", b"f", struct.pack(">f", value)))
    assert round_trip(octets) == octets


@pytest.mark.parametrize("sent, expected", OTHER_LETTERS.values(), ids=OTHER_LETTERS.keys())
def test_the_other_letter_of_64_bits(round_trip, sent, expected):
    # A broker that passes properties through untouched keeps the letter; RabbitMQ decodes and writes its own.
    assert round_trip(table(("n", *sent))) in (table(("n", *sent)), table(("n", *expected)))


def test_a_large_table(round_trip):
    octets = table(*((f"key {n}", b"S", text(b"v" * 50)) for n in range(1000)))
    assert round_trip(octets) == octets


def test_names_keep_their_order_and_their_doubles(round_trip):
    octets = table(("z", b"t", b"\1"), ("a", b"t", b"\0"), ("z", b"t", b"\0"))
    assert round_trip(octets) == octets
