package engine

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// view writes a text to a setting of a configuration and reads it back. Lists are joined by newlines.
type view func(*Config, string) (string, error)

func listView(set func(*Config, []string) error, get func(*Config) []string) view {
	return func(c *Config, text string) (string, error) {
		items := slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return s == "" })
		err := set(c, items)
		return strings.Join(get(c), "\n"), err
	}
}

func textView(set func(*Config, string) error, get func(*Config) string) view {
	return func(c *Config, text string) (string, error) { err := set(c, text); return get(c), err }
}

// keyView sets "KEY VALUE" and reads that key.
func keyView(set func(*Config, string, string) error, get func(*Config) string) view {
	return func(c *Config, text string) (string, error) {
		key, value, _ := strings.Cut(text, " ")
		err := set(c, key, value)
		return get(c), err
	}
}

func namespacesText(c *Config) string {
	var words []string
	for _, n := range Namespaces {
		if choice := c.Namespace(n.Type); choice != NewConfig().Namespace(n.Type) {
			words = append(words, n.Name+" "+choice.String())
		}
	}
	return strings.Join(words, ", ")
}

func rlimitsText(c *Config) string {
	var lines []string
	for _, r := range c.Rlimits() {
		lines = append(lines, r.Name+" "+r.Soft+" "+r.Hard)
	}
	return strings.Join(lines, "\n")
}

func sysctlText(c *Config) string {
	var lines []string
	for _, pair := range c.Sysctls() {
		lines = append(lines, pair[0]+" "+pair[1])
	}
	return strings.Join(lines, "\n")
}

// isolation are the settings of this file, by the names of their files.
var isolation = map[string]view{
	"namespaces": keyView((*Config).SetNamespace, namespacesText),
	"uid_map":    listView((*Config).SetUIDMap, (*Config).UIDMap),
	"gid_map":    listView((*Config).SetGIDMap, (*Config).GIDMap),
	"user":       textView((*Config).SetUser, (*Config).User),
	"caps":       listView((*Config).SetCaps, (*Config).Caps),
	"seccomp":    textView((*Config).SetSeccomp, (*Config).Seccomp),
	"apparmor":   textView((*Config).SetAppArmor, (*Config).AppArmor),
	"selinux":    textView((*Config).SetSELinux, (*Config).SELinux),
	"rlimits":    keyView((*Config).SetRlimit, rlimitsText),
	"sysctl":     keyView((*Config).SetSysctl, sysctlText),
	"masked":     listView((*Config).SetMasked, (*Config).Masked),
	"readonly":   listView((*Config).SetReadonly, (*Config).Readonly),
	"mounts":     listView((*Config).SetMounts, (*Config).Mounts),
	"devices":    listView((*Config).SetDevices, (*Config).Devices),
}

