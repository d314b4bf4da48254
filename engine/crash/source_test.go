package crash_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lasting are the calls after which something is there, or gone, that outlives the server.
var lasting = strings.Fields("os.WriteFile os.Truncate os.Rename os.Remove os.RemoveAll os.Mkdir os.MkdirAll os.Symlink unix.Unlink unix.Unlinkat unix.Rename " +
	"unix.Renameat2 unix.Mkdirat unix.Mkfifo unix.Rmdir unix.Fallocate unix.Ftruncate unix.Fsync unix.Fchownat unix.Chmod unix.Write unix.Symlinkat")

// exempt are the functions that need no point, each with the reason.
var exempt = map[string]string{
	"unlink":       "of the trash, by way of thawing, which has one",
	"rmdir":        "of the trash, by way of thawing, which has one",
	"trigger":      "of a descriptor, which does not last",
	"Close":        "of a descriptor, which does not last",
	"Features":     "tries what the host offers, in a directory of its own",
	"openStore":    "before anything is there",
	"learn":        "before anything is there",
	"Open":         "before anything is there",
	"privateDir":   "before anything is there",
	"Unmount":      "of the same",
	"unmount":      "of the same",
	"mount":        "of the same",
	"removeInputs": "at the end of a mount, and of the server",
	"text":         "on a file system that goes with the server",
}

// unused are those that no step needs.
var unused = maps.Clone(exempt)

// TestEveryStepHasAPoint: a call that changes what lasts is followed by a point in the same function.
func TestEveryStepHasAPoint(t *testing.T) {
	found := 0
	for _, dir := range []string{"../local", "../cgroup", "../../overlay", "../../overlay/image"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					found += len(unpointed(t, set, f))
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("%d steps were found: this test does not see them", found)
	}
	for name := range unused {
		t.Errorf("there is no step without a point in %s any more", name)
	}
}

// unpointed checks a function and returns the steps in it.
func unpointed(t *testing.T, set *token.FileSet, f *ast.FuncDecl) (steps []token.Pos) {
	last := token.NoPos
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		switch {
		case !ok:
		case pkg.Name == "crash" && sel.Sel.Name == "Point":
			last = max(last, call.Pos())
		case slices.Contains(lasting, pkg.Name+"."+sel.Sel.Name):
			steps = append(steps, call.Pos())
		}
		return true
	})
	for _, step := range steps {
		if step > last && exempt[f.Name.Name] != "" {
			delete(unused, f.Name.Name)
		} else if step > last {
			t.Errorf("%s: no crash.Point follows this step in %s", set.Position(step), f.Name.Name)
		}
	}
	return steps
}
