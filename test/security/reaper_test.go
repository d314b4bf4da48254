package security

import (
	"strings"
	"testing"
)

// TestReaperIsClosed: the reaper at PID 1 is not for the container to read, to write, to trace or to end, though it has no rights
// that the container's root has not.
func TestReaperIsClosed(t *testing.T) {
	g := mounted(t)
	const attack = `sh -c '
for f in exe mem environ maps; do
	head -c 1 /proc/1/$f > /dev/null 2>&1 && echo "$f can be read"
	(: >> /proc/1/$f) 2> /dev/null && echo "$f can be written"
done
ls /proc/1/fd > /dev/null 2>&1 && echo "its descriptors can be seen"
readlink /proc/1/cwd > /dev/null 2>&1 && echo "its directory can be entered"
kill -KILL 1; kill -STOP 1
cat /proc/1/comm
sed -n "s/^State:.//p" /proc/1/status
exit 42'`
	o := g.run("c", g.Root(), attack, "init", "1", "caps", "all")
	lines := strings.Split(strings.TrimSpace(o.log), "\n")
	if len(lines) != 2 || lines[0] != "ctrfs-init" || strings.HasPrefix(lines[1], "T") || o.exit != "42" {
		t.Errorf("PID 1 is open: %v", o)
	}
}
