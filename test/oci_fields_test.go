package test

import (
	"encoding/json"
	"os"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// ociField is a line of the tables below: a value for some fields of config.json, and what a program sees of it.
type ociField struct {
	fields string // by their paths in docs/oci.md
	value  string // JSON that is merged into the configuration
	probe  string // a shell command that runs inside
	want   string // a regular expression for all that it prints
}

// A few containers, since not every value goes with every other.
var ociFields = map[string][]ociField{
	"root": {
		{"process.args process.cwd", `{"process": {"cwd": "/etc"}}`, "pwd; echo $0 $1", `/etc\nzero one`},
		{"process.env", `{"process": {"env": ["PATH=/bin", "A=1", "A=two words"]}}`, "echo $A", "two words"},
		{"process.oomScoreAdj", `{"process": {"oomScoreAdj": 321}}`, "cat /proc/self/oom_score_adj", "321"},
		{"process.noNewPrivileges", `{"process": {"noNewPrivileges": false}}`, "grep NoNewPrivs /proc/self/status", `NoNewPrivs:\s+0`},
		{"process.rlimits[].type process.rlimits[].hard process.rlimits[].soft",
			`{"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 71, "hard": 72}, {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 18446744073709551615}]}}`,
			"grep -E 'open files|Max file size' /proc/self/limits", `Max file size +4096 +unlimited +bytes *\nMax open files +71 +72 +files *`},
		{"hostname domainname", `{"hostname": "hosted", "domainname": "domained"}`, "hostname; cat /proc/sys/kernel/domainname", "hosted\ndomained"},
		{"root.path root.readonly", `{"root": {"readonly": true}}`, "test -e /bin/busybox; touch /x 2>&1", ".*Read-only file system"},
		{"mounts[].destination mounts[].type mounts[].source mounts[].options", `{"mounts": [{"destination": "/tmp", "type": "tmpfs", "source": "named",
			"options": ["noexec", "size=128k", "mode=751", "ro"]}]}`, "grep ' /tmp ' /proc/mounts", `named /tmp tmpfs ro,noexec,relatime,size=128k,mode=751.*`},
		{"linux.uidMappings[].containerID linux.uidMappings[].hostID linux.uidMappings[].size linux.gidMappings[].containerID linux.gidMappings[].hostID linux.gidMappings[].size",
			`{"linux": {"uidMappings": [{"containerID": 0, "hostID": 2100000000, "size": 900}, {"containerID": 1000, "hostID": 2100005000, "size": 7}],
			"gidMappings": [{"containerID": 0, "hostID": 2100100000, "size": 800}]}}`,
			"cat /proc/self/uid_map /proc/self/gid_map", ` *0 +2100000000 +900\n +1000 +2100005000 +7\n +0 +2100100000 +800`},
		{"linux.sysctl", `{"linux": {"sysctl": {"net.ipv4.ip_default_ttl": "77", "kernel.shmmax": "8192"}}}`,
			"cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmax", `77\n8192`},
		{"linux.devices[].path linux.devices[].type linux.devices[].major linux.devices[].minor linux.devices[].fileMode linux.devices[].uid linux.devices[].gid",
			`{"linux": {"devices": [{"path": "/dev/a", "type": "c", "major": 10, "minor": 229, "fileMode": 438}, {"path": "/dev/some/b", "type": "b", "major": 7, "minor": 300, "fileMode": 416, "uid": 7, "gid": 8},
			{"path": "/dev/fifo", "type": "p", "fileMode": 384, "uid": 9}]}}`,
			"stat -c '%F %t:%T %a %u:%g' /dev/a /dev/some/b /dev/fifo", `character special file a:e5 666 0:0\nblock special file 7:12c 640 7:8\nfifo 0:0 600 9:0`},
		{"linux.maskedPaths linux.readonlyPaths", `{"linux": {"maskedPaths": ["/etc/passwd", "/usr"], "readonlyPaths": ["/dev/shm"]}}`,
			"cat /etc/passwd; touch /usr/x /dev/shm/x 2>&1", `.*/usr/x: (Read-only file system|Permission denied)\n.*/dev/shm/x: Read-only file system`},
		{"linux.personality.domain", `{"linux": {"personality": {"domain": "LINUX32"}}}`, "uname -m", "i686|armv8l|armv7l"},
		{"linux.timeOffsets{}.secs linux.timeOffsets{}.nanosecs linux.namespaces[].type",
			`{"linux": {"timeOffsets": {"boottime": {"secs": 7000000, "nanosecs": 5}, "monotonic": {"secs": 90, "nanosecs": 0}}}}`,
			"cut -c1-2 /proc/uptime; cat /proc/self/timens_offsets", `7[0-9]\nmonotonic +90 +0\nboottime +7000000 +5`},
		{"linux.rootfsPropagation", `{"linux": {"rootfsPropagation": "shared"}}`, "grep -E '^([^ ]+ ){4}/ ' /proc/self/mountinfo", `.* shared:\d+ .*`},
	},
	// With the host's user namespace, where mknod(2) makes nodes that could be opened.
	"devices": {
		{"linux.resources.devices[].allow linux.resources.devices[].type linux.resources.devices[].major linux.resources.devices[].minor",
			`{"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}], "devices": [{"path": "/dev/a", "type": "c", "major": 10, "minor": 229, "fileMode": 438}],
			"resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]}},
			"mounts": [{"destination": "/tmp", "type": "tmpfs", "source": "x", "options": ["dev"]}, {"destination": "/root", "type": "none", "source": "DIR", "options": ["bind"]}]}`,
			"(: < /dev/a) && echo listed; for d in /tmp /root /dev /; do mknod $d/node c 10 229; (: < $d/node) 2>&1 && echo open; rm -f $d/node; done",
			`listed\nopen(\n.*node: Permission denied){3}`},
		{"linux.resources.devices[].access",
			`{"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}],
			"resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}]}},
			"mounts": [{"destination": "/tmp", "type": "tmpfs", "source": "x", "options": ["dev"]}]}`,
			"mknod /tmp/node c 10 229; (: < /tmp/node) && echo read; (: > /tmp/node) 2>&1; mknod /tmp/other b 7 0; (: < /tmp/other) 2>&1",
			`read\n.*node: Operation not permitted\n.*other: Operation not permitted`},
	},
	"every device": {
		{"linux.resources.devices[].allow",
			`{"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}], "resources": {"devices": [{"allow": true, "access": "rwm"}]}},
			"mounts": [{"destination": "/tmp", "type": "tmpfs", "source": "x"}]}`,
			"mknod /tmp/node c 10 229; (: < /tmp/node) && echo any", "any"},
	},
	"user": {
		{"process.user.uid process.user.gid process.user.additionalGids", `{"process": {"user": {"uid": 5, "gid": 6, "umask": 23, "additionalGids": [70, 80]}}}`,
			"grep -E '^(Uid|Gid|Groups)' /proc/self/status", `Uid:\s+5\s+5\s+5\s+5\nGid:\s+6\s+6\s+6\s+6\nGroups:\s*70 80\s*`},
		{"process.user.umask", `{}`, "umask", "0027"},
		{"process.capabilities.bounding process.capabilities.effective process.capabilities.inheritable process.capabilities.permitted process.capabilities.ambient",
			`{"process": {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"],
			"inheritable": ["CAP_CHOWN", "CAP_KILL"], "ambient": ["CAP_KILL"]}}}`,
			"grep '^Cap' /proc/self/status", `CapInh:\s+0*21\nCapPrm:\s+0*20\nCapEff:\s+0*20\nCapBnd:\s+0*a1\nCapAmb:\s+0*20`},
		{"linux.namespaces[].path", `{"linux": {"namespaces": [{"type": "network", "path": "DIR/net"}, {"type": "uts", "path": "DIR/uts"}, {"type": "pid"}, {"type": "mount"}]}}`,
			"readlink /proc/self/ns/net; readlink /proc/self/ns/uts", "NET\nUTS"},
		{"linux.seccomp.defaultAction linux.seccomp.defaultErrnoRet", `{"linux": {"seccomp": {"defaultErrnoRet": 95}}}`, "unshare -r true 2>&1", ".*Not supported|.*Operation not supported"},
		{"linux.seccomp.syscalls[].names linux.seccomp.syscalls[].action linux.seccomp.syscalls[].errnoRet", `{}`, "mkdir /tmp/x 2>&1", ".*(No space left on device)"},
		{"linux.seccomp.syscalls[].args[].index linux.seccomp.syscalls[].args[].value linux.seccomp.syscalls[].args[].op", `{}`, "ip addr 2>&1", ".*: Protocol not supported"},
		{"linux.seccomp.syscalls[].args[].valueTwo", `{}`, "cd /dev/shm; touch f; chmod 777 f; chmod 4755 f 2>&1", ".*: Value too large for (defined )?data type"},
		{"linux.seccomp.architectures linux.seccomp.flags", `{"linux": {"seccomp": {"flags": ["SECCOMP_FILTER_FLAG_LOG"]}}}`, "grep Seccomp: /proc/self/status", `Seccomp:\s+2`},
	},
	"terminal": {
		{"process.terminal process.consoleSize.height process.consoleSize.width", `{"process": {"terminal": true, "consoleSize": {"width": 101, "height": 31}}}`,
			"tty; stty size", `/dev/pts/0\r\n31 101\r`},
	},
}

// ociRules come before those of the default filter. Of chmod and fchmodat an architecture has one at least.
const ociRules = `[
	{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
	{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 93, "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]},
	{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 75, "args": [{"index": 1, "value": 2048, "valueTwo": 2048, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 75, "args": [{"index": 2, "value": 2048, "valueTwo": 2048, "op": "SCMP_CMP_MASKED_EQ"}]}
]`

// ociElsewhereTested are the honoured fields that are not in the tables, with the reason.
var ociElsewhereTested = map[string]string{
	"ociVersion":                                              "kept, and acts upon nothing",
	"annotations":                                             "likewise; oci.txt",
	"linux.resources.memory.useHierarchy":                     "likewise",
	"linux.resources.memory.disableOOMKiller":                 "oom.txt",
	"process.apparmorProfile":                                 "needs a kernel that runs with AppArmor",
	"process.selinuxLabel":                                    "needs a kernel that runs with SELinux",
	"linux.resources.memory.limit":                            "limits.txt",
	"linux.resources.cpu.shares":                              "limits.txt",
	"linux.resources.cpu.quota":                               "limits.txt",
	"linux.resources.cpu.period":                              "limits.txt",
	"linux.resources.pids.limit":                              "limits.txt",
	"linux.resources.memory.reservation":                      "resources.txt",
	"linux.resources.memory.swap":                             "resources.txt",
	"linux.resources.unified":                                 "resources.txt",
	"linux.resources.cpu.cpus":                                "resources.txt",
	"linux.resources.cpu.mems":                                "resources.txt",
	"linux.resources.blockIO.weight":                          "resources.txt",
	"linux.resources.hugepageLimits[].pageSize":               "resources_test.go",
	"linux.resources.hugepageLimits[].limit":                  "resources_test.go",
	"linux.resources.blockIO.throttleReadBpsDevice[].major":   "resources_test.go",
	"linux.resources.blockIO.throttleReadBpsDevice[].minor":   "resources_test.go",
	"linux.resources.blockIO.throttleReadBpsDevice[].rate":    "resources_test.go",
	"linux.resources.blockIO.throttleWriteBpsDevice[].major":  "resources_test.go",
	"linux.resources.blockIO.throttleWriteBpsDevice[].minor":  "resources_test.go",
	"linux.resources.blockIO.throttleWriteBpsDevice[].rate":   "resources_test.go",
	"linux.resources.blockIO.throttleReadIOPSDevice[].major":  "resources_test.go",
	"linux.resources.blockIO.throttleReadIOPSDevice[].minor":  "resources_test.go",
	"linux.resources.blockIO.throttleReadIOPSDevice[].rate":   "resources_test.go",
	"linux.resources.blockIO.throttleWriteIOPSDevice[].major": "resources_test.go",
	"linux.resources.blockIO.throttleWriteIOPSDevice[].minor": "resources_test.go",
	"linux.resources.blockIO.throttleWriteIOPSDevice[].rate":  "resources_test.go",
	"linux.resources.network.classID":                         "packets.txt",
	"linux.resources.network.priorities[].name":               "packets.txt",
	"linux.resources.network.priorities[].priority":           "packets.txt",
}

// merge puts a patch into an object; objects are merged, everything else replaced.
func merge(o, patch object) {
	for key, value := range patch {
		if sub, ok := value.(object); ok {
			merge(at(o, key), sub)
		} else {
			o[key] = value
		}
	}
}

func parseObject(t *testing.T, text string) (o object) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber() // a limit may be larger than a float can tell
	if err := dec.Decode(&o); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return o
}

