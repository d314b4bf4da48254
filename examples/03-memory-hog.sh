#!/bin/sh
# A program that wants all the memory there is gets 64 MiB, and is killed for asking for more. The machine is not harmed.
set -eu
cd "${CTR:-/ctr}"

mkdir hog
trap 'rmdir hog' EXIT

# tail keeps the last ten lines in memory, and /dev/zero is one line without an end.
echo 'tail /dev/zero' > hog/cmd
echo 64M > hog/memory.max
echo "limit: $(cat hog/memory.max)"

echo 1 > hog/start
echo "exit:  $(cat hog/wait)"      # 128 + 9: the kernel's out-of-memory killer sends KILL
grep '^oom ' hog/status

# A limit can be changed at any time, also of a running container; max is none.
echo max > hog/memory.max
echo "limit: $(cat hog/memory.max)"

# Output:
# limit: 67108864
# exit:  137
# oom 1
# limit: max
