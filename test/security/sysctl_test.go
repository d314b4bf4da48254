package security

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parameters are those of the host that a container would like to set, and some that it has for itself.
var parameters = []string{"kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/domainname", "kernel/shmmax", "kernel/msgmax",
	"kernel/sem", "kernel/ns_last_pid", "kernel/randomize_va_space", "kernel/panic", "vm/drop_caches", "vm/overcommit_memory", "fs/suid_dumpable", "fs/file-max",
	"fs/mqueue/msg_max", "net/ipv4/ip_forward", "net/ipv4/ip_unprivileged_port_start", "net/core/somaxconn", "net/core/bpf_jit_enable", "user/max_user_namespaces"}

// hostParameters reads them.
func hostParameters() map[string]string {
	values := map[string]string{}
	for _, name := range parameters {
		if text, err := os.ReadFile("/proc/sys/" + name); err == nil && name != "kernel/ns_last_pid" {
			values[name] = string(text)
		}
	}
	return values
}

// unchanged checks in the end that the host's parameters are as they were.
func (g *ground) unchanged(t *testing.T) map[string]string {
	t.Helper()
	before := hostParameters()
	t.Cleanup(func() {
		if after := hostParameters(); !maps.Equal(after, before) {
			t.Errorf("the host's kernel parameters were\n%v\nand are\n%v", before, after)
		}
	})
	return before
}

// A kernel parameter of the host is refused, however it is written; those that are tried would be set to what they are.
func TestSysctlOfTheHost(t *testing.T) {
	g := mounted(t)
	host := g.unchanged(t)
	g.make("c", g.Root(), "true")
	value := func(name string) string { return strings.Join(strings.Fields(host[name]), " ") }
	hostile := map[string]string{ // by the namespaces that the container shares with the host, and the parameter
		":net.ipv4.ip_forward=": "1", ":net.ipv4.ip_forward=1": "1", ":net.ipv4.*": "1", ":net.ipv4.ip_forwar?": "1", ":net.": "1", ":": "1", ":.": "1",
		":net..": "1", ":net.ipv4..ip_forward": "1", ":net.ipv4.ip_forward\nkernel.panic": "0", ":net.ipv4.ip_forward kernel.panic": "0", ":net\x00": "1",
		":net.ipv4.ip_forward": "1\nkernel.panic 0", ":net.ipv4.ip_default_ttl": "64\x00", ":kernel.sem+": "1", ":../../etc/passwd": "x", ":net": "1", ":-w": "1",
		":/proc/sys/kernel/panic": "0", ":/net/ipv4/ip_forward": "1", ":sys.net.ipv4.ip_forward": "1",
	}
	for _, name := range parameters {
		dotted := strings.ReplaceAll(name, "/", ".")
		shared := map[string]string{"net": "net", "fs/mqueue": "ipc", "kernel/shm": "ipc", "kernel/msg": "ipc", "kernel/sem": "ipc", "kernel/dom": "uts", "user/": "user"}
		kind := ""
		for prefix, k := range shared {
			if strings.HasPrefix(name, prefix) {
				kind = k
			}
		}
		for _, way := range []string{dotted, name, "net.ipv4.../../" + name, "net/../" + name, "net.." + dotted, "kernel.shm/../../" + name, "net.ipv4.conf/../../../" + name} {
			if way == dotted || way == name {
				hostile[kind+":"+way] = value(name)
			} else {
				hostile[":"+way] = value(name)
			}
		}
	}
	refused, tried := 0, 0
	for key, value := range hostile {
		shared, name, _ := strings.Cut(key, ":")
		if shared != "" {
			g.Write("c/namespaces", shared+" host")
		}
		for _, by := range []func() error{
			func() error { return g.put("c/sysctl", name+" "+value) },
			func() error {
				return g.reconfigure("c", func(s spec) { s["linux"].(spec)["sysctl"] = spec{name: value} })
			},
		} {
			tried++
			if err := by(); err != nil {
				refused++
			} else if g.Read("c/sysctl") == "" {
				refused++ // the name was a comment, or nothing
			} else if o := g.try("c"); o.refused != "" {
				refused++
			} else {
				t.Errorf("with %q of the host's, %q = %q was taken: %s", shared, name, value, g.Read("c/sysctl"))
			}
			must(t, g.reconfigure("c", func(s spec) { delete(s["linux"].(spec), "sysctl") }))
		}
		if shared != "" {
			g.Write("c/namespaces", shared+" new")
		}
	}
	t.Logf("%d of %d refused", refused, tried)
}

