package fs

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// allowed are the imports of this package beyond the standard library. The tree knows containers through the engine's
// contract only, so that it can stand in front of another engine; and it makes no change to the host by itself, so that
// those who audit what does need not read it.
var allowed = []string{
	"github.com/ctrfs/ctrfs/engine",
	"github.com/hanwen/go-fuse/v2/fs",
	"github.com/hanwen/go-fuse/v2/fuse",
}

func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if !importable(path) {
				t.Errorf("%s imports %s: fs knows the standard library, go-fuse and engine only (imports_test.go says why)", name, path)
			}
		}
	}
}

// importable: a path of the standard library has no dot in its first element.
func importable(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	for _, a := range allowed {
		if path == a {
			return true
		}
	}
	return !strings.Contains(first, ".") && first != "C"
}
