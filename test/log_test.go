package test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallState mounts an instance whose state directory is a disk of 32 MiB.
func smallState(t *testing.T) *Tree {
	t.Helper()
	RequireRoot(t)
	i, err := NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", i.State, "tmpfs", 0, "size=32m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Umount("--stop"); err != nil {
			t.Error(err)
		}
		if err := syscall.Unmount(i.State, 0); err != nil {
			t.Error(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := i.Mount(); err != nil {
		t.Fatal(err)
	}
	return &Tree{i, t}
}

// A program that writes more than the disk holds, a megabyte at a time, goes on with log.max. Without, it gets ENOSPC, and nobody
// else notices: others run, can be stopped, and what has been configured can be read.
func TestLogFillsDisk(t *testing.T) {
	m := smallState(t)
	Eventually(t, "what the root called host needs is on the disk", 10*time.Second, func() bool {
		made, err := filepath.Glob(m.State + "/host/*-*")
		return err == nil && len(made) == 1
	})
	m.Start("other", `sh -c 'trap "exit 5" TERM; while :; do sleep 0.05; done'`)
	const flood = `sh -c 'i=0; while [ $i -lt 64 ]; do i=$((i+1)); dd if=/dev/zero bs=1M count=1 2>/dev/null || exit 9; sleep 0.02; done'`
	m.Start("bound", flood, "log.max", "1M")
	if got := m.Read("bound/wait"); got != "0" {
		t.Errorf("with log.max 1M: exit %s", got)
	}
	m.Start("free", flood, "log.max", "max")
	if got := m.Read("free/wait"); got != "9" {
		t.Errorf("on a full disk: exit %s, wanted the 9 of a write that fails", got)
	}
	if got := m.Read("other/state"); got != "running" {
		t.Errorf("another container is %s", got)
	}
	m.Write("other/kill", "TERM")
	if got := m.Read("other/wait"); got != "5" {
		t.Errorf("another container's exit is %s", got)
	}
	m.Sh("rmdir free")
	m.Write("other/start", "1")
}

// A log that grows while there is no server is brought within its bound by the next one.
func TestLogKillServer(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'trap "seq 200000; echo end" USR1; echo up; while :; do sleep 0.05; done'`, "log.max", "64K", "stop.timeout", "0")
	Eventually(t, "it is up", 5*time.Second, func() bool { return m.Read("c/log") == "up" })
	pid, err := strconv.Atoi(m.Read("c/pid"))
	if err == nil {
		err = m.Umount("--keep")
	}
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGUSR1)
	}
	if err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(m.State + "/containers/*/*/log")
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	Eventually(t, "it has written all", 10*time.Second, func() bool {
		text, err := os.ReadFile(logs[0])
		return err == nil && strings.HasSuffix(string(text), "\nend\n") && len(text) > 1<<20
	})
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "no more is kept than allowed", 10*time.Second, func() bool {
		text := m.Read("c/log")
		return len(text) <= 64<<10 && strings.HasSuffix(text, "\nend")
	})
}
