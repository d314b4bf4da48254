package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ociProbe prints what a program sees of its container, a fact a line, each with a word before it.
const ociProbe = `#!/bin/sh
about() { what=$1; shift; "$@" 2>&1 < /dev/null | sed "s|^|$what: |"; }
about args echo "$@"
about status grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|Sig(Blk|Ign))' /proc/self/status
about limits sed 1d /proc/self/limits
about hostname hostname
about env env
about cwd pwd
for f in uid_map gid_map setgroups oom_score_adj cgroup; do about $f cat /proc/self/$f; done
for n in cgroup ipc mnt net pid user uts; do about ns readlink /proc/self/ns/$n; done
about mount cat /proc/self/mountinfo
about dev find /dev ! -path '/dev/pts/*' ! -path /dev -exec stat -c '%n %N %t:%T %a %u:%g' '{}' ';'
about pts stat -c '%F %t:%T %a %u:%g' /dev/pts/ptmx
about root find / -maxdepth 1 -exec stat -c '%n %F %a %u:%g' '{}' ';'
about masked cat /proc/keys /proc/timer_list /proc/interrupts /etc/secret
about masked ls /proc/acpi /sys/firmware /etc/hidden
about read cat /data/f /etc/readonly/f
for f in /new /data/f /etc/readonly/f /proc/sys/net/ipv4/ip_forward /mnt/f /tmp/f; do about write sh -c "echo w > $f && rm $f"; done
about noexec sh -c 'cp /bin/busybox /mnt/true && /mnt/true'
for key in net/ipv4/ip_forward kernel/shm_rmid_forced; do about sysctl cat /proc/sys/$key; done
about net ip addr
about session sed 's/.*) . //; s/^\([^ ]* [^ ]* [^ ]*\) .*/\1/' /proc/1/stat
about fds sh -c 'echo /proc/self/fd/*'
about denied mount -t tmpfs x /tmp
about denied mknod /tmp/n c 1 3
about denied unshare -r true
about denied chroot / true
about ping ping -c 1 -q 127.0.0.1 | sed 's/ time.*//; /round-trip/d'
`

// ociSettings are containers to compare: pairs of file and value. DATA stands for a directory of the host; what begins with +
// is added to what there is.
var ociSettings = map[string][]string{
	"untouched": {"cwd", "/"},
	"paths":     {"masked", "+/etc/secret\n/etc/hidden", "readonly", "+/etc/readonly"},
	"root": {
		"cwd", "/srv", "env", "PATH=/bin\nA=a b\nHOME=/srv", "hostname", "probe", "caps", "CAP_KILL CAP_SYS_CHROOT CAP_SETUID",
		"rlimits", "nofile 100 200\ncore 0 4096\nnproc 500", "oom_score_adj", "300", "rootfs.mode", "ro",
		"sysctl", "net.ipv4.ip_forward 1\nkernel.shm_rmid_forced 1", "mounts", "DATA /data none bind,ro,nosuid,nodev 0 0\nnone /mnt tmpfs size=1m,mode=755,noexec,nosuid,nodev 0 0",
		"devices", "+c 10:229 rwm /dev/fuse", "pids.max", "60", "memory.max", "64M", "no_new_privs", "0",
	},
	"user": {
		"user", "www", "env", "PATH=/bin\nHOME=/", "rlimits", "nofile 300 300", "hostname", "web", "seccomp", "unconfined",
		"mounts", "DATA /data none rbind 0 0",
	},
}

