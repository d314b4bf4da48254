#!/bin/sh
# A pod: two programs that share a network and nothing else. The directory around them holds it; no process has to.
set -eu
cd "${CTR:-/ctr}"

mkdir -p pod/server pod/client
trap 'echo KILL > pod/server/kill 2> /dev/null; cat pod/server/wait > /dev/null; rmdir pod/server pod/client pod' EXIT

# ".." is the container around. Namespaces that a container of its own would have are made and kept for it.
for c in server client; do printf 'user ..\nnet ..\n' > pod/$c/namespaces; done
cat > pod/server/cmd <<'END'
python3 -c 'import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=80, bind="127.0.0.1")'
END
cat > pod/client/cmd <<'END'
python3 -c '
import time, urllib.request
while True:
    try: print(urllib.request.urlopen("http://127.0.0.1").status); break
    except OSError: time.sleep(0.05)
'
END
echo 1 > pod/server/start
echo 1 > pod/client/start
echo "client: $(cat pod/client/wait), answer: $(cat pod/client/log)"

same() { [ "$(stat -Lc %i "$1/ns/$3")" = "$(stat -Lc %i "$2/ns/$3")" ] && echo yes || echo no; }
echo "one network: $(same pod pod/server net)"
echo "a program in the pod: $(cat pod/pid | grep . || echo no)"

# Output:
# client: 0, answer: 200
# one network: yes
# a program in the pod: no
