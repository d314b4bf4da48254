package engine

import (
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestOCIRules puts values into an otherwise empty specification. An empty sentence means that they are taken.
func TestOCIRules(t *testing.T) {
	cases := []struct {
		path, value string
		errno       syscall.Errno
		sentence    string // must be in the error
	}{
		{"ociVersion", `"1.0.0-rc5+dev.7"`, 0, ""},
		{"ociVersion", `"1.9.0"`, 0, ""},
		{"ociVersion", `"2.0.0"`, syscall.EINVAL, `ociVersion: "2.0.0"`},
		{"ociVersion", `"0.5.0-dev"`, syscall.EINVAL, "ociVersion"},
		{"ociVersion", `"1.0"`, syscall.EINVAL, "ociVersion"},
		{"ociVersion", `"1.0.0 "`, syscall.EINVAL, "ociVersion"},
		{"ociVersion", `""`, syscall.EINVAL, "ociVersion"},
		{"process.args", `[""]`, syscall.EINVAL, "process.args: the program's name is empty"},
		{"process.args", `["a", ""]`, 0, ""},
		{"process.env", `["A"]`, syscall.EINVAL, `process.env: "A" not KEY=VALUE`},
		{"process.cwd", `"tmp"`, syscall.EINVAL, "process.cwd"},
		{"process.user.uid", `4294967294`, 0, ""},
		{"process.user.uid", `4294967295`, syscall.EINVAL, "process.user"},
		{"process.user.additionalGids", `[1, 4294967295]`, syscall.EINVAL, "process.user"},
		{"process.user.umask", `511`, 0, ""},
		{"process.user.umask", `512`, syscall.EINVAL, "process.user"},
		{"process.capabilities.bounding", `["CAP_NOSUCH"]`, syscall.EINVAL, "CAP_NOSUCH"},
		{"process.capabilities.inheritable", `["KILL"]`, syscall.EINVAL, "KILL"},
		{"process.capabilities.ambient", `["CAP_KILL"]`, syscall.EINVAL, "permitted"},
		{"process.capabilities", `{"permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}`, 0, ""},
		{"process.rlimits", `[{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]`, syscall.EINVAL, "RLIMIT_NOSUCH"},
		{"process.rlimits", `[{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]`, syscall.EINVAL, "RLIMIT_CPU"},
		{"process.rlimits", `[{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]`, syscall.EINVAL, "twice"},
		{"process.oomScoreAdj", `-1000`, 0, ""},
		{"process.oomScoreAdj", `1001`, syscall.EINVAL, "process.oomScoreAdj"},
		{"process.consoleSize", `{"width": 65535, "height": 0}`, 0, ""},
		{"process.consoleSize", `{"width": 65536, "height": 1}`, syscall.EINVAL, "process.consoleSize"},
		{"root.path", `"rootfs"`, 0, ""},
		{"root.path", `"host"`, 0, ""},
		{"root.path", `""`, 0, ""},
		{"hostname", `"a b"`, syscall.EINVAL, "hostname"},
		{"domainname", `"a/b"`, syscall.EINVAL, "domainname"},
		{"mounts", `[{"destination": "proc", "type": "proc"}]`, syscall.EINVAL, "mounts"},
		{"mounts", `[{}]`, syscall.EINVAL, "mounts"},
		{"mounts", `[{"destination": "/x", "options": ["", "ro"]}]`, syscall.EINVAL, "mounts"},
		{"mounts", `[{"destination": "/x", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]`, syscall.EOPNOTSUPP, "mounts[0].uidMappings"},
		{"linux.namespaces", `[{"type": "pid"}, {"type": "pid", "path": "/x"}]`, syscall.EINVAL, "twice"},
		{"linux.namespaces", `[{"type": "net"}]`, syscall.EINVAL, "linux.namespaces"},
		{"linux.namespaces", `[{"type": "network", "path": "x"}]`, syscall.EINVAL, "linux.namespaces"},
		{"linux.namespaces", `[{"type": "network", "path": "/run/../x"}]`, syscall.EINVAL, "linux.namespaces"},
		{"linux.uidMappings", `[{"containerID": 0, "hostID": 1, "size": 0}]`, syscall.EINVAL, "linux.uidMappings"},
		{"linux.uidMappings", `[{"containerID": 0, "hostID": 4294967295, "size": 1}]`, syscall.EINVAL, "linux.uidMappings"},
		{"linux.gidMappings", `[{"containerID": 0, "hostID": 1, "size": 9}, {"containerID": 9, "hostID": 9, "size": 1}]`, syscall.EINVAL, "overlaps"},
		{"linux.sysctl", `{"kernel.panic": "1"}`, syscall.EINVAL, "linux.sysctl"},
		{"linux.sysctl", `{"net.x": "1", "net/x": "2"}`, syscall.EINVAL, "twice"},
		{"linux.sysctl", `{"net.x": ""}`, syscall.EINVAL, "linux.sysctl"},
		{"linux.maskedPaths", `["proc/x"]`, syscall.EINVAL, "linux.maskedPaths"},
		{"linux.readonlyPaths", `[""]`, syscall.EINVAL, "linux.readonlyPaths"},
		{"linux.devices", `[{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]`, syscall.EINVAL, "linux.devices"},
		{"linux.devices", `[{"path": "/dev/x", "type": "d", "major": 1, "minor": 3}]`, syscall.EINVAL, "linux.devices"},
		{"linux.devices", `[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 2541}]`, syscall.EINVAL, "linux.devices"},
		{"linux.resources.devices", `[{"allow": false, "access": "rwm"}]`, 0, ""},
		{"linux.resources.devices", `[{"allow": false, "access": "rwx"}]`, syscall.EINVAL, "linux.resources.devices"},
		{"linux.resources.devices", `[{"allow": true, "type": "x"}]`, syscall.EINVAL, "linux.resources.devices"},
		{"linux.resources.memory.limit", `-1`, 0, ""},
		{"linux.resources.memory.limit", `-2`, syscall.EINVAL, "linux.resources.memory"},
		{"linux.resources.memory", `{"limit": 4096, "swap": -1, "kernel": -1, "disableOOMKiller": false}`, 0, ""},
		{"linux.resources.memory.swap", `4096`, syscall.EINVAL, "no limit on memory"},
		{"linux.resources.memory", `{"limit": 8192, "swap": 4096}`, syscall.EINVAL, "below limit"},
		{"linux.resources.memory", `{"limit": 8192, "swap": 8192, "reservation": -1}`, 0, ""},
		{"linux.resources.memory", `{"limit": 8192, "swap": 0, "reservation": 0}`, 0, ""},
		{"linux.resources.memory.reservation", `-2`, syscall.EINVAL, "linux.resources.memory"},
		{"linux.resources.cpu.cpus", `"0-3,7"`, 0, ""},
		{"linux.resources.cpu.cpus", `"3-0"`, syscall.EINVAL, "linux.resources.cpu"},
		{"linux.resources.cpu.mems", `"x"`, syscall.EINVAL, "linux.resources.cpu"},
		{"linux.resources.blockIO.weight", `0`, 0, ""},
		{"linux.resources.blockIO.weight", `9`, syscall.EINVAL, "linux.resources.blockIO"},
		{"linux.resources.blockIO.weight", `1001`, syscall.EINVAL, "10 to 1000"},
		{"linux.resources.blockIO.leafWeight", `10`, syscall.EOPNOTSUPP, "leafWeight"},
		{"linux.resources.blockIO.throttleReadBpsDevice", `[{"major": 8, "minor": 0, "rate": 0}]`, syscall.EINVAL, "linux.resources.blockIO"},
		{"linux.resources.blockIO.throttleReadBpsDevice", `[{"major": -1, "minor": 0, "rate": 1}]`, syscall.EINVAL, "-1:0"},
		{"linux.resources.blockIO.throttleWriteIOPSDevice", `[{"major": 8, "minor": 0, "rate": 1}, {"major": 8, "minor": 0, "rate": 2}]`, syscall.EINVAL, "twice"},
		{"linux.resources.hugepageLimits", `[{"pageSize": "2MB", "limit": 4194304}]`, 0, ""},
		{"linux.resources.hugepageLimits", `[{"pageSize": "3MB", "limit": 0}]`, syscall.EOPNOTSUPP, "3MB"},
		{"linux.resources.hugepageLimits", `[{"pageSize": "2MB", "limit": 0}, {"pageSize": "2MB", "limit": 0}]`, syscall.EINVAL, "twice"},
		{"linux.resources.unified", `{"memory.high": "1048576", "memory.oom.group": "1", "cpu.max": "max 50000", "io.max": "8:0 wbps=1\n8:16 riops=2"}`, 0, ""},
		{"linux.resources.unified", `{"memory.high": "1M"}`, syscall.EINVAL, "linux.resources.unified"},
		{"linux.resources.unified", `{"memory.oom.group": "2"}`, syscall.EINVAL, "linux.resources.unified"},
		{"linux.resources.unified", `{"cpu.max": "1 2 3"}`, syscall.EINVAL, "linux.resources.unified"},
		{"linux.resources.unified", `{"memory.zswap.max": "1"}`, syscall.EOPNOTSUPP, "memory.zswap.max"},
		{"linux.resources", `{"unified": {"pids.max": "5"}, "pids": {"limit": 6}}`, syscall.EINVAL, "twice"},
		{"linux.resources.memory.swappiness", `0`, syscall.EOPNOTSUPP, "linux.resources.memory.swappiness"},
		{"linux.resources.pids.limit", `0`, 0, ""},
		{"linux.resources.pids.limit", `-1`, 0, ""},
		{"linux.resources.pids.limit", `-2`, syscall.EINVAL, "linux.resources.pids.limit"},
		{"linux.resources.pids.limit", `4194305`, syscall.EINVAL, "linux.resources.pids.limit"},
		{"linux.resources.cpu", `{"shares": 0, "quota": 0, "period": 0, "cpus": "", "burst": 0}`, 0, ""},
		{"linux.resources.cpu.quota", `-1`, 0, ""},
		{"linux.resources.cpu.quota", `-2`, syscall.EINVAL, "linux.resources.cpu"},
		{"linux.resources.cpu.quota", `999`, syscall.EINVAL, "linux.resources.cpu"},
		{"linux.resources.cpu.period", `18446744073709551615`, syscall.EINVAL, "linux.resources.cpu"},
		{"linux.netDevices", `{"eth0": {}}`, syscall.EOPNOTSUPP, "linux.netDevices"},
		{"linux.resources.rdma", `{"mlx": {"hcaHandles": 0}}`, syscall.EOPNOTSUPP, "linux.resources.rdma"},
		{"linux.seccomp", `{"defaultAction": "SCMP_ACT_NOSUCH"}`, syscall.EINVAL, "linux.seccomp"},
		{"linux.seccomp", `{}`, syscall.EINVAL, "linux.seccomp"},
		{"linux.seccomp", `{"defaultAction": "SCMP_ACT_NOTIFY"}`, syscall.EOPNOTSUPP, "SCMP_ACT_NOTIFY"},
		{"linux.seccomp", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}`, syscall.EINVAL, "linux.seccomp"},
		{"linux.seccomp", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}`,
			syscall.EINVAL, "linux.seccomp"},
		{"linux.seccomp", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "EQ"}]}]}`,
			syscall.EINVAL, "linux.seccomp"},
		{"linux.rootfsPropagation", `"rslave"`, 0, ""},
		{"linux.rootfsPropagation", `"slavish"`, syscall.EINVAL, "linux.rootfsPropagation"},
		{"linux.personality", `{"domain": "LINUX"}`, 0, ""},
		{"linux.personality", `{"domain": "SOLARIS"}`, syscall.EINVAL, "linux.personality"},
		{"linux.timeOffsets", `{"realtime": {"secs": 1}}`, syscall.EINVAL, "realtime"},
		{"linux.timeOffsets", `{"boottime": {"nanosecs": 1000000000}}`, syscall.EINVAL, "linux.timeOffsets"},
		{"windows", `{"hyperv": {}}`, syscall.EOPNOTSUPP, "windows"},
		{"windows", `{}`, 0, ""},
		{"annotations", `{"org.ctrfs.nosuch": ""}`, syscall.EINVAL, `annotations["org.ctrfs.nosuch"]`},
		{"annotations", `{"org.ctrfs.stop.signal": "NOPE"}`, syscall.EINVAL, `annotations["org.ctrfs.stop.signal"]`},
		{"annotations", `{"org.ctrfs.stop.timeout": "-1"}`, syscall.EINVAL, `annotations["org.ctrfs.stop.timeout"]`},
		{"annotations", `{"org.ctrfs.rootfs.mode": "ro"}`, syscall.EINVAL, "root.readonly"},
		{"annotations", `{"org.ctrfs.rootfs.mode": "rw"}`, 0, ""},
		{"annotations", `{"org.ctrfs.user": "www-data"}`, 0, ""},
		{"annotations", `{"org.ctrfs.user": "7:www-data"}`, syscall.EINVAL, "process.user says 0:0"},
		{"annotations", `{"org.ctrfs.user": "0:0"}`, syscall.EINVAL, "process.user says 0:0"},
		{"annotations", `{"org.ctrfs.seccomp": "default"}`, syscall.EINVAL, "unconfined"},
		{"annotations", `{"org.ctrfs.devices": "none"}`, syscall.EINVAL, "listed"},
		{"annotations", `{"org.ctrfsx": "", "": ""}`, 0, ""},
	}
	for _, c := range cases {
		text := nested(c.path, c.value)
		if c.path == "ociVersion" {
			text = `{"ociVersion":` + c.value + `}`
		}
		_, err := decodeOCI([]byte(text))
		if Errno(err) != c.errno || err != nil && !strings.Contains(err.Error(), c.sentence) {
			t.Errorf("%s: got %v, want %v naming %q", text, err, c.errno, c.sentence)
		}
	}
}

// TestOCINormal: what is brought into another form means the same.
func TestOCINormal(t *testing.T) {
	for _, c := range []struct {
		path, value, want string // in what it reads back as
	}{
		{"process.env", `["A=1", "B=2", "A=3"]`, `"A=3",`},
		{"process.cwd", `"/a/../b//"`, `"cwd": "/b"`},
		{"root.path", `"/a/../b//"`, `"path": "/b"`},
		{"linux.resources.memory", `{"limit": 8191, "kernel": -1}`, "{\n        \"limit\": 4096,\n        \"kernel\": -1\n      }"},
		{"linux.resources.cpu", `{"shares": 0, "period": 50000}`, "{\n        \"period\": 50000\n      }"},
		{"process.args", `["a<b&c>\u2028"]`, `"a<b&c>`},
	} {
		config, err := decodeOCI([]byte(nested(c.path, c.value)))
		if err != nil {
			t.Error(err)
			continue
		}
		if text, err := config.OCI(Automatic{}); err != nil || !strings.Contains(string(text), c.want) {
			t.Errorf("%s of %s: want %s in (%v)\n%s", c.value, c.path, c.want, err, text)
		}
	}
}

