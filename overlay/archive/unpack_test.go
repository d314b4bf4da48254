package archive

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sha(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:6]
}

// brief is a tree without what tests of order do not look at.
func brief(t *testing.T, top string) string {
	var out []string
	for _, line := range show(t, top, "mo") {
		name, rest, _ := strings.Cut(line, " ")
		mode, rest, _ := strings.Cut(rest, " ")
		kind := map[string]string{"40": "dir", "100": "file", "120": "link", "20": "gone", "10": "fifo"}[mode[:max(len(mode)-3, 0)]]
		if mode == "20000" {
			kind, rest = "gone", ""
		}
		if strings.Contains(rest, opaque) {
			kind, rest = "opaque", ""
		}
		if name == "." && kind == "dir" {
			continue
		}
		out = append(out, strings.TrimSpace(kind+" "+name+" "+strings.ReplaceAll(rest, `"`, "'")))
	}
	return strings.Join(out, "; ")
}

// TestOrder: what names that occur more than once come to, and whiteouts in any order.
func TestOrder(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name    string
		entries []made
		want    string
	}{
		{"a file twice", []made{file("a", "1"), file("a", "2")}, "file a '2'"},
		{"a file over a directory", []made{file("d/e/f", "1"), file("d", "2")}, "file d '2'"},
		{"a directory over a file hides what is below", []made{file("d", "1"), dir("d"), file("d/x", "2")}, "opaque d; file d/x '2'"},
		{"a directory over a link", []made{dir("t"), sym("d", "t"), dir("d"), file("d/x", "")}, "opaque d; file d/x ''; dir t"},
		{"a link over a directory", []made{file("d/x", "1"), sym("d", "/etc")}, "link d -> /etc"},
		{"a file over a link", []made{file("t", "1"), sym("l", "t"), file("l", "2")}, "file l '2'; file t '1'"},
		{"a directory twice", []made{dir("d"), file("d/x", "1"), dir("d")}, "dir d; file d/x '1'"},
		{"through a link", []made{dir("usr/lib"), sym("lib", "usr/lib"), file("lib/x", "1")}, "link lib -> usr/lib; dir usr; dir usr/lib; file usr/lib/x '1'"},
		{"through an absolute link", []made{sym("lib", "/usr/../usr/lib"), file("lib/x", "1")}, "link lib -> /usr/../usr/lib; dir usr; dir usr/lib; file usr/lib/x '1'"},
		{"through a link that was changed", []made{sym("l", "a"), file("l/x", "1"), sym("l", "b"), file("l/x", "2")},
			"dir a; file a/x '1'; dir b; file b/x '2'; link l -> b"},
		{"dots and slashes", []made{file("./a//./b", "1"), file("/c", "2")}, "dir a; file a/b '1'; file c '2'"},
		{"hard links", []made{file("a", "1"), hard("d/b", "./a"), hard("c", "/d/b")}, "file a '1'; file c '1' = a; dir d; file d/b '1' = a"},
		{"a hard link to itself", []made{file("a", "1"), hard("a", "a")}, "file a '1'"},
		{"a hard link over a file", []made{file("a", "1"), file("b", "2"), hard("b", "a")}, "file a '1'; file b '1' = a"},
		{"a hard link to a link", []made{sym("a", "/etc/passwd"), hard("b", "a")}, "link a -> /etc/passwd; link b -> /etc/passwd = a"},
		{"a hard link to a device", []made{char("a"), hard("b", "a"), file("c", "")}, "file c ''"},
		{"fifo", []made{fifo("p")}, "fifo p"},

		{"a whiteout", []made{file("d/.wh.x", "")}, "dir d; gone d/x"},
		{"a whiteout, then a file", []made{file(".wh.x", ""), file("x", "1")}, "file x '1'"},
		{"a file, then a whiteout", []made{file("x", "1"), file(".wh.x", "")}, "file x '1'"},
		{"a whiteout, then a directory", []made{file(".wh.x", ""), dir("x"), file("x/a", "1")}, "opaque x; file x/a '1'"},
		{"a whiteout, then what is in a directory", []made{file(".wh.x", ""), file("x/a", "1")}, "opaque x; file x/a '1'"},
		{"a directory, then a whiteout", []made{file("x/a", "1"), file(".wh.x", "")}, "opaque x; file x/a '1'"},
		{"a whiteout, then a link", []made{file(".wh.x", ""), sym("x", "y")}, "link x -> y"},
		{"a whiteout twice", []made{file(".wh.x", ""), file(".wh.x", "")}, "gone x"},
		{"opaque first", []made{file("d/.wh..wh..opq", ""), file("d/a", "1")}, "opaque d; file d/a '1'"},
		{"opaque last", []made{dir("d"), file("d/a", "1"), file("d/.wh..wh..opq", "")}, "opaque d; file d/a '1'"},
		{"opaque and gone", []made{file("d/.wh..wh..opq", ""), file("d", "1")}, "file d '1'"},
		{"opaque at the top", []made{file(".wh..wh..opq", ""), file("a", "1")}, "opaque .; file a '1'"},
		{"marks of aufs", []made{file(".wh..wh.plnk", ""), file("a", "1")}, "file a '1'"},
	} {
		layer, _, r, err := unpacked(t, tarOf(t, c.entries...))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := brief(t, layer); got != c.want {
			t.Errorf("%s:\n\t%s\nwant\t%s", c.name, got, c.want)
		}
		if r.Opaque != strings.HasPrefix(c.want, "opaque .") || r.Files != len(c.entries) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

// TestRefused: archives that no layer may be, and what is said of them.
func TestRefused(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("x", 256)
	xattr := func(name, value string) func(h *tar.Header) {
		return func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value} }
	}
	for _, c := range []struct {
		name    string
		entries []made
		errno   syscall.Errno
		words   string
	}{
		{"up", []made{file("../x", "")}, syscall.EBADMSG, "../x"},
		{"up in the middle", []made{file("a/../b", "")}, syscall.EBADMSG, "a/../b"},
		{"up behind a link", []made{sym("l", "/"), file("l/../../x", "")}, syscall.EBADMSG, "l/../../x"},
		{"a link for the top", []made{sym("./", "/etc")}, syscall.EBADMSG, "no directory"},
		{"a long name", []made{file("a/"+long, "")}, syscall.EBADMSG, "256 bytes"},
		{"a long path", []made{file(strings.Repeat("y/", 2048)+"z", "")}, syscall.EBADMSG, "4097 bytes"},
		{"below a file", []made{file("a", ""), file("a/b", "")}, syscall.ENOTDIR, "a/b"},
		{"below a device", []made{fifo("a"), file("a/b", "")}, syscall.ENOTDIR, "a/b"},
		{"links in a circle", []made{sym("a", "b"), sym("b", "a"), file("a/x", "")}, syscall.ELOOP, "a/x"},
		{"a link to itself", []made{sym("a", "a"), file("a/x", "")}, syscall.ELOOP, "a/x"},
		{"a hard link to nothing", []made{hard("a", "b")}, syscall.EBADMSG, `"b"`},
		{"a hard link up", []made{hard("a", "../b")}, syscall.EBADMSG, ".."},
		{"a hard link out of the layer", []made{sym("x", "/etc"), hard("a", "x/passwd")}, syscall.EBADMSG, "x/passwd"},
		{"a hard link to a directory", []made{dir("d"), hard("a", "d")}, syscall.EBADMSG, "directory"},
		{"a hard link to the top", []made{hard("a", "/")}, syscall.EBADMSG, "directory"},
		{"a hard link to a whiteout", []made{file(".wh.x", ""), hard("a", "x")}, syscall.EBADMSG, "whiteout"},
		{"a hard link to what it replaces", []made{file("d/f", ""), hard("d", "d/f")}, syscall.EBADMSG, "d/f"},
		{"a whiteout of the top", []made{file(".wh..", "")}, syscall.EBADMSG, "whiteout"},
		{"a whiteout of what is above", []made{file("d/.wh...", "")}, syscall.EBADMSG, "whiteout"},
		{"a whiteout of nothing", []made{file(".wh.", "")}, syscall.EBADMSG, "whiteout"},
		{"in a whiteout", []made{file(".wh.d/x", "")}, syscall.EBADMSG, "whiteout"},
		{"no owner", []made{file("a", "").with(func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, syscall.EBADMSG, "owner"},
		{"another kind of entry", []made{{kind: 'Y', name: "a"}}, syscall.EBADMSG, "'Y'"},
		{"capabilities that are none", []made{file("a", "").with(xattr(capability, "x"))}, syscall.EBADMSG, capability},
		{"an access list that is none", []made{file("a", "").with(xattr(accessACL, "xxxxxxxxx"))}, syscall.EOPNOTSUPP, accessACL},
	} {
		_, _, _, err := unpacked(t, tarOf(t, c.entries...))
		if err == nil {
			t.Errorf("%s: it is taken", c.name)
			continue
		}
		wantErrno(t, c.name, err, c.errno, c.words)
	}
}

// TestAttributes: mode, owner, times and extended attributes are what the archive says, in spite of what comes later.
func TestAttributes(t *testing.T) {
	needRoot(t)
	set := func(mode int64, uid, gid int, xattrs ...string) func(h *tar.Header) {
		return func(h *tar.Header) {
			h.Mode, h.Uid, h.Gid = mode, uid, gid
			h.PAXRecords = map[string]string{}
			for i := 0; i < len(xattrs); i += 2 {
				h.PAXRecords[paxXattr+xattrs[i]] = xattrs[i+1]
			}
		}
	}
	rights := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	layer, exact, r, err := unpacked(t, tarOf(t,
		dir("./").with(set(0o711, 3, 4)),
		dir("d").with(set(0o2770, 10, 20, "user.d", "e")),
		file("d/su", "x").with(set(0o6755, 1000, 1000, capability, rights, "user.b", "c")),
		file("d/plain", strings.Repeat("x", smallMax+1)).with(set(0o4640, 0, 0, capability, rights)),
		sym("d/l", "x").with(set(0o777, 7, 8, "user.no", "", "trusted.overlay.redirect", "/")),
		fifo("d/p").with(set(0o4666, 7, 8)),
		dir("d/t").with(set(0o1777, 0, 0, opaque, "y", "trusted.overlay.metacopy", "", "security.selinux", "x")),
		file("d/far", "x").with(set(0o4755, 70000, 5, capability, rights)),
		hard("d/farther", "d/far"),
		file("d/was", "x").with(set(0o755, 70000, 5)),
		file("d/was", "y").with(set(0o755, 1, 1)),
		sym("d/farlink", "x").with(set(0o777, 1<<31, 1<<31)),
		dir("d/fardir").with(set(0o2755, 1<<31, 1<<31)),
	))
	if err != nil {
		t.Fatal(err)
	}
	at := " @1500000000.123456789"
	same(t, "the layer", show(t, layer, ""), []string{
		". 40711 3:4" + at, "d 42770 10:20" + at + ` user.d="e"`,
		"d/su 106755 1000:1000 \"x\"" + at + fmt.Sprintf(" %s=%q", capability, rights) + ` user.b="c"`,
		fmt.Sprintf("d/plain 104640 0:0 \"65537 bytes %x\"%s %s=%q", sha([]byte(strings.Repeat("x", smallMax+1))), at, capability, rights),
		"d/l 120777 7:8 -> x" + at, "d/p 14666 7:8" + at, "d/t 41777 0:0" + at,
		"d/far 104755 70000:5 \"x\"" + at + fmt.Sprintf(" %s=%q", capability, rights),
		"d/farther 104755 70000:5 \"x\"" + at + " = d/far" + fmt.Sprintf(" %s=%q", capability, rights),
		"d/was 100755 1:1 \"y\"" + at, "d/farlink 120777 2147483648:2147483648 -> x" + at, "d/fardir 42755 2147483648:2147483648" + at,
	})
	if len(r.Notes) != 5 || r.Exact {
		t.Errorf("%d notes %q, exact %v", len(r.Notes), r.Notes, r.Exact)
	}
	exact.Close()
}

// TestImplied: directories without an entry are root's, and a time of their own.
func TestImplied(t *testing.T) {
	needRoot(t)
	layer, _, _, err := unpacked(t, tarOf(t, file("a/b/c", "1")))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "a", "a/b"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(layer, name), &st); err != nil || st.Mode != unix.S_IFDIR|0o755 || st.Uid+st.Gid != 0 {
			t.Errorf("%s: %o %d:%d, %v", name, st.Mode, st.Uid, st.Gid, err)
		}
	}
}

