package test

import (
	"strings"
	"testing"
)

// A server that has just begun knows nothing of who uses a file as a root, and shares it all the same: it asks the kernel. What a
// bounded layer is in stays one file system, too.
func TestDisksSurviveServer(t *testing.T) {
	requirePrograms(t, []string{"mke2fs", "losetup"})
	m := MountFor(t)
	m.Sh(`truncate -s 16M $TMP/disk; mke2fs -q -F -t ext4 -d $ROOT $TMP/disk
		mkdir a b c; for i in a b c; do echo $TMP/disk > $i/rootfs; echo 'sleep 1000' > $i/cmd; done
		echo 16M > a/rootfs.size; echo 1 > a/start`)
	m.killServer()
	m.Sh(`echo ro > b/rootfs.mode; echo 1 > b/start`)
	if got := m.Sh(`losetup -j $TMP/disk | wc -l; losetup -l -n -O BACK-FILE | grep -c $STATE`); got != "1\n1\n" {
		t.Errorf("loop devices of the root and of the layer: %q", got)
	}
	if got := m.Sh(`echo rw > c/rootfs.mode; echo 1 > c/start 2> /dev/null || cat c/error`); !strings.Contains(got, "for a, b;") {
		t.Errorf("to write to what others have as their root: %q", got)
	}
	m.Sh(`mkdir a/exec/x; echo 'sh -c "echo more > /file; cat /file"' > a/exec/x/cmd; echo 1 > a/exec/x/start; cat a/exec/x/wait
		for i in a b; do echo KILL > $i/kill; cat $i/wait; done; echo 'cat /file' > a/cmd; echo 1 > a/start; cat a/wait`)
	if got := m.Sh(`cat a/log; rmdir a b c; for i in $(seq 100); do losetup -l -n -O BACK-FILE | grep -q $TMP/disk || break; sleep 0.05; done; losetup -j $TMP/disk`); got != "more\n" {
		t.Errorf("after all: %q", got)
	}
}
