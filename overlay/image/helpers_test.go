package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/ctrfs/ctrfs/engine"
)

// need skips a test without these programs, which CI does not let pass.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("there is no %s", p)
		}
		t.Skipf("there is no %s", p)
	}
}

// run runs a program and returns what it says.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+os.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newStore opens a store in a directory of the test's.
func newStore(t testing.TB) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "images"))
}

func openStore(t testing.TB, dir string, with ...func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, w := range with {
		w(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	s.hurry(300 * time.Millisecond)
	t.Cleanup(func() { s.Close() })
	return s
}

// hurry makes a store wait less.
func (s *Store) hurry(patience time.Duration) {
	s.patience = patience
	s.pause = func(int) time.Duration { return 10 * time.Millisecond }
	s.transport.(*steady).inner.ResponseHeaderTimeout = patience
}

// startRegistry starts a real registry on this machine and returns where it is.
func startRegistry(t testing.TB) string {
	t.Helper()
	need(t, "docker-registry")
	dir := t.TempDir()
	host := freeAddress(t)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", dir+"/data", host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the child dies with the thread
		started <- cmd.Start()
		cmd.Wait()
		started <- nil
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); <-started })
	for range 200 {
		if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
			resp.Body.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the registry does not start")
	return ""
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// layer makes a layer's tar of names and contents, in pairs. A name that ends in / is a directory.
func layer(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), Typeflag: tar.TypeReg, ModTime: time.Unix(1700000000, 0)}
		if strings.HasSuffix(pairs[i], "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, pairs[i+1])
	}
	w.Close()
	return b.Bytes()
}

// noise is a text that no compression makes shorter.
func noise(size int, seed uint64) string {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return string(b)
}

// build makes an image of layers.
func build(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	var all []v1.Layer
	for _, l := range layers {
		made, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, made)
	}
	img, err := mutate.AppendLayers(empty.Image, all...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config.Cmd = []string{"/bin/sh"}
	c.Config.Env = []string{"PATH=/bin"}
	img, err = mutate.ConfigFile(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t testing.TB, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func idOf(t testing.TB, img v1.Image) string {
	t.Helper()
	d, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// pull pulls, which must succeed.
func pull(t testing.TB, s *Store, ref string) *Held {
	t.Helper()
	h, err := s.Pull(t.Context(), ref, Auth{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Release)
	return h
}

// wantErrno checks an error as a user sees it.
func wantErrno(t testing.TB, err error, errno syscall.Errno, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", errno)
	}
	if _, ok := errors.AsType[*engine.Error](err); !ok || engine.Errno(err) != errno {
		t.Errorf("%v (%d), want %v", err, engine.Errno(err), errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// wantTidy checks that nothing half-made is left, once what is being deleted is gone.
func wantTidy(t testing.TB, s *Store) {
	t.Helper()
	var left []os.DirEntry
	for range 100 {
		if left, _ = os.ReadDir(filepath.Join(s.dir, tmpDir)); len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("left in tmp: %v", left)
}

// wantFile checks a file in a layer of an image.
func wantFile(t testing.TB, l Layer, name, content string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(l.Path, name))
	if err != nil || string(got) != content {
		t.Errorf("%s: %q, %v, want %q", name, got, err, content)
	}
}

// names lists a directory of the store.
func names(t testing.TB, s *Store, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