// ociPermitted are the lines that may differ, on either side, after [ociFacts]. Each has its reason.
var ociPermitted = []struct{ line, why string }{
	{`limits: Max open files .*`, "the soft limit that programs expect, not the server's; in \"root\" both obey the file"},
	{`env: HOME=/root`, "others look it up in the container's passwd and add it"},
	{`mount: / (overlay|ext4|xfs|btrfs|tmpfs|9p|virtiofs)\b.*`, "ctrfs shows the root through a layer, without devices"},
	{`mount: /(dev|proc)/\S+ devtmpfs .*`, "nodes and masks: crun mounts them nosuid and noexec, and masks read-only"},
	{`dev: /dev/fuse /dev/fuse a:e5 (666 0:0|644 0:0|6.. 65534:65534)`, "crun subtracts its umask, and runc shows the host's node as it is"},
	{`mount: /data \S+ rw(,nodev)?,relatime`, "trees of the host: others leave their nodes to the devices controller"},
	{`mount: /dev/fuse \S+ rw(,nosuid)?(,noexec)?,relatime`, "likewise a node that is no customary one"},
	{`mount: /(proc/\S+|sys/\S+|etc/\S+) (tmpfs|proc|devtmpfs|ext4|xfs|btrfs|overlay)\b.*`, "masks and read-only paths: ctrfs keeps nosuid, nodev and noexec"},
	{`status: SigIgn: .*`, "others hand on what whoever ran them ignores; ctrfs resets it"},
	{`dev: /dev/core .*`, "crun links it to /proc/kcore, which is masked"},
	{`dev: /dev/mqueue .*`, "its owner, who is the one that made the ipc namespace"},
}

