#!/bin/sh
# Two containers in a network: they find each other by name, and one has a port that this machine's programs reach.
#
# Networks belong to the network namespace in which ctrfs was mounted. So that this changes nothing of your machine's, it makes a
# namespace of its own, and mounts ctrfs in it once more. On your own mount it is only what stands between the lines.
set -eu
[ "${1-}" = inside ] || exec unshare --net "$0" inside
dir=$(mktemp -d)
trap 'cd /; "${CTRFS:-ctrfs}" umount --stop "$dir/ctr" && rm -r "$dir"' EXIT
ip link set lo up
mkdir "$dir/ctr"
"${CTRFS:-ctrfs}" mount "$dir/ctr" --state "$dir/state" --run "$dir/run"
cd "$dir/ctr"
# ---------------------------------------------------------------------------------------------------------------------------------

mkdir networks/blue # a bridge with subnets of its own; networks/bridge is there already
mkdir server client
echo blue > server/net
echo blue > client/net
echo 8080:80 > server/net.ports # of 127.0.0.1; 0.0.0.0:8080:80 is all of this machine's addresses
cat > server/cmd <<'EOF'
sh -c 'echo "hello from $(hostname)" > /tmp/index.html; exec python3 -m http.server -b :: -d /tmp 80'
EOF
cat > client/cmd <<'EOF'
python3 -c '
import time, urllib.request
while True:
    try: print(urllib.request.urlopen("http://server").read().decode().strip()); break
    except OSError: time.sleep(0.05)
'
EOF
echo 1 > server/start
echo 1 > client/start
echo "client: $(cat client/wait), $(cat client/log)"
echo "this machine: $(python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:8080").read().decode().strip())')"
cut -d' ' -f1 networks/blue/members
echo KILL > server/kill # Python, as the first process of a container, does not hear TERM

# ---------------------------------------------------------------------------------------------------------------------------------
# `umount --stop` stops them, and takes the network away with everything that it had on this machine.

# Output:
# client: 0, hello from server
# this machine: hello from server
# client
# server
