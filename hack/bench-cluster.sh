#!/usr/bin/env bash
# Measures the product in the lab's Kubernetes (about 12 minutes) and puts the figures into
# docs/benchmarks, unless a test failed or the tree had changes. Needs root. BENCH=quick prints
# them and writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/out/bench-cluster
rm -rf "$out"
mkdir -p "$out"

export BENCH_FIGURES=$out/figures.jsonl
go -C integration/bench/report build -o "$out/report" .
"$out/report" begin >"$out/begun.json"

if [[ ${BENCH:-} != quick ]] && grep -q '"commit": ".*-dirty"' "$out/begun.json"; then
	echo "bench-cluster: the tree has changes of no commit: docs/benchmarks will stay as it is" >&2
fi

collect=(-as cluster -results "$out/results.json" -begun "$out/begun.json" -figures "$BENCH_FIGURES")
failed=
(cd integration/e2e && E2E=1 go test -count=1 -timeout 40m -v -run TestBench .) >&2 || failed=1 collect+=(-failed TestBench)

# The report is made in out/bench-cluster, beside what make bench measured.
touch "$BENCH_FIGURES"
if [[ -e docs/benchmarks/results.json && ${BENCH:-} != quick ]]; then
	cp docs/benchmarks/results.json "$out/results.json"
fi
"$out/report" collect "${collect[@]}"
"$out/report" render -results "$out/results.json" -to "$out"
if [[ ${BENCH:-} == quick ]]; then
	cat "$out/README.md"
elif "$out/report" fit -as cluster -results "$out/results.json"; then
	cp "$out/results.json" docs/benchmarks/results.json
	"$out/report" render -results docs/benchmarks/results.json -to docs/benchmarks
	"$out/report" explained -results docs/benchmarks/results.json || true
else
	echo "bench-cluster: docs/benchmarks stays as it was; this run's report: out/bench-cluster/README.md" >&2
	exit 1
fi
exit "${failed:-0}"
