package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners, whiteouts and trusted attributes need root")
	}
}

// made is an entry of an archive that a test makes: its type, its name, what it links to or what is in it, and what is to be changed.
type made struct {
	kind       byte
	name, text string
	change     func(h *tar.Header)
}

func dir(name string) made        { return made{tar.TypeDir, name, "", nil} }
func file(name, text string) made { return made{tar.TypeReg, name, text, nil} }
func sym(name, to string) made    { return made{tar.TypeSymlink, name, to, nil} }
func hard(name, to string) made   { return made{tar.TypeLink, name, to, nil} }
func fifo(name string) made       { return made{tar.TypeFifo, name, "", nil} }
func char(name string) made       { return made{tar.TypeChar, name, "", nil} }

func (m made) with(change func(h *tar.Header)) made {
	m.change = change
	return m
}

var testTime = time.Unix(1500000000, 123456789)

// tarOf makes an archive.
func tarOf(t testing.TB, entries ...made) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range entries {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Mode: 0o644, ModTime: testTime, Format: tar.FormatPAX}
		switch m.kind {
		case tar.TypeDir:
			h.Mode = 0o755
		case tar.TypeReg:
			h.Size = int64(len(m.text))
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = m.text
		case tar.TypeChar:
			h.Devmajor, h.Devminor = 1, 3
		}
		if m.change != nil {
			m.change(h)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(m.name, err)
		}
		if m.kind == tar.TypeReg {
			io.WriteString(w, m.text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zstdOf(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil)
}

// unpacked unpacks in this process, into a new directory.
func unpacked(t testing.TB, stream []byte) (layer string, exact *os.File, r Result, err error) {
	t.Helper()
	return unpackedTo(t, filepath.Join(t.TempDir(), "layer"), bytes.NewReader(stream), 0)
}

func unpackedTo(t testing.TB, layer string, stream io.Reader, limit int64) (string, *os.File, Result, error) {
	t.Helper()
	if err := os.Mkdir(layer, 0o700); err != nil {
		t.Fatal(err)
	}
	into, err := os.Open(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer into.Close()
	exact, err := os.Create(layer + ".exact")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exact.Close() })
	r, err := UnpackAtMost(t.Context(), Unconfined, into, exact, stream, limit)
	exact.Seek(0, io.SeekStart)
	return layer, exact, r, err
}

// show describes a tree, a line for each file, but for what is said to be left out of each: 'm' modification times, 'o' owners.
func show(t testing.TB, top, without string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%s %o", name, st.Mode)
		if !strings.Contains(without, "o") {
			text += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			text += " -> " + to
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if len(b) > 40 {
				b = fmt.Appendf(nil, "%d bytes %x", len(b), sha(b))
			}
			text += fmt.Sprintf(" %q", b)
		case unix.S_IFCHR:
			text += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if !strings.Contains(without, "m") && !(st.Mode&unix.S_IFMT == unix.S_IFCHR) {
			text += fmt.Sprintf(" @%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && !isWhiteout(&st) {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			} else {
				text += " = " + first[st.Ino]
			}
		}
		lines = append(lines, text+attributes(path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func attributes(path string) (text string) {
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(path, list)
	if err != nil || n == 0 {
		return ""
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		value := make([]byte, 4096)
		n, _ := unix.Lgetxattr(path, name, value)
		text += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return text
}

// same compares descriptions.
func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: there is\n\t%s", what, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing is\n\t%s", what, line)
		}
	}
}

func wantErrno(t testing.TB, what string, err error, errno syscall.Errno, words string) {
	t.Helper()
	if engine.Errno(err) != errno || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v (%v), want %v and %q", what, err, engine.Errno(err), errno, words)
	}
}

var background = context.Background()
