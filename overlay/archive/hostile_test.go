package archive

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// canary is a tree beside a layer that no archive may reach. Its description has what any access but a look would change.
func canary(t *testing.T, dir string) (tree string, describe func() []string) {
	t.Helper()
	tree = filepath.Join(dir, "outside")
	for _, sub := range []string{"etc", "rootfs"} {
		if err := os.MkdirAll(filepath.Join(tree, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, sub, "passwd"), []byte("root"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tree, func() []string {
		lines := show(t, tree, "")
		for i, line := range lines {
			name, _, _ := strings.Cut(line, " ")
			var st unix.Stat_t
			unix.Lstat(filepath.Join(tree, name), &st)
			lines[i] += fmt.Sprintf(" %d %d %v", st.Ino, st.Nlink, st.Ctim)
		}
		return lines
	}
}

// TestCanary: whatever stands where a directory is expected, nothing outside of the layer changes.
func TestCanary(t *testing.T) {
	needRoot(t)
	tmp := t.TempDir()
	outside, describe := canary(t, tmp)
	before := describe()
	up := strings.Repeat("../", 20) + strings.TrimPrefix(outside, "/")
	n := 0
	try := func(what string, entries ...made) {
		n++
		layer, _, _, err := unpackedTo(t, filepath.Join(tmp, fmt.Sprintf("layer%d", n)), bytes.NewReader(tarOf(t, entries...)), 0)
		if after := describe(); strings.Join(after, "\n") != strings.Join(before, "\n") {
			t.Fatalf("%s (%v): outside there is\n%s\nand was\n%s", what, err, strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
		for _, line := range show(t, layer, "mo") {
			if strings.Contains(line, `"root"`) {
				t.Errorf("%s: something of outside is in the layer: %s", what, line)
			}
		}
	}
	// The names that other engines give a meaning to, at the top of an image.
	for _, name := range []string{"rootfs", "templates", "metadata.yaml", "backup", "exec-output", "etc", "dev", "proc", "sys", "manifest.json"} {
		for _, to := range []string{outside, up, "../outside", "/proc/self/root" + outside, "/proc/self/cwd", "/"} {
			link := sym(name, to)
			for _, written := range []made{file(name+"/passwd", "evil"), file(name+"/etc/passwd", "evil"), dir(name + "/etc"), sym(name+"/etc", "x"), fifo(name + "/etc/passwd"),
				file(name+"/.wh.etc", ""), file(name+"/.wh..wh..opq", ""), file(name+"/etc/.wh.passwd", ""), hard("x", name+"/etc/passwd"), hard(name+"/etc/passwd", name)} {
				try("a link "+name+" to "+to+", then "+written.name, link, written)
			}
			try("a link twice", link, hard(name+"2", name), file(name+"2/etc/passwd", "evil"))
			try("a link in the place of a directory", dir(name), file(name+"/etc/passwd", "ours"), link, file(name+"/etc/passwd", "evil"), dir(name+"/rootfs"))
			try("a link in a link", sym("a", name), link, file("a/etc/passwd", "evil"))
		}
		try("a hard link", hard(name, outside+"/etc/passwd"), file(name, "evil"))
		try("a hard link up", hard(name, "../outside/etc/passwd"))
		try("a device", char(name), file(name+"/passwd", "evil"))
	}
	for _, name := range []string{outside + "/etc/passwd", "../outside/etc/passwd", up + "/etc/passwd", "a/../../outside/etc/passwd", ".wh.../outside", "..", "../.wh.outside"} {
		try(name, file(name, "evil"))
		try(name, dir(name))
		try(name, sym("x", "y"), hard("x", name))
	}
	// A file that was made and goes on being written must not be another one by then.
	try("swapped", file("d/f", strings.Repeat("evil", 100000)), sym("d", outside+"/etc"), file("d/f", "evil"), file("d/passwd", "evil"))
	if layer, _, _, err := unpacked(t, tarOf(t, file(outside+"/x", "1"))); err != nil || !strings.Contains(brief(t, layer), "outside/x '1'") {
		t.Errorf("an absolute name: %v", err)
	}
}

// TestCutOff: an archive that ends anywhere is an error, which says where.
func TestCutOff(t *testing.T) {
	needRoot(t)
	whole := tarOf(t, dir("d"), file("d/first", strings.Repeat("x", 1500)), sym("d/l", "first"), file("d/second", "2"), hard("d/third", "d/second"))
	tmp := t.TempDir()
	try := func(what string, n int, stream []byte) {
		layer := filepath.Join(tmp, fmt.Sprintf("%s%d", what, n))
		_, _, _, err := unpackedTo(t, layer, bytes.NewReader(stream), 0)
		if err == nil {
			t.Errorf("%s of %d bytes is taken", what, n)
			return
		}
		wantErrno(t, what, err, syscall.EBADMSG, "unpack")
		if n > 4096 && what == "tar" && !strings.Contains(err.Error(), "d/") && !strings.Contains(err.Error(), "its end is missing") {
			t.Errorf("%s of %d bytes: %v", what, n, err)
		}
	}
	for n := 0; n < len(whole)-1024; n += 512 {
		try("tar", n, whole[:n])
		if n > 0 {
			try("tar", n+100, whole[:n+100])
		}
	}
	for what, all := range map[string][]byte{"gzip": gzipped(whole), "zstd": zstdOf(whole)} {
		for n := 0; n < len(all); n += 16 {
			try(what, n, all[:n])
		}
	}
	broken := gzipped(whole)
	broken[len(broken)-6] ^= 1 // of the checksum
	try("a wrong checksum", 0, broken)
}

// TestStreams: what is no layer at all, what is too large, and what the reader has to say.
func TestStreams(t *testing.T) {
	needRoot(t)
	plain := tarOf(t, file("a", strings.Repeat("x", 10000)))
	for _, c := range []struct {
		what   string
		stream io.Reader
		limit  int64
		errno  syscall.Errno
		words  string
	}{
		{"xz", strings.NewReader("\xfd7zXZ\x00……"), 0, syscall.EOPNOTSUPP, "xz"},
		{"bzip2", strings.NewReader("BZh9……"), 0, syscall.EOPNOTSUPP, "bzip2"},
		{"a text", strings.NewReader(strings.Repeat("no tar ", 1000)), 0, syscall.EBADMSG, "malformed"},
		{"too large", bytes.NewReader(plain), 9000, syscall.EFBIG, "larger"},
		{"a bomb", bytes.NewReader(gzipped(append(plain, make([]byte, 80<<20)...))), 0, syscall.EBADMSG, "after its end"},
		{"a reader that fails", io.MultiReader(bytes.NewReader(plain[:5000]), failing{syscall.ECONNRESET}), 0, syscall.ECONNRESET, "reset"},
		{"large headers", bytes.NewReader(bigHeader()), 0, syscall.EBADMSG, "malformed"},
		{"a sparse file of a petabyte", bytes.NewReader(sparseHeader()), 0, syscall.EFBIG, "sparse"},
	} {
		_, _, _, err := unpackedTo(t, filepath.Join(t.TempDir(), "layer"), c.stream, c.limit)
		if err == nil {
			t.Errorf("%s is taken", c.what)
			continue
		}
		wantErrno(t, c.what, err, c.errno, c.words)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// rawHeader is a header that no library would write.
func rawHeader(kind byte, size string, change func(b []byte)) []byte {
	b := make([]byte, 512)
	copy(b, "a")
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:136], size)
	copy(b[136:], "00000000000\x00")
	b[156] = kind
	copy(b[257:], "ustar  \x00")
	if change != nil {
		change(b)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// bigHeader is an archive with a PAX header of 8 GB, of which there are 2 MB.
func bigHeader() []byte {
	return append(rawHeader('x', "77777777777\x00", nil), make([]byte, 2<<20)...)
}

// sparseHeader is an archive with one file that has nothing in it but a size, in the form of old GNU tar.
func sparseHeader() []byte {
	return append(rawHeader('S', "00000000000\x00", func(b []byte) {
		copy(b[386:], "00000000000\x0000000000000\x00") // a fragment of nothing
		copy(b[483:495], "\x80\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00")
	}), make([]byte, 1024)...)
}

// TestListenHostile: a program that was taken over can ask for nothing outside of the layer.
func TestListenHostile(t *testing.T) {
	needRoot(t)
	tmp := t.TempDir()
	outside, describe := canary(t, tmp)
	layer := filepath.Join(tmp, "layer")
	os.Mkdir(layer, 0o755)
	os.Symlink(outside, filepath.Join(layer, "link"))
	top, err := os.Open(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	before := strings.Join(describe(), "\n")
	for _, s := range []string{
		`{"Opaque":"bGluaw=="}`, `{"Opaque":"bGluay9ldGM="}`, `{"Opaque":"Li4vb3V0c2lkZQ=="}`, `{"Opaque":"L2V0Yw=="}`, `{"Opaque":""}`, // link, link/etc, ../outside, /etc
		`{"Owner":{"Path":"bGluay9ldGM=","UID":5}}`, `{"Owner":{"Path":"Li4vb3V0c2lkZQ==","UID":5}}`,
		`{"Result":{"DiffID":"sha256:x"}}`, `{"Result":null}`, `{}`, `x`, ``, strings.Repeat("x", sayingMax+1),
		`{"Refused":{"Errno":0}}` + "\n" + `{"Refused":{"Errno":0}}`,
	} {
		if h := listen(top, strings.NewReader(s+"\n")); h.err == nil {
			t.Errorf("%.60s is taken: %+v", s, h)
		}
	}
	if after := strings.Join(describe(), "\n"); after != before {
		t.Errorf("outside there is\n%s\nand was\n%s", after, before)
	}
	h := listen(top, strings.NewReader(`{"Refused":{"Entry":"a\nb","Errno":99999999,"Why":"\u001b[31m"}}`+"\n"))
	wantErrno(t, "a refusal", h.refused, syscall.EBADMSG, "a?b: ?[31m")
}

// FuzzUnpack: nothing that is called an archive has anything happen outside, or the program fail; and what is exact comes back.
func FuzzUnpack(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("it needs root")
	}
	f.Add(tarOf(f, dir("d"), file("d/a", "1"), hard("d/b", "d/a"), sym("l", "d"), file("l/c", "3"), file("d/.wh.x", ""), file("d/.wh..wh..opq", ""), char("n"), fifo("p")))
	f.Add(tarOf(f, file(strings.Repeat("long/", 60)+"name", strings.Repeat("x", 70000))))
	f.Add(sparseHeader())
	f.Add(gzipped(tarOf(f, sym("a", "b"), sym("b", "a"), file("a/x", ""))))
	f.Add(zstdOf(tarOf(f, file("a", ""), dir("a"), file("a/b", ""), file("a", ""))))
	f.Fuzz(func(t *testing.T, b []byte) {
		tmp := t.TempDir()
		layer, exact, r, err := unpackedTo(t, filepath.Join(tmp, "layer"), bytes.NewReader(b), 8<<20)
		if names, _ := os.ReadDir(tmp); len(names) != 2 {
			t.Fatalf("beside the layer there is %v", names)
		}
		if err != nil || !r.Exact {
			return
		}
		in, err := decompress(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		rebuilt(t, "an archive", layer, exact, want)
	})
}
