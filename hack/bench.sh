#!/usr/bin/env bash
# Runs the parts of the benchmarks one after another and makes docs/benchmarks of what they
# measured: results.json, and README.md and the plots from it.
#
#   BENCH=quick        fewer sizes and rounds, at most 5 minutes; printed, nothing is written
#   BENCH=full         every size, however long it takes
#   BENCH_PARTS="…"    only these parts; printed, nothing is written
#
# A part that fails does not hide the next ones: what it measured before is reported, it is
# named in the report and in the end, and this fails.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
out=$PWD/out/bench
rm -rf "$out"
mkdir -p "$out" docs/benchmarks

export BENCH=${BENCH:-}
case $BENCH in
quick | "" | full) ;;
*) echo "bench: BENCH=$BENCH is neither quick nor full" >&2 && exit 2 ;;
esac
export BENCH_FIGURES=$out/figures.jsonl
go -C integration/bench/report build -o "$out/report" .
"$out/report" begin >"$out/begun.json"

failed=() collect=()
# part NAME COMMAND…: one line each below; its output is out/bench/NAME.txt.
part() {
	local name=$1 begin=$SECONDS
	shift
	if [[ -n ${BENCH_PARTS:-} && " $BENCH_PARTS " != *" $name "* ]]; then
		return
	fi
	echo "== $name" >&2
	if "$@" 2>&1 | tee "$out/$name.txt" >&2; then
		echo "== $name: $((SECONDS - begin)) s" >&2
	else
		echo "== $name failed after $((SECONDS - begin)) s" >&2
		failed+=("$name")
		collect+=(-failed "$name")
	fi
}

# gobench PATTERN PACKAGE [flags]
gobench() {
	local pattern=$1 package=$2
	shift 2
	go test "$package" -run '^$' -bench "$pattern" -benchtime "$time" -count "$count" -timeout 30m "$@"
}

go-benchmarks() {
	local count=3 time=200ms sizes='' status=0
	if [[ $BENCH == quick ]]; then count=1 time=1x sizes='/=10(00)?$'; fi # to write and parse 10 000 listeners takes a minute
	if [[ $BENCH == full ]]; then count=9 time=500ms; fi
	gobench . ./rules -benchmem || status=1
	gobench 'Build|Statuses|Forward' ./topology -benchmem || status=1
	gobench Parse ./cluster -benchmem || status=1
	gobench 'Compile|Diff|Load|Adopt|ReplaceEndpoint$|AddRemoveEndpoint|AddRemoveListener$' ./rules/nftables || status=1
	gobench "(ColdStart|EndpointChange)$sizes" ./integration/bench || status=1
	if [[ $BENCH != quick ]]; then
		count=1 time=1x gobench AgentMemory ./integration/bench || status=1
	fi
	return $status
}

if [[ $(id -u) -ne 0 ]]; then
	collect+=(-left-out "This was not root: whatever needs it failed or is left out.")
fi

measure() { go test -run '^$' -benchtime 1x -timeout 0 "$@"; }

# The parts, each a name and its command.
part new-flow measure -bench NewFlow ./integration/bench/traffic
part established measure -bench Established ./integration/bench/traffic
part control go test ./integration/bench/control -count 1 -v -timeout 0
part go go-benchmarks

# What a part says it left out is in the report.
while IFS= read -r sentence; do
	collect+=(-left-out "$sentence")
done < <(grep -hE '^[^ ].* is left out: ' "$out"/*.txt | sort -u)

touch "$BENCH_FIGURES"
collect+=(-begun "$out/begun.json" -figures "$BENCH_FIGURES" -benchmarks "$out/go.txt")
if [[ $BENCH == quick || -n ${BENCH_PARTS:-} ]]; then
	"$out/report" collect -results "$out/results.json" "${collect[@]}"
	"$out/report" render -results "$out/results.json" -to "$out"
	cat "$out/README.md"
else
	"$out/report" collect -results docs/benchmarks/results.json "${collect[@]}"
	"$out/report" render -results docs/benchmarks/results.json -to docs/benchmarks
	"$out/report" explained -results docs/benchmarks/results.json || true
fi
if [[ ${#failed[@]} -gt 0 ]]; then
	echo "bench: failed: ${failed[*]}" >&2
	exit 1
fi
