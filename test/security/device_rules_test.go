package security

import (
	"strings"
	"testing"
)

// privileged are settings with which a program may do on the host whatever its devices do not forbid.
var privileged = []string{"namespaces", "user host", "caps", "all", "seccomp", "unconfined", "no_new_privs", "0", "masked", "", "readonly", ""}

// breaker makes the nodes of the host's disks, memory and log on a mount of its own, on the root's and on what the host has given it, and
// opens them in every way. The list of the host's own devices comes from the outside.
const breaker = `sh -c 'mkdir -p /own; mount -t tmpfs -o dev own /own; mount -o remount,dev /; mount -o remount,dev /dev
while read kind major minor; do for d in /own /dev / /given; do n=$d/$kind-$major-$minor; mknod -m 666 $n $kind $major $minor && echo made $n
for how in "<" ">>" "<>"; do (eval "exec 3$how $n") 2> /tmp/why && echo opened $n $how || grep -v "not permitted" /tmp/why; done; rm -f $n; done; done < /list; echo end'`

// Nothing but the list decides: not capabilities, the filter, namespaces, or mounts that a program makes for itself. Where a node opens
// without it, a program that is root reads and writes the host's disks.
func TestDeviceRules(t *testing.T) {
	g := mounted(t)
	root := g.freshRoot("root")
	g.Sh("mkdir -p %[1]s/given %[2]s/tmp %[2]s/given", g.Base, root)
	g.Sh(`sed -n 's/^ *\([0-9]\+\) \+\([0-9]\+\) .*/b \1 \2/p' /proc/partitions | head -n 20 > %[1]s/list
for d in 'c 1 1' 'c 1 2' 'c 1 11' 'c 10 229' 'c 10 237' 'c 240 0' 'b 8 0' 'b 254 0'; do echo $d; done >> %[1]s/list`, root)
	settings := append([]string{"mounts", g.Base + "/given /given none bind,dev\ntmpfs /tmp tmpfs dev"}, privileged...)
	o := g.run("c", root, breaker, settings...)
	made := strings.Count(o.log, "made /own/")
	for line := range strings.Lines(o.log) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "made ") && line != "end" {
			t.Error(line)
		}
	}
	if !strings.HasSuffix(o.log, "end") || made < 8 || strings.Count(o.log, "made /given/") != made {
		t.Errorf("this test shows little: %v", o)
	}
	// Without rights to make nodes none can be made, and reading is not writing.
	o = g.run("c", root, `sh -c 'mkdir -p /own; mount -t tmpfs -o dev own /own; mknod /own/a c 240 0; mknod /own/b c 10 229 && (: < /own/b) && echo read; (: >> /own/b); echo end'`,
		append([]string{"devices", "c 1:3 rwm /dev/null\nc 10:229 rm"}, privileged...)...)
	if want := "read\n"; !strings.Contains(o.log, want) || strings.Count(o.log, "not permitted") != 2 {
		t.Errorf("one device, to be read and made: %v", o)
	}
}

// A container within another gets around neither its own list nor the other one's; and a list that is made shorter counts for what
// runs already.
func TestNestedDeviceRules(t *testing.T) {
	g := mounted(t)
	root := g.freshRoot("root")
	g.make("outer", root, "true", privileged...)
	const open = `sh -c 'mkdir -p /own; mount -t tmpfs -o dev own /own; mknod /own/b c 10 229; while :; do (: < /own/b) 2> /dev/null && echo opened || echo refused; sleep 0.02; done'`
	g.make("outer/inner", root, open, privileged...)
	g.Write("outer/devices", "a")
	g.Write("outer/inner/devices", "a")
	if err := g.put("outer/inner/start", "1"); err != nil {
		t.Fatal(err, g.Read("outer/inner/error"))
	}
	last := func() string {
		g.Sh("n=$(wc -l < outer/inner/log); until [ $(wc -l < outer/inner/log) -gt $((n + 1)) ]; do sleep 0.01; done")
		lines := strings.Fields(g.Read("outer/inner/log"))
		return lines[len(lines)-1]
	}
	if got := last(); got != "opened" {
		t.Fatalf("with everything allowed it is %s", got)
	}
	for _, step := range []struct{ file, list, want string }{
		{"outer/devices", "c 1:3 rwm\nc 10:* m", "refused"}, {"outer/devices", "a", "opened"}, {"outer/inner/devices", "c 1:3 rwm", "refused"},
	} {
		if err := g.put(step.file, step.list); err != nil {
			// cgroup v1 cannot take everything from a group with others in it, and says so.
			if strings.Contains(g.Read("outer/error"), "cgroup v1 cannot") {
				continue
			}
			t.Fatal(err, g.Read("outer/error"))
		}
		if got := last(); got != step.want {
			t.Errorf("after %s is %q, it is %s", step.file, step.list, got)
		}
	}
	if err := g.put("outer/inner/kill", "KILL"); err != nil {
		t.Error(err)
	}
	g.Read("outer/inner/wait")
}
