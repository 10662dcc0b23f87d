#!/bin/sh
# start.sh DIR COMMAND...: runs COMMAND, a redis-server whose data lies in DIR, once the
# end of its append-only file is whole.
#
# A Redis that is killed while it writes leaves a part of a transaction there, and every
# script is a transaction. At the next start Redis cuts the broken command off, but not
# those before it, nor their MULTI; the start after that carries them out, half a script,
# which other scripts know nothing of. Valkey has mended that (pull request 4342).
# redis-check-aof cuts all of it off. Where a file is broken further ahead, it is left as
# it is: what stands behind that is for somebody to look at.
set -eu

manifest=$1/appendonlydir/appendonly.aof.manifest
shift
if [ -f "$manifest" ] && ! found=$(redis-check-aof "$manifest" 2>&1); then
	broken=$(printf "%s\n" "$found" | sed -n 's/^0x *\([0-9a-f]*\): .*/\1/p')
	size=$(printf "%s\n" "$found" | sed -n 's/^AOF analyzed: .*incr\.aof, size=\([0-9]*\),.*/\1/p' | tail -n 1)
	if [ -n "$broken" ] && [ -n "$size" ] && [ $((size - 0x$broken)) -lt 64 ]; then
		echo "start.sh: Redis was killed as it wrote, its last transaction is cut off" >&2
		echo y | redis-check-aof --fix "$manifest" >/dev/null || echo "start.sh: that failed" >&2
	fi
fi
exec "$@"
