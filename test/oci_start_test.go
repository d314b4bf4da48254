package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// object is a JSON object.
type object = map[string]any

// at follows names into an object; what is missing is an empty one, which is put there.
func at(o object, names ...string) object {
	for _, name := range names {
		sub, ok := o[name].(object)
		if !ok {
			sub = object{}
			o[name] = sub
		}
		o = sub
	}
	return o
}

// drop takes fields out, by their paths.
func drop(o object, paths ...string) {
	for _, path := range paths {
		names := strings.Split(path, ".")
		last := len(names) - 1
		delete(at(o, names[:last]...), names[last])
	}
}

// pruned takes out what says nothing: JSON made of Go types leaves it out, or writes it where it was not.
func pruned(node any) any {
	switch v := node.(type) {
	case object:
		out := object{}
		for key, item := range v {
			if item = pruned(item); item != nil {
				out[key] = item
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = pruned(v[i])
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case nil:
		return nil
	}
	if reflect.ValueOf(node).IsZero() {
		return nil
	}
	return node
}

// ociForeign are configurations of others, and what has to be done to them before ctrfs takes and starts them, besides giving
// them a program that ends: all of it is in docs/oci.md.
var ociForeign = []struct {
	name string
	text func(t *testing.T) []byte
	drop []string
}{
	{"crun", specOf("crun"), nil},
	{"runc", specOf("runc"), nil},
	{"specification", ociExample, []string{
		// Refused by name.
		"process.ioPriority", "linux.cgroupsPath", "linux.mountLabel", "linux.resources.blockIO", "linux.resources.hugepageLimits",
		"linux.resources.network", "linux.resources.cpu.cpus", "linux.resources.cpu.mems", "linux.resources.cpu.idle",
		"linux.resources.cpu.realtimePeriod", "linux.resources.cpu.realtimeRuntime", "linux.resources.memory.reservation",
		"linux.resources.memory.swap", "linux.resources.memory.swappiness",
		// Of a machine that has just these programs, this profile and this policy.
		"hooks", "process.apparmorProfile", "process.selinuxLabel",
	}},
}

// ociAdded are the fields that ctrfs may spell out where a configuration does not have them.
var ociAdded = map[string]bool{"linux.seccomp": true, "linux.uidMappings": true, "linux.gidMappings": true, "hostname": true}

// specOf has a runtime write its own beginning of a configuration.
func specOf(runtime string) func(*testing.T) []byte {
	return func(t *testing.T) []byte {
		requirePrograms(t, []string{runtime})
		dir := t.TempDir()
		cmd := exec.Command(runtime, "spec")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(dir + "/config.json")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

// ociExample is the example in the text of the specification.
func ociExample(t *testing.T) []byte {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	Require(t, err)
	text, err := os.ReadFile(strings.TrimSpace(string(dir)) + "/config.md")
	Require(t, err)
	_, example, _ := strings.Cut(string(text), "## Configuration Schema Example")
	_, example, _ = strings.Cut(example, "```json\n")
	example, _, found := strings.Cut(example, "```")
	if !found {
		t.Fatal("config.md has no example")
	}
	return []byte(example)
}

// TestOCIForeign: configurations that others wrote load, start, and read back equal where ctrfs did not have to add.
func TestOCIForeign(t *testing.T) {
	m := MountFor(t)
	for _, x := range ociForeign {
		t.Run(x.name, func(t *testing.T) {
			m := &Tree{m.Instance, t}
			var spec object
			if err := json.Unmarshal(x.text(t), &spec); err != nil {
				t.Fatal(err)
			}
			drop(spec, x.drop...)
			at(spec, "process")["args"] = []any{"sh", "-c", "echo on $(tty); cat /proc/mounts; ls -l /dev /dev/pts /dev/shm /dev/mqueue /sys/fs/cgroup; exit 7"}
			text, err := json.Marshal(spec)
			if err == nil {
				err = os.Mkdir(m.Dir+"/"+x.name, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			m.fromBundle(x.name, string(text))
			at(spec, "root")["path"] = m.Base + "/bundle/rootfs"
			m.Write(x.name+"/start", "1")
			if code := m.Read(x.name + "/wait"); code != "7" {
				t.Errorf("exit %s", code)
			}
			log := m.Read(x.name + "/log")
			if !strings.Contains(log, "on /dev/pts/0\r\n") {
				t.Errorf("no terminal:\n%s", log)
			}
			for _, mount := range spec["mounts"].([]any) {
				if target := mount.(object)["destination"].(string); !strings.Contains(log, " "+target+" ") {
					t.Errorf("nothing is mounted on %s:\n%s", target, log)
				}
			}
			var back object
			if err := json.Unmarshal([]byte(m.Read(x.name+"/config.json")), &back); err != nil {
				t.Fatal(err)
			}
			withoutAdded(t, spec, back)
			if got, want := pruned(back), pruned(spec); !reflect.DeepEqual(got, want) {
				have, _ := json.Marshal(got)
				text, _ := json.Marshal(want)
				t.Errorf("reads back as\n%s\nwant\n%s", have, text)
			}
		})
	}
}

// fromBundle writes a configuration from within the bundle that it is relative to, as `cat config.json > c/config.json` does
// there: by a program of its own, for a working directory belongs to a process.
func (m *Tree) fromBundle(name, text string) {
	m.T.Helper()
	bundle := m.Base + "/bundle"
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		m.T.Fatal(err)
	}
	if err := os.Symlink(m.Root(), bundle+"/rootfs"); err != nil && !os.IsExist(err) {
		m.T.Fatal(err)
	}
	if err := os.WriteFile(bundle+"/config.json", []byte(text), 0o644); err != nil {
		m.T.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `cat config.json > "$1"`, "sh", m.Dir+"/"+name+"/config.json")
	cmd.Dir = bundle
	if out, err := cmd.CombinedOutput(); err != nil {
		m.T.Fatalf("%v: %s%s", err, out, m.Read(name+"/error"))
	}
}

// withoutAdded takes out of what was read back what ctrfs spelled out and spec does not have.
func withoutAdded(t *testing.T, spec, back object) {
	t.Helper()
	const automatic = "org.ctrfs.automatic"
	marks, _ := at(back, "annotations")[automatic].(string)
	for mark := range strings.FieldsSeq(marks) {
		path, _, _ := strings.Cut(mark, "=")
		names := strings.Split(path, ".")
		if last := len(names) - 1; at(spec, names[:last]...)[names[last]] != nil || !ociAdded[path] {
			t.Errorf("%s was added", path)
		}
		drop(back, path)
	}
	delete(at(back, "annotations"), automatic)
}
