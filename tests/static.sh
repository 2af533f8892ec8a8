#!/bin/sh
# Tries a static program in a directory that holds nothing else but a resolv.conf, an authority and a
# cache: name resolution over DNS, TLS, SQLite, and a mount. Takes root, for namespaces of its own.
#
#   tests/static.sh BINARY
set -eu
if [ "$(id -u)" != 0 ]; then
    echo "static: BUILT, NOT TRIED: trying it takes root" >&2
    exit 0
fi
binary=$(realpath "$1")
! readelf -lW "$binary" | grep -q 'INTERP' || {
    echo "static: $binary wants a loader" >&2
    exit 1
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir site root root/etc root/mnt root/srv root/dev root/proc
echo hello from afar >site/f
echo hello from here >root/srv/g
cp "$binary" root/svol
echo 'nameserver 127.0.0.1' >root/etc/resolv.conf
openssl req -quiet -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem \
    -out root/ca.pem -subj /CN=files.test -addext subjectAltName=DNS:files.test 2>/dev/null

# Answers every question for an IPv4 address with 127.0.0.1, and has the site.
cat >servers.py <<'PYTHON'
import http.server, os, socket, ssl, threading

def names():
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.bind(("127.0.0.1", 53))
    while True:
        ask, who = door.recvfrom(512)
        end = ask.index(0, 12) + 5
        is_four = ask[end - 4 : end - 2] == b"\0\1"
        head = ask[:2] + b"\x85\x80\0\1" + (b"\0\1" if is_four else b"\0\0") + b"\0\0\0\0"
        told = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if is_four else b""
        door.sendto(head + ask[12:end] + told, who)

threading.Thread(target=names, daemon=True).start()
os.chdir("site")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("../root/ca.pem", "../key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
open("../ready", "w").close()
server.serve_forever()
PYTHON

unshare -m -n -p -f --kill-child --propagation private sh -eu <<'SHELL'
ip link set lo up 2>/dev/null || python3 - <<'PYTHON'
import fcntl, socket, struct
s = socket.socket()
fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 1))
PYTHON
python3 servers.py 2>servers.log &
tries=0
while [ ! -e ready ] && [ $tries -lt 600 ]; do sleep 0.1; tries=$((tries + 1)); done
svol() {
    env -i "PATH=$PATH" SSL_CERT_FILE=/ca.pem SVOL_CACHE_DIR=/cache SVOL_RUNTIME_DIR=/run \
        chroot root /svol "$@"
}
said=$(svol cat --path /f https://files.test:8443/f=/)
[ "$said" = "hello from afar" ] || { echo "static: DNS or TLS fails: $said" >&2; cat servers.log >&2; exit 1; }
# It was kept: the cache and its index work.
svol cache stats
mount -t proc proc root/proc
mknod -m 666 root/dev/fuse c 10 229
mknod -m 666 root/dev/null c 1 3
svol mount /srv=/here https://files.test:8443/f=/afar /mnt
[ "$(cat root/mnt/here/g)" = "hello from here" ]
[ "$(cat root/mnt/afar/f)" = "hello from afar" ]
svol unmount /mnt
SHELL
echo "static: $(du -h "$binary" | cut -f1), serves from an empty root"
