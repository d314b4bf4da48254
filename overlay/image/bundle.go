package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// bundle is an archive that holds an image: an OCI layout, or what `docker save` writes. Its files are read where they lie.
type bundle struct {
	file io.ReaderAt
	size int64
	part map[string]part
}

// part is a file in the archive, or a link to one.
type part struct {
	at, size int64
	link     string // of the part that it stands for
}

// errRoot says that an archive holds no image but a root.
var errRoot = errors.New("it holds the files of a root")

// isBundled reports whether an archive of an image may hold a file of that name.
func isBundled(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	switch first {
	case ".", "oci-layout", "index.json", "manifest.json", "repositories", "blobs":
		return true
	}
	hex := strings.TrimSuffix(strings.TrimSuffix(first, ".json"), ".tar")
	return isDigest(digestOf(hex))
}

// scan looks what an uncompressed archive holds. Errors: errRoot, and of an archive that cannot be read.
func scan(ctx context.Context, file io.ReaderAt, size int64) (*bundle, error) {
	b := &bundle{file: file, size: size, part: map[string]part{}}
	where := io.NewSectionReader(file, 0, size)
	in := tar.NewReader(where) // which seeks over what it is not asked for
	for {
		head, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, bad(err, "it is not a whole tar archive")
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimLeft(head.Name, "/"))
		if !isBundled(name) {
			return nil, errRoot
		}
		if len(b.part) >= blockMax {
			return nil, bad(nil, "it holds more files than an image's archive has")
		}
		switch head.Typeflag {
		case tar.TypeReg:
			at, err := where.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			if head.Size > size-at || isSparse(head) {
				return nil, bad(nil, "it breaks off in "+name)
			}
			b.part[name] = part{at: at, size: head.Size}
		case tar.TypeSymlink:
			b.part[name] = part{link: path.Join(path.Dir(name), head.Linkname)}
		case tar.TypeLink:
			b.part[name] = part{link: path.Clean(head.Linkname)}
		}
	}
	if len(b.part) == 0 {
		return nil, refused(syscall.EINVAL, "it is empty", "write an OCI archive, what docker save writes, or a root's tar")
	}
	return b, nil
}

