"""Runs a command against a broker of its own: `with_broker.py COMMAND …`; its exit code is the command's.

The command finds in its environment
    AMQP_URL        where the broker is
    BROKER_CONTROL  HOST:PORT that takes lines `kill` (SIGKILL) and `start` and answers `ok` when it is done;
                    missing when BROKER names an address
    GENERATION      `4` when the broker answers as RabbitMQ 4.x where that differs from 3.x, else `3`
"""

import os
import socketserver
import subprocess
import sys
import threading

from broker import Broker, lasting_port


def control(broker):
    """Serves `kill` and `start` on a free loopback port."""

    class Lines(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                {b"kill": broker.kill, b"start": broker.start}[line.strip()]()
                self.wfile.write(b"ok\n")

    server = socketserver.TCPServer(("127.0.0.1", 0), Lines)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "{}:{}".format(*server.server_address)


def main():
    broker = Broker(port=lasting_port())
    try:
        broker.start()
        environment = {**os.environ, "AMQP_URL": broker.url, "GENERATION": str(broker.generation)}
        if broker.kind != "address":
            environment["BROKER_CONTROL"] = control(broker)
        code = subprocess.run(sys.argv[1:], env=environment).returncode
        if broker.panics():
            print(*broker.panics(), file=sys.stderr)
            code = code or 1
        return code
    finally:
        broker.remove()


if __name__ == "__main__":
    sys.exit(main())
