package image

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPull pulls from a real registry: everything is as it was pushed, and comes once.
func TestPull(t *testing.T) {
	host := startRegistry(t)
	img := build(t, layer(t, "bin/", "", "bin/sh", "one"), layer(t, "etc/", "", "etc/x", "two"), layer(t, "etc/", "", "etc/x", "three"))
	push(t, host+"/some/thing:1", img)
	s := newStore(t)
	p := new(Progress)
	h, err := s.Pull(t.Context(), host+"/some/thing:1", Auth{}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	digest, _ := img.Digest()
	if h.ID != idOf(t, img) || h.Digest != digest.String() || h.Reference != host+"/some/thing:1" {
		t.Errorf("got %s, %s, %s", h.ID, h.Digest, h.Reference)
	}
	if h.Config.Config.Cmd[0] != "/bin/sh" || len(h.Layers) != 3 {
		t.Errorf("got %+v", h.Image)
	}
	wantFile(t, h.Layers[0], "bin/sh", "one")
	wantFile(t, h.Layers[1], "etc/x", "two")
	wantFile(t, h.Layers[2], "etc/x", "three")
	if r := p.Read(); r.Bytes != r.Total || r.Total == 0 || r.Layers != 3 || r.LayersDone != 3 || r.What != stepDone {
		t.Errorf("the progress ends as\n%v", r)
	}
	wantTidy(t, s)

	p = new(Progress)
	again, err := s.Pull(t.Context(), host+"/some/thing@"+digest.String(), Auth{}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	if r := p.Read(); r.Bytes != 0 || r.LayersDone != 3 || again.ID != h.ID {
		t.Errorf("the second pull ends as\n%v", r)
	}
	info, err := os.Stat(filepath.Dir(filepath.Dir(h.Layers[0].Path)))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("users of the host can reach the layers: %v, %v", info.Mode(), err)
	}
}

// TestReopen finds everything again, and a layer that may not have reached the disk before the power went is not trusted.
func TestReopen(t *testing.T) {
	host := startRegistry(t)
	push(t, host+"/x", build(t, layer(t, "a", "1"), layer(t, "b", "2")))
	dir := filepath.Join(t.TempDir(), "images")
	s := openStore(t, dir)
	h := pull(t, s, host+"/x")
	if err := s.Create(Entry{Name: "x", State: Ready, ID: h.ID}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openStore(t, dir)
	if e, ok := s.Entry("x"); !ok || e.State != Ready {
		t.Fatalf("got %+v", e)
	}
	if img, err := s.Image(h.ID); err != nil || len(img.Layers) != 2 || !img.Layers[1].exact {
		t.Fatalf("got %+v, %v", img, err)
	}
	s.Close()
	// As it is when power goes before the layer has been synced.
	record := filepath.Join(h.Layers[0].Path, "..", recordFile)
	text, err := os.ReadFile(record)
	if err != nil || strings.Contains(string(text), "boot") {
		t.Fatalf("the record has not been settled: %s, %v", text, err)
	}
	os.WriteFile(record, []byte(strings.Replace(string(text), "{", `{"boot":"another",`, 1)), 0o600)
	s = openStore(t, dir)
	if e, _ := s.Entry("x"); e.State != Failed || !strings.Contains(e.Error, "pull it again") || e.ID != "" {
		t.Errorf("got %+v", e)
	}
	if got := len(names(t, s, layersDir)); got != 1 {
		t.Errorf("%d layers are left", got)
	}
	pull(t, s, host+"/x")
	wantTidy(t, s)
}

// TestFortyLayers pulls an image of many layers, some of them the same.
func TestFortyLayers(t *testing.T) {
	host := startRegistry(t)
	var layers [][]byte
	for i := range 40 {
		layers = append(layers, layer(t, fmt.Sprintf("f%d", i%35), noise(2000, uint64(i%35))))
	}
	push(t, host+"/forty", build(t, layers...))
	s := newStore(t)
	h := pull(t, s, host+"/forty")
	if len(h.Layers) != 40 || len(names(t, s, layersDir)) != 35 {
		t.Errorf("%d layers, %d of them different", len(h.Layers), len(names(t, s, layersDir)))
	}
	for i, l := range h.Layers {
		wantFile(t, l, fmt.Sprintf("f%d", i%35), noise(2000, uint64(i%35)))
	}
	var many [][]byte
	for i := range layersMax + 1 {
		many = append(many, layer(t, "f", fmt.Sprint(i)))
	}
	push(t, host+"/many", build(t, many...))
	_, err := s.Pull(t.Context(), host+"/many", Auth{}, nil)
	wantErrno(t, err, syscall.EINVAL, "128 layers")
}

// TestPlatforms takes of an index what is for this host.
func TestPlatforms(t *testing.T) {
	host := startRegistry(t)
	mine := build(t, layer(t, "mine", "1"))
	index := func(entries ...mutate.IndexAddendum) v1.ImageIndex {
		return mutate.AppendManifests(empty.Index, entries...)
	}
	entry := func(img mutate.Appendable, os, arch, variant string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}}
	}
	other := build(t, layer(t, "other", "1"))
	write := func(ref string, i v1.ImageIndex) {
		r, err := name.ParseReference(host+"/"+ref, name.Insecure)
		if err == nil {
			err = remote.WriteIndex(r, i)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	here := platform.Architecture
	write("several", index(entry(other, "linux", "s390x", ""), entry(other, "linux", here, "v3"), entry(mine, "linux", here, ""),
		entry(other, "unknown", "unknown", "")))
	write("nested", index(entry(index(entry(mine, "linux", here, "v1")), "linux", here, "")))
	write("foreign", index(entry(other, "linux", "s390x", ""), entry(other, "linux", "arm", "v7"), entry(other, "unknown", "unknown", "")))
	s := newStore(t)
	for _, ref := range []string{"several", "nested"} {
		if h := pull(t, s, host+"/"+ref); h.ID != idOf(t, mine) {
			t.Errorf("of %s got %s", ref, h.ID)
		}
	}
	_, err := s.Pull(t.Context(), host+"/foreign", Auth{}, nil)
	wantErrno(t, err, syscall.EOPNOTSUPP, "not for linux/"+here, "linux/arm/v7, linux/s390x")
	// Not an index, but the configuration says so.
	c, _ := mine.ConfigFile()
	c = c.DeepCopy()
	c.Architecture = "s390x"
	foreign, err := mutate.ConfigFile(mine, c)
	if err != nil {
		t.Fatal(err)
	}
	push(t, host+"/config", foreign)
	_, err = s.Pull(t.Context(), host+"/config", Auth{}, nil)
	wantErrno(t, err, syscall.EOPNOTSUPP, "linux/s390x")
}

// TestReferences reads names as docker does.
func TestReferences(t *testing.T) {
	for text, want := range map[string]string{
		"busybox":                             "docker.io/library/busybox:latest",
		"busybox:1\n":                         "docker.io/library/busybox:1",
		"docker://a/b":                        "docker.io/a/b:latest",
		"localhost:5000/x":                    "localhost:5000/x:latest",
		"quay.example/x/y/z:3":                "quay.example/x/y/z:3",
		"x@sha256:" + strings.Repeat("a", 64): "docker.io/library/x@sha256:" + strings.Repeat("a", 64),
	} {
		ref, err := ParseReference(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := referenceText(ref); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "a b", "UPPER", "x:y:z", "../x", "http://x/y", "x@sha256:12"} {
		ref, err := ParseReference(text)
		if err == nil {
			t.Errorf("%q is taken for %s", text, ref)
			continue
		}
		wantErrno(t, err, syscall.EINVAL, "pull")
	}
}

// TestNobody: where nobody answers, or the way is not safe, the error says so at once.
func TestNobody(t *testing.T) {
	s := newStore(t)
	_, err := s.Pull(t.Context(), freeAddress(t)+"/x", Auth{}, nil)
	wantErrno(t, err, syscall.ECONNREFUSED, "nobody answers")
	// A transport that fails the test if anything goes out in the clear.
	_, err = (&steady{inner: &http.Transport{}}).RoundTrip(httptest.NewRequest(http.MethodGet, "http://192.0.2.1/", nil))
	if !errors.Is(err, errPlain) {
		t.Errorf("got %v", err)
	}
}