// TestOCIDevices: the specification has a runtime supply the customary devices, so they are there unless the container has
// been given others, and config.json does not list them.
func TestOCIDevices(t *testing.T) {
	const deny = `[{"allow":false,"access":"rwm"}]`
	for _, text := range []string{`{"ociVersion":"1.0.0"}`, nested("linux.resources.devices", deny), nested("linux.devices", "[]")} {
		c, err := decodeOCI([]byte(text))
		if err != nil || !slices.Equal(c.Devices(), NewConfig().Devices()) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, x := range []struct {
		path, value string
		lines       int // more than the customary ones
	}{
		{"linux.resources.devices", `[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]`, 0},
		{"linux.resources.devices", `[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]`, 1},
		{"linux.resources.devices", `[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},{"allow":false,"access":"rwm"}]`, 2},
		{"linux.devices", `[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":438}]`, 0},
		{"linux.devices", `[{"path":"/dev/zero","type":"c","major":1,"minor":3}]`, 1},
	} {
		c, err := decodeOCI([]byte(nested(x.path, x.value)))
		if err != nil || len(c.Devices()) != len(defaultDevices)+x.lines || !isDenyAll(c.Spec.Linux.Resources.Devices[0]) {
			t.Errorf("%s has devices %q (%v)", x.value, c.Devices(), err)
			continue
		}
		text, err := c.OCI(Automatic{})
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeOCI(text); err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%s does not read back (%v):\n%s", x.value, err, text)
		}
	}
	twice := NewConfig()
	twice.Spec.Linux.Resources.Devices = append(twice.Spec.Linux.Resources.Devices, twice.Spec.Linux.Resources.Devices[1])
	text, err := twice.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	if back, err := decodeOCI(text); err != nil || !reflect.DeepEqual(back, twice) {
		t.Errorf("a customary rule that stands twice does not read back (%v):\n%s", err, text)
	}
	for _, lines := range [][]string{
		{}, {"a"}, {"c 1:3 - /dev/null"}, defaultDevices[1:], append([]string{"c 10:229 rwm /dev/fuse"}, defaultDevices...),
		append(slices.Clone(defaultDevices), "c 10:229 rwm /dev/fuse", "a"), append(slices.Clone(defaultDevices), "c 1:3 rwm /dev/other"),
	} {
		c := NewConfig()
		if err := c.SetDevices(lines); err != nil {
			t.Fatal(err)
		}
		text, err := c.OCI(Automatic{})
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseOCI(text); err != nil || !slices.Equal(back.Devices(), c.Devices()) {
			t.Errorf("%q do not read back (%v):\n%s", lines, err, text)
		}
	}
}

