#!/usr/bin/env bash
# Runs the parts of the benchmarks one after another and makes docs/benchmarks of what they
# measured: results.json, and README.md and the plots from it.
#
#   BENCH=quick        fewer sizes and rounds, at most 5 minutes; printed, nothing is written
#   BENCH=full         every size, however long it takes
#   BENCH_PARTS="…"    only these parts; printed, nothing is written
#
# A part that fails does not hide the next ones: what it measured before is reported, it is
# named in the report and in the end, and this fails. Such a run, and one that was not root or
# is of no commit, leaves docs/benchmarks as it was: its report is in out/bench. A peer that is
# not there and cannot be installed is left out with a sentence.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
out=$PWD/out/bench
rm -rf "$out"
mkdir -p "$out" docs/benchmarks
collect=()

# Whoever is missing is named once by what misses it; here is why.
if ! why=$(hack/deps.sh bench 2>&1); then
	printf '%s\n' "$why" >&2
	collect+=(-left-out "Not everything that is measured or compared with could be installed: $(tail -n 1 <<<"$why")")
fi

export BENCH=${BENCH:-}
case $BENCH in
quick | "" | full) ;;
*) echo "bench: BENCH=$BENCH is neither quick nor full" >&2 && exit 2 ;;
esac
export BENCH_FIGURES=$out/figures.jsonl
go -C integration/bench/report build -o "$out/report" .
"$out/report" begin >"$out/begun.json"

if [[ $BENCH != quick && -z ${BENCH_PARTS:-} ]] && grep -q '"commit": ".*-dirty"' "$out/begun.json"; then
	echo "bench: the tree has changes of no commit: docs/benchmarks will stay as it is" >&2
fi

failed=()
# part NAME COMMAND…: one line each below; its output is out/bench/NAME.txt.
part() {
	local name=$1 begin=$SECONDS
	shift
	if [[ -n ${BENCH_PARTS:-} && " $BENCH_PARTS " != *" $name "* ]]; then
		collect+=(-skipped "$name")
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
	collect+=(-part "$name=$((SECONDS - begin))")
}

# gobench PATTERN PACKAGE [flags]
gobench() {
	local pattern=$1 package=$2
	shift 2
	go test "$package" -run '^$' -bench "$pattern" -benchtime "$time" -count "$count" -timeout 30m "$@"
}

go-benchmarks() {
	local count=2 time=200ms sizes='' status=0
	if [[ $BENCH == quick ]]; then count=1 time=1x sizes='/=10(00)?$'; fi # to write and parse 10 000 listeners takes a minute
	if [[ $BENCH == full ]]; then count=9 time=500ms; fi
	gobench . ./rules -benchmem || status=1
	gobench 'Build|Statuses|Forward' ./topology -benchmem || status=1
	gobench Parse ./cluster -benchmem || status=1
	gobench 'Compile|Diff|Load|Adopt|ReplaceEndpoint$|AddRemoveEndpoint|AddRemoveListener$' ./rules/nftables || status=1
	gobench "(ColdStart|EndpointChange)$sizes" ./integration/bench || status=1
	if [[ $BENCH == full ]]; then # three minutes; that of an agent in a cluster is in control
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

# What a part says it left out is in the report, and which kube-proxy it was.
while IFS= read -r sentence; do
	collect+=(-left-out "$sentence")
done < <(find "$out" -name '*.txt' -exec grep -hE '^[^ ].* is left out: ' {} + | sort -u)
proxy=$(find "$out" -name '*.txt' -exec sed -n 's/^kube-proxy: Kubernetes v//p' {} + | sort -u | paste -sd ' ')
if [[ -n $proxy ]]; then
	collect+=(-kube-proxy "$proxy")
fi

# The report is made in out/bench, beside what make bench-cluster measured, and is moved when
# it is one to publish.
touch "$BENCH_FIGURES"
if [[ -e docs/benchmarks/results.json && $BENCH != quick && -z ${BENCH_PARTS:-} ]]; then
	cp docs/benchmarks/results.json "$out/results.json"
fi
"$out/report" collect -results "$out/results.json" "${collect[@]}" \
	-begun "$out/begun.json" -figures "$BENCH_FIGURES" -benchmarks "$out/go.txt"
"$out/report" render -results "$out/results.json" -to "$out"
if [[ $BENCH == quick || -n ${BENCH_PARTS:-} ]]; then
	cat "$out/README.md"
elif "$out/report" fit -results "$out/results.json"; then
	cp "$out/results.json" docs/benchmarks/results.json
	"$out/report" render -results docs/benchmarks/results.json -to docs/benchmarks
	"$out/report" explained -results docs/benchmarks/results.json || true
else
	echo "bench: docs/benchmarks stays as it was; this run's report: out/bench/README.md" >&2
	exit 1
fi
if [[ ${#failed[@]} -gt 0 ]]; then
	echo "bench: failed: ${failed[*]}" >&2
	exit 1
fi
