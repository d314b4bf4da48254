#!/bin/sh
# A server that does not run until somebody connects: ctrfs holds its socket. Here each connection has a program of its own.
set -eu
cd "${CTR:-/ctr}"

sock=$(mktemp -d)/answer.sock
mkdir oracle
trap 'echo 1 > oracle/stop; cat oracle/wait > /dev/null; rmdir oracle "${sock%/*}"' EXIT
echo 'sh -c "read question; echo \"\$question? Certainly.\""' > oracle/cmd
echo "unix $sock inetd" > oracle/net.listen
echo 1 > oracle/start
echo "$(cat oracle/state), with $(grep -c . oracle/ps) - 1 processes"

# ask QUESTION: connects, asks, and prints the answer.
ask() {
	python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall((sys.argv[2] + "\n").encode())
print(s.makefile().read(), end="")' "$sock" "$1"
}
ask "Is it there"
ask "And now"
until [ "$(cat oracle/state)" = listening ]; do sleep 0.05; done
echo "$(cat oracle/state) again"

# Output:
# listening, with 1 - 1 processes
# Is it there? Certainly.
# And now? Certainly.
# listening again
