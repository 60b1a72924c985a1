#!/usr/bin/env bash
# Builds the container image, with podman, buildah or docker, whichever is there. The same
# sources, bases and packages of Debian, of which its archive has newer ones now and then, give
# the same digest.
#
#   IMAGE          name and tag (portway-dev/portway:VERSION)
#   IMAGE_ARCH     amd64 or arm64 (this machine's); nothing of it is run
#   IMAGE_ARCHIVE  file to write the image to as well, as an OCI archive
#   GO_IMAGE       image that has Go, on the PATH or in /usr/local/go
#   BASE_IMAGE     image with Debian, for its packages; nothing else of it gets into ours
#   LOCAL_BASE=1   both are made here from Debian packages and this machine's Go
#
# The SBOM is /usr/share/portway/sbom.spdx.json in the image.
set -euo pipefail
cd "$(dirname "$0")/.."

arch=${IMAGE_ARCH:-$(go env GOHOSTARCH)}
version=${VERSION:?}
image=${IMAGE:-portway-dev/portway:$version}
# A commit's time is its files'; without one, the time of nothing in particular.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

# need TOOL... names the first that is there, or the command that installs one.
need() {
	local tool
	for tool; do
		if "$tool" --version >/dev/null 2>&1; then
			echo "$tool"
			return
		fi
	done
	echo "make image needs $1: as root: apt-get update && apt-get install -y --no-install-recommends podman buildah mmdebstrap (or what your distribution calls them)" >&2
	return 1
}
tool=$(need podman buildah docker)

args=(--build-arg "VERSION=$version" --build-arg "SOURCE_DATE_EPOCH=$epoch" --build-arg "GOPROXY=$(go env GOPROXY)")
if [ "${LOCAL_BASE:-}" = 1 ]; then
	[ "$tool" != docker ] || tool=$(need podman buildah)
	base=localhost/portway-base:bookworm
	if ! "$tool" inspect --type image "$base" >/dev/null 2>&1; then
		need mmdebstrap >/dev/null
		echo "Making $base of Debian packages" >&2
		mkdir -p out
		mmdebstrap --quiet --variant=apt --include=ca-certificates bookworm out/base.tar
		if [ "$tool" = podman ]; then
			podman import --quiet out/base.tar "$base" >/dev/null
		else
			container=$(buildah from scratch)
			buildah add --quiet "$container" out/base.tar / >/dev/null
			buildah commit --quiet --rm "$container" "$base" >/dev/null
		fi
		rm out/base.tar
	fi
	GO_IMAGE=$base BASE_IMAGE=$base
	args+=(--pull=never --volume "$(go env GOROOT):/usr/local/go:ro"
		--volume "$(go env GOMODCACHE):/root/go/pkg/mod" --volume "$(go env GOCACHE):/root/.cache/go-build")
fi
for base in GO_IMAGE BASE_IMAGE; do
	[ -z "${!base:-}" ] || args+=(--build-arg "$base=${!base}")
done

case $tool in
podman | buildah)
	# A label with the version of buildah would make another digest of the same image.
	if "$tool" build --help | grep -e --identity-label >/dev/null; then args+=(--identity-label=false); fi
	# Isolation by chroot needs no network of its own, and no rights that nested
	# machines lack. Layers are not kept: what of them is fresh is not for us to say.
	"$tool" build --isolation chroot --build-arg "BUILDPLATFORM=linux/$(go env GOHOSTARCH)" --platform "linux/$arch" \
		--timestamp "$epoch" --format oci --layers=false --tag "$image" "${args[@]}" .
	digest() { "$tool" inspect --type image --format "$1" "$image"; }
	if [ "$tool" = podman ]; then digest '{{.Digest}}'; else digest '{{.FromImageDigest}}'; fi
	if [ -n "${IMAGE_ARCHIVE:-}" ]; then
		rm -f "$IMAGE_ARCHIVE"
		"$tool" push --quiet "$image" "oci-archive:$IMAGE_ARCHIVE:$image"
	fi
	;;
docker)
	# Provenance holds the time of the build.
	args+=(--provenance=false)
	docker buildx build --platform "linux/$arch" --tag "$image" "${args[@]}" \
		--output type=docker,rewrite-timestamp=true .
	if [ -n "${IMAGE_ARCHIVE:-}" ]; then
		docker buildx build --platform "linux/$arch" --tag "$image" "${args[@]}" \
			--output "type=oci,rewrite-timestamp=true,dest=$IMAGE_ARCHIVE" .
	fi
	;;
esac