// What is set goes to the kernel, and not to what the root or a volume calls /proc; labels of security modules likewise, which
// this kernel may not know.
func TestFakeProc(t *testing.T) {
	g := mounted(t)
	g.unchanged(t)
	const parameter, wanted = "net/ipv4/ip_unprivileged_port_start", "77"
	fakes := []string{"sys/" + parameter, "sys/kernel/shm_rmid_forced", "self/attr/exec", "self/attr/apparmor/exec", "thread-self/attr/exec",
		"self/oom_score_adj", "self/uid_map", "self/setgroups", "self/timens_offsets", "1/attr/exec"}
	fake := func(dir string) {
		for _, f := range fakes {
			must(t, os.MkdirAll(filepath.Dir(dir+"/"+f), 0o777))
			must(t, os.Chmod(filepath.Dir(dir+"/"+f), 0o777))
			os.Remove(dir + "/" + f)
			must(t, os.WriteFile(dir+"/"+f, []byte("fake"), 0o666))
			must(t, os.Chmod(dir+"/"+f, 0o666))
		}
	}
	linked := func(dir string) {
		fake(dir)
		must(t, os.Remove(dir+"/sys/"+parameter))
		must(t, os.Symlink(g.secret, dir+"/sys/"+parameter))
		must(t, os.RemoveAll(dir+"/self"))
		must(t, os.Symlink(g.canary, dir+"/self"))
	}
	for kind, prepare := range map[string]func(string){"files": fake, "links": linked} {
		for _, where := range []string{"root", "volume", "tmpfs"} {
			root := g.freshRoot("proc-" + kind + "-" + where)
			place, mounts := root+"/proc", ""
			switch where {
			case "volume":
				place = g.Base + "/fake-" + kind
				must(t, os.Mkdir(place, 0o777))
				mounts = place + " /proc none bind,idmap"
			case "tmpfs":
				mounts = "tmpfs /proc tmpfs defaults"
			}
			prepare(place)
			name := kind + where
			g.make(name, root, "sh -c 'sleep 1000; true'", "rootfs.mode", "rw", "sysctl", strings.ReplaceAll(parameter, "/", ".")+" "+wanted, "oom_score_adj", "5")
			must(t, g.reconfigure(name, func(s spec) {
				s["mounts"] = slices.DeleteFunc(s["mounts"].([]any), func(m any) bool { return m.(spec)["destination"] == "/proc" })
			}))
			g.Write(name+"/mounts", mounts)
			if err := g.put(name+"/start", "1"); err != nil {
				t.Errorf("%s in a %s: %v: %s", kind, where, err, g.Read(name+"/error"))
				continue
			}
			pid := g.Read(name + "/pid")
			got, err := exec.Command("nsenter", "--net=/proc/"+pid+"/ns/net", "cat", "/proc/sys/"+parameter).Output()
			score, _ := os.ReadFile("/proc/" + pid + "/oom_score_adj")
			if err != nil || strings.TrimSpace(string(got)) != wanted || string(score) != "5\n" {
				t.Errorf("%s in a %s: the kernel has %q and %q (%v)", kind, where, got, score, err)
			}
			for _, f := range fakes {
				if text, err := os.ReadFile(place + "/" + f); err == nil && string(text) != "fake" && string(text) != secretWord+"\n" {
					t.Errorf("%s in a %s: %s has been written to: %q", kind, where, f, text)
				}
			}
			g.end(name)
		}
	}
	// Labels are refused where the kernel has no such module, and never written to a file that only looks like it.
	root := g.freshRoot("labels")
	fake(root + "/proc")
	g.make("label", root, "true", "rootfs.mode", "rw")
	for file, label := range map[string]string{"apparmor": "unconfined\nexec x", "selinux": "a:b:c:s0\x00"} {
		if err := g.put("label/"+file, label); err == nil {
			t.Errorf("%s took %q", file, label)
		}
	}
	for file, label := range map[string]string{"apparmor": "unconfined", "selinux": "system_u:system_r:container_t:s0"} {
		if g.put("label/"+file, label) == nil {
			if o := g.try("label"); o.refused == "" {
				t.Logf("%s: this kernel has it: %v", file, o)
			}
		}
		g.put("label/"+file, "")
	}
	for _, f := range fakes {
		if text, err := os.ReadFile(root + "/proc/" + f); err != nil || string(text) != "fake" {
			t.Errorf("%s has been written to: %q (%v)", f, text, err)
		}
	}
}
