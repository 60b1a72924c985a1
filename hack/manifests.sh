#!/usr/bin/env bash
# Renders what is applied without helm from the chart: deploy/base/portway.yaml for
# kustomize, deploy/cleanup.yaml, and deploy/install.yaml, which is deploy/base and
# deploy/crds in one file. With a directory, below that.
set -euo pipefail
cd "$(dirname "$0")/.."
to=${1:-.}/deploy
mkdir -p "$to/base"

# render FILE FLAG... of a release in portway-system, on the first Kubernetes that puts
# the node into tokens.
render() {
	local file=$1
	shift
	{
		echo "# Rendered from deploy/chart: make manifests"
		go -C integration/chart tool helm template portway ../../deploy/chart --namespace portway-system \
			--kube-version 1.32.0 --set crds.install=false,gatewayClass.create=false "$@" 2> >(grep -v 'symbolic link' >&2) |
			sed -e '/^# Source: /d' -e '/^ *helm\.sh\/hook/d' -e '/^ *annotations:$/d' -e 's/[ \t]*$//' -e '/^$/d'
	} >"$file"
}
render "$to/base/portway.yaml" --no-hooks
render "$to/cleanup.yaml" --show-only templates/cleanup.yaml
{
	echo "# deploy/crds and deploy/base in one file: make manifests"
	for file in deploy/base/namespace.yaml deploy/crds/portway.dev_*.yaml "$to/base/portway.yaml"; do
		echo "---"
		grep -v -e '^# Rendered' "$file" | sed '1{/^---$/d}'
	done
} >"$to/install.yaml"
