#!/bin/sh
# A private /tmp in memory, of a size that it cannot exceed, empty at every start. It is added to a container that runs.
set -eu
cd "${CTR:-/ctr}"

mkdir box
trap 'rmdir box' EXIT
echo "sh -c 'echo before > /tmp/f; cat /tmp/f; until grep -q \" /tmp tmpfs\" /proc/mounts; do sleep 0.05; done
	ls /tmp | wc -l; head -c 2M /dev/zero > /tmp/big || wc -c < /tmp/big'" > box/cmd
echo 1 > box/start
until grep -q before box/log; do sleep 0.05; done

# Live: the line is a mount in the container as soon as the write returns. Before, its /tmp was in its layer, on the disk.
echo 'tmpfs /tmp tmpfs size=1M,mode=1777,nosuid,nodev 0 0' > box/mounts
echo "exit: $(cat box/wait)"
grep -v error box/log

# Output:
# exit: 0
# before
# 0
# 1048576
