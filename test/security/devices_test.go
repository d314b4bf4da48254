package security

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// strange are devices that no container is given, by kind and number: the kernel's log, its memory, and the disks of most machines.
// They are opened for reading only, and nothing is read.
var strange = []struct {
	name         string
	kind         uint32
	major, minor uint32
}{
	{"kmsg", unix.S_IFCHR, 1, 11}, {"mem", unix.S_IFCHR, 1, 1}, {"fuse", unix.S_IFCHR, 10, 229}, {"vda", unix.S_IFBLK, 254, 0}, {"sda", unix.S_IFBLK, 8, 0},
	{"loop0", unix.S_IFBLK, 7, 0},
}

// nodes makes them in a directory, for everybody to open.
func nodes(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o777))
	must(t, os.Chmod(dir, 0o777))
	for _, d := range strange {
		must(t, unix.Mknod(dir+"/"+d.name, d.kind|0o666, int(unix.Mkdev(d.major, d.minor))))
		must(t, os.Chmod(dir+"/"+d.name, 0o666))
	}
}

// opener opens every node there is, below every mount, and makes some first where it can.
const opener = `sh -c 'for d in / /tmp /dev /dev/shm /dev/mqueue /dev/pts /run /volume /plain /plain-dev /etc
do mknod -m 666 $d/made c 10 229 2>/dev/null && echo made; mknod -m 666 $d/disk b 254 0 2>/dev/null; done
for f in $(find / -xdev ! -path "/proc/*" \( -type c -o -type b \)) $(find /dev /volume /plain /plain-dev \( -type c -o -type b \) 2>/dev/null)
do (: < $f) 2>/dev/null && echo opened $f; done; echo end'`

// Nothing opens but the customary devices, wherever a node lies, whoever has made it.
func TestDeviceNodes(t *testing.T) {
	g := mounted(t)
	volume := g.Base + "/volume"
	nodes(t, volume)
	mounts := "%s /volume none bind%s,x-mount.mkdir\ntmpfs /plain tmpfs x-mount.mkdir\ntmpfs /plain-dev tmpfs dev,x-mount.mkdir"
	for _, mode := range []string{"overlay", "ro", "rw", "volatile"} {
		for _, user := range []string{"new", "host"} {
			for _, option := range []string{"", ",idmap", ",rw"} {
				if user == "host" && option == ",idmap" {
					continue
				}
				root := g.freshRoot(fmt.Sprint("root-", mode, user, option))
				nodes(t, root+"/nodes")
				for _, d := range []string{"run", "volume", "plain", "plain-dev"} {
					must(t, os.MkdirAll(root+"/"+d, 0o755))
				}
				g.make("c", root, opener, "rootfs.mode", mode, "namespaces", "user "+user, "mounts", fmt.Sprintf(mounts, volume, option))
				o := g.try("c")
				made := 0
				for line := range strings.Lines(o.log) {
					switch line = strings.TrimSpace(line); strings.TrimPrefix(line, "opened ") {
					case "made":
						made++
					case "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts/ptmx", "/dev/ptmx", "end":
					default:
						t.Errorf("%s, user %s, bind%s: %s", mode, user, option, line)
					}
				}
				if !strings.HasSuffix(o.log, "end") || !strings.Contains(o.log, "opened /dev/null") || (made > 0) != (user == "host") {
					t.Errorf("%s, user %s: this test shows little: %v", mode, user, o)
				}
				must(t, os.Remove(g.Dir+"/c"))
				for _, name := range []string{"made", "disk"} {
					os.Remove(volume + "/" + name)
				}
			}
		}
	}
	// Whoever asks for it has the nodes of a tree, but of those only what devices allow.
	for _, user := range []string{"new", "host"} {
		for rule, want := range map[string]bool{"c 1:3 rwm /dev/null": false, "c 10:229 rw": true} {
			o := g.run("c", g.Root(), "sh -c '(: < /volume/fuse) && echo opened'", "namespaces", "user "+user, "devices", rule,
				"mounts", volume+" /volume none bind,dev,x-mount.mkdir")
			if strings.HasSuffix(o.log, "opened") != want || !want && !strings.Contains(o.log, "not permitted") {
				t.Errorf("user %s, with the option dev and %s: %v", user, rule, o)
			}
		}
	}
}
