package test

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Binary returns the program under test: the one that CTRFS_BINARY names, else one that is built from this tree once in
// each run.
var Binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("CTRFS_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	root, err := treeRoot()
	if err != nil {
		return "", err
	}
	// One path for all runs in a tree, so that nothing has to clean up.
	tree := fnv.New32a()
	tree.Write([]byte(root))
	return build(root, fmt.Sprintf("ctrfs-%08x", tree.Sum32()), "./cmd/ctrfs")
})

// Program builds a program that tests run inside, from the package of that name below the caller's: without libraries, and
// with env added to the environment. CTRFS_PROGRAMS names a directory where they lie ready, for a machine without Go.
func Program(name string, env ...string) (string, error) {
	if dir := os.Getenv("CTRFS_PROGRAMS"); dir != "" {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		return path, err
	}
	return build("", name, "./"+name, env...)
}

// build has the go command, run in dir, make a program for the tests' use.
func build(dir, name, from string, env ...string) (string, error) {
	path := filepath.Join(CacheDir(), "under-test", name)
	cmd := exec.Command("go", "build", "-o", path, from)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return path, nil
}

// treeRoot returns the directory that holds go.mod.
func treeRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
