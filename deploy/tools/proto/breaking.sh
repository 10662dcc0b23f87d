#!/usr/bin/env bash
# breaking.sh
#
# Fails if the API breaks callers of the newest release (git tag) or, as long as there
# is none, of the main branch. If the clone has neither (a single branch, or shallow),
# there is nothing to compare with: the script says so and succeeds.
# buf must be in PATH: use `make lint`.
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

# This copies the files and does not use buf's git input, which clones the repository
# and so needs history that a shallow clone lacks.
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$base" proto | tar -x -C "$old"
cd proto
buf breaking --against "$old/proto"
echo "buf breaking: compatible with $base"
