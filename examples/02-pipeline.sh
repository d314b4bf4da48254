#!/bin/sh
# Twenty containers at work, four at a time, and the tools that everybody has to steer them and to ask them questions.
set -eu
cd "${CTR:-/ctr}"

# for makes them. Each computes a square; every fifth one fails.
for i in $(seq 20); do
	mkdir "job$i"
	echo "sh -c 'echo $i squared is \$(($i * $i)); exit \$(($i % 5 == 0))'" > "job$i/cmd"
done
trap 'rmdir job*' EXIT

# xargs runs them: four workers, each starts a container and reads wait, which returns when it has ended.
printf '%s\n' job* | xargs -P 4 -I JOB sh -c 'echo 1 > JOB/start; cat JOB/wait > /dev/null'

# grep finds those that failed, and sort and tail make a report of all logs.
echo "failed: $(grep -l '^1$' job*/exit | sort -V | xargs -n 1 dirname | xargs)"
cat job*/log | sort -n | tail -n 3
echo "$(cat job*/state | sort | uniq -c | xargs)"

# A container that failed is mended and started again, in place.
echo 'true' > job5/cmd
echo 1 > job5/start
echo "job5 now: $(cat job5/wait)"

# Output:
# failed: job5 job10 job15 job20
# 18 squared is 324
# 19 squared is 361
# 20 squared is 400
# 20 exited
# job5 now: 0
