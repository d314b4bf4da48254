#!/bin/sh
# One directory of this machine's in two containers: one writes, the other can only read. To a third it belongs to nobody.
set -eu
cd "${CTR:-/ctr}"

shared=$(mktemp -d)
mkdir writer reader stranger
trap 'rmdir writer reader stranger; rm -r "$shared"' EXIT
chmod 700 "$shared"

# Each container has user ids of its own: root in one is nobody in the other, and nobody on this machine. The option idmap
# shows the files with the ids that they have here, to each.
echo "$shared /shared none bind,idmap,x-mount.mkdir 0 0" > writer/mounts
echo "$shared /shared none bind,idmap,ro,x-mount.mkdir 0 0" > reader/mounts
echo "$shared /shared none bind,x-mount.mkdir 0 0" > stranger/mounts

echo 'sh -c "echo from the writer > /shared/note; stat -c %U /shared/note"' > writer/cmd
echo 'sh -c "cat /shared/note; echo no > /shared/other"' > reader/cmd
echo 'sh -c "stat -c %U /shared; cat /shared/note"' > stranger/cmd
for c in writer reader stranger; do
	echo 1 > $c/start
	echo "$c: $(cat $c/wait)"
	sed 's/^/  /; s/.*: /  /' $c/log
done
echo "here: $(stat -c %U "$shared/note")"

# Output:
# writer: 0
#   root
# reader: 2
#   from the writer
#   Read-only file system
# stranger: 1
#   nobody
#   Permission denied
# here: root