// taken are values that a setting takes, and what each reads as; "=" is the same text.
var taken = []struct{ file, in, out string }{
	{"namespaces", "pid host", "="}, {"namespaces", "time new", "="}, {"namespaces", "net /run//netns/x", "net /run/netns/x"},
	{"namespaces", "net pod/web", "="}, {"namespaces", "ipc ..", "="}, {"namespaces", "net new", ""}, {"namespaces", "user host", "="},
	{"namespaces", "net ", ""}, {"namespaces", "time host", ""}, {"namespaces", "cgroup other", "="},
	{"namespaces", "pid none", "="}, // a container may be called anything else
	{"uid_map", "0 100000 65536", "="}, {"uid_map", "  0   0 4294967295", "0 0 4294967295"}, {"gid_map", "1 1 1\n0 9 1", "="}, {"uid_map", "", ""},
	{"user", "0:0", "="}, {"user", "1000", "="}, {"user", "1000:100", "="}, {"user", "www-data", "="}, {"user", "www-data:adm", "="},
	{"user", "4294967294:0", "="}, {"user", "0:wheel", "="}, {"user", "nobody:7", "="},
	{"caps", "chown\nCAP_KILL", "CAP_CHOWN\nCAP_KILL"}, {"caps", "none", ""}, {"caps", "", ""}, {"caps", "none\n+net_admin kill", "CAP_KILL\nCAP_NET_ADMIN"},
	{"caps", "all -sys_admin none Bpf", "CAP_BPF"}, {"caps", "kill\n-kill\nchown -cap_chown", ""},
	{"seccomp", "default", "="}, {"seccomp", "unconfined", "="},
	{"seccomp", `{"defaultAction":"SCMP_ACT_ALLOW"}`, "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}"},
	{"apparmor", "docker-default", "="}, {"apparmor", "", ""}, {"apparmor", "/usr/bin/x//child", "="},
	{"selinux", "u:r:t", "="}, {"selinux", "system_u:system_r:container_t:s0:c1,c2", "="}, {"selinux", "", ""},
	{"rlimits", "nofile 1024 4096", "="}, {"rlimits", "core 0", "core 0 0"}, {"rlimits", "stack unlimited", "stack unlimited unlimited"},
	{"rlimits", "nproc 7 unlimited", "="}, {"rlimits", "nproc", ""}, {"rlimits", "nice 18446744073709551615", "nice unlimited unlimited"},
	{"sysctl", "net.ipv4.ip_forward 1", "="}, {"sysctl", "net/ipv4/ip_forward 1", "net.ipv4.ip_forward 1"},
	{"sysctl", "net.ipv4.conf.eth0/1.forwarding 1", "="}, {"sysctl", "net/ipv4/conf/eth0.1/forwarding 1", "net.ipv4.conf.eth0/1.forwarding 1"},
	{"sysctl", "kernel.sem 32000 1024000000 500 32000", "="}, {"sysctl", "fs.mqueue.msg_max 10", "="}, {"sysctl", "kernel.shm_rmid_forced 1", "="},
	{"sysctl", "kernel.domainname example.org", "="}, {"sysctl", "net.core.somaxconn", ""},
	{"masked", "/proc/kcore\n/a//b/./c/\n/proc/kcore", "/proc/kcore\n/a/b/c"}, {"readonly", "/a b", "="}, {"masked", "", ""},
	{"mounts", "/srv /data none bind,ro 0 0", "="}, {"mounts", "/srv//x/ /data/ bind rbind,rslave,idmap", "/srv/x /data none rbind,rslave,idmap 0 0"},
	{"mounts", "tmpfs /tmp tmpfs size=64M,mode=1777,nosuid,nodev 0 0", "="}, {"mounts", "tmpfs /tmp tmpfs defaults 0", "tmpfs /tmp tmpfs defaults 0 0"},
	{"mounts", `/a\040b /c\011d\134e none bind 0 0`, "="}, {"mounts", `/a\x /b\041 none bind 0 0`, `/a\134x /b! none bind 0 0`},
	{"mounts", "x /p proc hidepid=2,subset=pid 0 0\nx /s sysfs ro 0 0\nx /m mqueue noexec 0 0\nx /c cgroup ro,relatime 0 0", "="},
	{"mounts", `\043x /t tmpfs ro 0 0`, "="}, {"mounts", "/a /b none bind,rshared,noatime,nosymfollow,x-mount.mkdir 0 0", "="}, {"mounts", "", ""},
	{"devices", "c 1:3 rwm /dev/null", "="}, {"devices", "a", "a *:* rwm"}, {"devices", "b 8:* mr", "b 8:* rm"}, {"devices", "", ""},
	{"devices", `c 10:229 rw /dev/fu\040se` + "\nc *:* m", "="}, {"devices", "c 1:3 - /dev/null", "="},
	{"devices", "c 1:3 r /dev/a\nc 1:3 r /dev/b", "="},
}

// TestIsolationTaken writes values and compares what is read back; and what is read back can be written, to any container.
func TestIsolationTaken(t *testing.T) {
	for _, x := range taken {
		want := x.out
		if want == "=" {
			want = x.in
		}
		c := NewConfig()
		if out, err := isolation[x.file](c, x.in); err != nil || out != want {
			t.Errorf("%s: %q reads back %q (%v), want %q", x.file, x.in, out, err, want)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %q makes an invalid configuration: %v", x.file, x.in, err)
		}
		if out, err := isolation[x.file](NewConfig(), want); want != "" && (err != nil || out != want) {
			t.Errorf("%s: %q reads back %q (%v) the second time", x.file, want, out, err)
		}
	}
}

