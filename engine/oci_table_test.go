package engine

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/oci.md")

const ociDoc = "../docs/oci.md"

// ociParts are the tables of docs/oci.md; the first is for the fields that are in none of the others.
var ociParts = []string{"The container", "process", "mounts", "hooks", "linux"}

// TestOCITable walks the types of the specification: every field has one row, every row a field, and no row promises for
// fields that it does not name.
func TestOCITable(t *testing.T) {
	used := map[string]bool{}
	ociRoot().leaves(func(f *ociField) {
		if f.row == nil {
			t.Errorf("%s has no row: say in engine/oci_table.go whether a start acts upon it", f.path)
			return
		}
		used[f.row.path] = true
		if f.row.verdict == ociHonoured && f.row.path != f.path {
			t.Errorf("row %s is honoured and speaks for %s", f.row.path, f.path)
		}
	})
	seen := map[string]bool{}
	for _, r := range ociRows {
		if !used[r.path] {
			t.Errorf("row %s has no field, or an honoured one is not a field with a value", r.path)
		}
		if seen[r.path] {
			t.Errorf("row %s stands twice", r.path)
		}
		seen[r.path] = true
		if r.text == "" || (r.verdict == ociHonoured) != (r.cure == "") {
			t.Errorf("row %s has no text, or is refused without a cure, or honoured with one", r.path)
		}
	}
}

// document renders docs/oci.md: the rules, the annotations, and a table for each part of the specification.
func document(t *testing.T) []byte {
	read := func(name string) string {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	b := bytes.NewBufferString(read("oci_head.md"))
	for _, x := range extensions {
		fmt.Fprintf(b, "  | `%s` | %s |\n", x.key, x.without)
	}
	b.WriteString(read("oci_how.md"))
	parts, others := map[string]string{}, map[*ociRow]int{}
	ociRoot().leaves(func(f *ociField) {
		if f.row.verdict == ociElsewhere {
			others[f.row]++
			return
		}
		part, _, _ := strings.Cut(f.path, ".")
		if part = strings.TrimSuffix(part, "[]"); !slices.Contains(ociParts, part) {
			part = ociParts[0]
		}
		parts[part] += fmt.Sprintf("| `%s` | %s | %s |\n", f.path, f.row.verdict, cell(f.row))
	})
	for _, part := range ociParts {
		fmt.Fprintf(b, "\n## %s\n\n| field | | |\n|---|---|---|\n%s", part, parts[part])
	}
	fmt.Fprint(b, "\n## Other platforms\n\n| field | | |\n|---|---|---|\n")
	for i := range ociRows {
		if r := &ociRows[i]; r.verdict == ociElsewhere {
			fmt.Fprintf(b, "| `%s`, %d fields | %s | %s |\n", r.path, others[r], ociRefused, cell(r))
		}
	}
	return b.Bytes()
}

// cell is the text of a row, with what to do instead.
func cell(r *ociRow) string {
	text := r.text
	if len(r.idle) > 0 {
		text += "; `" + strings.Join(r.idle, "`, `") + "` asks for nothing"
	}
	if r.zero {
		text += "; `0` asks for something, too"
	}
	if r.cure != "" && r.cure != ociLeave {
		text += "; " + r.cure
	}
	return strings.ReplaceAll(text, "|", "\\|")
}

// TestOCIDoc keeps docs/oci.md what the table says.
func TestOCIDoc(t *testing.T) {
	want := document(t)
	if *update {
		if err := os.WriteFile(ociDoc, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(ociDoc)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("docs/oci.md is not what the table says (%v); run: go generate ./engine", err)
	}
}
