package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Require fails the test where CI is set, and skips it elsewhere, when err says what this machine lacks.
func Require(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// RequireRoot is for all that mounts.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Require(t, fmt.Errorf("mounting needs root, and this is uid %d", os.Geteuid()))
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		Require(t, fmt.Errorf("no FUSE on this machine: %w", err))
	}
}

// Tree is an instance for one test, with the way to say things to it.
type Tree struct {
	*Instance
	T testing.TB
}

// MountFor mounts an instance for the time of the test, and fails the test when it leaves anything behind.
func MountFor(t testing.TB, flags ...string) *Tree {
	t.Helper()
	RequireRoot(t)
	i, err := Mount(flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Tree{i, t}
}

// Root makes a busybox root below the instance.
func (m *Tree) Root() string {
	m.T.Helper()
	dir := m.Base + "/root"
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.T.Fatal(err)
	}
	Require(m.T, BusyboxRoot(dir))
	return dir
}

// Shell starts a shell in the mount.
func (m *Tree) Shell(argv ...string) *Shell {
	m.T.Helper()
	sh, err := NewShell(m.Dir, m.Base, m.Env(m.Root()), argv...)
	if err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(sh.Close)
	return sh
}

// Sh runs shell text in the mount, which must succeed, and returns what it printed.
func (m *Tree) Sh(script string, args ...any) string {
	m.T.Helper()
	sh := m.Shell("dash")
	defer sh.Close()
	text := fmt.Sprintf(script, args...)
	out, status, err := sh.Run(text, patience)
	if err != nil || status != 0 {
		m.T.Fatalf("%s\nerror %v, exit status %d, printed\n%s", text, err, status, out)
	}
	return out
}

// Write writes a control file, which must succeed.
func (m *Tree) Write(path, value string) {
	m.T.Helper()
	if err := os.WriteFile(filepath.Join(m.Dir, path), []byte(value+"\n"), 0o644); err != nil {
		text, _ := os.ReadFile(filepath.Join(m.Dir, filepath.Dir(path), "error"))
		m.T.Fatalf("writing %q: %v; error: %s", value, err, text)
	}
}

// Read returns the content of a file of the tree without its last newline.
func (m *Tree) Read(path string) string {
	m.T.Helper()
	text, err := os.ReadFile(filepath.Join(m.Dir, path))
	if err != nil {
		m.T.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

// Start makes a container from the busybox root and starts cmd in it. settings are pairs of file and value.
func (m *Tree) Start(name, cmd string, settings ...string) {
	m.T.Helper()
	if err := os.Mkdir(filepath.Join(m.Dir, name), 0o755); err != nil {
		m.T.Fatal(err)
	}
	m.Write(name+"/rootfs", m.Root())
	m.Write(name+"/cmd", cmd)
	for pair := range slices.Chunk(settings, 2) {
		m.Write(name+"/"+pair[0], pair[1])
	}
	m.Write(name+"/start", "1")
}

// Patiently is what a time becomes that only a hang should run into, on this machine: CTRFS_PATIENCE times as long, for one
// that is slow.
func Patiently(d time.Duration) time.Duration {
	if times, err := strconv.Atoi(os.Getenv("CTRFS_PATIENCE")); err == nil {
		return time.Duration(times) * d
	}
	return d
}

// Eventually waits until what holds, for at most as long as said, patiently.
func Eventually(t testing.TB, what string, within time.Duration, holds func() bool) {
	t.Helper()
	within = Patiently(within)
	for end := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
