package image

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzParseMirrors: what is taken can be asked.
func FuzzParseMirrors(f *testing.F) {
	for _, text := range []string{"docker.io mirror.example:5000/x # ours\n", "a", "a/b c", "docker.io 127.0.0.1:1 [::1]:5000/y"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mirrors, err := ParseMirrors(text)
		if err != nil {
			return
		}
		for registry, list := range mirrors {
			if _, err := name.NewRegistry(registry); err != nil {
				t.Error(err)
			}
			for _, m := range list {
				if _, err := newRepository(m + "/x"); err != nil {
					t.Errorf("%q: %v", m, err)
				}
			}
		}
	})
}

// FuzzParseAuth: what is taken goes into one header.
func FuzzParseAuth(f *testing.F) {
	for _, text := range []string{"user password\n", "token", "user pass word", "a:b c", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAuth(text)
		if err == nil && (strings.ContainsAny(a.User+a.Password+a.Token, "\r\n\x00") || strings.Contains(a.User, ":") || a.Token != "" && a.User != "") {
			t.Errorf("%q is %+v", text, a)
		}
	})
}

func FuzzParseDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"},"docker.io/library":{"username":"x","password":"y"}},"credsStore":"z"}`))
	repo, err := name.NewRepository("busybox")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, text []byte) { parseDockerConfig(text, repo) })
}

// FuzzDocument: what is taken for an image's manifest can be worked with.
func FuzzDocument(f *testing.F) {
	id := digest(nil)
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + id + `","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + id + `","size":1}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"` + id + `","size":2,"platform":{"os":"linux","architecture":"amd64"}},{"digest":"` + id + `"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseDocument(text)
		if err != nil {
			return
		}
		if m, err := d.choose(); err == nil && (!isDigest(string(m.Digest)) || m.Size < 0) {
			t.Errorf("chosen: %+v", m)
		}
		onlyOne(d)
		if d.checkImage() != nil {
			return
		}
		for _, l := range append(d.Layers, *d.Config) {
			if !isDigest(string(l.Digest)) || l.Size < 0 {
				t.Errorf("taken: %+v", l)
			}
		}
	})
}

// FuzzMerge: a configuration that can be read can be committed upon, and then says what it should.
func FuzzMerge(f *testing.F) {
	id := digest(nil)
	f.Add([]byte(`{"os":"linux","config":{"Cmd":["x"],"cmd":["y"],"Healthcheck":{}},"rootfs":{"type":"layers","diff_ids":["` + id + `"]},"extra":[1]}`))
	f.Add([]byte(`{"config":null,"rootfs":{"diff_ids":["` + id + `"]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := parseConfig(text)
		if err != nil {
			return
		}
		raw, err := newConfig(&Image{Raw: text}, id, func(c *ocispec.Image) { c.Config.Cmd = []string{"new"} }, ocispec.History{Comment: "c"})
		if err != nil {
			return
		}
		var got ocispec.Image
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.RootFS.DiffIDs) != len(config.RootFS.DiffIDs)+1 || len(got.Config.Cmd) != 1 || got.Config.Cmd[0] != "new" {
			t.Errorf("%s became %s", text, raw)
		}
	})
}

// FuzzScan: what is found in an archive lies in it.
func FuzzScan(f *testing.F) {
	f.Add(layer(f, "manifest.json", `[{"Config":"c","Layers":["l"]}]`))
	f.Add(layer(f, "oci-layout", "{}", "index.json", `{"schemaVersion":2,"manifests":[]}`))
	f.Add(layer(f, "./", "", "bin/", ""))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := scan(context.Background(), bytes.NewReader(text), int64(len(text)))
		if err != nil {
			return
		}
		for name, p := range b.part {
			if p.at < 0 || p.size < 0 || p.at+p.size > int64(len(text)) {
				t.Errorf("%s lies at %d to %d of %d", name, p.at, p.at+p.size, len(text))
			}
		}
		_, layers, err := b.open(nil)
		if err != nil {
			return
		}
		for _, l := range layers {
			if in, err := l.check(context.Background()); err == nil {
				io.Copy(io.Discard, in)
				in.Close()
			}
		}
	})
}

// FuzzDecompress: no input takes the memory of many.
func FuzzDecompress(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x04"))
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 4})
	f.Fuzz(func(_ *testing.T, text []byte) {
		if in, err := decompress(bytes.NewReader(text)); err == nil {
			io.Copy(io.Discard, io.LimitReader(in, 1<<20))
			in.Close()
		}
	})
}