// TestOCIFields: a program sees every field that docs/oci.md says is honoured.
func TestOCIFields(t *testing.T) {
	m := MountFor(t)
	names := []string{"DIR", m.Tmp}
	for _, kind := range []string{"net", "uts"} {
		// Where ip-netns(8) keeps them: a path below /proc says nothing that lasts.
		link, err := os.Readlink("/proc/self/ns/" + kind)
		if err == nil {
			err = os.WriteFile(m.Tmp+"/"+kind, nil, 0o600)
		}
		if err == nil {
			err = syscall.Mount("/proc/self/ns/"+kind, m.Tmp+"/"+kind, "", syscall.MS_BIND, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Unmount(m.Tmp+"/"+kind, syscall.MNT_DETACH)
		names = append(names, strings.ToUpper(kind), regexp.QuoteMeta(link))
	}
	if err := os.Symlink("busybox", m.Root()+"/bin/unshare"); err != nil {
		t.Fatal(err)
	}
	host := strings.NewReplacer(names...)
	for name, rows := range ociFields {
		t.Run(name, func(t *testing.T) {
			m := &Tree{m.Instance, t}
			name := strings.ReplaceAll(name, " ", "-")
			if err := os.Mkdir(m.Dir+"/"+name, 0o755); err != nil {
				t.Fatal(err)
			}
			spec := ociMinimal(t, m, name)
			script := ""
			for _, row := range rows {
				patch := parseObject(t, host.Replace(row.value))
				if more, ok := patch["mounts"].([]any); ok {
					patch["mounts"] = append(spec["mounts"].([]any), more...)
				}
				merge(spec, patch)
				script += "(" + row.probe + "); echo '<end>'\n"
			}
			at(spec, "process")["args"] = []any{"/bin/sh", "-c", script, "zero", "one"}
			text, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			m.Write(name+"/config.json", string(text))
			m.Write(name+"/start", "1")
			m.Read(name + "/wait")
			answers := strings.Split(m.Read(name+"/log"), "<end>")
			for i, row := range rows {
				if i >= len(answers) {
					t.Fatalf("the script ended early:\n%s", strings.Join(answers, "<end>"))
				}
				got := strings.Trim(answers[i], "\n")
				if !regexp.MustCompile("^(?:" + host.Replace(row.want) + ")$").MatchString(got) {
					t.Errorf("%s: %s prints\n%s\nwant\n%s", row.fields, row.probe, got, row.want)
				}
			}
		})
	}
}

// ociMinimal is what the rows of a container are merged into: a new container's configuration, without what is automatic, but
// for the filter.
func ociMinimal(t *testing.T, m *Tree, name string) object {
	t.Helper()
	spec := parseObject(t, m.Read(name+"/config.json"))
	spec["root"] = object{"path": m.Root()}
	delete(spec, "annotations")
	if name != "user" {
		drop(spec, "linux.seccomp", "linux.uidMappings", "linux.gidMappings", "hostname")
		namespaces := at(spec, "linux")["namespaces"].([]any)
		at(spec, "linux")["namespaces"] = append(namespaces, object{"type": "time"})
		return spec
	}
	drop(spec, "linux.uidMappings", "linux.gidMappings", "hostname")
	var rules []any
	if err := json.Unmarshal([]byte(ociRules), &rules); err != nil {
		t.Fatal(err)
	}
	seccomp := at(spec, "linux", "seccomp")
	seccomp["syscalls"] = append(rules, seccomp["syscalls"].([]any)...)
	if runtime.GOARCH == "amd64" {
		seccomp["architectures"] = []any{"SCMP_ARCH_X86_64"}
	}
	return spec
}

// TestOCIFieldsAll: every honoured field stands in a table.
func TestOCIFieldsAll(t *testing.T) {
	text, err := os.ReadFile("../docs/oci.md")
	if err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, rows := range ociFields {
		for _, row := range rows {
			for field := range strings.FieldsSeq(row.fields) {
				tested[field] = true
			}
		}
	}
	honoured := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| honoured \\|").FindAllSubmatch(text, -1)
	for _, match := range honoured {
		field := string(match[1])
		if strings.HasPrefix(field, "hooks.") {
			continue // hooks.txt: most of them run where no program sees them
		}
		if !tested[field] && ociElsewhereTested[field] == "" {
			t.Errorf("%s is honoured, and nobody looks", field)
		}
	}
	if len(honoured) == 0 {
		t.Error("docs/oci.md has no table")
	}
}
