#!/bin/sh
# A look into a container that runs: a further program, in its namespaces and with its rights.
set -eu
cd "${CTR:-/ctr}"

mkdir web
trap 'echo KILL > web/kill 2> /dev/null; cat web/wait > /dev/null; rm -r web' EXIT
echo 'sh -c "echo secret > /tmp/notes; exec sleep 1000"' > web/cmd
echo 1 > web/start

# ask NAME COMMAND: runs a command there, shows what it wrote, and says how it ended.
ask() {
	mkdir "web/exec/$1"
	echo "$2" > "web/exec/$1/cmd"
	echo 1 > "web/exec/$1/start"
	echo "$1: exit $(cat "web/exec/$1/wait"), $(cat "web/exec/$1/log")"
}
ask files "sh -c 'until cat /tmp/notes 2> /dev/null; do sleep 0.05; done'"
ask name hostname
ask neighbours "sh -c 'ps -e -o args= | grep -c \"[s]leep 1000\"'"
ls web/exec

# Output:
# files: exit 0, secret
# name: exit 0, web
# neighbours: exit 0, 1
# files
# name
# neighbours
