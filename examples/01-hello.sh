#!/bin/sh
# One container, from nothing to its exit: a directory is a container, its files are its settings and its state.
set -eu
cd "${CTR:-/ctr}"

mkdir hello
trap 'rmdir hello' EXIT

# The command line is split as a shell would split it, but nothing in it is expanded: $$ and $(hostname) are left for
# the shell inside. No rootfs is named, so the container sees this machine's /usr, read-only, and nothing else of it.
echo 'sh -c "echo Hello, I am PID $$ on $(hostname); exit 7"' > hello/cmd

echo "before: $(cat hello/state)"
echo 1 > hello/start
echo "exit:   $(cat hello/wait)"      # reading wait blocks until the program has ended
echo "after:  $(cat hello/state)"
cat hello/log

# Output:
# before: created
# exit:   7
# after:  exited
# Hello, I am PID 1 on hello