// isSparse reports whether the content of a file does not lie in the archive as it is.
func isSparse(head *tar.Header) bool {
	if head.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range head.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// find returns a part by name, through links.
func (b *bundle) find(name string) (part, error) {
	at := path.Clean(name)
	for range 10 {
		p, ok := b.part[at]
		if !ok {
			return part{}, bad(nil, fmt.Sprintf("it lacks %.200q", name))
		}
		if p.link == "" {
			return p, nil
		}
		at = p.link
	}
	return part{}, bad(nil, fmt.Sprintf("%.200q is a link that leads in a circle", name))
}

// text reads a small file.
func (b *bundle) text(name string, most int64) ([]byte, error) {
	p, err := b.find(name)
	if err != nil {
		return nil, err
	}
	if p.size > most {
		return nil, bad(nil, fmt.Sprintf("%.200q has more than %d bytes", name, most))
	}
	text := make([]byte, p.size)
	if n, err := b.file.ReadAt(text, p.at); n < len(text) {
		return nil, bad(err, "it breaks off")
	}
	return text, nil
}

// blob reads a small file by its digest.
func (b *bundle) blob(d *ocispec.Descriptor, most int64) ([]byte, error) {
	text, err := b.text(blobName(string(d.Digest)), most)
	if err == nil && digest(text) != string(d.Digest) {
		err = bad(errDigest, string(d.Digest))
	}
	return text, err
}

func blobName(digest string) string { return "blobs/sha256/" + hexOf(digest) }

// stream makes a layer of a file.
func (b *bundle) stream(name, digest string, progress *Progress) (*stream, error) {
	p, err := b.find(name)
	if err != nil {
		return nil, err
	}
	return &stream{digest: digest, size: p.size, open: func(ctx context.Context) (io.ReadCloser, error) {
		return &slowly{ctx: ctx, r: io.NewSectionReader(b.file, p.at, p.size), p: progress}, nil
	}}, nil
}

// slowly reads until ctx ends, and counts.
type slowly struct {
	ctx context.Context
	r   io.Reader
	p   *Progress
}

func (s *slowly) Read(to []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(to)
	s.p.add(n)
	return n, err
}

func (*slowly) Close() error { return nil }

// open returns the image that the archive holds: its configuration and its layers.
func (b *bundle) open(p *Progress) (raw []byte, layers []*stream, err error) {
	if _, ok := b.part["index.json"]; ok {
		return b.openLayout(p)
	}
	if _, ok := b.part["manifest.json"]; ok {
		return b.openSaved(p)
	}
	return nil, nil, refused(syscall.EINVAL, "it holds neither index.json nor manifest.json", "write an OCI archive, what docker save writes, or a root's tar")
}

// openLayout opens an OCI layout.
func (b *bundle) openLayout(p *Progress) (raw []byte, layers []*stream, err error) {
	text, err := b.text("index.json", manifestMax)
	if err != nil {
		return nil, nil, err
	}
	d, err := parseDocument(text)
	if err == nil {
		err = onlyOne(d)
	}
	for range nestedMax {
		if err != nil || d.Manifests == nil {
			break
		}
		var choice *ocispec.Descriptor
		if choice, err = d.choose(); err == nil {
			if text, err = b.blob(choice, manifestMax); err == nil {
				d, err = parseDocument(text)
			}
		}
	}
	if err == nil {
		err = d.checkImage()
	}
	if err != nil {
		return nil, nil, err
	}
	if raw, err = b.blob(d.Config, configMax); err != nil {
		return nil, nil, err
	}
	for _, l := range d.Layers {
		s, err := b.stream(blobName(string(l.Digest)), string(l.Digest), p)
		if err != nil {
			return nil, nil, err
		}
		layers = append(layers, s)
	}
	return raw, layers, nil
}

// onlyOne refuses an index of several images that differ in more than the platform: nobody says which one is meant. An entry
// without a platform is given this one's: many tools write none, and the configuration tells later.
func onlyOne(d *document) error {
	var names []string
	seen := map[string]string{} // variant → digest
	for i := range d.Manifests {
		m := &d.Manifests[i]
		if m.Platform == nil && !isAttestation(m) {
			m.Platform = &platform
		}
		if m.Platform == nil || m.Platform.OS != platform.OS || m.Platform.Architecture != platform.Architecture {
			continue
		}
		names = append(names, m.Annotations[ocispec.AnnotationRefName])
		if other := seen[m.Platform.Variant]; other != "" && other != string(m.Digest) {
			return several(names)
		}
		seen[m.Platform.Variant] = string(m.Digest)
	}
	return nil
}

func isAttestation(d *ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" || d.ArtifactType != ""
}

func several(names []string) error {
	if len(names) > 10 {
		names = append(names[:10:10], "…")
	}
	return refused(syscall.EINVAL, fmt.Sprintf("it holds more than one image: %.500s", strings.Join(names, ", ")), "write an archive of one")
}

// openSaved opens what `docker save` writes.
func (b *bundle) openSaved(p *Progress) (raw []byte, layers []*stream, err error) {
	text, err := b.text("manifest.json", manifestMax)
	if err != nil {
		return nil, nil, err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(text, &images); err != nil {
		return nil, nil, bad(err, "its manifest.json cannot be read")
	}
	if len(images) != 1 {
		var names []string
		for _, i := range images {
			names = append(names, i.RepoTags...)
		}
		if len(images) == 0 {
			return nil, nil, refused(syscall.EINVAL, errNoImage.Error(), "write an archive of one")
		}
		return nil, nil, several(names)
	}
	if raw, err = b.text(images[0].Config, configMax); err != nil {
		return nil, nil, err
	}
	for _, name := range images[0].Layers {
		s, err := b.stream(name, "", p)
		if err != nil {
			return nil, nil, err
		}
		layers = append(layers, s)
	}
	return raw, layers, nil
}