// TestHoles: long runs of zeros take no room, and what is said of the file is right even so.
func TestHoles(t *testing.T) {
	needRoot(t)
	text := "begin" + strings.Repeat("\x00", 10<<20) + "end" + strings.Repeat("\x00", 1<<20)
	layer, exact, r, err := unpacked(t, tarOf(t, file("a", text)))
	if err != nil || !r.Exact {
		t.Fatal(err, r.Exact)
	}
	got, err := os.ReadFile(filepath.Join(layer, "a"))
	if err != nil || string(got) != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(layer, "a"), &st); st.Blocks*512 > 1<<20 {
		t.Errorf("it takes %d bytes", st.Blocks*512)
	}
	rebuilt(t, "holes", layer, exact, tarOf(t, file("a", text)))
}

// TestDeep: directories further down than are kept open are reached, and taken away.
func TestDeep(t *testing.T) {
	needRoot(t)
	deep := strings.Repeat("d/", 700)
	layer, _, _, err := unpacked(t, tarOf(t, file(deep+"x", "1"), file(deep+"y", "2"), file("other", ""), file(deep+"z", "3")))
	if err != nil {
		t.Fatal(err)
	}
	top, _ := os.Open(layer)
	defer top.Close()
	f, err := within(top, deep+"z", unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if layer, _, _, err = unpacked(t, tarOf(t, file(deep+"x", "1"), file("d", "2"))); err != nil || brief(t, layer) != "file d '2'" {
		t.Error(brief(t, layer), err)
	}
}

// TestTimes: times before 1970, beyond 2038, of access.
func TestTimes(t *testing.T) {
	needRoot(t)
	when := map[string]time.Time{"old": time.Unix(-86400, 5), "new": time.Unix(1<<33, 7), "now": time.Unix(1, 0)}
	var entries []made
	for name, at := range when {
		entries = append(entries, file(name, "").with(func(h *tar.Header) { h.ModTime, h.AccessTime = at, at.Add(time.Hour) }))
	}
	layer, _, _, err := unpacked(t, tarOf(t, entries...))
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range when {
		var st unix.Stat_t
		unix.Stat(filepath.Join(layer, name), &st)
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(at) {
			t.Errorf("%s: modified %v, want %v", name, got, at)
		}
		if got := time.Unix(st.Atim.Unix()); !got.Equal(at.Add(time.Hour)) {
			t.Errorf("%s: read %v, want %v", name, got, at.Add(time.Hour))
		}
	}
}

// TestNotesBounded: an archive of what is left out does not fill memory.
func TestNotesBounded(t *testing.T) {
	needRoot(t)
	entries := slices.Repeat([]made{char("dev/x")}, 3*notesMax)
	_, _, r, err := unpacked(t, tarOf(t, entries...))
	if err != nil || len(r.Notes) != notesMax+1 {
		t.Error(len(r.Notes), err)
	}
}
