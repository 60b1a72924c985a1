#!/usr/bin/env bash
# Writes what is generated from the code of our API group: deep copies, CRDs and the
# reference. With a directory, below that.
set -euo pipefail
cd "$(dirname "$0")/.."
to=${1:-.}
wanted="sigs.k8s.io/controller-tools/cmd/controller-gen github.com/elastic/crd-ref-docs"
. hack/tools.sh
mkdir -p "$to/api/v1alpha1" "$to/deploy/crds" "$to/docs"
"$tools/controller-gen" object crd paths=./api/... \
	output:object:dir="$to/api/v1alpha1" output:crd:dir="$to/deploy/crds"
"$tools/crd-ref-docs" --log-level ERROR --renderer markdown --config hack/reference/config.yaml \
	--templates-dir hack/reference/templates --source-path api/v1alpha1 --output-path "$to/docs/api.md"
