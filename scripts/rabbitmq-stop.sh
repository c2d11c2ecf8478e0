#!/bin/sh
# Ends the node that scripts/rabbitmq-start.sh started, and its port mapper.
#
#   scripts/rabbitmq-stop.sh DIR [SIGNAL]
#
# SIGNAL is TERM (the default: an orderly stop) or KILL. DIR stays; remove it when its messages are not wanted.
set -eu

[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 64; }
dir=$1
signal=${2:-TERM}
[ -f "$dir/pid" ] || exit 0
pid=$(cat "$dir/pid")

kill "-$signal" "$pid" 2>/dev/null || true
turns=0
while kill -0 "$pid" 2>/dev/null; do
    turns=$((turns + 1))
    [ "$turns" -eq 200 ] && kill -KILL "$pid" 2>/dev/null
    [ "$turns" -gt 250 ] && { echo "process $pid does not end" >&2; exit 70; }
    # A killed child that nobody has waited for yet is as good as gone.
    case $(ps -o stat= -p "$pid" 2>/dev/null) in Z*) break ;; esac
    sleep 0.1
done
rm -f "$dir/pid"

# The mapper refuses to end before it has noticed that its node is gone.
read -r _ _ epmd_port < "$dir/ports"
turns=0
until ERL_EPMD_PORT=$epmd_port epmd -kill 2>&1 | grep -q -e '^Killed' -e 'Cannot connect'; do
    turns=$((turns + 1))
    [ "$turns" -gt 30 ] && { echo "the port mapper on $epmd_port does not end" >&2; exit 70; }
    sleep 0.1
done
