package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// specification is the directory of the module that defines the specification, as the go command has unpacked it: its text,
// its examples, its schema.
func specification(t *testing.T) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Skip("the module of the specification is not at hand: ", err)
	}
	return dir
}

// wanted sorts the fields at which a specification is refused, by their rows.
func wanted(all []ociRefusal) []string {
	seen := map[string]bool{}
	for _, r := range all {
		seen[r.row.path] = true
	}
	var names []string
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// without takes the refused fields out of a specification.
func without(f *ociField, node any) {
	object := asObject(node)
	for key, item := range object {
		sub := f.fields[key]
		switch {
		case sub == nil:
		case sub.row != nil && len(sub.refusals("", item)) > 0:
			delete(object, key)
		default:
			without(sub, item)
		}
	}
}

func asObject(node any) map[string]any {
	object, _ := node.(map[string]any)
	return object
}

// TestOCIExample: the example of the specification's text loads, but for the fields that are refused by name, and reads back
// as it was written. Whoever makes a start honour one more of them finds a shorter list here.
func TestOCIExample(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(specification(t), "config.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "## Configuration Schema Example")
	_, example, _ = strings.Cut(example, "```json\n")
	example, _, found := strings.Cut(example, "```")
	if !found {
		t.Fatal("config.md has no example")
	}
	tree := parsed(t, []byte(example))
	want := []string{
		"linux.cgroupsPath", "linux.mountLabel", "linux.resources.blockIO.leafWeight", "linux.resources.blockIO.weightDevice",
		"linux.resources.cpu.idle", "linux.resources.cpu.realtimePeriod", "linux.resources.cpu.realtimeRuntime",
		"linux.resources.memory.swappiness", "linux.resources.network", "process.ioPriority",
	}
	if got := wanted(ociRoot().refusals("", tree)); !slices.Equal(got, want) {
		t.Errorf("refused are\n%s\nwant\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
	without(ociRoot(), tree)
	readsBack(t, marshal(t, tree), tree)
	if _, err := ParseOCI(marshal(t, tree)); err != nil {
		t.Error(err)
	}
}

// TestOCISchema goes through the specification's own test files: a good one loads or is refused by the name of a field, a bad
// one does not load. Good ones come with a version before 1, and with a field that has moved since.
func TestOCISchema(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(specification(t), "schema/test/config/*/*.json"))
	if err != nil || len(files) == 0 {
		t.Skip("the module has no test files: ", err)
	}
	known := []string{"ociVersion", "linux.resources.oomScoreAdj"}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decodeOCI(text)
		names := func(field string) bool { return strings.Contains(err.Error(), "config.json: "+field) }
		switch good := filepath.Base(filepath.Dir(file)) == "good"; {
		case good && Errno(err) == syscall.EINVAL && !slices.ContainsFunc(known, names):
			t.Errorf("%s: %v", file, err)
		case !good && err == nil:
			t.Errorf("%s is taken", file)
		}
	}
}

// TestOCITools: what other runtimes write as a beginning loads as it is, and reads back equal. Its root is relative still: an engine
// makes it absolute, which takes a directory.
func TestOCITools(t *testing.T) {
	text, err := os.ReadFile("testdata/oci_runtime.json")
	if err != nil {
		t.Fatal(err)
	}
	readsBack(t, text, parsed(t, text))
	for _, tool := range []string{"runc", "crun"} {
		t.Run(tool, func(t *testing.T) {
			program, err := exec.LookPath(tool)
			if err != nil {
				t.Skip("not installed; testdata/oci_runtime.json stands for it")
			}
			dir := t.TempDir()
			cmd := exec.Command(program, "spec")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
			text, err := os.ReadFile(dir + "/config.json")
			if err != nil {
				t.Fatal(err)
			}
			readsBack(t, text, parsed(t, text))
			c, err := ParseOCI(text)
			if err != nil {
				t.Fatal(err)
			}
			if _, terminal := c.Terminal(); !terminal || !c.RelativeRootfs() {
				t.Error("no terminal, or an absolute root")
			}
		})
	}
}
