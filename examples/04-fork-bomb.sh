#!/bin/sh
# A program that doubles itself for ever stops at pids.max, and one write ends the whole of it.
set -eu
cd "${CTR:-/ctr}"

mkdir bomb
trap 'echo 1 > bomb/cgroup.kill 2> /dev/null; cat bomb/wait > /dev/null; rmdir bomb' EXIT

echo 20 > bomb/pids.max
# Every call of b runs b twice. PID 1 makes one child that begins, and becomes a sleep, so that the container lives on.
echo "sh -c 'b() { b | b & }; (b) & exec sleep 1000'" > bomb/cmd
echo 1 > bomb/start

# The kernel refuses the twenty-first process; the shell that wanted it complains to its log.
until grep -q fork bomb/log; do sleep 0.05; done
echo "it hit its limit of $(cat bomb/pids.max)"
[ "$(cat bomb/pids.current)" -le 20 ] && echo "and is within it"

# KILL to PID 1 ends everything that lives in its pid namespace.
echo KILL > bomb/kill
echo "exit: $(cat bomb/wait), processes left: $(cat bomb/pids.current)"

# Output:
# it hit its limit of 20
# and is within it
# exit: 137, processes left: 0
