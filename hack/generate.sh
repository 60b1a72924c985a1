#!/usr/bin/env bash
# Writes what is generated from the code: deep copies and CRDs of our API group.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
"$tools/controller-gen" object crd paths=./api/... output:crd:dir="${CRD_DIR:-deploy/crds}"