// refused are values that a setting refuses, and a word of the reason.
var refused = []struct{ file, in, why string }{
	{"namespaces", "pids new", "no such kind"}, {"namespaces", "net a//b", "neither"},
	{"namespaces", "net ../x", "neither"}, {"namespaces", "net _x", "neither"}, {"namespaces", "net /", "root directory"}, {"namespaces", "net a b", "neither"},
	{"uid_map", "0 100000", "three numbers"}, {"uid_map", "0 0 4294967296", "32 bits"}, {"uid_map", "-1 0 1", "32 bits"},
	{"uid_map", "0 4294967295 1", "beyond"}, {"uid_map", "1 0 4294967295", "beyond"}, {"uid_map", "0 1 0", "empty"},
	{"uid_map", "0 100 10\n9 500 1", "overlaps"}, {"gid_map", "0 100 10\n20 109 1", "overlaps"}, {"uid_map", "1 100 10", "id 0 inside"},
	{"uid_map", "0x0 1 1", "32 bits"}, {"uid_map", strings.Repeat("0 0 1\n", mapMax+1), "340"},
	{"user", "4294967296", "exact"}, {"user", "4294967295", "exact"}, {"user", "-1", "exact"}, {"user", "0x0", "exact"}, {"user", "1000:", "no name"},
	{"user", ":0", "no name"}, {"user", "", "no name"}, {"user", "007", "exact"}, {"user", "+1", "exact"}, {"user", "1e3", "exact"},
	{"user", "a b", "not a name"}, {"user", "a:b:c", "not a name"}, {"user", "../x", "not a name"}, {"user", "1000:99999999999", "exact"},
	{"user", "18446744073709551616", "exact"}, {"user", " 0", "not a name"}, {"user", strings.Repeat("x", nameMax+1), "not a name"},
	{"caps", "CAP_NOPE", "no such"}, {"caps", "+none", "no such"}, {"caps", "--chown", "no such"}, {"caps", "CAP_CAP_CHOWN", "no such"}, {"caps", "+", "no such"},
	{"seccomp", "none", "seccomp"}, {"seccomp", "{}", "defaultAction"}, {"seccomp", "", "seccomp"}, {"seccomp", "null", "defaultAction"},
	{"seccomp", `{"defaultAction":"SCMP_ACT_ALLOW","nosuch":1}`, "nosuch"}, {"seccomp", `{"defaultAction":"SCMP_ACT_ALLOW"} x`, "more after"},
	{"apparmor", "a\x01", "control"}, {"apparmor", " a", "blanks"}, {"apparmor", strings.Repeat("x", pageSize), "longer"},
	{"selinux", "unconfined", "context"}, {"selinux", "a::b:c", "context"}, {"selinux", "a:b:", "context"},
	{"rlimits", "files 1", "no such"}, {"rlimits", "nofile -1", "not a number"}, {"rlimits", "nofile 2 1", "above"}, {"rlimits", "nofile 1 2 3", "more than two"},
	{"rlimits", "RLIMIT_CORE 0", "no such"}, {"rlimits", "nofile 99999999999999999999", "not a number"},
	{"sysctl", "kernel.core_pattern |/x", "whole machine"}, {"sysctl", "vm.overcommit_memory 1", "whole machine"}, {"sysctl", "kernel.hostname x", "setting of its own"},
	{"sysctl", "net.ipv4.ip_forward 1\n", "characters"}, {"sysctl", "net.x a=b", "characters"}, {"sysctl", "net.x a+b", "characters"},
	{"sysctl", "net/../kernel/core_pattern x", "not a parameter"}, {"sysctl", "net.ipv4.//.x 1", "not a parameter"}, {"sysctl", ". 1", "not a parameter"},
	{"sysctl", "net 1", "whole machine"}, {"sysctl", "net.ipv4+x 1", "not a parameter"}, {"sysctl", "user.max_user_namespaces 0", "whole machine"},
	{"masked", "proc/kcore", "absolute"}, {"readonly", "/a/../b", "absolute"}, {"masked", "/", "whole root"}, {"readonly", "/a\tb", "control"},
	{"mounts", "/a /b none", "four to six"}, {"mounts", "# /a /b none bind", "four to six"}, {"mounts", "/a /b none bind 0 0 0", "four to six"},
	{"mounts", "/a /b none bind 1 0", "dumped"}, {"mounts", "/a /b none ro 0 0", "lacks an option bind"}, {"mounts", "/dev/sda /b ext4 ro 0 0", `type "ext4"`},
	{"mounts", "a /b none bind 0 0", "source"}, {"mounts", "/a b none bind 0 0", "target"}, {"mounts", "/a/../c /b none bind 0 0", "source"},
	{"mounts", "/a / none bind 0 0", "root itself"}, {"mounts", "/a /. none bind 0 0", "root itself"}, {"mounts", "/a /b none bind,ro,rw 0 0", "both decide"},
	{"mounts", "/a /b none bind,rbind 0 0", "both decide"}, {"mounts", "/a /b none bind,private,rslave 0 0", "both decide"},
	{"mounts", "/a /b none bind,uid=1 0 0", `"uid=1"`}, {"mounts", "t /b tmpfs size=x 0 0", "no value"}, {"mounts", "t /b tmpfs mode=999 0 0", "no value"},
	{"mounts", "t /b tmpfs size 0 0", "no value"}, {"mounts", "t /b tmpfs idmap 0 0", `"idmap"`}, {"mounts", "t /b tmpfs,x size=1 0 0", "type"},
	{"mounts", `/a\000 /b none bind 0 0`, "NUL"}, {"mounts", `/a\377 /b none bind 0 0`, "UTF-8"}, {"mounts", "/a /b none bind,ro=1 0 0", `"ro=1"`},
	{"mounts", "t /b overlay lowerdir=/etc 0 0", `type "overlay"`}, {"mounts", "t /b tmpfs tmpcopyup 0 0", `"tmpcopyup"`},
	{"devices", "c 1:3", "fields"}, {"devices", "p 1:3 rwm", "type"}, {"devices", "c 1 rwm", "number"}, {"devices", "c 4096:0 r", "number"},
	{"devices", "c 1:1048576 r", "number"}, {"devices", "c 1:3 rr", "access"}, {"devices", "c 1:3 x", "access"}, {"devices", "c *:3 r /dev/x", "one number"},
	{"devices", "c 1:3 r dev/x", "clean"}, {"devices", "c 1:3 r /dev/../x", "clean"}, {"devices", "a 1:3 rwm", "everything"}, {"devices", "c 1:3 -", "nothing"},
	{"devices", "c 1:3 r /x\nc 1:5 r /x", "same node"}, {"devices", `c 1:3 r /dev/\012x`, "no text"}, {"devices", "a a", "fields"}, {"devices", "c -1:0 r", "number"},
}

