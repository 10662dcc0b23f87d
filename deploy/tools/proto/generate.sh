#!/usr/bin/env bash
# generate.sh [--check]
#
# Generates the Go code of proto/ beside the .proto files. With --check it generates
# into a temporary directory and fails if the committed code differs.
# buf and the plugins must be in PATH: use `make gen`.
set -euo pipefail
cd "$(dirname "$0")/../../../proto"

if [[ ${1:-} != --check ]]; then
	exec buf generate
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
buf generate -o "$fresh"

# Finds files that are missing, and files that no longer have a .proto.
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
