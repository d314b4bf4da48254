package fs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/abi.md")

const abiPath = "../docs/abi.md"

// abi renders the documentation of the files: the rules, and a table for each family of rows.
func abi(t *testing.T) []byte {
	head, err := os.ReadFile("testdata/abi_head.md")
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.NewBuffer(head)
	for _, s := range []*scope{rootScope, containerScope, execScope, imageScope, networkScope} {
		for _, f := range s.families {
			fmt.Fprintf(b, "\n## %s\n\n| file | mode | shape | default | meaning |\n|---|---|---|---|---|\n", f.title)
			for i := range f.rows {
				r := &f.rows[i]
				fmt.Fprintf(b, "| `%s` | %04o | %s | %s | %s |\n", r.name, r.mode(), r.shapeText(), cell(r), r.help)
			}
		}
	}
	return b.Bytes()
}

// cell renders a default: words as they are, text as code.
func cell(r *row) string {
	if d := r.byDefault(); d != "" && r.def == "" {
		return "`" + d + "`"
	}
	return r.def
}

// TestDoc keeps docs/abi.md what the tables say.
func TestDoc(t *testing.T) {
	want := abi(t)
	if *update {
		if err := os.WriteFile(abiPath, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(abiPath)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("docs/abi.md is not what the tables say (%v); run: go test ./fs -run Doc -update", err)
	}
}

// TestDocHelp checks that help names every file.
func TestDocHelp(t *testing.T) {
	text := helpText(&tree{root: rootScope, container: containerScope, exec: execScope, image: imageScope, network: networkScope})
	for _, s := range []*scope{rootScope, containerScope, execScope, imageScope, networkScope} {
		for _, r := range s.rows {
			line := fmt.Sprintf("\n  %s ", r.name)
			if !strings.Contains(text, line) || !strings.Contains(text, r.help) {
				t.Errorf("help has no line for %s", r.name)
			}
		}
	}
}
