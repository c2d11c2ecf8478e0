"""AMQP by hand, for tests that need more connections or more messages than a client library can hold."""

import struct


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel, class_id, method_id, *fields):
    return frame(1, channel, struct.pack(">HH", class_id, method_id) + b"".join(fields))


def short(text):
    return bytes([len(text)]) + text


def long(octets):
    return struct.pack(">I", len(octets)) + octets


def content(channel, exchange, routing_key, body, delivery_mode=0):
    """basic.publish with its header and a body that fits one frame."""
    properties = struct.pack(">HB", 0x1000, delivery_mode) if delivery_mode else b"\0\0"
    return (
        method(channel, 60, 40, b"\0\0", short(exchange), short(routing_key), b"\0")
        + frame(2, channel, struct.pack(">HHQ", 60, 0, len(body)) + properties)
        + (frame(3, channel, body) if body else b"")
    )


class Handshake:
    """Octets in, octets out, from the protocol header to an open channel 1; `seen` lists the methods that came."""

    def __init__(self):
        self.input = b""
        self.output = b"AMQP\0\0\x09\x01"
        self.seen = []
        self.ready = False

    def receive(self, octets):
        self.input += octets
        while len(self.input) >= 7:
            kind, channel, length = struct.unpack_from(">BHI", self.input)
            if len(self.input) < length + 8:
                return
            payload, self.input = self.input[7 : 7 + length], self.input[length + 8 :]
            if kind == 1:
                self._on_method(*struct.unpack_from(">HH", payload), payload[4:])

    def _on_method(self, class_id, method_id, fields):
        self.seen.append((class_id, method_id))
        if (class_id, method_id) == (10, 10):
            self.output += method(0, 10, 11, long(b""), short(b"PLAIN"), long(b"\0guest\0guest"), short(b"en_US"))
        elif (class_id, method_id) == (10, 30):
            channel_max, frame_max, _ = struct.unpack(">HIH", fields)
            self.output += method(0, 10, 31, struct.pack(">HIH", channel_max, frame_max, 0))
            self.output += method(0, 10, 40, short(b"/"), b"\0", b"\0")
            self.output += method(1, 20, 10, short(b""))
        elif (class_id, method_id) == (10, 50):
            raise AssertionError(f"refused: {fields}")
        elif (class_id, method_id) == (20, 11):
            self.ready = True
