#!/usr/bin/env bash
# breaking.sh
#
# Fails when the API breaks callers of the newest release (git tag), or, before
# there is one, of the main branch. A clone that holds neither (one branch, or
# shallow) has nothing to compare with: then it says so and passes.
# buf is expected in PATH: use `make lint`.
set -euo pipefail
cd "$(dirname "$0")/../../.."

base=$(git describe --tags --abbrev=0 2>/dev/null) ||
	base=$(git rev-parse --verify --quiet --abbrev-ref refs/remotes/origin/main) ||
	base=$(git rev-parse --verify --quiet --abbrev-ref refs/heads/main) ||
	{
		echo "buf breaking: no tag and no main branch in this clone, nothing to compare with"
		exit 0
	}
if ! git cat-file -e "$base:proto/buf.yaml" 2>/dev/null; then
	echo "buf breaking: $base has no proto/, nothing to compare with"
	exit 0
fi

# A copy of its files rather than buf's own git input, which clones and so wants
# history that a shallow clone lacks.
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$base" proto | tar -x -C "$old"
cd proto
buf breaking --against "$old/proto"
echo "buf breaking: compatible with $base"
