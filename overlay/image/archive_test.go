package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// write makes a file of the test's.
func write(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load imports a file.
func load(t testing.TB, s *Store, path string) (*Held, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := s.Import(t.Context(), f, new(Progress))
	if err == nil {
		t.Cleanup(h.Release)
	}
	return h, err
}

// export writes an image's archive into a file, whose size must be what was said before.
func export(t testing.TB, s *Store, id, called string) string {
	t.Helper()
	size, fill, err := s.Export(id, called)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := fill(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != size {
		t.Errorf("%d bytes were announced and %d came", size, b.Len())
	}
	return write(t, "image.tar", b.Bytes())
}

// TestOtherTools: what skopeo, umoci and podman write is read here, what is written here is read there, and the image stays
// the same one on the way.
func TestOtherTools(t *testing.T) {
	need(t, "skopeo", "umoci")
	host := startRegistry(t)
	img := build(t, layer(t, "bin/", "", "bin/sh", noise(70_000, 6)), layer(t, "etc/", "", "etc/.wh.x", ""), layer(t, "twice", "1", "twice", "2"))
	push(t, host+"/x:1", img)
	s := newStore(t)
	pulled := pull(t, s, host+"/x:1")
	if pulled.Layers[2].exact {
		t.Error("a layer with the same path twice is said to be made again from its files")
	}
	dir := t.TempDir()
	for _, kind := range []string{"oci-archive", "docker-archive"} {
		path := dir + "/" + kind + ".tar"
		run(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+host+"/x:1", kind+":"+path+":x:1")
		want := idIn(t, kind+":"+path) // skopeo writes the configuration anew when it makes an OCI image of docker's
		for _, pack := range [][]string{nil, {"gzip", "-k", "-S", ".z"}, {"zstd", "-q", "-o", path + ".z"}, {"xz", "-k", "-S", ".z"}, {"bzip2", "-k"}} {
			from := path
			if pack != nil {
				need(t, pack[0])
				run(t, pack[0], append(pack[1:], path)...)
				from += ".z"
				if pack[0] == "bzip2" {
					from = path + ".bz2"
				}
			}
			h, err := load(t, s, from)
			if err != nil || h.ID != want {
				t.Errorf("%s %v: %v, %v, want %s", kind, pack, h, err, want)
			}
			os.Remove(path + ".z")
		}
	}
	fresh := newStore(t)
	h, err := load(t, fresh, dir+"/docker-archive.tar")
	if err != nil || h.ID != pulled.ID {
		t.Fatalf("%v, %v", h, err)
	}
	wantTidy(t, fresh)

	out := export(t, s, pulled.ID, "example.org/y:2")
	for _, from := range []string{"oci-archive:" + out, "docker-archive:" + out, "docker-archive:" + out + ":example.org/y:2"} {
		if got := idIn(t, from); got != pulled.ID {
			t.Errorf("%s is %s, want %s", from, got, pulled.ID)
		}
	}
	run(t, "skopeo", "copy", "oci-archive:"+out, "oci:"+dir+"/layout:y")
	run(t, "umoci", "unpack", "--image", dir+"/layout:y", dir+"/bundle")
	if got, err := os.ReadFile(dir + "/bundle/rootfs/twice"); err != nil || string(got) != "2" {
		t.Errorf("umoci unpacks %q, %v", got, err)
	}
	run(t, "skopeo", "copy", "--dest-tls-verify=false", "docker-archive:"+out, "docker://"+host+"/back:1")
	if back := pull(t, newStore(t), host+"/back:1"); back.ID != pulled.ID {
		t.Errorf("came back as %s", back.ID)
	}
	if again, err := load(t, newStore(t), out); err != nil || again.ID != pulled.ID {
		t.Errorf("%v, %v", again, err)
	}
}

// idIn is the ID of an image as skopeo sees it.
func idIn(t testing.TB, from string) string {
	t.Helper()
	return digest([]byte(run(t, "skopeo", "inspect", "--raw", "--config", from)))
}

// TestPodman: podman loads what is written here, and what it saves is read here.
func TestPodman(t *testing.T) {
	need(t, "podman")
	s := newStore(t)
	root := write(t, "root.tar", layer(t, "bin/", "", "bin/sh", "x"))
	h, err := load(t, s, root)
	if err != nil {
		t.Fatal(err)
	}
	out := export(t, s, h.ID, "example.org/ctrfs-test:1")
	dir := t.TempDir()
	podman := func(args ...string) string {
		return run(t, "podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...)
	}
	podman("load", "-q", "-i", out)
	if got := strings.TrimSpace(podman("inspect", "--type", "image", "-f", "{{.Id}}", "example.org/ctrfs-test:1")); digestOf(got) != h.ID {
		t.Errorf("podman has %s, want %s", got, h.ID)
	}
	for _, format := range []string{"docker-archive", "oci-archive"} {
		saved := dir + "/" + format
		podman("save", "-q", "--format", format, "-o", saved, "example.org/ctrfs-test:1")
		if back, err := load(t, newStore(t), saved); err != nil || back.ID != h.ID {
			t.Errorf("%s: %v, %v", format, back, err)
		}
	}
}

// TestImportRoot takes the files of a root, however they are compressed.
func TestImportRoot(t *testing.T) {
	text := layer(t, "./", "", "./bin/", "", "./bin/sh", noise(5000, 7), "./manifest.json", "{}")
	plain := write(t, "root.tar", text)
	s := newStore(t)
	for _, pack := range [][]string{nil, {"gzip", "-k", "-S", ".z"}, {"zstd", "-q", "-o", plain + ".z"}, {"xz", "-9", "-k", "-S", ".z"}, {"bzip2", "-k"}} {
		from := plain
		if pack != nil {
			need(t, pack[0])
			run(t, pack[0], append(pack[1:], plain)...)
			from = plain + ".z"
			if pack[0] == "bzip2" {
				from = plain + ".bz2"
			}
		}
		f, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		p := new(Progress)
		h, err := s.Import(t.Context(), f, p)
		f.Close()
		if err != nil {
			t.Fatalf("%v: %v", pack, err)
		}
		if len(h.Layers) != 1 || h.Layers[0].DiffID != digest(text) || h.Config.Architecture != runtime.GOARCH {
			t.Errorf("%v: got %+v", pack, h.Image)
		}
		wantFile(t, h.Layers[0], "bin/sh", noise(5000, 7))
		if r := p.Read(); r.Bytes != r.Total || r.What != stepDone {
			t.Errorf("%v: the progress ends as %v", pack, r)
		}
		h.Release()
		os.Remove(plain + ".z")
	}
	wantTidy(t, s)
}

// TestBadArchives: what is no image, or a damaged one, is refused and leaves nothing.
func TestBadArchives(t *testing.T) {
	s := newStore(t)
	h, err := load(t, s, write(t, "root.tar", layer(t, "f", noise(100_000, 8))))
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(export(t, s, h.ID, ""))
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(good)
	damaged[len(damaged)-5000]++
	index := func(text string) []byte { return layer(t, "oci-layout", "{}", "index.json", text) }
	saved := func(text string, more ...string) []byte {
		return layer(t, append([]string{"manifest.json", text}, more...)...)
	}
	hex := strings.Repeat("ab", 32)
	id := digestOf(hex)
	cases := []struct {
		name  string
		text  []byte
		errno syscall.Errno
		words string
	}{
		{"nothing", nil, syscall.EINVAL, "empty"},
		{"no files", layer(t), syscall.EINVAL, "empty"},
		{"text", []byte(strings.Repeat("no archive ", 200)), syscall.EBADMSG, "not a whole tar archive"},
		{"few bytes", []byte("abc"), syscall.EBADMSG, "tar"},
		{"gzip of nothing", []byte{0x1f, 0x8b, 8, 0, 0}, syscall.EBADMSG, "gzip"},
		{"xz of nothing", []byte("\xfd7zXZ\x00aaaaaaaaaaaa"), syscall.EBADMSG, "xz"},
		{"cut off", good[:len(good)-60_000], syscall.EBADMSG, ""},
		{"damaged", damaged, syscall.EBADMSG, "digest"},
		{"neither", layer(t, "repositories", "{}"), syscall.EINVAL, "neither index.json nor manifest.json"},
		{"no image in it", index(`{"schemaVersion":2,"manifests":[]}`), syscall.EINVAL, "does not hold a container image"},
		{"a blob is missing", index(`{"schemaVersion":2,"manifests":[{"digest":"` + id + `","size":3}]}`), syscall.EBADMSG, "lacks"},
		{"several", index(`{"schemaVersion":2,"manifests":[{"digest":"` + id + `","size":3,"annotations":{"org.opencontainers.image.ref.name":"one"}},
			{"digest":"` + strings.ReplaceAll(id, "ab", "cd") + `","size":3,"annotations":{"org.opencontainers.image.ref.name":"two"}}]}`), syscall.EINVAL, "more than one image: one, two"},
		{"digest as a path", index(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":3}]}`), syscall.EOPNOTSUPP, "not a SHA-256"},
		{"several saved", saved(`[{"RepoTags":["a:1"]},{"RepoTags":["b:1"]}]`), syscall.EINVAL, "a:1, b:1"},
		{"none saved", saved(`[]`), syscall.EINVAL, ""},
		{"no JSON", saved(`[`), syscall.EBADMSG, "manifest.json"},
		{"path out of it", saved(`[{"Config":"../../../etc/passwd"}]`), syscall.EBADMSG, "lacks"},
		{"layers missing", saved(`[{"Config":"`+hex+`.json","Layers":[]}]`, hex+".json", `{"os":"linux","rootfs":{"diff_ids":["`+id+`"]}}`), syscall.EBADMSG, "speaks of 1 layers"},
		{"another layer", saved(`[{"Config":"`+hex+`.json","Layers":["`+hex+`.tar"]}]`, hex+".json", `{"os":"linux","rootfs":{"diff_ids":["`+id+`"]}}`,
			hex+".tar", string(layer(t, "f", "x"))), syscall.EBADMSG, "digest"},
		{"no layers", saved(`[{"Config":"`+hex+`.json","Layers":[]}]`, hex+".json", `{}`), syscall.EINVAL, "no layers"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			_, err := load(t, s, write(t, "x", c.text))
			t.Log(err)
			wantErrno(t, err, c.errno, "import tar", c.words)
			wantTidy(t, s)
			if left := append(names(t, s, objectsDir), names(t, s, layersDir)...); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestExportDamaged: what is not what was unpacked any more is not given away as if it were.
func TestExportDamaged(t *testing.T) {
	s := newStore(t)
	h, err := load(t, s, write(t, "root.tar", layer(t, "f", "content")))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.Layers[0].Path, "f"), []byte("CONTENT"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, fill, err := s.Export(h.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	wantErrno(t, fill(t.Context(), io.Discard), syscall.EIO, "not what was unpacked", "pull it again")
	broken := errors.New("nobody reads")
	if err := fill(t.Context(), &limited{500, broken}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErrno(t, fill(ctx, io.Discard), syscall.EINTR)
	_, _, err = s.Export(digestOf(strings.Repeat("0", 64)), "")
	wantErrno(t, err, syscall.ENOENT)
}

// limited takes some bytes and then fails.
type limited struct {
	left int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, l.err
	}
	return len(p), nil
}

// TestCommit puts a layer on an image, with the history of it, and keeps what it does not know of the configuration.
func TestCommit(t *testing.T) {
	s := newStore(t)
	raw := `{"architecture":"` + runtime.GOARCH + `","os":"linux","docker_version":"1","container_config":{"Cmd":["x"]},"moby.something":7,
		"config":{"Cmd":["/bin/sh"],"Env":["A=1"],"Healthcheck":{"Test":["NONE"]},"ENTRYPOINT":["old"]},
		"rootfs":{"type":"layers","diff_ids":["` + digest(layer(t, "f", "1")) + `"]},"history":[{"created_by":"first"}]}`
	hex := strings.Repeat("ab", 32)
	base, err := load(t, s, write(t, "saved.tar", layer(t, "manifest.json", `[{"Config":"`+hex+`.json","Layers":["`+hex+`.tar"]}]`,
		hex+".json", raw, hex+".tar", string(layer(t, "f", "1")))))
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.Commit(t.Context(), base.Image, func(w io.Writer) error {
		_, err := w.Write(layer(t, ".wh.f", "", "g", "2"))
		return err
	}, func(c *ocispec.Image) {
		c.Config.Cmd = []string{"/bin/g"}
		c.Config.Entrypoint = nil
	}, ocispec.History{CreatedBy: "ctrfs commit web"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	if len(h.Layers) != 2 || h.Layers[0].DiffID != base.Layers[0].DiffID || h.Layers[1].DiffID != digest(layer(t, ".wh.f", "", "g", "2")) {
		t.Errorf("layers %+v", h.Layers)
	}
	c := h.Config
	if c.Config.Cmd[0] != "/bin/g" || c.Config.Env[0] != "A=1" || c.Config.Entrypoint != nil || len(c.History) != 2 || c.History[1].CreatedBy != "ctrfs commit web" {
		t.Errorf("got %+v", c)
	}
	for _, want := range []string{`"Healthcheck":{"Test":["NONE"]}`, `"moby.something":7`} {
		if !strings.Contains(string(h.Raw), want) {
			t.Errorf("%s is gone from %s", want, h.Raw)
		}
	}
	for _, gone := range []string{"docker_version", "container_config", "ENTRYPOINT"} {
		if strings.Contains(string(h.Raw), gone) {
			t.Errorf("%s is left in %s", gone, h.Raw)
		}
	}
	if time.Since(h.Created) > time.Minute || base.Config.Config.Cmd[0] != "/bin/sh" {
		t.Errorf("created %v, base %v", h.Created, base.Config.Config)
	}
	if again, err := load(t, newStore(t), export(t, s, h.ID, "x")); err != nil || again.ID != h.ID {
		t.Errorf("%v, %v", again, err)
	}
	// Of nothing, and failing half-way.
	fresh, err := s.Commit(t.Context(), nil, func(w io.Writer) error { _, err := w.Write(layer(t, "all", "")); return err }, nil, ocispec.History{}, nil)
	if err != nil || len(fresh.Layers) != 1 || fresh.Config.OS != "linux" {
		t.Errorf("%+v, %v", fresh, err)
	}
	fresh.Release()
	_, err = s.Commit(t.Context(), nil, func(w io.Writer) error {
		w.Write(layer(t, "half", "")[:700])
		return syscall.EIO
	}, nil, ocispec.History{}, nil)
	wantErrno(t, err, syscall.EIO, "commit")
	full := *base.Image
	for len(full.Layers) < layersMax {
		full.Layers = append(full.Layers, full.Layers[0])
	}
	_, err = s.Commit(t.Context(), &full, nil, nil, ocispec.History{}, nil)
	wantErrno(t, err, syscall.E2BIG)
	wantTidy(t, s)
}