// ociFacts reduces what the probe printed to what two runtimes can have in common.
func ociFacts(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(line), " ")
		word, rest, _ := strings.Cut(line, ": ")
		switch word {
		case "ns":
			kind, _, _ := strings.Cut(rest, ":")
			if host, err := os.Readlink("/proc/self/ns/" + kind); err != nil || host == rest {
				line = "ns: " + kind + " of the host"
			} else {
				line = "ns: " + kind + " of its own"
			}
		case "mount": // target, type, and flags of the mount; of the file system those that a configuration sets
			f := strings.Fields(rest)
			dash := slices.Index(f, "-")
			if dash < 0 || len(f) < dash+4 {
				t.Fatalf("no line of mountinfo: %q", line)
			}
			super := strings.Split(f[dash+3], ",")
			super = slices.DeleteFunc(super, func(o string) bool {
				return !strings.HasPrefix(o, "mode=") && !strings.HasPrefix(o, "gid=") && !strings.HasPrefix(o, "ptmxmode=") && o != "size=1024k" && o != "size=65536k"
			})
			line = strings.Join(append([]string{"mount:", f[4], f[dash+1], f[5]}, super...), " ")
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// only returns the lines of a that b does not have, without those that may differ.
func only(a, b []string) (out []string) {
	rest := slices.Clone(b)
	for _, line := range a {
		if i := slices.Index(rest, line); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		permitted := false
		for _, p := range ociPermitted {
			permitted = permitted || regexp.MustCompile("^(?:"+p.line+")$").MatchString(line)
		}
		if !permitted {
			out = append(out, line)
		}
	}
	return out
}

// TestOCIRun: other runtimes make the same container of what config.json reads as.
func TestOCIRun(t *testing.T) {
	m := MountFor(t)
	root := ociRoot(t, m.Base+"/probed", 0)
	data := m.Base + "/data"
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data+"/f", []byte("the host's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, settings := range ociSettings {
		t.Run(name, func(t *testing.T) {
			m := &Tree{m.Instance, t}
			ociConfigure(m, name, root, strings.ReplaceAll(strings.Join(settings, "\x00"), "DATA", data))
			m.Write(name+"/start", "1")
			if code := m.Read(name + "/wait"); code != "0" {
				t.Fatalf("exit %s, log:\n%s", code, m.Read(name+"/log"))
			}
			here := ociFacts(t, m.Read(name+"/log"))
			config := m.Read(name + "/config.json")
			for _, runtime := range []string{"crun", "runc"} {
				t.Run(runtime, func(t *testing.T) {
					there := ociFacts(t, ociRun(t, runtime, m.Base, config))
					ours, theirs := only(here, there), only(there, here)
					if len(ours)+len(theirs) > 0 {
						t.Errorf("only under ctrfs:\n\t%s\nonly under %s:\n\t%s", strings.Join(ours, "\n\t"), runtime, strings.Join(theirs, "\n\t"))
					}
				})
			}
		})
	}
}

// ociConfigure makes a container that runs the probe; settings are separated by NULs.
func ociConfigure(m *Tree, name, root, settings string) {
	m.T.Helper()
	if err := os.Mkdir(filepath.Join(m.Dir, name), 0o755); err != nil {
		m.T.Fatal(err)
	}
	m.Write(name+"/rootfs", root)
	m.Write(name+"/cmd", `/probe "a b" c`)
	for pair := range slices.Chunk(strings.Split(settings, "\x00"), 2) {
		if more, ok := strings.CutPrefix(pair[1], "+"); ok {
			pair[1] = m.Read(name+"/"+pair[0]) + "\n" + more
		}
		m.Write(name+"/"+pair[0], pair[1])
	}
}

// ociRoot makes a root with the probe and what it looks at, all of it owned by a host id.
func ociRoot(t *testing.T, dir string, owner int) string {
	t.Helper()
	var err error
	put := func(name, text string, mode os.FileMode) {
		if err == nil {
			err = os.WriteFile(dir+name, []byte(text), mode)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Require(t, BusyboxRoot(dir))
	if err := os.Chmod(dir+"/tmp", 0o1777); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/data", "/mnt", "/srv", "/etc/hidden", "/etc/readonly"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"chroot", "unshare"} {
		if err := os.Symlink("busybox", dir+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	put("/probe", ociProbe, 0o755)
	put("/etc/secret", "secret\n", 0o644)
	put("/etc/hidden/f", "hidden\n", 0o644)
	put("/etc/readonly/f", "readonly\n", 0o644)
	put("/etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/:/bin/sh\n", 0o644)
	put("/etc/group", "root:x:0:\nwww:x:34:\nmore:x:44:www\n", 0o644)
	if err == nil && owner != 0 {
		err = filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, owner, owner)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// ociRun runs a configuration under another runtime and returns what it printed.
func ociRun(t *testing.T, runtime, base, config string) string {
	t.Helper()
	requirePrograms(t, []string{runtime, "unshare"})
	var spec map[string]any
	if err := json.Unmarshal([]byte(config), &spec); err != nil {
		t.Fatal(err)
	}
	bundle, err := os.MkdirTemp(base, runtime)
	if err != nil {
		t.Fatal(err)
	}
	owner := 0
	if maps, _ := spec["linux"].(map[string]any)["uidMappings"].([]any); len(maps) == 1 {
		owner = int(maps[0].(map[string]any)["hostID"].(float64))
	}
	// A runtime without idmapped roots needs one that belongs to the container's ids already. And a version that it knows,
	// though it knows all of these fields: crun before 1.9 refuses any but 1.0.
	spec["root"].(map[string]any)["path"] = ociRoot(t, bundle+"/root", owner)
	spec["ociVersion"] = "1.0.2"
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(bundle+"/config.json", text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("ctrfs-test-%d-%s", os.Getpid(), filepath.Base(bundle))
	t.Cleanup(func() { ociCommand(runtime, "delete", "--force", id).Run() })
	cmd := ociCommand(runtime, "run", "--bundle", bundle, id)
	// Not /dev/null: they give what stands there to the container's root, and this is the host's own.
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s run: %v\n%s", runtime, err, out)
	}
	return string(out)
}

// ociCommand is a command in a mount namespace without the v2 hierarchy that a hybrid host mounts beside the first one: crun
// refuses to run where it sees that with a controller. On the host nothing is unmounted.
func ociCommand(argv ...string) *exec.Cmd {
	const script = `if [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then umount -l /sys/fs/cgroup/unified; fi; exec "$@"`
	return exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "sh"}, argv...)...)
}
