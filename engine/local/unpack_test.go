package local

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/overlay/archive"
)

// Programs that this one is besides the test. Keeper and server are one of them: both are the real ones, without a tree.
const (
	unpackHelper = "unpack-helper" // …, the directory to work in, what to do
	idleHelper   = "idle-helper"   // stands for the server's process
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case archive.Verb:
			if err := archive.Main(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case idleHelper:
			time.Sleep(time.Hour)
		case unpackHelper:
			if err := helpUnpack(os.Args[2], os.Args[3:]...); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// unpackingEngine is as much of an engine as unpacking takes, with a keeper in this process.
func unpackingEngine(dir string) (*Engine, func(), error) {
	claims, err := os.Create(filepath.Join(dir, "claims"))
	if err != nil {
		return nil, nil, err
	}
	idle := 0
	socket := make(chan *os.File, 1)
	spawn := func(s *os.File, _ keeper.Request) (int, error) {
		fd, err := unix.FcntlInt(s.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return 0, err
		}
		socket <- os.NewFile(uintptr(fd), "keeper")
		idle, err = syscall.ForkExec("/proc/self/exe", []string{"test", idleHelper}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		return idle, err
	}
	k, err := keeper.New(slog.New(slog.DiscardHandler), dir, claims, spawn)
	if err != nil {
		return nil, nil, err
	}
	mounted := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		mounted <- k.Mount(ctx, keeper.Request{Dir: dir, State: dir, Run: dir})
	}()
	client, account, err := keeper.Dial(<-socket)
	if err != nil {
		return nil, nil, err
	}
	go client.Serve(func(keeper.Exit) {})
	if err := errors.Join(client.Ready(), <-mounted); err != nil {
		return nil, nil, err
	}
	e := &Engine{keeper: client, log: slog.New(slog.DiscardHandler)}
	if e.facts, err = learn(filepath.Join(dir, "run")); err != nil {
		return nil, nil, err
	}
	if e.ids, err = newRanges(account.Claims, nil, func(uint32) {}); err != nil {
		return nil, nil, err
	}
	e.stock = newStock(stockLeast, e.furnished, e.unfurnish)
	end := func() {
		e.stock.close()
		k.End()
		syscall.Kill(idle, syscall.SIGKILL)
	}
	return e, end, nil
}

// helpUnpack unpacks the layer that stdin is, into dir/layer, and writes the result to stdout.
func helpUnpack(dir string, what ...string) error {
	e, end, err := unpackingEngine(dir)
	if err != nil {
		return err
	}
	defer end()
	into, err := os.Open(filepath.Join(dir, "layer"))
	if err != nil {
		return err
	}
	exact, err := os.Create(filepath.Join(dir, "exact"))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	spawn := e.unpacker()
	if len(what) > 0 && what[0] == "cancel" {
		time.AfterFunc(500*time.Millisecond, stop)
	}
	var said struct {
		Result archive.Result
		Error  string
		Errno  int
	}
	said.Result, err = archive.Unpack(ctx, spawn, into, exact, os.Stdin)
	if err != nil {
		said.Error, said.Errno = err.Error(), int(engine.Errno(err))
	}
	if n := len(e.ids.mine) - len(e.stock.ready); err == nil && n > 1 { // the stock may be making one
		said.Error = fmt.Sprintf("%d ranges of ids are still taken", n)
	}
	return json.NewEncoder(os.Stdout).Encode(said)
}

// unpackReally unpacks with the real keeper, and everything between.
func unpackReally(t *testing.T, stream io.Reader, what ...string) (dir string, result archive.Result, failure string, errno syscall.Errno) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	if f, err := elf.Open("/proc/self/exe"); err == nil {
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Skip("this test's program has a loader, and where layers are unpacked there is none: CGO_ENABLED=0")
			}
		}
	}
	dir = t.TempDir()
	for _, sub := range []string{"layer", "run"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := osexec.CommandContext(ctx, "/proc/self/exe", append([]string{unpackHelper, dir}, what...)...)
	var out, words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stream, &out, &words
	if f, ok := stream.(*os.File); ok {
		cmd.Stdin = f
	}
	err := cmd.Run()
	var said struct {
		Result archive.Result
		Error  string
		Errno  int
	}
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &said)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, words.String())
	}
	return dir, said.Result, said.Error, syscall.Errno(said.Errno)
}

