#!/bin/sh
# Runs while the image is built: image-tools.sh ARCHITECTURE DIRECTORY puts what of iptables
# the agent runs there. Packages are unpacked, not installed, so those of another architecture
# will do. All extensions are kept: without one, rules of others that use it cannot be read.
set -eu
arch=$1 to=$2
packages="iptables libc6 libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libxtables12"

work=$(mktemp -d)
cd "$work"
[ "$(dpkg --print-architecture)" = "$arch" ] || dpkg --add-architecture "$arch"
apt-get update -q >/dev/null
# shellcheck disable=SC2046 # words
apt-get download -q -o APT::Sandbox::User=root $(for p in $packages; do echo "$p:$arch"; done)
mkdir -p "$to/etc" "$to/usr/sbin" "$to/usr/lib" "$to/usr/share/portway" "$to/tmp"
for deb in *.deb; do
	dpkg-deb -x "$deb" root
	dpkg-deb -W --showformat '${Package}\t${Version}\t${Architecture}\n' "$deb"
done | LC_ALL=C sort >"$to/usr/share/portway/packages"

for p in $packages; do
	install -D -m 644 "root/usr/share/doc/$p/copyright" "$to/usr/share/doc/$p/copyright"
done
cp root/usr/sbin/xtables-nft-multi root/usr/sbin/xtables-legacy-multi "$to/usr/sbin/"
for family in iptables ip6tables; do
	for command in "" -save -restore; do
		for variant in nft legacy; do
			ln -s "xtables-$variant-multi" "$to/usr/sbin/$family-$variant$command"
		done
		ln -s xtables-nft-multi "$to/usr/sbin/$family$command"
	done
done
libraries=$(basename "$(dirname root/usr/lib/*/xtables)")
mkdir -p "$to/usr/lib/$libraries"
cp -a "root/usr/lib/$libraries/xtables" "$to/usr/lib/$libraries/"
for dir in "root/usr/lib/$libraries" "root/lib/$libraries"; do
	for library in ip4tc ip6tc mnl netfilter_conntrack nfnetlink nftnl xtables; do
		find "$dir" -maxdepth 1 -name "lib$library.so.*" -exec cp -a {} "$to/usr/lib/$libraries/" \;
	done
done
# Of the C library what the above is linked with. Its loader is at a path of its own.
for library in libc.so.6 libm.so.6; do
	cp -L "root/lib/$libraries/$library" "$to/usr/lib/$libraries/"
done
ln -s usr/lib "$to/lib"
for loader in root/lib/ld-linux-*.so.* root/lib64/ld-linux-*.so.*; do
	[ -e "$loader" ] || [ -L "$loader" ] || continue
	cp "root/lib/$libraries/$(basename "$loader")" "$to/usr/lib/$libraries/"
	case $loader in
	root/lib64/*) mkdir -p "$to/lib64" && ln -s "../lib/$libraries/$(basename "$loader")" "$to/lib64/" ;;
	*) ln -s "$libraries/$(basename "$loader")" "$to/usr/lib/" ;;
	esac
done
printf 'root:x:0:0::/:\nnonroot:x:65532:65532::/:\n' >"$to/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$to/etc/group"
chmod 1777 "$to/tmp"
