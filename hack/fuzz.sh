#!/usr/bin/env bash
# Runs every fuzz target of the module for a while: hack/fuzz.sh [duration]
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-15s}
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | awk '{print $2}'); do
		echo "== $target in $(dirname "$file")"
		go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
	done
done
