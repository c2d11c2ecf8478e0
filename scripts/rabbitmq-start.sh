#!/bin/sh
# Starts one RabbitMQ node of its own for comparisons: own directory, ports, cookie and port mapper.
#
#   scripts/rabbitmq-start.sh DIR [PORT]
#
# DIR   holds data, logs, configuration and the pid file; the same DIR again finds its messages again.
# PORT  AMQP port on 127.0.0.1; a free one is taken when it is missing or 0, the same one for the same DIR.
#
# Environment: RABBITMQ_CPUS   cores to pin the node to (taskset list, e.g. 0)
#              RABBITMQ_EXTRA  lines appended to rabbitmq.conf
#              RABBITMQ_ENABLE comma-separated plugins (e.g. rabbitmq_management)
#              RABBITMQ_SCHEDULERS  Erlang schedulers (default 2)
# Returns when AMQP answers; prints `HOST:PORT PID`. Installs Debian's package when it is missing.
set -eu

usage() { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 64; }
[ $# -ge 1 ] || usage
mkdir -p "$1"
dir=$(cd "$1" && pwd)
port=${2:-0}
home=/usr/lib/rabbitmq

if [ ! -x "$home/bin/rabbitmq-server" ]; then
    # The package's own service is not wanted: the node that this script starts is the only one.
    [ -e /usr/sbin/policy-rc.d ] || {
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    }
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends rabbitmq-server >&2
fi

if [ -f "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; then
    echo "a node already runs on $dir" >&2
    exit 69
fi

# Below the range from which clients get theirs: a client that tries again and again while the node is down would
# otherwise connect to itself one day and hold the port.
free_ports() {
    python3 - "$1" <<'PY'
import random, socket, sys
with open("/proc/sys/net/ipv4/ip_local_port_range") as text:
    below = int(text.read().split()[0])
held = []
while len(held) < int(sys.argv[1]):
    try:
        held.append(socket.create_server(("127.0.0.1", random.randrange(below // 2, below)), reuse_port=False))
    except OSError:
        pass
print(*(s.getsockname()[1] for s in held))
PY
}

if [ ! -f "$dir/ports" ]; then
    # shellcheck disable=SC2046 # three words are meant
    set -- $(free_ports 3)
    [ "$port" = 0 ] && port=$1
    echo "$port $2 $3" > "$dir/ports"
fi
read -r port dist_port epmd_port < "$dir/ports"

mkdir -p "$dir/mnesia" "$dir/log"
{
    echo "listeners.tcp.1 = 127.0.0.1:$port"
    echo "log.console = false"
    # A comparison is about messages, not about how full the disk of this machine is.
    echo "disk_free_limit.absolute = 1MB"
    printf '%s\n' "${RABBITMQ_EXTRA:-}"
} > "$dir/rabbitmq.conf"
echo "[${RABBITMQ_ENABLE:-}]." > "$dir/enabled_plugins"
rm -f "$dir/pid"

# Erlang's schedulers fill every core they see, so they are told how many there are.
schedulers=${RABBITMQ_SCHEDULERS:-2}
pin=""
[ -n "${RABBITMQ_CPUS:-}" ] && pin="taskset -c $RABBITMQ_CPUS"

export HOME="$dir" \
    ERL_EPMD_ADDRESS=127.0.0.1 \
    ERL_EPMD_PORT="$epmd_port" \
    RABBITMQ_NODENAME="compare$port@localhost" \
    RABBITMQ_DIST_PORT="$dist_port" \
    RABBITMQ_MNESIA_BASE="$dir/mnesia" \
    RABBITMQ_LOG_BASE="$dir/log" \
    RABBITMQ_PID_FILE="$dir/rabbitmq.pid" \
    RABBITMQ_CONFIG_FILE="$dir/rabbitmq" \
    RABBITMQ_CONF_ENV_FILE="$dir/none" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S $schedulers:$schedulers -kernel inet_dist_use_interface {127,0,0,1}" \
    ERL_CRASH_DUMP=/dev/null

# RABBITMQ_ALLOW_INPUT leaves no shell between this script and the Erlang machine, so that $! is the broker.
# shellcheck disable=SC2086 # pin is a list of words
RABBITMQ_ALLOW_INPUT=1 setsid $pin "$home/bin/rabbitmq-server" -noinput \
    < /dev/null > "$dir/log/console" 2>&1 &
pid=$!
echo "$pid" > "$dir/pid"

turns=0
until python3 - "$port" <<'PY' 2>/dev/null
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2) as s:
    s.settimeout(5)
    s.sendall(b"AMQP\0\0\x09\x01")
    sys.exit(s.recv(1) != b"\x01")
PY
do
    turns=$((turns + 1))
    if [ "$turns" -gt 300 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "RabbitMQ did not start; see $dir/log" >&2
        tail -n 20 "$dir/log/console" >&2
        kill -9 "$pid" 2>/dev/null || true
        exit 69
    fi
    sleep 0.2
done
echo "127.0.0.1:$port $pid"