// TestOCIUnshown: what the devices file could not show is refused.
func TestOCIUnshown(t *testing.T) {
	for _, x := range [][2]string{
		{"linux.resources.devices", `[{"allow":true,"type":"c","major":-1,"access":""}]`},
		{"linux.resources.devices", `[{"allow":false,"access":"w"}]`},
		{"linux.resources.devices", `[{"allow":false,"access":"rwm"},{"allow":false,"type":"c","access":"r"}]`},
		{"linux.devices", `[{"path":"/dev/../null","type":"c","major":1,"minor":3}]`},
	} {
		c, err := decodeOCI([]byte(nested(x[0], x[1])))
		if err == nil {
			c.Spec.Linux.Namespaces = NewConfig().Spec.Linux.Namespaces
			err = c.Validate()
		}
		if Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), "linux.devices") {
			t.Errorf("%s: %v", x[1], err)
		}
	}
}

// TestValidate: what settings say against each other is refused.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name, file string
		change     func(*specs.Spec)
		errno      syscall.Errno
	}{
		{"a hostname for the host", "hostname", func(s *specs.Spec) { s.Hostname, s.Linux.Namespaces = "x", s.Linux.Namespaces[2:3] }, syscall.EINVAL},
		{"a domainname for the host", "domainname", func(s *specs.Spec) { s.Domainname, s.Linux.Namespaces = "x", s.Linux.Namespaces[2:3] }, syscall.EINVAL},
		{"clocks of the host", "timeOffsets",
			func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}} }, syscall.EINVAL},
		{"a mount of an unknown type", "mounts", func(s *specs.Spec) { s.Mounts[0].Type = "nosuch" }, syscall.EOPNOTSUPP},
	} {
		config := NewConfig()
		c.change(&config.Spec)
		if err := config.Validate(); Errno(err) != c.errno || !strings.Contains(err.Error(), c.file) {
			t.Errorf("%s: got %v, want %v naming %s", c.name, err, c.errno, c.file)
		}
	}
}
