package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrfs/ctrfs/engine"
)

// Pull gets an image from a registry: its manifest, its configuration, and those of its layers that are not there yet. A nil
// Progress counts nothing.
//
// Errors: EINVAL (not a reference), ENOENT (no such image), EACCES (needs a login), EOPNOTSUPP (not for this machine, or of a kind
// that cannot be had), EBADMSG (what came is not what was promised), EAGAIN (too many requests), EPROTO (not encrypted),
// EREMOTEIO (the registry is in trouble), ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT (nothing came for half a minute), EINTR (ctx), and what the disk says.
func (s *Store) Pull(ctx context.Context, reference string, auth Auth, p *Progress) (*Held, error) {
	t := task{"pull", "pull", reference}
	ref, err := ParseReference(reference)
	if err != nil {
		return nil, err
	}
	p.step(stepAsk)
	for _, mirror := range s.o.Mirrors[ref.Context().RegistryStr()] {
		repo, err := newRepository(mirror + "/" + ref.Context().RepositoryStr())
		var held *Held
		if err == nil {
			held, err = s.pullFrom(ctx, repo, ref, Auth{}, p)
		}
		if err == nil {
			return held, nil
		}
		s.log.Warn("a mirror does not help", "mirror", mirror, "image", reference, "err", err)
	}
	repo, err := newRepository(ref.Context().Name())
	if err != nil {
		return nil, t.fail(ctx, err)
	}
	held, err := s.pullFrom(ctx, repo, ref, auth, p)
	return held, t.fail(ctx, err)
}

// ParseReference reads the name of an image as docker does: busybox is docker.io/library/busybox:latest.
func ParseReference(text string) (name.Reference, error) {
	text = strings.TrimSpace(text)
	ref, err := name.ParseReference(strings.TrimPrefix(text, "docker://"))
	if err != nil || strings.Contains("/"+ref.Context().Name()+"/", "/../") || strings.Contains("/"+ref.Context().Name()+"/", "/./") {
		return nil, &engine.Error{Op: "pull", File: "pull", Value: text, Errno: syscall.EINVAL, Why: "not the name of an image",
			Cure: "write REGISTRY/NAME:TAG, NAME:TAG or NAME@sha256:…"}
	}
	return ref, nil
}

// referenceText is a reference in full, as people write it.
func referenceText(ref name.Reference) string {
	text := ref.Name()
	if rest, ok := strings.CutPrefix(text, name.DefaultRegistry+"/"); ok {
		return dockerHub + "/" + rest
	}
	return text
}

// newRepository lets what is on this machine be asked without encryption.
func newRepository(text string) (name.Repository, error) {
	repo, err := name.NewRepository(text)
	if err != nil {
		return repo, refused(syscall.EINVAL, err.Error(), "")
	}
	host := repo.RegistryStr()
	if at := strings.LastIndexByte(host, ':'); at >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:at]
	}
	if loopback(strings.Trim(host, "[]")) {
		return name.NewRepository(text, name.Insecure)
	}
	return repo, nil
}

// pullFrom pulls an image from a repository, which may be a mirror of the one that ref names.
func (s *Store) pullFrom(ctx context.Context, repo name.Repository, ref name.Reference, auth Auth, p *Progress) (*Held, error) {
	r, err := s.newRegistry(ctx, repo, auth)
	if err != nil {
		return nil, err
	}
	want := ""
	if d, ok := ref.(name.Digest); ok {
		want = d.DigestStr()
	}
	m, manifest, err := r.manifest(ctx, ref.Identifier(), want, manifestMax)
	for range nestedMax {
		if err != nil || m.Manifests == nil {
			break
		}
		var choice *ocispec.Descriptor
		if choice, err = m.choose(); err == nil {
			m, manifest, err = r.manifest(ctx, string(choice.Digest), string(choice.Digest), choice.Size)
		}
	}
	if err == nil {
		err = m.checkImage()
	}
	if err != nil {
		return nil, err
	}
	raw, err := r.whole(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	var layers []*stream
	for _, l := range m.Layers {
		layers = append(layers, &stream{digest: string(l.Digest), size: l.Size, open: func(ctx context.Context) (io.ReadCloser, error) {
			return r.open(ctx, string(l.Digest), l.Size, p), nil
		}})
	}
	held, err := s.assemble(ctx, raw, layers, p)
	if err != nil {
		return nil, err
	}
	held.Reference, held.Digest = referenceText(ref), manifest
	return held, nil
}

// manifestTypes is what is asked for. Schema 1 is not, and comes from very old registries all the same.
var manifestTypes = []string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// manifest gets a manifest or an index of at most size bytes, by tag or digest, and returns its digest. want is what that must be, if it is known.
func (r *registry) manifest(ctx context.Context, tag, want string, size int64) (*document, string, error) {
	if want != "" && !isDigest(want) {
		return nil, "", refused(syscall.EOPNOTSUPP, fmt.Sprintf("%.100q is not a SHA-256", want), "")
	}
	var text []byte
	resp, err := r.get(ctx, "/manifests/"+tag, http.Header{"Accept": manifestTypes}, http.StatusOK)
	if err == nil {
		text, err = r.read(ctx, resp.Body, min(size, manifestMax))
	}
	if err != nil {
		return nil, "", err
	}
	if want != "" && digest(text) != want {
		return nil, "", bad(errDigest, "the manifest "+want)
	}
	d, err := parseDocument(text)
	return d, digest(text), err
}

// read reads a small answer and closes it.
func (r *registry) read(ctx context.Context, body io.ReadCloser, size int64) ([]byte, error) {
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, size+1))
	if err == nil && int64(len(text)) > size {
		err = bad(errLength, fmt.Sprintf("more than %d bytes", size))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = bad(errLength, "it breaks off")
	}
	if err != nil && engine.Errno(err) == syscall.EIO {
		err = r.explain(ctx, err, "")
	}
	return text, err
}

// whole gets a small blob.
func (r *registry) whole(ctx context.Context, d *ocispec.Descriptor) ([]byte, error) {
	text, err := r.read(ctx, r.open(ctx, string(d.Digest), d.Size, nil), d.Size)
	if err == nil && digest(text) != string(d.Digest) {
		err = bad(errDigest, "the configuration "+string(d.Digest))
	}
	return text, err
}
