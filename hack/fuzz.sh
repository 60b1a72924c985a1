#!/usr/bin/env bash
# Runs every fuzz target of the module for a while: hack/fuzz.sh [duration]. Making
# inputs smaller is bounded, as it would use up the whole time otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-15s}
git ls-files '*_test.go' ':!integration/lab' | xargs grep -lE '^func Fuzz' | while read -r file; do
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | awk '{print $2}'); do
		echo "== $target in $(dirname "$file")"
		go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x
	done
done
