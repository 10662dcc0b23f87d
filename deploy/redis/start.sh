#!/bin/sh
# start.sh DIR COMMAND... repairs the end of the append-only file in DIR if it is broken,
# and then runs COMMAND, a redis-server with its data in DIR.
#
# A Redis that is killed while it writes leaves a part of a transaction at the end of that
# file, and every script is a transaction. At the next start Redis cuts off the incomplete
# command, but not the commands before it, nor their MULTI. The start after that executes
# them: half a script, which no other script expects. Valkey has fixed this (pull request
# 4342). redis-check-aof cuts off the whole transaction. If a complete transaction follows
# after the broken place, the file is left as it is, for an operator to examine.
set -eu

data=$1/appendonlydir
manifest=$data/appendonly.aof.manifest
shift

# ends FILE OFFSET succeeds if no transaction ends in FILE after OFFSET, or if fewer than 64
# bytes follow, which cannot be a whole transaction.
ends() {
	[ $(($(wc -c <"$1") - 0x$2)) -lt 64 ] || ! tail -c "+$((0x$2 + 1))" "$1" | grep -aq "^EXEC$(printf '\r')\$"
}

if [ -f "$manifest" ] && ! found=$(redis-check-aof "$manifest" 2>&1); then
	broken=$(printf "%s\n" "$found" | sed -n 's/^0x *\([0-9a-f]*\): .*/\1/p')
	file=$(printf "%s\n" "$found" | sed -n 's/^AOF analyzed: filename=\(.*incr\.aof\), .*/\1/p' | tail -n 1)
	if [ -n "$broken" ] && [ -f "$data/$file" ] && ends "$data/$file" "$broken"; then
		echo "start.sh: Redis was killed as it wrote, its last transaction is cut off" >&2
		echo y | redis-check-aof --fix "$manifest" >/dev/null || echo "start.sh: that failed" >&2
	fi
fi
exec "$@"
