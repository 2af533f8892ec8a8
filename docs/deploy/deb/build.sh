#!/bin/sh
# Makes a Debian package of what `make install` installs.
#
#   build.sh BINARY PACKAGE.deb
set -eu
binary=$1
package=$2
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$project/Cargo.toml" | head -n 1)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# /usr/sbin and /usr/lib: what /sbin and /lib are links to since Debian 12.
make -s -C "$project" install BINARY="$binary" DESTDIR="$root" PREFIX=/usr SBINDIR=/usr/sbin
install -d -m 0755 "$root/etc/svol" "$root/usr/share/doc/svol"
gzip -9n "$root"/usr/share/man/man*/*
install -m 0644 "$project/LICENSE" "$root/usr/share/doc/svol/copyright"
gzip -9nc "$project/CHANGELOG.md" >"$root/usr/share/doc/svol/changelog.gz"

# The oldest C library that has all that the program asks for; a static one asks for nothing.
glibc=$(objdump -T "$binary" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 || :)
depends='fuse3, ca-certificates'
[ -z "$glibc" ] || depends="libc6 (>= ${glibc#GLIBC_}), libgcc-s1, $depends"

install -d -m 0755 "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: svol
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: Shared Volume maintainers <maintainers@sharedvolume.io>
Section: utils
Priority: optional
Homepage: https://github.com/sharedvolume/svol
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: $depends
Description: one merged, lazy, cached, read-only filesystem over many sources
 Mounts buckets, Git repositories, web, WebDAV, SFTP and FTP servers and local
 directories as one tree, fetches blocks when they are read, and keeps them in
 a verified cache on disk. Includes the helper for mount(8) and /etc/fstab and
 a template unit for systemd.
CONTROL
for script in postinst prerm postrm; do
    install -m 0755 "$here/$script" "$root/DEBIAN/$script"
done
dpkg-deb --root-owner-group -Z"${COMPRESSION-xz}" --build "$root" "$package" >/dev/null
echo "$package"
