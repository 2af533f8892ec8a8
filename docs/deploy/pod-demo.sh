#!/bin/sh
# Plays the pods of docs/deploy/kubernetes with podman, and shows what they do: the application reads
# the merged volume, who serves it and the whole sidecar are killed and come back, the pod ends,
# nothing is left mounted.
#
#   pod-demo.sh BINARY [sidecar|unprivileged]...
#
# As root. Images, containers and volumes are in a temporary directory of its own, and go with it;
# no network and no registry is used. KUBECTL names kubectl, or any that knows `kustomize DIRECTORY`.
set -eu
binary=$(readlink -f "$1")
shift
here=$(dirname "$(readlink -f "$0")")
kubectl=${KUBECTL:-kubectl}
dir=$(mktemp -d /tmp/svol-pod.XXXXXX)

podman() { "$dir/podman" "$@"; }

# What is mounted below the directory of the demonstration, in the order to unmount it.
mounted() {
    awk -v dir="$dir/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac
}

clean() {
    status=$?
    trap - EXIT INT TERM
    [ "$status" = 0 ] || podman logs demo-svol 2>&1 | tail -20 >&2 || true
    podman pod rm -f -a -t 5 >/dev/null 2>&1 || true
    # What looks after an ended container mounts its storage once more.
    for _ in $(seq 100); do pgrep -f "$dir/root" >/dev/null || break; sleep 0.1; done
    mounted | while read -r at; do umount -l "$at" || true; done
    umount -l "$dir" || true
    rm -rf --one-file-system "$dir"
    exit "$status"
}

fail() {
    echo "pod-demo: $*" >&2
    exit 1
}

now() { date +%s%N; }

# What a process takes of the machine's memory, its part of what is shared included.
pss() { awk '/^Pss:/ { print $2 }' "/proc/$1/smaps_rollup"; }

# Waits up to a minute until the application reads the volume; prints how long that took, in ms.
wait_for_service() {
    began=$(now)
    until [ "$(podman exec demo-app cat /data/v/hello 2>/dev/null)" = 'of the patch' ]; do
        [ $(($(now) - began)) -lt 60000000000 ] || fail "the application does not read the volume"
        sleep 0.05
    done
    echo $((($(now) - began) / 1000000))
}

mkdir "$dir/net" "$dir/busybox" "$dir/busybox/tmp"
# What is mounted in a container gets out of it only where the directory's mount is shared.
mount --bind "$dir" "$dir"
trap clean EXIT INT TERM
mount --make-private "$dir"
mount --make-shared "$dir"
cat >"$dir/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
CONF
cat >"$dir/podman" <<SH
#!/bin/sh
CONTAINERS_CONF=$dir/containers.conf exec podman --root $dir/root --runroot $dir/runroot \
    --tmpdir $dir/tmp --network-config-dir $dir/net "\$@"
SH
chmod +x "$dir/podman"

echo "== images, from files of this machine"
PODMAN=$dir/podman "$here/image/build.sh" "$binary" localhost/svol:latest >/dev/null
mkdir -p "$dir/busybox/bin"
cp "$(command -v busybox)" "$dir/busybox/bin/"
"$dir/busybox/bin/busybox" --install -s "$dir/busybox/bin"
for applet in "$dir"/busybox/bin/*; do [ ! -L "$applet" ] || ln -sf busybox "$applet"; done
tar -C "$dir/busybox" -c . | podman import -q -c 'ENV PATH=/bin' - \
    localhost/busybox:1.36 >/dev/null

for kind in ${*:-sidecar unprivileged}; do
    echo "== $kind: the pod starts"
    pod=$dir/$kind.yaml
    "$kubectl" kustomize "$here/kubernetes/podman/$kind" >"$pod"
    started=$(now)
    podman kube play --network none "$pod" >/dev/null
    wait_for_service >/dev/null
    echo "read by the application after $((($(now) - started) / 1000000)) ms, podman's part included"
    podman exec demo-app sh -c 'cd /data/v && grep . *'
    [ "$(podman exec demo-app cat /data/v/only)" = 'of the base alone' ] || fail "not merged"
    # Which takes the password: without it there is nothing to be had.
    ! podman exec demo-app wget -q -O - http://127.0.0.1:8080/base/hello 2>/dev/null ||
        fail "the web server asks for no password"
    podman exec demo-svol /usr/bin/svol probe --ready /volume/v
    pid=$(podman inspect --format '{{.State.Pid}}' demo-svol)
    grep -E '^(Uid|CapEff|Seccomp|NoNewPrivs):' "/proc/$pid/status"
    echo "memory of the sidecar: $(pss "$pid") KiB for the holder, $(pss "$(pgrep -o -P "$pid")") KiB" \
        "for who serves"
    if [ "$kind" = unprivileged ]; then
        grep -q '^CapEff:.0000000000000000' "/proc/$pid/status" || fail "the sidecar has privileges"
        grep -q '^Uid:.65534' "/proc/$pid/status" || fail "the sidecar is not user 65534"
    fi

    echo "== $kind: the process that serves is killed, while a file is open"
    podman exec demo-app sh -c 'exec 3</data/v/only && touch /tmp/open &&
        while [ -e /tmp/open ]; do sleep 0.1; done; cat <&3' >"$dir/read" 2>&1 &
    reader=$!
    until podman exec demo-app test -e /tmp/open; do sleep 0.05; done
    kill -9 "$(pgrep -o -P "$pid")"
    echo "back after $(wait_for_service) ms"
    podman exec demo-app rm /tmp/open
    wait "$reader" && grep 'of the base alone' "$dir/read" || fail "the open file: $(cat "$dir/read")"

    echo "== $kind: the sidecar is killed, and comes back"
    kill -9 "$pid"
    echo "back after $(wait_for_service) ms"

    echo "== $kind: the pod ends"
    # `kube down` of podman 4.3 kills at once; the kubelet sends SIGTERM and waits, as this does.
    stopped=$(now)
    podman pod stop -t 20 demo >/dev/null
    echo "ended after $((($(now) - stopped) / 1000000)) ms"
    podman kube down "$pod" >/dev/null
    left=$(mounted | grep '/v$' || true)
    [ -z "$left" ] || fail "left mounted: $left"
    podman volume rm -a -f >/dev/null
    podman secret rm -a >/dev/null
    echo "nothing is left mounted"
done