// TestIsolationRefused: each refusal is EINVAL with a reason and a cure, and changes nothing.
func TestIsolationRefused(t *testing.T) {
	for _, x := range refused {
		c := NewConfig()
		before, _ := c.OCI(Automatic{})
		_, err := isolation[x.file](c, x.in)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Errno != syscall.EINVAL || e.File != x.file || e.Cure == "" || !strings.Contains(err.Error(), x.why) {
			t.Errorf("%s: %q gives %v, want EINVAL with %q and a cure", x.file, x.in, err, x.why)
		}
		if after, _ := c.OCI(Automatic{}); string(after) != string(before) {
			t.Errorf("%s: %q was refused, and changed\n%s", x.file, x.in, after)
		}
	}
}

// unisolated are setters that [isolation] does not have.
var unisolated = map[string]func(*Config, string) error{
	"hostname": (*Config).SetHostname, "tty": (*Config).SetTTY, "rootfs": (*Config).SetRootfs,
	"rootfs.mode": func(c *Config, v string) error { return c.SetRootMode(RootMode(v)) },
}

// TestIsolationClashes: what no single setting can see is refused for the configuration, with the cure.
func TestIsolationClashes(t *testing.T) {
	for _, x := range []struct{ writes, why string }{
		{"namespaces:uts host;hostname:x", "rename others"}, {"namespaces:uts other;hostname:x", "rename others"},
		{"namespaces:mnt host", ""}, {"namespaces:mnt other;namespaces:user other;namespaces:time other", ""}, {"namespaces:mnt /run/x;namespaces:time /run/y", ""},
		{"namespaces:mnt host;mounts:tmpfs /x tmpfs rw", "mounted already; empty mounts"}, {"namespaces:mnt other;mounts:tmpfs /x tmpfs rw", "empty mounts"},
		{"namespaces:mnt /run/x;masked:/x", "empty masked"}, {"namespaces:mnt other;readonly:/x", "empty readonly"},
		{"namespaces:mnt host;masked:;readonly:", ""}, {"namespaces:mnt host;devices:c 10:229 rw /dev/fuse", "leave the paths of nodes out"},
		{"namespaces:mnt host;tty:1", "empty tty first"}, {"namespaces:mnt host;tty:0", ""}, {"namespaces:mnt host;devices:c 10:229 rw", ""}, {"namespaces:mnt host;rootfs:/srv", "empty rootfs first"}, {"namespaces:mnt host;rootfs.mode:ro", "empty rootfs.mode"},
		{"namespaces:user host;uid_map:0 1 1", "has a map"}, {"namespaces:user /x;gid_map:0 1 1", "has a map"},
		{"namespaces:net host;sysctl:net.ipv4.ip_forward 1", "network"}, {"namespaces:ipc host;sysctl:kernel.sem 1", "own limits"},
		{"namespaces:uts host;sysctl:kernel.domainname x", "domain"},
		{"namespaces:net other;sysctl:net.ipv4.ip_forward 1", ""}, {"namespaces:pid host;namespaces:ipc host;namespaces:cgroup host", ""},
		{"namespaces:uts host", ""}, {"namespaces:net host;sysctl:kernel.sem 1", ""},
	} {
		c := NewConfig()
		for write := range strings.SplitSeq(x.writes, ";") {
			file, value, _ := strings.Cut(write, ":")
			set := isolation[file]
			if other := unisolated[file]; other != nil {
				set = func(c *Config, v string) (string, error) { return "", other(c, v) }
			}
			if _, err := set(c, value); err != nil {
				t.Fatal(err)
			}
		}
		err := c.Validate()
		if x.why == "" && err != nil || x.why != "" && (Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), x.why)) {
			t.Errorf("%s: %v, want %q", x.writes, err, x.why)
		}
	}
}

