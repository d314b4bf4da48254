package overlay

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// runHere runs programs as the keeper does.
func runHere(program string, args ...string) (syscall.WaitStatus, string, error) {
	cmd := exec.Command(program, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return 0, "", err
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return cmd.ProcessState.Sys().(syscall.WaitStatus), line, nil
}

// A bounded layer under every kind of root, with and without ids, and on kernels that want layers attached.
func TestBoundedLayer(t *testing.T) {
	if _, err := tool("mke2fs"); err != nil {
		t.Skip(err)
	}
	for _, attach := range []bool{false, true} {
		for _, ids := range []*IDs{nil, guestIDs(t)} {
			for _, kind := range []string{"directory", "host", "chain", "ext4"} {
				t.Run(fmt.Sprintf("%s attached %v user %v", kind, attach, ids != nil), func(t *testing.T) {
					testBoundedLayer(t, kind, attach, ids)
				})
			}
		}
	}
}

func testBoundedLayer(t *testing.T, kind string, attach bool, ids *IDs) {
	s := newStore(t)
	s.RunWith(runHere)
	s.attach.Store(attach)
	look := expect
	if ids != nil {
		look = expectAs
	}
	var from Source
	switch kind {
	case "directory":
		from = Directory(testRoot(t, tempDir(t)))
	case "host":
		from = Directory(engine.RootHost)
	case "chain":
		from = image(t, s, 40)
	case "ext4":
		from = Directory(tempDir(t) + "/root")
		diskFile(t, s, "ext4", from.Path)
	}
	from.Size = 8 << 20
	home(t, s, "c")
	table := mountTable()
	for _, script := range [][][2]string{
		{{"write /more text", ""}, {"chown /more 5 6", ""}, {"fill /big", "ENOSPC"}, {"stat /", "40755 0:0"}},
		{{"read /more", "text"}, {"stat /more", "100644 5:6"}, {"rm /big", ""}},
	} {
		r, err := s.Prepare("c", from, "overlay", ids)
		if err != nil {
			t.Fatal(err)
		}
		look(t, r, script)
		r.Close()
	}
	disk := s.layerPath("c") + "/" + diskName
	loopGone(t, disk)
	if mountTable() != table {
		t.Error("the host's mount table has changed")
	}
	var st unix.Stat_t
	if err := unix.Stat(disk, &st); err != nil || st.Size != 8<<20 {
		t.Errorf("the layer's disk: %d bytes, %v", st.Size, err)
	}
}

// Every program that can be missing, or fail, leaves a layer that the next try makes or resizes.
func TestBoundErrors(t *testing.T) {
	if _, err := tool("mke2fs"); err != nil {
		t.Skip(err)
	}
	s, from := newStore(t), Directory(testRoot(t, tempDir(t)))
	from.Size = 4 << 20
	home(t, s, "c")
	fail := ""
	s.RunWith(func(program string, args ...string) (syscall.WaitStatus, string, error) {
		if strings.HasSuffix(program, fail) {
			return syscall.WaitStatus(8 << 8), "no", nil
		}
		return runHere(program, args...)
	})
	try := func(failing string, size int64, want syscall.Errno) {
		t.Helper()
		fail, from.Size = failing, size
		r, err := s.Prepare("c", from, "overlay", nil)
		if err == nil {
			defer r.Close()
		}
		if engine.Errno(err) != want {
			t.Errorf("%d bytes without %s: %v, want %v", size, failing, err, want)
		}
		if err == nil && size == 4<<20 {
			expect(t, r, [][2]string{{"write /file kept", ""}})
		} else if err == nil {
			expect(t, r, [][2]string{{"read /file", "kept"}})
		}
	}
	try("mke2fs", 4<<20, syscall.EIO)
	try("none", 4<<20, 0)
	try("e2fsck", 8<<20, syscall.EIO)
	try("resize2fs", 8<<20, syscall.EIO)
	try("none", 8<<20, 0)
	try("resize2fs", 6<<20, syscall.ENOSPC)
	try("none", 6<<20, 0)
	try("none", 0, 0)
	if err := s.Discard("c"); err != nil {
		t.Fatal(err)
	}
	if left := inDir(t, s.layerPath("c")); len(left) > 0 {
		t.Errorf("a layer that was given up has left %v", left)
	}
	s.RunWith(nil)
	try("none", 8<<20, syscall.EOPNOTSUPP)
	toolDirs = nil
	defer func() { toolDirs = []string{"/sbin", "/usr/sbin"} }()
	if err := s.CheckSize("c", 8<<20); engine.Errno(err) != syscall.EOPNOTSUPP {
		t.Errorf("without e2fsprogs: %v", err)
	}
}

// FuzzUsed: a superblock may say anything.
func FuzzUsed(f *testing.F) {
	f.Add(make([]byte, 2048))
	f.Add(bytes.Repeat([]byte{0xff}, 2048))
	f.Fuzz(func(t *testing.T, text []byte) {
		if n, _ := usedBytes(bytes.NewReader(text)); n < 0 {
			t.Errorf("%d bytes are used", n)
		}
	})
}

func init() {
	verbs["fill"] = func(path string) (string, error) {
		f, err := os.Create(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		for range 100 {
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				return "", err
			}
		}
		return "", nil
	}
}
