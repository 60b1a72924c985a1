#!/usr/bin/env bash
# Runs every fuzz target of the module for a while: hack/fuzz.sh [duration]. Making
# inputs smaller is bounded, as it would use up the whole time otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-15s}
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# fuzz runs one target. Go calls it a failure when the time is up within an input, or before all that
# it found in earlier runs were tried again; with an input that fails it says where it has written it.
fuzz() {
	go test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x 2>&1 | tee "$said" && return
	if grep -qx ' *context deadline exceeded' "$said" && ! grep -qE 'Failing input|panic:|_test\.go:' "$said"; then
		echo "fuzz: the time was up, no input failed"
		return
	fi
	return 1
}

git ls-files '*_test.go' ':!integration/lab' | xargs grep -lE '^func Fuzz' | while read -r file; do
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | awk '{print $2}'); do
		echo "== $target in $(dirname "$file")"
		fuzz "./$(dirname "$file")" "$target"
	done
done
