#!/bin/sh
# Builds an image of svol with what this machine has: no registry, no network.
#
#   build.sh BINARY NAME[:TAG]
#
# In it: the program, the libraries that it names and those that name resolution loads, the
# certificate authorities of this machine, and empty directories. No shell, no package manager.
# PODMAN is the command that builds it (podman, buildah or docker with their options).
set -eu
binary=$1
name=$2
here=$(dirname "$(readlink -f "$0")")
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
root=$context/rootfs

install -D -m 0755 "$binary" "$root/usr/bin/svol"
# A debug binary is ten times as large with its symbols.
strip --strip-debug "$root/usr/bin/svol"

# Also those that glibc loads by name; a static binary has none of either.
libraries=$(ldd "$binary" 2>/dev/null | grep -o '/[^ )]*' || true)
for library in $libraries; do
    install -D -m 0755 "$(readlink -f "$library")" "$root$library"
    for more in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
        beside=$(dirname "$library")/$more
        [ ! -e "$beside" ] || install -D -m 0644 "$(readlink -f "$beside")" "$root$beside"
    done
done

install -d "$root/etc/ssl/certs"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n' >"$root/etc/passwd"
printf 'root:x:0:\nnobody:x:65534:\n' >"$root/etc/group"
# What is mounted over, or filled as a volume, by any user: /cache and /run for the daemon's files.
install -d "$root/proc" "$root/sys" "$root/dev" "$root/volume"
install -d -m 1777 "$root/tmp" "$root/run" "$root/cache"

cp "$here/Containerfile" "$context/"
${PODMAN:-podman} build -q -t "$name" -f "$context/Containerfile" "$context"
