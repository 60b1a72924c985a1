#!/bin/bash
# gen-gomod.sh VERSION: writes go.mod anew for another release of Kubernetes.
#
# k8s.io/kubernetes pins its staging modules with `replace ./staging/...`, which a
# module that requires it does not inherit, and requires them as v0.0.0. So each of
# them is replaced here by the published module of the same release.
set -euo pipefail
cd "$(dirname "$0")"
version=${1:?usage: gen-gomod.sh v1.N.P}
staging=v0.${version#v1.}
upstream=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
{
	echo "module github.com/portway-dev/portway/integration/lab/kube"
	echo
	sed -n '/^go /p' "$upstream"
	echo
	sed -n '/^godebug/p' "$upstream"
	echo
	echo "require k8s.io/kubernetes $version"
	echo
	echo "replace ("
	sed -n "s#^\t\(k8s.io/[a-z-]*\) => ./staging/.*#\t\1 => \1 $staging#p" "$upstream"
	echo ")"
} >go.mod
rm -f go.sum
go mod tidy
