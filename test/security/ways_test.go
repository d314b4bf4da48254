package security

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ctrfs/ctrfs/test"
)

// configurations are settings of several kinds, restrictive and not, each pairs of file and value. DATA is a directory of the host.
var configurations = map[string][]string{
	"plain":  nil,
	"narrow": {"caps", "none", "no_new_privs", "1", "user", "1000:1001", "rootfs.mode", "ro", "rlimits", "nofile 64 64", "oom_score_adj", "7", "cwd", "/tmp"},
	"wide":   {"caps", "all", "no_new_privs", "0", "seccomp", "unconfined", "masked", "/proc/keys", "readonly", "/proc/sys", "devices", "a"},
	"host":   {"namespaces", "user host", "caps", "-MKNOD", "mounts", "DATA /data none bind,ro,dev,x-mount.mkdir"},
	"shared": {"namespaces", "net host\nipc host", "rootfs.mode", "volatile"},
	"filter": {"seccomp", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`, "sysctl", "net.ipv4.ip_unprivileged_port_start 5"},
	"named":  {"user", "bob:staff", "mounts", "DATA /data none bind,idmap,nosuid,x-mount.mkdir\ntmpfs /mnt tmpfs size=1m,noexec,x-mount.mkdir"},
	"mapped": {"uid_map", "0 100000 1000", "gid_map", "0 200000 1000", "devices", "c 1:3 rwm /dev/null\nc 10:229 rw /dev/fuse"},
}

// rightsOf prints what a program is and may do: proc_pid_status(5), its limits, ids, mounts and what it can open and make.
const rightsProgram = `sh -c 'grep -e ^Uid -e ^Gid -e ^Groups -e ^Cap -e ^NoNew -e ^Seccomp: /proc/self/status; pwd; ulimit -n
cat /proc/self/oom_score_adj /proc/self/uid_map /proc/self/gid_map; cut -d" " -f2-4 /proc/self/mounts; mkdir /mnt/x 2>&1; rmdir /mnt/x; stat -c "%A %u %n" /dev/* /data/*
for n in net ipc user; do readlink /proc/self/ns/$n; done; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; : > /proc/sys/kernel/x; true'`

// normal takes out what differs between two containers or two starts: ids, paths of layers, numbers of namespaces that are not the
// host's, and times.
func (g *ground) normal(text string) string {
	for _, kind := range []string{"net", "ipc", "user"} {
		host, _ := os.Readlink("/proc/self/ns/" + kind)
		text = strings.ReplaceAll(text, host, kind+" of the host")
	}
	for _, r := range [][2]string{
		{`(net|ipc|user):\[\d+\]`, "$1 of its own"}, {`upper=\S+`, "upper"}, {`join cgroup \S+`, "join cgroup"}, {`(with ids \d+) \d{9,}`, "$1"}, {`\b(uid|gid)=\d{9,}`, "$1"},
		{`(?m)^( +0 +)\d{9,}`, "$1"}, {`(/ overlay r\S*?)(,relatime)?,lowerdir\S+`, "$1"},
	} {
		text = regexp.MustCompile(r[0]).ReplaceAllString(text, r[1])
	}
	return text
}

// A configuration gives the same plan and the same rights by whatever way it came to its start.
func TestEveryWayToStart(t *testing.T) {
	g := mounted(t)
	data := g.Base + "/data"
	must(t, os.Mkdir(data, 0o755))
	must(t, os.WriteFile(data+"/f", []byte("x\n"), 0o644))
	root := g.freshRoot("ways")
	must(t, os.MkdirAll(root+"/mnt", 0o755))
	must(t, os.MkdirAll(root+"/data", 0o755))
	must(t, os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0::/:\nbob:x:1000:1000::/:\n"), 0o644))
	must(t, os.WriteFile(root+"/etc/group", []byte("staff:x:50:\naudio:x:29:bob\n"), 0o644))
	// Each makes the container y of x, in its own way, and returns where it is.
	ways := map[string]func() string{
		"cat": func() string { g.Sh("mkdir y; cat x/config.json > y/config.json"); return "y" },
		"cp":  func() string { g.Sh("mkdir y; cp x/config.json y/config.json"); return "y" },
		"files": func() string {
			g.Sh("mkdir y; for f in rootfs rootfs.mode cmd env cwd user hostname rlimits oom_score_adj mounts masked readonly namespaces uid_map gid_map caps seccomp no_new_privs sysctl devices stop.timeout\ndo cat x/$f > y/$f || echo $f; done")
			return "y"
		},
		"mv": func() string { g.Sh("mkdir a; cat x/config.json > a/config.json; mv a y"); return "y" },
		// What is nested can have no device that the container around it may not have.
		"nested": func() string {
			g.Sh("mkdir p; echo a > p/devices; mkdir p/y; cp x/config.json p/y/config.json")
			return "p/y"
		},
		"moved into": func() string {
			g.Sh("mkdir p y; echo a > p/devices; cat x/config.json > y/config.json; mv y p/y")
			return "p/y"
		},
		"after a start": func() string {
			g.Sh("mkdir y; cat x/config.json > y/config.json; echo 1 > y/start; cat y/wait > /dev/null")
			return "y"
		},
		"after another": func() string { // everything was set otherwise before
			g.Sh("mkdir y; echo all > y/caps; echo unconfined > y/seccomp; echo 0 > y/no_new_privs; echo a > y/devices; echo 'tmpfs /evil tmpfs x-mount.mkdir' > y/mounts; echo 'pid host' > y/namespaces; echo > y/masked; echo > y/readonly; cat x/config.json > y/config.json")
			return "y"
		},
		"by another ctrfs": func() string {
			g.Sh("mkdir y; cat x/config.json > y/config.json")
			must(t, g.Umount())
			must(t, g.Mount())
			return "y"
		},
		"by another server": func() string {
			g.Sh("mkdir y; cat x/config.json > y/config.json")
			before := g.processes()["server"]
			p, err := os.FindProcess(before)
			must(t, err)
			must(t, p.Kill())
			test.Eventually(t, "another server answers", patience, func() bool {
				_, now, err := g.Processes()
				return err == nil && now != before && g.Mounted()
			})
			return "y"
		},
	}
	see := func(name string) string {
		o := g.try(name)
		return g.normal(o.String() + "\n" + g.Read(name+"/plan"))
	}
	for name, settings := range configurations {
		g.make("x", root, rightsProgram, "hostname", "same")
		for pair := range slices.Chunk(settings, 2) {
			g.Write("x/"+pair[0], strings.ReplaceAll(pair[1], "DATA", data))
		}
		want := see("x")
		if !strings.Contains(want, "CapEff:") {
			t.Errorf("%s: %s", name, want)
		}
		for way, come := range ways {
			at := come()
			if got := see(at); got != want {
				t.Errorf("%s by %s:\n%s", name, way, difference(want, got))
			}
			g.Sh("rmdir %s; if [ -d p ]; then rmdir p; fi", at)
		}
		must(t, os.Remove(g.Dir+"/x"))
	}
}

// difference lists the lines that only one of two texts has.
func difference(want, got string) string {
	var out []string
	for _, line := range strings.Split(want, "\n") {
		if !strings.Contains(got, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range strings.Split(got, "\n") {
		if !strings.Contains(want, line) {
			out = append(out, "+ "+line)
		}
	}
	return strings.Join(out, "\n")
}

// What a file refuses, config.json refuses too, at the latest when it starts; and then the old configuration is still there.
func TestRefusedEitherWay(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "true")
	process := func(key string, value any) func(spec) { return func(s spec) { s["process"].(spec)[key] = value } }
	linux := func(key string, value any) func(spec) { return func(s spec) { s["linux"].(spec)[key] = value } }
	mount := func(m spec) func(spec) { return func(s spec) { s["mounts"] = append(s["mounts"].([]any), m) } }
	root := func(path any) func(spec) { return func(s spec) { s["root"] = spec{"path": path} } }
	id := func(host, inside, size any) []any {
		return []any{spec{"hostID": host, "containerID": inside, "size": size}}
	}
	for _, c := range []struct {
		file, value string
		change      func(spec)
	}{
		{"caps", "NO_SUCH", func(s spec) {
			s["process"].(spec)["capabilities"] = spec{"bounding": []string{"CAP_NO_SUCH"}, "effective": []string{"CAP_NO_SUCH"}, "permitted": []string{"CAP_NO_SUCH"}}
		}},
		{"env", "NOVALUE", process("env", []string{"NOVALUE"})},
		{"env", "=x", process("env", []string{"=x"})},
		{"cwd", "tmp", process("cwd", "tmp")},
		{"rlimits", "nosuch 1 1", process("rlimits", []any{spec{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}})},
		{"rlimits", "nofile 2 1", process("rlimits", []any{spec{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}})},
		{"oom_score_adj", "1001", process("oomScoreAdj", 1001)},
		{"user", "4294967295", process("user", spec{"uid": 4294967295, "gid": 0})},
		{"user", "0:-1", process("user", spec{"uid": 0, "gid": -1})},
		{"apparmor", "a\x00b", process("apparmorProfile", "a\x00b")},
		{"hostname", "../x", func(s spec) { s["hostname"] = "../x" }},
		{"hostname", "a b", func(s spec) { s["hostname"] = "a b" }},
		{"rootfs", "relative", root("relative")},
		{"rootfs", "/no/such/place", root("/no/such/place")},
		{"rootfs", "/proc/1/root", root("/proc/1/root")},
		{"rootfs", "/proc/self/cwd", root("/proc/self/cwd")},
		{"rootfs", g.Dir, root(g.Dir)},
		{"mounts", "/proc/self/root /x none bind,x-mount.mkdir", mount(spec{"source": "/proc/self/root", "destination": "/x", "type": "none", "options": []string{"bind", "x-mount.mkdir"}})},
		{"mounts", "/proc/1 /x none bind,x-mount.mkdir", mount(spec{"source": "/proc/1", "destination": "/x", "type": "none", "options": []string{"bind", "x-mount.mkdir"}})},
		{"mounts", "/proc/self/fd/3 /x none bind,x-mount.mkdir", mount(spec{"source": "/proc/self/fd/3", "destination": "/x", "type": "none", "options": []string{"bind", "x-mount.mkdir"}})},
		{"mounts", g.Dir + " /x none bind,x-mount.mkdir", mount(spec{"source": g.Dir, "destination": "/x", "type": "none", "options": []string{"bind", "x-mount.mkdir"}})},
		{"mounts", "/tmp/../etc /x none bind,x-mount.mkdir", mount(spec{"source": "/tmp/../etc", "destination": "/x", "type": "none", "options": []string{"bind", "x-mount.mkdir"}})},
		{"mounts", "/tmp /a/../../x none bind,x-mount.mkdir", mount(spec{"source": "/tmp", "destination": "/a/../../x", "type": "none", "options": []string{"bind", "x-mount.mkdir"}})},
		{"mounts", "/tmp / none bind", mount(spec{"source": "/tmp", "destination": "/", "type": "none", "options": []string{"bind"}})},
		{"mounts", "/dev/sda /x ext4 x-mount.mkdir", mount(spec{"source": "/dev/sda", "destination": "/x", "type": "ext4", "options": []string{"x-mount.mkdir"}})},
		{"mounts", "x /x debugfs x-mount.mkdir", mount(spec{"source": "x", "destination": "/x", "type": "debugfs", "options": []string{"x-mount.mkdir"}})},
		{"mounts", "x /x overlay lowerdir=/,x-mount.mkdir", mount(spec{"source": "x", "destination": "/x", "type": "overlay", "options": []string{"lowerdir=/", "x-mount.mkdir"}})},
		{"mounts", "/tmp /x none bind,context=x", mount(spec{"source": "/tmp", "destination": "/x", "type": "none", "options": []string{"bind", "context=x"}})},
		{"masked", "/etc/../x", linux("maskedPaths", []string{"/etc/../x"})},
		{"masked", "etc", linux("maskedPaths", []string{"etc"})},
		{"readonly", "/etc/../x", linux("readonlyPaths", []string{"/etc/../x"})},
		{"sysctl", "kernel.core_pattern x", linux("sysctl", spec{"kernel.core_pattern": "x"})},
		{"sysctl", "kernel.sem a+b", linux("sysctl", spec{"kernel.sem": "a+b"})},
		{"devices", "c 1:99999999 rwm /dev/x", linux("devices", []any{spec{"type": "c", "path": "/dev/x", "major": 1, "minor": 99999999}})},
		{"devices", "x 1:1 rwm /dev/x", linux("devices", []any{spec{"type": "x", "path": "/dev/x", "major": 1, "minor": 1}})},
		{"devices", "c 1:1 rwm /dev/../x", linux("devices", []any{spec{"type": "c", "path": "/dev/../x", "major": 1, "minor": 1}})},
		{"devices", "c 1:1 rwm /dev/null", linux("devices", []any{spec{"type": "c", "path": "/dev/null", "major": 1, "minor": 1}})},
		{"uid_map", "0 0 0", linux("uidMappings", id(0, 0, 0))},
		{"uid_map", "0 4294967295 1", linux("uidMappings", id(4294967295, 0, 1))},
		{"uid_map", "0 4294967290 100", linux("uidMappings", id(4294967290, 0, 100))},
		{"namespaces", "net /no/such", func(s spec) {
			s["linux"].(spec)["namespaces"] = []any{spec{"type": "network", "path": "/no/such"}, spec{"type": "mount"}}
		}},
		{"namespaces", "net /etc/passwd", func(s spec) {
			s["linux"].(spec)["namespaces"] = []any{spec{"type": "network", "path": "/etc/passwd"}, spec{"type": "mount"}}
		}},
		{"namespaces", "bogus new", func(s spec) { s["linux"].(spec)["namespaces"] = []any{spec{"type": "bogus"}, spec{"type": "mount"}} }},
		{"seccomp", `{"defaultAction":"SCMP_ACT_BOGUS"}`, linux("seccomp", spec{"defaultAction": "SCMP_ACT_BOGUS"})},
		{"seccomp", `{"defaultAction":"SCMP_ACT_NOTIFY"}`, linux("seccomp", spec{"defaultAction": "SCMP_ACT_NOTIFY"})},
		{"memory.max", "-5", linux("resources", spec{"memory": spec{"limit": -5}})},
		{"pids.max", "-7", linux("resources", spec{"pids": spec{"limit": -7}})},
	} {
		before := g.Read("c/config.json")
		for way, set := range map[string]func() error{
			"file":        func() error { return g.put("c/"+c.file, c.value) },
			"config.json": func() error { return g.reconfigure("c", c.change) },
		} {
			err := set()
			if err != nil && g.Read("c/config.json") != before {
				t.Errorf("%s %q by %s: refused, and changed all the same", c.file, c.value, way)
			}
			if err == nil {
				if o := g.try("c"); o.refused == "" {
					t.Errorf("%s %q by %s: %v", c.file, c.value, way, o)
				}
			}
			must(t, os.Remove(g.Dir+"/c"))
			g.make("c", g.Root(), "true")
			before = g.Read("c/config.json")
		}
	}
	if o := g.try("c"); o.exit != "0" {
		t.Errorf("afterwards: %v", o)
	}
}
