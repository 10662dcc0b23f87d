#!/bin/sh
# start.sh DIR COMMAND...: runs COMMAND, a redis-server whose data lies in DIR, once the
# end of its append-only file is whole.
#
# A Redis that is killed while it writes leaves a part of a transaction there, and every
# script is a transaction. At the next start Redis cuts the broken command off, but not
# those before it, nor their MULTI; the start after that carries them out, half a script,
# which other scripts know nothing of. Valkey has mended that (pull request 4342).
# redis-check-aof cuts all of it off. Where a transaction ends behind what is broken, it is
# left as it is: what stands there is for somebody to look at.
set -eu

data=$1/appendonlydir
manifest=$data/appendonly.aof.manifest
shift

# ends FILE OFFSET: from there on, FILE has no transaction's end, or only a piece of one.
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
