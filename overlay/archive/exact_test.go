package archive

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// rebuilt checks that an archive comes back as it was.
func rebuilt(t testing.TB, what, layer string, exact io.Reader, want []byte) {
	t.Helper()
	top, err := os.Open(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	var got bytes.Buffer
	if err := Rebuild(top, exact, &got); err != nil {
		t.Errorf("%s: %v", what, err)
	} else if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s: %d bytes that are not the %d before", what, got.Len(), len(want))
	}
}

// TestRebuild: whatever it was compressed with and whatever follows its end, an archive comes back as it was.
func TestRebuild(t *testing.T) {
	needRoot(t)
	plain := tarOf(t, dir("d"), file("d/a", "1"), hard("d/b", "d/a"), sym("l", "d"), file("l/c", strings.Repeat("z", 100000)), char("x"),
		file("d/.wh.y", "not empty"), file(strings.Repeat("long/", 60)+"name", "2"))
	for what, c := range map[string]struct{ tar, stream []byte }{
		"plain":           {plain, plain},
		"gzip":            {plain, gzipped(plain)},
		"zstd":            {plain, zstdOf(plain)},
		"two gzip parts":  {plain, append(gzipped(plain[:1000]), gzipped(plain[1000:])...)},
		"more at the end": {append(bytes.Clone(plain), make([]byte, 100000)...), append(bytes.Clone(plain), make([]byte, 100000)...)},
		"what is no zero": {append(bytes.Clone(plain), "and more"...), append(bytes.Clone(plain), "and more"...)},
	} {
		layer, exact, r, err := unpacked(t, c.stream)
		if err != nil || !r.Exact || r.Size != int64(len(c.tar)) {
			t.Errorf("%s: %+v, %v", what, r, err)
			continue
		}
		rebuilt(t, what, layer, exact, c.tar)
	}
}

// TestRebuildHostile: a layer that has changed is not read out of, and nothing beside it.
func TestRebuildHostile(t *testing.T) {
	needRoot(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(path string) error{
		"a link":       func(p string) error { os.Remove(p); return os.Symlink(outside, p) },
		"a hard link":  func(p string) error { return os.WriteFile(p, []byte("2"), 0o600) },
		"nothing":      os.Remove,
		"a fifo":       func(p string) error { os.Remove(p); return unix.Mkfifo(p, 0o600) },
		"a device":     func(p string) error { os.Remove(p); return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"another size": func(p string) error { return os.Truncate(p, 1<<40) },
		"a link on theway": func(p string) error {
			os.RemoveAll(filepath.Dir(p))
			return os.Symlink(filepath.Dir(outside), filepath.Dir(p))
		},
	} {
		layer, exact, _, err := unpacked(t, tarOf(t, file("d/secret", "1")))
		if err != nil {
			t.Fatal(err)
		}
		if err := change(filepath.Join(layer, "d/secret")); err != nil {
			t.Fatal(err)
		}
		top, _ := os.Open(layer)
		err = Rebuild(top, exact, io.Discard)
		top.Close()
		if err == nil {
			t.Errorf("%s: it is rebuilt", what)
		}
	}
}

// TestRebuildNonsense: a record that makes no sense is an error, and takes no memory.
func TestRebuildNonsense(t *testing.T) {
	top, _ := os.Open(t.TempDir())
	defer top.Close()
	record := func(b string) []byte {
		w, _ := zstd.NewWriter(nil)
		return w.EncodeAll([]byte(b), nil)
	}
	huge := "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
	for _, b := range [][]byte{nil, []byte("x"), record("x"), record(exactMagic), record(exactMagic + "\x08ab"), record(exactMagic + huge),
		record(exactMagic + "\x03abcd" + huge), record(exactMagic + huge + "x"), record(exactMagic + "\x03abcd\x09../../etc/passwd"), record(exactMagic + "\x03abcd\x01\x00\x00")} {
		if err := Rebuild(top, bytes.NewReader(b), io.Discard); err == nil {
			t.Errorf("%q is taken", b)
		}
	}
	err := Rebuild(top, bytes.NewReader(record(exactMagic+"\x03abcd\x01x\x00")), io.Discard)
	wantErrno(t, "a file that is missing", err, syscall.ENOENT, "x")
}
