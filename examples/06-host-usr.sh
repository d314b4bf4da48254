#!/bin/sh
# A root of one's own with this machine's programs in it: /usr is bound into it, read-only with all that is mounted below.
set -eu
cd "${CTR:-/ctr}"

# The root is a directory with little more than links: programs look for /bin and /lib, and find them in /usr.
root=$(mktemp -d)
mkdir box
trap 'rmdir box; rm -r "$root"' EXIT
chmod 755 "$root"
for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
mkdir "$root/usr" "$root/etc"
echo 'made for the box' > "$root/etc/motd"
echo "$root" > box/rootfs

# One line of fstab(5) for each mount: source, target, type, options. Set-user-id programs are of no use to a container.
echo '/usr /usr none rbind,ro,nosuid 0 0' > box/mounts

echo 'sh -c "cat /etc/motd; test -x /usr/bin/env && echo programs: yes; touch /usr/x 2> /dev/null || echo changes: no"' > box/cmd
echo 1 > box/start
cat box/wait box/log
grep -o 'bind /usr on /usr.*' box/plan

# Output:
# 0
# made for the box
# programs: yes
# changes: no
# bind /usr on /usr (rbind,ro,nosuid)
