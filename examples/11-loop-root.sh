#!/bin/sh
# A container whose file system is one file. What is made inside is not seen outside; the file is kept, copied, and is the root of
# another container, which finds what the first one made.
set -eu
cd "${CTR:-/ctr}"

files=$(mktemp -d)
mkdir one
trap 'rmdir one two 2>/dev/null || true; rm -r "$files"' EXIT

# An ext4 in a file of 64M, which takes on the disk only what is in it. It holds a busybox, and needs no mount.
mkdir -p "$files/tree/bin"
cp "$(command -v busybox)" "$files/tree/bin/sh"
truncate -s 64M "$files/disk"
PATH=$PATH:/sbin:/usr/sbin mke2fs -q -t ext4 -d "$files/tree" "$files/disk"

# rw: what the program writes is written to the file.
echo "$files/disk" > one/rootfs
echo rw > one/rootfs.mode
echo 'sh -c "echo made inside > /note; echo inside: \$(cat /note)"' > one/cmd
echo 1 > one/start
echo "one: $(cat one/wait)"
cat one/log
ls /note 2>/dev/null || echo "outside: no /note"
rmdir one

# The copy is a file like any other. In mode overlay it is not changed any more.
cp --sparse=always "$files/disk" "$files/copy"
mkdir two
echo "$files/copy" > two/rootfs
echo 'sh -c "read note < /note; echo in the copy: \$note; echo more > /more"' > two/cmd
echo 1 > two/start
echo "two: $(cat two/wait)"
cat two/log two/changes

# Output:
# one: 0
# inside: made inside
# outside: no /note
# two: 0
# in the copy: made inside
# A /more
