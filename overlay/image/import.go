package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Import makes an image of an archive: an OCI layout, what `docker save` writes, or the files of a root; each as a tar, which may be
// compressed with gzip, zstd, xz or bzip2. Where file stands does not matter; it is read from its beginning.
//
// Errors: EINVAL (neither of these, or more than one image), EBADMSG (damaged), EOPNOTSUPP (not for this machine), EINTR (ctx), and
// what the disk says.
func (s *Store) Import(ctx context.Context, file *os.File, p *Progress) (*Held, error) {
	held, err := s.importFrom(ctx, file, p)
	return held, task{"import", "tar", ""}.fail(ctx, err)
}

func (s *Store) importFrom(ctx context.Context, file *os.File, p *Progress) (*Held, error) {
	p.step(stepRead)
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, 6)
	n, err := file.ReadAt(head, 0)
	if n == 0 {
		return nil, refused(syscall.EINVAL, "it is empty", "write an OCI archive, what docker save writes, or a root's tar")
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	packed := compression(head[:n])
	if packed < 0 {
		return s.importPlain(ctx, file, info.Size(), file, info.Size(), p)
	}
	root, err := beginsAsRoot(ctx, io.NewSectionReader(file, 0, info.Size()))
	if err != nil {
		return nil, err
	}
	if root {
		return s.importRoot(ctx, file, info.Size(), p)
	}
	// What lies where in an archive cannot be told before it is unpacked.
	plain, err := s.spill(ctx, io.NewSectionReader(file, 0, info.Size()))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	size, err := plain.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return s.importPlain(ctx, plain, size, file, info.Size(), p)
}

// importPlain imports an uncompressed archive; whole is the same before it was unpacked.
func (s *Store) importPlain(ctx context.Context, plain *os.File, size int64, whole *os.File, wholeSize int64, p *Progress) (*Held, error) {
	b, err := scan(ctx, plain, size)
	if err == errRoot {
		return s.importRoot(ctx, whole, wholeSize, p)
	}
	if err != nil {
		return nil, err
	}
	raw, layers, err := b.open(p)
	if err != nil {
		return nil, err
	}
	return s.assemble(ctx, raw, layers, p)
}

// beginsAsRoot reports whether the first file of a compressed archive is one that no image's archive begins with.
func beginsAsRoot(ctx context.Context, r io.Reader) (bool, error) {
	plain, err := decompress(&slowly{ctx: ctx, r: r})
	if err != nil {
		return false, err
	}
	defer plain.Close()
	in := tar.NewReader(plain)
	for {
		head, err := in.Next()
		if err == io.EOF {
			return false, nil
		}
		if _, known := errors.AsType[*engine.Error](err); known || ctx.Err() != nil {
			return false, err
		}
		if err != nil {
			return false, bad(err, "it is not a tar archive")
		}
		if name := path.Clean(strings.TrimLeft(head.Name, "/")); name != "." {
			return !isBundled(name), nil
		}
	}
}

// spill writes what a compressed archive holds into a file without a name.
func (s *Store) spill(ctx context.Context, r io.Reader) (*os.File, error) {
	in, err := decompress(&slowly{ctx: ctx, r: r})
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(s.dir, tmpDir), os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// importRoot makes an image of one layer. Nothing but the files says what it is.
func (s *Store) importRoot(ctx context.Context, file *os.File, size int64, p *Progress) (*Held, error) {
	p.change(func(r *Reading) { r.What, r.Total, r.Layers = stepLoad, size, 1 })
	from := &stream{size: -1, open: func(ctx context.Context) (io.ReadCloser, error) {
		in := &slowly{ctx: ctx, r: io.NewSectionReader(file, 0, size), p: p}
		head := make([]byte, 6)
		n, _ := file.ReadAt(head, 0)
		if i := compression(head[:n]); i >= 0 && !compressions[i].native {
			return decompress(in)
		}
		return in, nil
	}}
	diffID, err := s.unpack(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.releasing(diffID)()
	now := time.Now().UTC().Truncate(time.Second)
	raw, err := json.Marshal(&ocispec.Image{
		Created:  &now,
		Platform: platform,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []godigest.Digest{godigest.Digest(diffID)}},
		History:  []ocispec.History{{Created: &now, CreatedBy: "ctrfs import"}},
	})
	if err != nil {
		return nil, err
	}
	return s.keepHeld(raw, p)
}

// keepHeld keeps an image whose layers are there, and held by the caller.
func (s *Store) keepHeld(raw []byte, p *Progress) (*Held, error) {
	img, err := s.keepImage(raw)
	if err != nil {
		return nil, err
	}
	ids := []string{img.ID}
	for _, l := range img.Layers {
		ids = append(ids, l.DiffID)
	}
	p.change(func(r *Reading) { r.What, r.Layers, r.LayersDone = stepDone, len(img.Layers), len(img.Layers) })
	return &Held{Image: img, release: s.hold(ids...)}, nil
}
