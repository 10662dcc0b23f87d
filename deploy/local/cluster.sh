#!/usr/bin/env bash
# The loopback cluster of `make cluster`: see usage below.
set -euo pipefail

usage() {
	cat <<'EOF'
usage: deploy/local/cluster.sh [COMMAND]

  up              start everything; Ctrl-C stops it (the default)
  status          list the processes; a star stands before those that run
  stop NAME...    stop processes as an operator would (SIGINT; SIGKILL after 10 s)
  start NAME...   start them again
  restart NAME... both
  kill NAME...    kill -9, as a crash would

NAME is one of haproxy gateway1 gateway2 gateway3 room1 room2 redis.

  8080            HAProxy: the page, /v1 and /chat
  8081-8083       gateways         9181-9183  their admin ports (/metrics, /debug/pprof)
  50051-50052     room services    9101-9102  their admin ports
  6390            Redis, with its data in .run/cluster/redis
  8555            goreman, which takes the commands above

All of them on 127.0.0.1. Settings come from the environment as well, for
instance WALK_IN=false make cluster. IDENTITY_KEY is made at every start unless
it is set. The binaries come from bin/ (make build).
EOF
}

cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/usr/local/sbin # Debian installs haproxy outside users' PATH

export RUN_DIR=$PWD/.run/cluster
export GOREMAN_RPC_ADDR=127.0.0.1 GOREMAN_RPC_PORT=8555
export HAPROXY_LISTEN=127.0.0.1:8080
export GATEWAY1_ADDR=127.0.0.1:8081 GATEWAY2_ADDR=127.0.0.1:8082 GATEWAY3_ADDR=127.0.0.1:8083
export ROOM1_ADDR=127.0.0.1:50051 ROOM2_ADDR=127.0.0.1:50052
export REDIS_ADDR=127.0.0.1:6390
export REDIS=redis://$REDIS_ADDR/0 ROOMS=$ROOM1_ADDR,$ROOM2_ADDR

goreman=.run/bin/goreman

# answers HOST:PORT succeeds if something listens there.
answers() {
	(exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null
}

require_programs() {
	local program missing=()
	for program in redis-server haproxy $goreman bin/room bin/gateway; do
		command -v "$program" >/dev/null || missing+=("$program")
	done
	if ((${#missing[@]})); then
		echo "cluster: missing: ${missing[*]} (make cluster builds and installs them)" >&2
		exit 1
	fi
}

require_ports() {
	local entry taken=0
	for entry in \
		haproxy=$HAPROXY_LISTEN \
		gateway1=$GATEWAY1_ADDR gateway2=$GATEWAY2_ADDR gateway3=$GATEWAY3_ADDR \
		gateway1-admin=127.0.0.1:9181 gateway2-admin=127.0.0.1:9182 gateway3-admin=127.0.0.1:9183 \
		room1=$ROOM1_ADDR room2=$ROOM2_ADDR \
		room1-admin=127.0.0.1:9101 room2-admin=127.0.0.1:9102 \
		redis=$REDIS_ADDR goreman=$GOREMAN_RPC_ADDR:$GOREMAN_RPC_PORT; do
		if answers "${entry#*=}"; then
			echo "cluster: ${entry#*=} is taken, ${entry%%=*} needs it" >&2
			taken=1
		fi
	done
	if ((taken)); then
		echo "cluster: stop what listens there (another make cluster, make run?)" >&2
		exit 1
	fi
}

# ready HOST:PORT succeeds if /readyz there answers 200.
ready() {
	local status
	exec 3<>"/dev/tcp/${1%:*}/${1##*:}" || return 1
	printf 'GET /readyz HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" >&3
	read -r -t 2 status <&3 || return 1
	[[ $status == *" 200 "* ]]
}

all_ready() {
	local addr
	for addr in $GATEWAY1_ADDR $GATEWAY2_ADDR $GATEWAY3_ADDR $HAPROXY_LISTEN; do
		(ready "$addr") 2>/dev/null || return 1
	done
}

# announce waits, in the background, and prints a message when the cluster can be used.
announce() {
	local i
	for ((i = 0; i < 150; i++)); do
		kill -0 $$ 2>/dev/null || return 0
		if all_ready; then
			printf '\n  Anteroom is ready: http://%s\n  One process at a time: deploy/local/cluster.sh --help\n\n' "$HAPROXY_LISTEN"
			return
		fi
		sleep 0.2
	done
	echo "cluster: not ready after 30 s; what it says above should tell why" >&2
}

up() {
	require_programs
	require_ports
	mkdir -p "$RUN_DIR/redis"
	rm -f "$RUN_DIR"/*.pid
	if [[ -z ${IDENTITY_KEY:-} ]]; then
		IDENTITY_KEY=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
	fi
	export IDENTITY_KEY
	# goreman kills processes that have not stopped after 10 s.
	export DRAIN_TIMEOUT=${DRAIN_TIMEOUT:-6s}
	announce &
	# Without -exit-on-stop=false, goreman would end everything once each process has ended
	# once, even if they have been started again.
	exec "$goreman" -f deploy/local/Procfile -set-ports=false -exit-on-stop=false start
}

# kill_process NAME kills the process NAME with SIGKILL. If another program has got its
# process id meanwhile, that program is left alone.
kill_process() {
	local pid command
	if pid=$(cat "$RUN_DIR/$1.pid" 2>/dev/null) &&
		command=$(cat "/proc/$pid/comm" 2>/dev/null || ps -o comm= -p "$pid" 2>/dev/null) &&
		[[ ${command##*/} == "${1%%[0-9]*}"* || ${command##*/} == after.sh ]]; then
		kill -9 "$pid"
		rm -f "$RUN_DIR/$1.pid"
	else
		echo "cluster: $1 does not run" >&2
		return 1
	fi
}

case ${1:-up} in
up) up ;;
status) exec "$goreman" run status ;;
start | stop | restart)
	(($# > 1)) || { usage >&2; exit 2; }
	exec "$goreman" run "$@"
	;;
kill)
	(($# > 1)) || { usage >&2; exit 2; }
	shift
	failed=0
	for name in "$@"; do
		kill_process "$name" || failed=1
	done
	exit $failed
	;;
-h | --help | help) usage ;;
*)
	usage >&2
	exit 2
	;;
esac
