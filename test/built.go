package test

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Binary returns the program under test: the one that CTRFS_BINARY names, else one that is built from this tree once in
// each run.
var Binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("CTRFS_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	return buildTree("ctrfs-%08x")
})

// CrashBinary returns the same program with the points at which it can be killed: package engine/crash.
var CrashBinary = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("CTRFS_PROGRAMS"); dir != "" {
		return filepath.Join(dir, "ctrfs-crashpoints"), nil
	}
	return buildTree("ctrfs-crashpoints-%08x", "-tags", "crashpoints")
})

// buildTree builds the program of this tree. Its name gets a number by which no two trees take the same path, and that is one for
// all runs in a tree, so that nothing has to clean up.
func buildTree(name string, flags ...string) (string, error) {
	root, err := treeRoot()
	if err != nil {
		return "", err
	}
	tree := fnv.New32a()
	tree.Write([]byte(root))
	return build(root, fmt.Sprintf(name, tree.Sum32()), append(flags, "./cmd/ctrfs"))
}

// Program builds a program that tests run inside, from the package of that name below the caller's: without libraries, and
// with env added to the environment. CTRFS_PROGRAMS names a directory where they lie ready, for a machine without Go.
func Program(name string, env ...string) (string, error) {
	if dir := os.Getenv("CTRFS_PROGRAMS"); dir != "" {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		return path, err
	}
	return build("", name, []string{"./" + name}, env...)
}

// build has the go command, run in dir, make a program for the tests' use. Two test binaries that run at once make it one after the
// other: the second one finds that nothing is to be done.
func build(dir, name string, args []string, env ...string) (string, error) {
	path := filepath.Join(CacheDir(), "under-test", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(filepath.Dir(path), "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	cmd := exec.Command("go", append([]string{"build", "-o", path}, args...)...)
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