// TestIsolationModel: what is stored is what the specification's readers expect.
func TestIsolationModel(t *testing.T) {
	c := NewConfig()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(c.Devices()) != fmt.Sprint(defaultDevices) {
		t.Errorf("the default devices read back %q", c.Devices())
	}
	for _, d := range defaultMounts {
		if why, _ := mountFault(d); why != "" {
			t.Errorf("%v: %s", d, why)
		}
	}
	must(c.SetUser("1000:staff"))
	if u := c.Spec.Process.User; u.UID != 1000 || c.Extension.User != "1000:staff" {
		t.Errorf("%+v", c)
	}
	must(c.SetUser("5:6"))
	if u := c.Spec.Process.User; u.UID != 5 || u.GID != 6 || c.Extension.User != "" {
		t.Errorf("%+v", c)
	}
	c.Spec.Process.User.AdditionalGids = []uint32{7}
	must(c.SetUser("5:6"))
	if len(c.Spec.Process.User.AdditionalGids) != 1 {
		t.Error("the groups are lost although the user stays")
	}
	must(c.SetUser("5:7"))
	if len(c.Spec.Process.User.AdditionalGids) != 0 {
		t.Error("the groups stay although the user goes")
	}
	must(c.SetCaps([]string{"all"}))
	caps := c.Spec.Process.Capabilities
	if len(caps.Bounding) != 41 || len(caps.Effective) != 41 || len(caps.Permitted) != 41 || len(caps.Inheritable)+len(caps.Ambient) != 0 {
		t.Errorf("%+v", caps)
	}
	must(c.SetCaps([]string{"-SYS_ADMIN -BPF"}))
	must(c.SetCaps([]string{"+BPF"}))
	if len(c.Caps()) != 40 {
		t.Errorf("%q", c.Caps())
	}
	must(c.SetNamespace("net", "pod/web"))
	must(c.SetNamespace("pid", "host"))
	must(c.SetNamespace("pid", "new"))
	want := NewConfig().Spec.Linux.Namespaces
	if !slices.Equal(c.Spec.Linux.Namespaces, want) || c.Extension.Join[specs.NetworkNamespace] != "pod/web" {
		t.Errorf("%v %v", c.Spec.Linux.Namespaces, c.Extension.Join)
	}
	must(c.SetNamespace("net", "/run/netns/x"))
	if c.Extension.Join != nil || c.Spec.Linux.Namespaces[1].Path != "/run/netns/x" {
		t.Errorf("%v %v", c.Spec.Linux.Namespaces, c.Extension.Join)
	}
	must(c.SetMounts([]string{"/x /y none bind"}))
	must(c.SetMounts([]string{"/a /b bind bind"}))
	if n := len(defaultMounts); len(c.Spec.Mounts) != n+1 || c.Spec.Mounts[n].Type != "none" || len(c.AdditionalMounts()) != 1 {
		t.Errorf("%v", c.Spec.Mounts)
	}
	must(c.SetSeccomp(`{"defaultAction":"SCMP_ACT_ERRNO"}`))
	must(c.SetSeccomp("default"))
	if c.Spec.Linux.Seccomp != nil || c.Extension.Seccomp != "" {
		t.Error("default leaves the filter of before")
	}
	if err := c.SetSeccomp(`{"defaultAction":`); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an object that is cut short: %v", err)
	}
	mode := func() *Config { c.Spec.Linux.Devices[0].UID = new(uint32); return c }()
	must(mode.SetDevices(mode.Devices()))
	if mode.Spec.Linux.Devices[0].UID == nil {
		t.Error("a node that stays loses its owner")
	}
	must(c.SetDevices([]string{"c 1:3 r /dev/a", "c 1:3 r /dev/b"}))
	if len(c.Spec.Linux.Resources.Devices) != 2 || len(c.Spec.Linux.Devices) != 2 {
		t.Errorf("%v", c.Spec.Linux.Resources.Devices)
	}
	must(c.setJoins("net pod/web\nipc pod/web\n")) // net is a path already, which says more
	if c.Namespace(specs.NetworkNamespace).Path == "" || c.joins() != "ipc pod/web\n" {
		t.Errorf("%v %v", c.Spec.Linux.Namespaces, c.Extension.Join)
	}
	if SysctlPath("net.ipv4.conf.eth0/1.forwarding") != "net/ipv4/conf/eth0.1/forwarding" {
		t.Error(SysctlPath("net.ipv4.conf.eth0/1.forwarding"))
	}
}

