package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamples runs each script of examples/ and compares what it prints with what it says, in the comment at its end,
// that it prints. It must leave no container.
func TestExamples(t *testing.T) {
	RequireRoot(t)
	files, err := filepath.Glob("../examples/[0-9]*")
	if err != nil || len(files) < 5 {
		t.Fatal("examples are missing", files, err)
	}
	m := MountFor(t)
	before := containers(t, m)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := promised(string(text))
			if len(want) == 0 {
				t.Fatal("the script does not say what it prints")
			}
			path, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			sh := m.Shell("dash")
			defer sh.Close()
			out, status, err := sh.Run("CTR=$MNT "+path, patience)
			if got := splitOutput(out); err != nil || status != 0 || !matches(want, got) {
				t.Errorf("error %v, exit status %d, wanted\n%sgot\n%s", err, status, indent(want), indent(got))
			}
			if after := containers(t, m); after != before {
				t.Errorf("the script left containers: %s", after)
			}
		})
	}
}

// promised returns the lines of the comment "# Output:" at the end of a script.
func promised(script string) []string {
	_, comment, found := strings.Cut(script, "\n# Output:\n")
	if !found {
		return nil
	}
	var want []string
	for line := range strings.Lines(comment) {
		want = append(want, strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "# "))
	}
	return want
}

func containers(t *testing.T, m *Tree) string {
	t.Helper()
	out, err := exec.Command("find", m.Dir, "-mindepth", "1", "-maxdepth", "1", "-type", "d").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
