package test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// require fails the test where CI is set, and skips it elsewhere, when err says what this machine lacks.
func require(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// requireRoot is for all that mounts.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		require(t, fmt.Errorf("mounting needs root, and this is uid %d", os.Geteuid()))
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		require(t, fmt.Errorf("no FUSE on this machine: %w", err))
	}
}

// mounted is an instance for one test, with the way to say things to it.
type mounted struct {
	*Instance
	t *testing.T
}

// mount mounts an instance for the time of the test, and fails the test when it leaves anything behind.
func mount(t *testing.T, flags ...string) *mounted {
	t.Helper()
	requireRoot(t)
	i, err := Mount(flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return &mounted{i, t}
}

// root makes a busybox root below the instance.
func (m *mounted) root() string {
	m.t.Helper()
	dir := m.Base + "/root"
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	require(m.t, BusyboxRoot(dir))
	return dir
}

// shell starts a shell in the mount.
func (m *mounted) shell(argv ...string) *Shell {
	m.t.Helper()
	sh, err := NewShell(m.Dir, m.Base, m.Env(m.root()), argv...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(sh.Close)
	return sh
}

// sh runs shell text in the mount, which must succeed, and returns what it printed.
func (m *mounted) sh(script string, args ...any) string {
	m.t.Helper()
	sh := m.shell("dash")
	defer sh.Close()
	text := fmt.Sprintf(script, args...)
	out, status, err := sh.Run(text, patience)
	if err != nil || status != 0 {
		m.t.Fatalf("%s\nerror %v, exit status %d, printed\n%s", text, err, status, out)
	}
	return out
}

// write writes a control file, which must succeed.
func (m *mounted) write(path, value string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.Dir, path), []byte(value+"\n"), 0o644); err != nil {
		text, _ := os.ReadFile(filepath.Join(m.Dir, filepath.Dir(path), "error"))
		m.t.Fatalf("writing %q: %v; error: %s", value, err, text)
	}
}

// read returns the content of a file of the tree without its last newline.
func (m *mounted) read(path string) string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.Dir, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

// start makes a container from the busybox root and starts cmd in it. settings are pairs of file and value.
func (m *mounted) start(name, cmd string, settings ...string) {
	m.t.Helper()
	if err := os.Mkdir(filepath.Join(m.Dir, name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.write(name+"/rootfs", m.root())
	m.write(name+"/cmd", cmd)
	for pair := range slices.Chunk(settings, 2) {
		m.write(name+"/"+pair[0], pair[1])
	}
	m.write(name+"/start", "1")
}

// eventually waits until what holds, for at most as long as said.
func eventually(t testing.TB, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

var baseline = flag.String("baseline", "", "for TestNothingLeft: the `file` with what was there before; made when missing")

// TestNothingLeft is run before everything and again after: the second time it fails if ctrfs left anything on the
// machine in between. `make test` does that; without -baseline there is nothing to compare with.
func TestNothingLeft(t *testing.T) {
	if *baseline == "" {
		t.Skip("no -baseline")
	}
	text, err := os.ReadFile(*baseline)
	if os.IsNotExist(err) {
		var lines strings.Builder
		for thing := range TakeInventory() {
			fmt.Fprintln(&lines, thing)
		}
		if err := os.WriteFile(*baseline, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	before := Inventory{}
	for line := range strings.Lines(string(text)) {
		before[strings.TrimSuffix(line, "\n")] = true
	}
	for _, thing := range before.Leftovers() {
		t.Errorf("left behind: %s", thing)
	}
}
