#!/usr/bin/env python3
"""The same from Python. There is no library to import: a container is a directory, so open() and os.mkdir() do it all."""

import os

CTR = os.environ.get("CTR", "/ctr")


def put(name, file, value):
    # Closing is what sends the value, and what raises OSError when it is refused: hence with.
    with open(os.path.join(CTR, name, file), "w") as f:
        f.write(value + "\n")


def get(name, file):
    with open(os.path.join(CTR, name, file)) as f:
        return f.read().rstrip("\n")


jobs = [f"py{i}" for i in range(3)]
for i, job in enumerate(jobs):
    os.mkdir(os.path.join(CTR, job))
    put(job, "cmd", f"sh -c 'echo job {i} on $(hostname); exit {i}'")
    put(job, "memory.max", "64M")
    put(job, "start", "1")

for job in jobs:
    print("exit", get(job, "wait"), "log:", get(job, "log"))

# A refused value raises, with the errno of the refusal; the error file says why and what to do.
try:
    put("py0", "memory.max", "12x")
except OSError as e:
    print("refused:", e.strerror)
    print("memory.max" in get("py0", "error"), get("py0", "memory.max"))

for job in jobs:
    os.rmdir(os.path.join(CTR, job))

# Output:
# exit 0 log: job 0 on py0
# exit 1 log: job 1 on py1
# exit 2 log: job 2 on py2
# refused: Invalid argument
# True 67108864
