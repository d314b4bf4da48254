package engine

import (
	"strings"
	"syscall"
	"testing"
)

// TestOCIRoundTrip: what config.json reads as can be written, and reads the same.
func TestOCIRoundTrip(t *testing.T) {
	c := NewConfig()
	for _, err := range []error{
		c.SetCmd(`sh -c "echo hi"`), c.SetEnv([]string{"A=1"}), c.SetCwd("/tmp"), c.SetHostname("h"), c.SetRootfs("/srv"),
		c.SetRootMode(RootVolatile), c.SetMemoryMax(1 << 30), c.SetPidsMax(7), c.SetCPUWeight(42), c.SetCPUMax(5000, 50000),
		c.SetStopSignal("INT"), c.SetStopTimeout(3),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Spec.Annotations = map[string]string{"who": "a stranger"}
	text, err := c.OCI()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseOCI(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.OCI()
	if err != nil || string(again) != string(text) {
		t.Errorf("got (%v)\n%s\nwant\n%s", err, again, text)
	}
}

func TestOCIRefusals(t *testing.T) {
	good, err := NewConfig().OCI()
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, old, new string
		errno          syscall.Errno
		sentence       string // must be in the error
	}{
		{"half of it", string(good[len(good)/2:]), "", syscall.EINVAL, "config.json"},
		{"more behind it", "\n}\n", "\n} {}", syscall.EINVAL, "more"},
		{"an unknown field", `"mounts"`, `"nosuch": 1, "mounts"`, syscall.EINVAL, "nosuch"},
		{"another version", `"ociVersion": "1`, `"ociVersion": "2`, syscall.EINVAL, "ociVersion"},
		{"a field that nobody honours", `"cwd": "/"`, `"cwd": "/", "oomScoreAdj": 5`, syscall.EOPNOTSUPP, "process.oomScoreAdj"},
		{"hooks", `"mounts"`, `"hooks": {"poststop": [{"path": "/x"}]}, "mounts"`, syscall.EOPNOTSUPP, "hooks.poststop"},
		{"a relative namespace", `"type": "pid"`, `"type": "pid", "path": "proc/1/ns/pid"`, syscall.EINVAL, "namespace"},
		{"a namespace twice", `"type": "pid"`, `"type": "user"`, syscall.EINVAL, "user"},
		{"an unknown namespace", `"type": "pid"`, `"type": "nosuch"`, syscall.EINVAL, "nosuch"},
		{"the host's mounts", `"type": "mount"`, `"type": "time"`, syscall.EINVAL, "mnt host"},
		{"a device that is denied", `"access": "rwm"`, `"access": "rwm"}, {"allow": false, "type": "c", "access": "r"`, syscall.EOPNOTSUPP, "denies"},
		{"a device rule that cannot be shown", `"access": "m"`, `"access": "x"`, syscall.EOPNOTSUPP, "rule of the devices file"},
		{"half of everything denied", `"access": "rwm"`, `"access": "w"`, syscall.EOPNOTSUPP, "denies"},
		{"a node outside", `"path": "/dev/null"`, `"path": "/dev/../null"`, syscall.EOPNOTSUPP, "node of the devices file"},
		{"a bad mask", `"/proc/acpi"`, `"proc/acpi"`, syscall.EINVAL, "masked"},
		{"a bad annotation", `"annotations": {`, `"annotations": {"org.ctrfs.namespaces": "net host",`, syscall.EINVAL, "net host"},
		{"a strange mount", `"type": "mqueue"`, `"type": "bind"`, syscall.EOPNOTSUPP, "bind"},
		{"a relative cwd", `"cwd": "/"`, `"cwd": "tmp"`, syscall.EINVAL, "cwd"},
		{"a bad signal", `"org.ctrfs.stop.signal": "TERM"`, `"org.ctrfs.stop.signal": "NOPE"`, syscall.EINVAL, "stop.signal"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(good), c.old, c.new, 1)
			if text == string(good) {
				t.Fatal("the case does not change the text")
			}
			_, err := ParseOCI([]byte(text))
			if Errno(err) != c.errno || !strings.Contains(err.Error(), c.sentence) {
				t.Errorf("got %v, want %v naming %q", err, c.errno, c.sentence)
			}
		})
	}
}

// TestOCIMinimum: a specification may leave nearly everything out; what a start needs all the same is asked for by name.
func TestOCIMinimum(t *testing.T) {
	_, err := ParseOCI([]byte(`{"ociVersion":"1.0.0"}`))
	if Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), "mnt host") {
		t.Errorf("got %v", err)
	}
}

// TestOCIDevices: what a specification does not say about devices is what every container has; nothing is something else.
func TestOCIDevices(t *testing.T) {
	const head = `{"ociVersion":"1.0.0","linux":{"namespaces":[{"type":"mount"}]`
	for text, want := range map[string]int{head + "}}": len(defaultDevices), head + `,"resources":{"devices":[{"allow":false,"access":"rwm"}]}}}`: 0} {
		c, err := ParseOCI([]byte(text))
		if err != nil || len(c.Devices()) != want {
			t.Errorf("%s: %v, %v", text, c, err)
		}
	}
}

// TestNothingSetIsUnhonoured: a default container can be copied by its config.json.
func TestNothingSetIsUnhonoured(t *testing.T) {
	text, err := NewConfig().OCI()
	if err != nil {
		t.Fatal(err)
	}
	if name := unhonoured(text); name != "" {
		t.Errorf("the default configuration sets %s, which no start honours", name)
	}
}

func FuzzOCI(f *testing.F) {
	good, err := NewConfig().OCI()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"ociVersion":"1.0.0","process":{"cwd":"/","args":["a"]},"root":{"path":"/x"},"linux":{"resources":{"cpu":{"shares":1}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseOCI(data)
		if err != nil {
			if Errno(err) == syscall.EIO {
				t.Errorf("an error without an errno: %v", err)
			}
			return
		}
		text, err := c.OCI()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseOCI(text); err != nil {
			t.Errorf("%s is taken, but what it reads as is not: %v\n%s", data, err, text)
		}
	})
}
