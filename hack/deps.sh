#!/usr/bin/env bash
# Makes sure the command line tools are there that the tests and the demo show
# things with: nft, conntrack, iptables and ip, and the file from which nft knows that
# protocol 6 is called tcp; with "image" also those that build the image (podman,
# mmdebstrap), with "full" what the cluster lab runs real kubelets with: containerd, runc and
# the CNI plugins, with "bench" whom `make bench` compares with: haproxy and nginx, which are
# never started but in the benchmarks' own namespaces, each installed by itself, so that one which
# is not to be had does not keep the others away. As root it installs what is missing; otherwise it
# names the one command that does.
set -euo pipefail

# Debian keeps these out of the PATH of ordinary users.
PATH=$PATH:/usr/sbin:/sbin

# have TOOL: CNI plugins are in no PATH, and in another directory everywhere.
have() {
	case $1 in
	cni-plugins) [[ -x /usr/lib/cni/ptp || -x /opt/cni/bin/ptp || -x /usr/libexec/cni/ptp ]] ;;
	nginx-stream) compgen -G '/usr/lib*/nginx/modules/ngx_stream_module.so' >/dev/null || nginx -V 2>&1 | grep -qE -- '--with-stream( |$)' ;;
	/*) [[ -e $1 ]] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

tools=(nft conntrack ip iptables-nft /etc/protocols)
if [[ ${1:-} == image ]]; then
	tools+=(podman mmdebstrap)
fi
if [[ ${1:-} == full ]]; then
	tools+=(containerd runc nsenter cni-plugins)
fi
if [[ ${1:-} == bench ]]; then
	tools+=(haproxy nginx nginx-stream)
fi
missing=()
for tool in "${tools[@]}"; do
	have "$tool" || missing+=("$tool")
done
if [[ ${#missing[@]} -eq 0 ]]; then
	exit 0
fi

# package MANAGER TOOL prints the package that holds a tool.
package() {
	case "$1 $2" in
	*" nft") echo nftables ;;
	"dnf iptables-nft") echo iptables-nft ;;
	*" iptables-nft") echo iptables ;;
	"apt-get conntrack") echo conntrack ;;
	*" conntrack") echo conntrack-tools ;;
	"apt-get /etc/protocols") echo netbase ;;
	"dnf /etc/protocols") echo setup ;;
	"zypper /etc/protocols") echo netcfg ;;
	"apk /etc/protocols") echo alpine-baselayout-data ;;
	"dnf ip") echo iproute ;;
	*" ip") echo iproute2 ;;
	*" nsenter") echo util-linux ;;
	"apt-get cni-plugins" | "dnf cni-plugins") echo containernetworking-plugins ;;
	*" cni-plugins") echo cni-plugins ;;
	"apt-get nginx") echo nginx-light ;;
	"apt-get nginx-stream") echo libnginx-mod-stream ;;
	"dnf nginx-stream" | "apk nginx-stream") echo nginx-mod-stream ;;
	*" nginx-stream") echo nginx ;;
	*) echo "$2" ;;
	esac
}

manager=
for candidate in apt-get dnf zypper apk; do
	if command -v "$candidate" >/dev/null; then
		manager=$candidate
		break
	fi
done
if [[ -z $manager ]]; then
	echo "Missing: ${missing[*]}. Install nftables, conntrack-tools, iptables and iproute2 with your package manager." >&2
	exit 1
fi

packages=()
for tool in "${missing[@]}"; do
	packages+=("$(package "$manager" "$tool")")
done

# Debian starts what it installs unless this file, if there is none, forbids it.
policy=/usr/sbin/policy-rc.d
forbid() {
	[[ $manager == apt-get && ! -e $policy ]] || return 0
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
}

refresh=
case $manager in
apt-get) install=(apt-get install -y --no-install-recommends) refresh="apt-get update && " ;;
dnf) install=(dnf install -y) ;;
zypper) install=(zypper --non-interactive install) ;;
apk) install=(apk add) ;;
esac

if [[ $(id -u) -ne 0 ]]; then
	echo "Missing: ${missing[*]}. Run as root: $refresh${install[*]} ${packages[*]}" >&2
	exit 1
fi

echo "Installing ${packages[*]}"
if [[ ${1:-} == bench ]]; then
	forbid
fi
# get PACKAGE…
get() {
	if [[ $manager == apt-get ]]; then
		# The lists may be absent (containers) or old; one refresh cures both.
		DEBIAN_FRONTEND=noninteractive "${install[@]}" "$@" >/dev/null 2>&1 || { apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive "${install[@]}" "$@" 2>&1 >/dev/null | grep -v debconf >&2 || true; }
	else
		"${install[@]}" "$@" >/dev/null
	fi
}
if [[ ${1:-} == bench ]]; then
	for package in "${packages[@]}"; do
		get "$package" || true
	done
else
	get "${packages[@]}"
fi

absent=()
for tool in "${missing[@]}"; do
	have "$tool" || absent+=("$tool")
done
if [[ ${#absent[@]} -gt 0 ]]; then
	echo "${absent[*]} still missing after: ${install[*]} ${packages[*]}" >&2
	exit 1
fi