// TestIsolationTravels: a configuration with everything set is a config.json that can be read, as far as starts honour it.
func TestIsolationTravels(t *testing.T) {
	c := NewConfig()
	for _, err := range []error{
		c.SetNamespace("net", "pod/web"), c.SetNamespace("ipc", ".."), c.SetNamespace("user", "host"), c.SetUser("www-data"),
		c.SetSeccomp("unconfined"), c.SetDevices([]string{"a", "c 1:3 - /dev/null"}), c.SetMounts([]string{`/a\040b /c none rbind,ro 0 0`}),
		c.SetMasked([]string{"/x"}), c.SetReadonly(nil), c.SetRlimit("nofile", "5"), c.SetCaps([]string{"all"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := c.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseOCI(text)
	if err != nil {
		t.Fatal(err)
	}
	for file, set := range isolation {
		given, _ := set(c.Clone(), "\x00")
		got, _ := set(back.Clone(), "\x00")
		if given != got {
			t.Errorf("%s was %q, is %q", file, given, got)
		}
	}
}

// TestIsolationCloneIsApart: whatever a setter does to a clone, the original does not see it.
func TestIsolationCloneIsApart(t *testing.T) {
	c := NewConfig()
	d := c.Clone()
	set := func(c *Config) {
		for _, x := range taken {
			isolation[x.file](c, x.in)
		}
		c.SetOOMScoreAdj(7)
		c.SetNoNewPrivileges(false)
	}
	set(c)
	before, _ := c.OCI(Automatic{})
	join := fmt.Sprint(c.Extension)
	d = c.Clone()
	for _, x := range slices.Backward(taken) {
		isolation[x.file](d, x.in)
	}
	for _, r := range c.Rlimits() {
		d = c.Clone()
		d.SetRlimit(r.Name, "")
	}
	d.SetSysctl("net.x", "1")
	d.SetRlimit("as", "1")
	d.SetNamespace("net", "z")
	d.SetOOMScoreAdj(8)
	if after, _ := c.OCI(Automatic{}); string(before) != string(after) || join != fmt.Sprint(c.Extension) {
		t.Errorf("the original changed:\n%s", after)
	}
	if c.OOMScoreAdj() != 7 || c.NoNewPrivileges() || c.SetOOMScoreAdj(-1001) == nil || c.SetOOMScoreAdj(1001) == nil {
		t.Error("oom_score_adj or no_new_privs")
	}
}

// TestAdopt: what a specification brings is put into the form in which it is kept, or refused.
func TestAdopt(t *testing.T) {
	c := NewConfig()
	c.Spec.Linux.Sysctl = map[string]string{"net/ipv4/ip_forward": "1"}
	c.Spec.Linux.MaskedPaths = []string{"/a//b"}
	c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC"}, {Type: "RLIMIT_CORE"}}
	if err := c.adopt(); err != nil || sysctlText(c) != "net.ipv4.ip_forward 1" || c.Masked()[0] != "/a/b" || rlimitsText(c) != "core 0 0\nnproc 0 0" ||
		c.Spec.Process.Rlimits[0].Type != "RLIMIT_NPROC" {
		t.Errorf("%+v, %v", c.Spec, err)
	}
	for field, spoil := range map[string]func(*Config){
		"linux.uidMappings":       func(c *Config) { c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1}} },
		"linux.gidMappings":       func(c *Config) { c.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 1, Size: 1}} },
		"linux.readonlyPaths":     func(c *Config) { c.Spec.Linux.ReadonlyPaths = []string{"x"} },
		"process.apparmorProfile": func(c *Config) { c.Spec.Process.ApparmorProfile = "a\n" },
		"process.selinuxLabel":    func(c *Config) { c.Spec.Process.SelinuxLabel = "a" },
		"process.oomScoreAdj":     func(c *Config) { n := 2000; c.Spec.Process.OOMScoreAdj = &n },
		"process.user":            func(c *Config) { c.Spec.Process.User.UID = invalidID },
		"linux.sysctl":            func(c *Config) { c.Spec.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} },
		"process.rlimits": func(c *Config) {
			c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS"}, {Type: "RLIMIT_AS"}}
		},
		"process.capabilities": func(c *Config) { c.Spec.Process.Capabilities.Ambient = []string{"CHOWN"} },
	} {
		c := NewConfig()
		spoil(c)
		if e, ok := errors.AsType[*Error](c.adopt()); !ok || e.Errno != syscall.EINVAL || !strings.HasPrefix(e.Why, field+":") {
			t.Errorf("%s: %v", field, e)
		}
	}
}