// layerOf makes a compressed layer.
func layerOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range entries {
		text := h.PAXRecords["text"]
		delete(h.PAXRecords, "text")
		h.Size, h.ModTime, h.Format = int64(len(text)), time.Unix(1e9, 123), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

// TestUnpackConfined: what the confined program makes has on disk what the archive says, also what it cannot do itself.
func TestUnpackConfined(t *testing.T) {
	rights := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	layer := layerOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o2775, Uid: 33, Gid: 33},
		tar.Header{Name: "d/.wh..wh..opq", Typeflag: tar.TypeReg},
		tar.Header{Name: "d/.wh.gone", Typeflag: tar.TypeReg},
		tar.Header{Name: "d/su", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1000, Gid: 100, PAXRecords: map[string]string{"text": "program"}},
		tar.Header{Name: "d/caps", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{"text": "program", "SCHILY.xattr.security.capability": rights, "SCHILY.xattr.user.a": "b"}},
		tar.Header{Name: "d/far", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1 << 30, Gid: 7, PAXRecords: map[string]string{"text": "x", "SCHILY.xattr.security.capability": rights}},
		tar.Header{Name: "d/fardir", Typeflag: tar.TypeDir, Mode: 0o3777, Uid: 65536, Gid: 65537},
		tar.Header{Name: "d/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Uid: 5, Gid: 6},
		tar.Header{Name: "d/fifo", Typeflag: tar.TypeFifo, Mode: 0o622, Uid: 65535, Gid: 65535},
		tar.Header{Name: "d/again", Typeflag: tar.TypeLink, Linkname: "d/su"},
		tar.Header{Name: "d/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
	)
	dir, result, failure, _ := unpackReally(t, bytes.NewReader(layer))
	if failure != "" || result.Files != 12 || !result.Exact || len(result.Notes) != 1 {
		t.Fatalf("%+v, %s", result, failure)
	}
	for name, want := range map[string]string{
		".": "40750 0:0 ", "d": "42775 33:33 1000000000.123 opaque", "d/gone": "20000 0:0", "d/su": "104755 1000:100 1000000000.123 links 2",
		"d/caps": "100755 0:0 1000000000.123 caps", "d/far": "104755 1073741824:7 1000000000.123 caps", "d/fardir": "43777 65536:65537 1000000000.123",
		"d/link": "120777 5:6 1000000000.123", "d/fifo": "10622 65535:65535 1000000000.123",
	} {
		if got := look(t, filepath.Join(dir, "layer", name), rights); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "layer/d/null")); err == nil {
		t.Error("there is a device node")
	}
}

// look describes a file.
func look(t *testing.T, path, rights string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%o %d:%d %d.%d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	b := make([]byte, 64)
	if n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", b); err == nil && string(b[:n]) == "y" {
		text += " opaque"
	}
	if n, err := unix.Lgetxattr(path, "security.capability", b); err == nil && string(b[:n]) == rights {
		text += " caps"
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		text += fmt.Sprintf(" links %d", st.Nlink)
	}
	return text
}

// TestUnpackConfinedErrors: what is wrong with an archive is told as it was found, and one that does not end is ended.
func TestUnpackConfinedErrors(t *testing.T) {
	layer := layerOf(t, tar.Header{Name: "a/../../x", Typeflag: tar.TypeReg})
	if _, _, failure, errno := unpackReally(t, bytes.NewReader(layer)); errno != syscall.EBADMSG || !strings.Contains(failure, "a/../../x") {
		t.Errorf("%v: %s", errno, failure)
	}
	silent, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	defer silent.Close()
	start := time.Now()
	if _, _, failure, _ := unpackReally(t, silent, "cancel"); !strings.Contains(failure, "canceled") || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %s", time.Since(start), failure)
	}
}
