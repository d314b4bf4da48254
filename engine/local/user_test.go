package local

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// rootWith makes a root with these files.
func rootWith(t testing.TB, files map[string]string) *os.File {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(text, "->"); ok {
			if err := os.Symlink(target, name); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestLookUp(t *testing.T) {
	root := rootWith(t, map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/:\nbad line\nbad\nbad:x::1::/:\nbad:x:0x1:1::/:\nbad:x:1:y::/:\n7:x:1:1::/:\nhigh:x:4294967295:1::/:\nneg:x:-5:1::/:\n",
		"etc/group":  "root:x:0:\nwww:x:34:\nadm:x:4:www\ncdrom:x:24:other,www\ntwice:x:24:www\n",
	})
	for _, c := range []struct {
		user   string
		uid    uint32
		gid    uint32
		groups []uint32
		errno  syscall.Errno
	}{
		{user: "www", uid: 33, gid: 34, groups: []uint32{4, 24}},
		{user: "www:adm", uid: 33, gid: 4},
		{user: "www:7", uid: 33, gid: 7},
		{user: "1000:adm", uid: 1000, gid: 4},
		{user: "33", uid: 33, gid: 34, groups: []uint32{4, 24}},
		{user: "7", uid: 7, gid: 0}, // a number is never a name
		{user: "bad", errno: syscall.ENOENT},
		{user: "nobody", errno: syscall.ENOENT},
		{user: "www:nogroup", errno: syscall.ENOENT},
		{user: "high", errno: syscall.EINVAL},
		{user: "neg", errno: syscall.ENOENT}, // its line is none
	} {
		got, err := lookUp(c.user, root)
		if engine.Errno(err) != c.errno {
			t.Errorf("%s: %v, want %v", c.user, err, c.errno)
			continue
		}
		if err == nil && (got.UID != c.uid || got.GID != c.gid || !slices.Equal(got.AdditionalGids, c.groups)) {
			t.Errorf("%s: %+v, want %+v", c.user, got, c)
		}
	}
}

// TestLookUpInHostileRoots: what lies where accounts should be neither stops the server nor leads out of the root.
func TestLookUpInHostileRoots(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("evil:x:0:0::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fifo := rootWith(t, map[string]string{"etc/group": ""})
	if err := unix.Mkfifo(fifo.Name()+"/etc/passwd", 0o644); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]*os.File{
		"fifo":     fifo,
		"absolute": rootWith(t, map[string]string{"etc/passwd": "->" + outside}),
		"relative": rootWith(t, map[string]string{"etc/passwd": "->../../../../../../../.." + outside}),
		"proc":     rootWith(t, map[string]string{"etc/passwd": "->/proc/self/fd/0"}),
		"loop":     rootWith(t, map[string]string{"etc/passwd": "->passwd"}),
		"none":     rootWith(t, nil),
		"huge":     rootWith(t, map[string]string{"etc/passwd": strings.Repeat("x", accountsMax) + "\nevil:x:0:0::/:\n"}),
	} {
		begin := time.Now()
		if got, err := lookUp("evil", root); err == nil {
			t.Errorf("%s: found %+v", name, got)
		} else if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func FuzzLookUp(f *testing.F) {
	f.Add("www:adm", "www:x:33:34::/:\n", "adm:x:4:www\n")
	f.Fuzz(func(t *testing.T, text, passwd, group string) {
		if strings.HasPrefix(passwd, "->") || strings.HasPrefix(group, "->") {
			t.Skip()
		}
		u, err := lookUp(text, rootWith(t, map[string]string{"etc/passwd": passwd, "etc/group": group}))
		if err == nil && (u.UID == 1<<32-1 || u.GID == 1<<32-1) {
			t.Errorf("%q gives %+v", text, u)
		}
	})
}
