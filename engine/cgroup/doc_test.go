package cgroup

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/resources.md")

const resourcesDoc = "../../docs/resources.md"

// onV1 tells what stands for a file on v1.
func (r *row) onV1() string {
	switch {
	case len(r.v1) == 0:
		return "`EOPNOTSUPP`: " + r.lacks
	case r.tell != nil:
		return r.formula
	case r.formula == "":
		return "`" + strings.Join(r.v1, "`, `") + "`"
	}
	return "`" + strings.Join(r.v1, "`, `") + "`: " + r.formula
}

// testedIn lists the tests through a mount that name a file, as a word of its own; where there is none, those of this package.
func testedIn(t *testing.T, file string) string {
	word := regexp.MustCompile(`(^|[^\w.])` + regexp.QuoteMeta(file) + `($|[^\w.]|\.$|\.[^\w])`)
	var found []string
	for _, pattern := range []string{"../../test/testdata/limits.txt", "../../test/testdata/nested.txt", "../../test/testdata/resources*.txt",
		"../../test/testdata/stop.txt", "../../test/resources_test.go", "*_test.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if word.Match(text) {
				found = append(found, strings.TrimPrefix(name, "../../test/testdata/"))
			}
		}
		if pattern == "../../test/resources_test.go" && len(found) > 0 {
			break
		}
	}
	for i, name := range found {
		found[i] = "`" + strings.TrimPrefix(name, "../../test/") + "`"
	}
	return strings.Join(found, ", ")
}

// TestResourcesDoc keeps docs/resources.md what the table says, and every file tested.
func TestResourcesDoc(t *testing.T) {
	head, err := os.ReadFile("testdata/resources_head.md")
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.NewBuffer(head)
	for i := range table {
		r := &table[i]
		size, huge := strings.CutPrefix(r.file, "hugetlb.")
		if r.file == "memory.events.local" || huge && size != "2MB.max" {
			continue // no file of a container shows the one, and the sizes are alike
		}
		tests := testedIn(t, r.file)
		if tests == "" {
			t.Errorf("nothing tests %s", r.file)
		}
		line := fmt.Sprintf("| `%s` | %s | `%s` | %s |\n", r.file, strings.ReplaceAll(r.onV1(), "|", "\\|"), r.file, tests)
		b.WriteString(strings.ReplaceAll(line, "2MB", "<size>"))
	}
	if *update {
		if err := os.WriteFile(resourcesDoc, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(resourcesDoc)
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("docs/resources.md is not what the table says (%v); run: go generate ./engine/cgroup", err)
	}
}

// Every row says how it is converted, or why it cannot be.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for i := range table {
		r := &table[i]
		if seen[r.file] {
			t.Errorf("%s stands twice", r.file)
		}
		seen[r.file] = true
		if (len(r.v1) == 0) != (r.lacks != "") {
			t.Errorf("%s has files of v1 and a reason for having none, or neither", r.file)
		}
		if (r.get != nil || r.set != nil || r.joint != nil) && r.formula == "" {
			t.Errorf("%s is converted, and nobody says how", r.file)
		}
	}
}
