#!/usr/bin/env bash
# generate.sh [--check]
#
# Builds the Go code of proto/ beside the .proto files. With --check it builds
# into a directory of its own and fails when what is committed differs.
# buf and the plugins are expected in PATH: use `make gen`.
set -euo pipefail
cd "$(dirname "$0")/../../../proto"

if [[ ${1:-} != --check ]]; then
	exec buf generate
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
buf generate -o "$fresh"

# Both directions: what is stale, what is missing, and what has no .proto now.
if ! diff -u <(find . -name '*.pb.go' | sort) <(cd "$fresh" && find . -name '*.pb.go' | sort); then
	echo "generated files are missing or left over: make gen, or remove them" >&2
	exit 1
fi
while read -r file; do
	diff -u "$file" "$fresh/$file" >&2 || {
		echo "proto/${file#./} is stale: make gen" >&2
		exit 1
	}
done < <(cd "$fresh" && find . -name '*.pb.go')