// fuzzView checks one setting: a refusal changes nothing and explains itself, and what is read back can be written and
// reads the same.
func fuzzView(f *testing.F, file string) {
	for _, x := range taken {
		if x.file == file {
			f.Add(x.in)
		}
	}
	for _, x := range refused {
		if x.file == file {
			f.Add(x.in)
		}
	}
	keyed := file == "rlimits" || file == "sysctl" || file == "namespaces"
	f.Fuzz(func(t *testing.T, text string) {
		c := NewConfig()
		before := fmt.Sprint(c.OCI(Automatic{}))
		out, err := isolation[file](c, text)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Errno != syscall.EINVAL || e.Cure == "" {
				t.Errorf("%q: %v is not a full refusal", text, err)
			}
			if fmt.Sprint(c.OCI(Automatic{})) != before {
				t.Errorf("%q was refused and changed something", text)
			}
			return
		}
		if keyed && out == "" {
			return
		}
		again, err := isolation[file](NewConfig(), out)
		if err != nil || again != out {
			t.Errorf("%q reads %q, then %q (%v)", text, out, again, err)
		}
	})
}

func FuzzNamespaces(f *testing.F) { fuzzView(f, "namespaces") }
func FuzzIDMap(f *testing.F)      { fuzzView(f, "uid_map") }
func FuzzUser(f *testing.F)       { fuzzView(f, "user") }
func FuzzCaps(f *testing.F)       { fuzzView(f, "caps") }
func FuzzSeccomp(f *testing.F)    { fuzzView(f, "seccomp") }
func FuzzSELinux(f *testing.F)    { fuzzView(f, "selinux") }
func FuzzRlimits(f *testing.F)    { fuzzView(f, "rlimits") }
func FuzzSysctl(f *testing.F)     { fuzzView(f, "sysctl") }
func FuzzMasked(f *testing.F)     { fuzzView(f, "masked") }
func FuzzMounts(f *testing.F)     { fuzzView(f, "mounts") }
func FuzzDevices(f *testing.F)    { fuzzView(f, "devices") }
