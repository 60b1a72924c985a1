#!/usr/bin/env bash
# Runs the linters pinned in hack/tools/go.mod over the module and those below
# integration/; not over integration/lab/kube, one small main for which they would
# compile all of Kubernetes.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
bash -n hack/*.sh .ci/run
config=$PWD/.golangci.yml
for module in . integration/lab integration/e2e integration/conformance integration/chart integration/bench/report; do
	(
		cd "$module"
		"$tools/golangci-lint" run --config "$config" ./...
		"$tools/logcheck" -check-contextual -check-structured ./...
	)
done
# No file over 600 lines: split by the noun it holds.
long=$(git ls-files '*.go' | xargs wc -l | awk '$2 != "total" && $1 > 600 {print "  " $2 ": " $1 " lines"}')
if [ -n "$long" ]; then
	printf 'files over 600 lines (which noun does each hold? split by it):\n%s\n' "$long" >&2
	exit 1
fi
