#!/usr/bin/env bash
# after.sh NAME HOST:PORT COMMAND...
#
# Runs COMMAND once HOST:PORT accepts connections (at once if that is "-"), and writes
# its process id to $RUN_DIR/NAME.pid for `cluster.sh kill`.
set -euo pipefail

name=$1 addr=$2
shift 2

echo $$ >"$RUN_DIR/$name.pid"
if [[ $addr != - ]]; then
	for ((i = 0; ; i++)); do
		if (exec 3<>"/dev/tcp/${addr%:*}/${addr##*:}") 2>/dev/null; then
			break
		fi
		if ((i == 100)); then
			echo "$name: nothing answers at $addr after 10 s" >&2
			exit 1
		fi
		sleep 0.1
	done
fi
exec "$@"
