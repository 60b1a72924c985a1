#!/usr/bin/env bash
# Measures the product in the lab's Kubernetes (about 9 minutes) and puts the figures into
# docs/benchmarks. Needs root. BENCH=quick prints them and writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/out/bench-cluster
rm -rf "$out"
mkdir -p "$out"
results=docs/benchmarks/results.json to=docs/benchmarks
if [[ ${BENCH:-} == quick ]]; then
	results=$out/results.json to=$out
fi

export BENCH_FIGURES=$out/figures.jsonl
go -C integration/bench/report build -o "$out/report" .
"$out/report" begin >"$out/begun.json"
collect=(-as cluster -results "$results" -begun "$out/begun.json" -figures "$BENCH_FIGURES")
failed=
(cd integration/e2e && E2E=1 go test -count=1 -timeout 40m -v -run TestBench .) >&2 || failed=1 collect+=(-failed TestBench)
"$out/report" collect "${collect[@]}"
"$out/report" render -results "$results" -to "$to"
if [[ ${BENCH:-} == quick ]]; then
	cat "$out/README.md"
fi
exit "${failed:-0}"
