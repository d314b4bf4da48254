package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// full is a configuration that sets every honoured field; see [TestOCIFull].
func full(t testing.TB) []byte {
	text, err := os.ReadFile("testdata/oci_full.json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// parsed is text as a tree that can be edited.
func parsed(t testing.TB, text []byte) map[string]any {
	t.Helper()
	tree, err := ociJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return tree.(map[string]any)
}

func marshal(t testing.TB, tree any) []byte {
	t.Helper()
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pruned takes out what asks for nothing and says nothing: null, "", false, empty arrays and objects. JSON made of Go types
// leaves those out, or writes them where they were not.
func pruned(node any) any {
	switch v := node.(type) {
	case map[string]any:
		out := map[string]any{}
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
	case bool:
		if !v {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case json.Number:
		if v == "0" {
			return nil
		}
	}
	return node
}

// readsBack fails unless text is taken and reads back as want, give or take nothings.
func readsBack(t *testing.T, text []byte, want any) {
	t.Helper()
	c, err := decodeOCI(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	out, err := c.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := pruned(parsed(t, out)), pruned(want); !reflect.DeepEqual(got, want) {
		t.Errorf("reads back as\n%s\nwant\n%s", marshal(t, got), marshal(t, want))
	}
	again, err := decodeOCI(out)
	if err != nil {
		t.Fatalf("what it reads back as is refused: %v\n%s", err, out)
	}
	if !reflect.DeepEqual(again, c) {
		t.Errorf("written again, it is another configuration\n%s", out)
	}
}

// TestOCIFull: a configuration with every honoured field reads back as it was written. The file must have them all.
func TestOCIFull(t *testing.T) {
	tree := parsed(t, full(t))
	readsBack(t, full(t), tree)
	set := map[string]bool{}
	var collect func(f *ociField, at string, node any) error
	collect = func(f *ociField, at string, node any) error {
		set[f.path] = true
		return f.each(at, node, collect)
	}
	if err := collect(ociRoot(), "", tree); err != nil {
		t.Fatal(err)
	}
	for _, r := range ociRows {
		if r.verdict == ociHonoured && !set[r.path] && r.path != "linux.seccomp.syscalls[].args[].index" {
			t.Errorf("testdata/oci_full.json does not set %s", r.path)
		}
	}
}

// TestOCIRefused sets every refused field, each by itself, and looks for its name in the refusal.
func TestOCIRefused(t *testing.T) {
	ociRoot().leaves(func(f *ociField) {
		if f.row.verdict == ociHonoured {
			return
		}
		// Of the right type, whichever that is, and asking for something.
		for _, value := range []string{`true`, `7`, `"x"`, `["x"]`, `[7]`, `{"k":"x"}`} {
			text := nested(f.path, value)
			_, err := decodeOCI([]byte(text))
			if Errno(err) == syscall.EINVAL {
				continue
			}
			name, _, _ := strings.Cut(f.row.path, "[")
			if Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), f.row.text) {
				t.Errorf("%s: %v", text, err)
			}
			return
		}
		t.Errorf("no value of %s is of the right type", f.path)
	})
	for _, r := range ociRows {
		for _, idle := range append(slices.Clone(r.idle), `null`) {
			if r.verdict == ociHonoured {
				continue
			}
			if _, err := decodeOCI([]byte(nested(r.path, idle))); Errno(err) == syscall.EOPNOTSUPP {
				t.Errorf("%s asks for nothing at %s, and is refused: %v", idle, r.path, err)
			}
		}
	}
}

// nested is a specification that has a value at one place.
func nested(path, value string) string {
	steps := strings.Split(path, ".")
	for _, step := range slices.Backward(steps) {
		if name, ok := strings.CutSuffix(step, "[]"); ok {
			step, value = name, "["+value+"]"
		} else if name, ok := strings.CutSuffix(step, "{}"); ok {
			step, value = name, `{"k":`+value+`}`
		}
		value = fmt.Sprintf("{%q:%s}", step, value)
	}
	return `{"ociVersion":"1.3.0",` + value[1:]
}

// TestOCIRandom takes parts of the full configuration away, at random. What is left is refused, or reads back equal.
func TestOCIRandom(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	taken := 0
	const rounds = 500
	for range rounds {
		tree := parsed(t, full(t))
		thin(random, tree)
		text := marshal(t, tree)
		c, err := decodeOCI(text)
		if err != nil {
			if Errno(err) != syscall.EINVAL {
				t.Fatalf("seed %d: %v\n%s", seed, err, text)
			}
			continue
		}
		taken++
		if c.Cwd() == "/" {
			deep(tree, "process")["cwd"] = "/" // what may be left out has a default
		}
		if c.Rootfs() == RootHost {
			deep(tree, "root")["path"] = RootHost
		}
		if resources := deep(deep(tree, "linux"), "resources"); resources["devices"] == nil {
			resources["devices"] = []any{map[string]any{"allow": false, "access": "rwm"}}
		}
		readsBack(t, text, tree)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if taken < rounds/10 {
		t.Errorf("seed %d: %d of %d were taken, which shows nothing", seed, taken, rounds)
	}
}

func deep(tree map[string]any, key string) map[string]any {
	sub, ok := tree[key].(map[string]any)
	if !ok {
		sub = map[string]any{}
		tree[key] = sub
	}
	return sub
}

// thin removes keys, a few of all.
func thin(random *rand.Rand, node any) {
	switch v := node.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if random.IntN(25) == 0 && key != "ociVersion" {
				delete(v, key)
			}
			if key != "devices" { // rules without a word mean other devices
				thin(random, v[key])
			}
		}
	case []any:
		for _, item := range v {
			thin(random, item)
		}
	}
}

// TestOCISettings: what setters made reads back, annotations and all, and every root mode does.
func TestOCISettings(t *testing.T) {
	for _, mode := range rootModes {
		c := NewConfig()
		for _, err := range []error{
			c.SetCmd(`sh -c "echo hi"`), c.SetEnv([]string{"A=1"}), c.SetCwd("/tmp"), c.SetHostname("h"), c.SetRootfs("/srv"),
			c.SetRootMode(mode), c.SetMemoryMax(1 << 30), c.SetPidsMax(7), c.SetCPUWeight(42), c.SetCPUMax(5000, 50000),
			c.SetStopSignal("INT"), c.SetStopTimeout(3), c.SetOOM("stop"), c.SetPressure("memory.pressure", "some 1 2000000"),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if mode != RootReadOnly {
			c.Spec.Annotations = map[string]string{"who": "a stranger"}
		}
		text, err := c.OCI(Automatic{})
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseOCI(text); err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%s does not read back (%v):\n%s", mode, err, text)
		}
	}
}

// TestOCIExtension: every field of the extension travels.
func TestOCIExtension(t *testing.T) {
	for f := range reflect.TypeFor[Extension]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "join" {
			name = "namespaces"
		}
		key := annotation + name
		if !slices.ContainsFunc(extensions, func(x extension) bool { return x.key == key }) {
			t.Errorf("a copy by config.json loses %s: it needs a row in extensions", key)
		}
	}
}

func TestOCIDefault(t *testing.T) {
	text, err := NewConfig().OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseOCI(text)
	if err != nil || !reflect.DeepEqual(back, NewConfig()) {
		t.Errorf("a default container cannot be copied (%v):\n%s", err, text)
	}
	if strings.Contains(string(text), annotation) {
		t.Errorf("annotations that say nothing:\n%s", text)
	}
}

// TestOCIMalformed edits the full configuration, and looks for the errno and the field in the refusal.
func TestOCIMalformed(t *testing.T) {
	good := string(full(t))
	cases := []struct {
		name, old, new string
		errno          syscall.Errno
		sentence       string // must be in the error
	}{
		{"half of it", good[len(good)/2:], "", syscall.EINVAL, "unexpected EOF"},
		{"a comma too many", `"cwd": "/srv",`, `"cwd": "/srv",,`, syscall.EINVAL, "line 8"},
		{"more behind it", "\n}\n", "\n} {}", syscall.EINVAL, "more after it"},
		{"a brace behind it", "\n}\n", "\n} }", syscall.EINVAL, "more after it"},
		{"no object", good, "7", syscall.EINVAL, "no object"},
		{"nothing", good, "", syscall.EINVAL, "EOF"},
		{"deep", good, strings.Repeat("[", 100) + strings.Repeat("]", 100), syscall.EINVAL, "deep"},
		{"very deep", good, strings.Repeat(`{"a":`, 200000), syscall.EINVAL, "config.json"},
		{"long", good, `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, syscall.E2BIG, "1048576"},
		{"an unknown field", `"mounts"`, `"nosuch": 1, "mounts"`, syscall.EINVAL, "nosuch: the specification has no such field"},
		{"an unknown field within", `"size": 65536}`, `"size": 65536, "nosuch": 0}`, syscall.EINVAL, "linux.gidMappings[0].nosuch"},
		{"an unknown field of another platform", `"linux"`, `"windows": {"nosuch": 0}, "linux"`, syscall.EINVAL, "windows.nosuch"},
		{"a name in other letters", `"hostname"`, `"Hooks": {"poststop": []}, "hostname"`, syscall.EINVAL, "Hooks"},
		{"a honoured name in other letters", `"process"`, `"Process"`, syscall.EINVAL, "Process"},
		{"a name twice", `"cwd": "/srv"`, `"cwd": "/srv", "cwd": "/x"`, syscall.EINVAL, "process.cwd: given twice"},
		{"a name twice, escaped", `"cwd": "/srv"`, `"cwd": "/srv", "\u0063wd": "/x"`, syscall.EINVAL, "process.cwd: given twice"},
		{"an annotation twice", `"org.example.who"`, `"org.ctrfs.stop.signal": "HUP", "org.example.who"`, syscall.EINVAL, `annotations["org.ctrfs.stop.signal"]`},
		{"null in an array", `["CAP_KILL"]`, `[null]`, syscall.EINVAL, "process.capabilities.effective[0]: null"},
		{"a NUL", `"/srv"`, `"/s\u0000rv"`, syscall.EINVAL, "process.cwd"},
		{"a NUL in a key", `"org.example.who"`, `"\u0000"`, syscall.EINVAL, "annotations"},
		{"half of a pair", `"/srv"`, `"/\ud800"`, syscall.EINVAL, "process.cwd"},
		{"bytes that are not UTF-8", `"/srv"`, "\"/\xff\"", syscall.EINVAL, "process.cwd"},
		{"a wrong type", `"cwd": "/srv"`, `"cwd": 7`, syscall.EINVAL, "process.cwd"},
		{"an array for an object", `"root": {"path": "/srv/root", "readonly": true}`, `"root": []`, syscall.EINVAL, "root"},
		{"a fraction", `"uid": 7`, `"uid": 7.5`, syscall.EINVAL, "process.user.uid"},
		{"a number that is too large", `"uid": 7`, `"uid": 4294967296`, syscall.EINVAL, "process.user.uid"},
		{"a negative number", `"uid": 7`, `"uid": -1`, syscall.EINVAL, "process.user.uid"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatal("the case does not change the text")
			}
			config, err := ParseOCI([]byte(text))
			if config != nil || Errno(err) != c.errno || !strings.Contains(err.Error(), c.sentence) {
				t.Errorf("got %v, want %v naming %q", err, c.errno, c.sentence)
			}
		})
	}
}

// TestOCIAll: one sentence names every field that is refused, up to a bound, and says what to do.
func TestOCIAll(t *testing.T) {
	text := strings.Replace(string(full(t)), `"args"`, `"commandLine": "x", "scheduler": {"policy": "SCHED_FIFO"}, "args"`, 1)
	_, err := decodeOCI([]byte(text))
	if err == nil || !strings.Contains(err.Error(), "process.commandLine") || !strings.Contains(err.Error(), "process.scheduler.policy") ||
		!strings.Contains(err.Error(), "give args") {
		t.Errorf("got %v", err)
	}
	text = strings.Replace(text, `"linux": {`, `"linux": {"memoryPolicy": {"mode": "x"}, "intelRdt": {"closID": "x", "schemata": ["x"],
		"l3CacheSchema": "x", "memBwSchema": "x", "enableMonitoring": true}, "cgroupsPath": "x", "mountLabel": "x", "netDevices": {"x": {}},`, 1)
	if _, err = decodeOCI([]byte(text)); err == nil || !strings.Contains(err.Error(), "2 more") {
		t.Errorf("got %v", err)
	}
}

// TestOCIMinimum: a specification may leave nearly everything out. Without a mount namespace it has this machine's own files;
// one that names a root as well expects to be confined to it, and is refused.
func TestOCIMinimum(t *testing.T) {
	c, err := ParseOCI([]byte(`{"ociVersion":"1.0.0"}`))
	if err != nil || c.OwnMounts() {
		t.Errorf("got %v", err)
	}
	for _, linux := range []string{`{}`, `{"namespaces":[{"type":"pid"}]}`, `{"namespaces":[{"type":"mount","path":"/run/x"}]}`} {
		_, err := ParseOCI([]byte(`{"ociVersion":"1.0.0","root":{"path":"/srv"},"linux":` + linux + `}`))
		if Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), `rootfs "/srv"`) {
			t.Errorf("%s: got %v", linux, err)
		}
	}
	_, err = ParseOCI([]byte(`{"ociVersion":"1.0.0","linux":{"rootfsPropagation":"rshared"}}`))
	if Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), "rootfsPropagation") {
		t.Errorf("the propagation of this machine's root: got %v", err)
	}
}

// FuzzOCI: nothing panics, every refusal has an errno and a sentence, and whatever is taken reads back as itself.
func FuzzOCI(f *testing.F) {
	for _, a := range []Automatic{{}, everything} {
		good, err := NewConfig().OCI(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(good)
	}
	f.Add(full(f))
	f.Add([]byte(`{"ociVersion":"1.0.0","process":{"cwd":"/","args":["a"]},"root":{"path":"/x"},"linux":{"resources":{"cpu":{"shares":1}}}}`))
	f.Add([]byte(`{"ociVersion":"1.0.0","linux":{"resources":{"memory":{"limit":-1,"kernel":-1},"cpu":{"quota":0}},"timeOffsets":{"":{}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = ParseOCI(data)
		c, err := decodeOCI(data)
		if err != nil {
			if Errno(err) == syscall.EIO || err.Error() == "" {
				t.Errorf("an error without an errno: %v", err)
			}
			return
		}
		for _, a := range []Automatic{{}, everything} {
			text, err := c.OCI(a)
			if err != nil {
				t.Fatal(err)
			}
			back, err := decodeOCI(text)
			if err != nil {
				t.Fatalf("%s is taken, but what it reads as is not: %v\n%s", data, err, text)
			}
			if !reflect.DeepEqual(back, c) {
				t.Errorf("%s reads as\n%s\nwhich is another configuration", data, text)
			}
		}
	})
}
