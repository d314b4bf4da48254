package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/overlay/archive"
)

// stream is a layer as it comes: an archive, compressed or not, that can be read more than once.
type stream struct {
	diffID string // of the archive, which must be that; empty: whatever it is
	digest string // of the stream itself, likewise
	size   int64  // of the stream; -1 when that is not known
	came   bool   // it has been opened, by the goroutine that unpacks it
	open   func(ctx context.Context) (io.ReadCloser, error)
}

// draft is a layer in the making: a directory that no other goroutine knows.
type draft struct {
	dir    string
	result archive.Result
}

// unpack sees to it that a layer is there and returns its diff id. Of those who want the same one, one unpacks and the others
// wait. The caller holds the layer if it knows its diff id, and gets it held if not.
func (s *Store) unpack(ctx context.Context, from *stream) (diffID string, err error) {
	if from.diffID != "" {
		done, err := s.claim(ctx, from.diffID)
		if done == nil {
			return from.diffID, err
		}
		defer done()
	}
	d, err := s.newDraft()
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.drop(tmpDir, filepath.Base(d.dir)))
		}
	}()
	if err := s.fill(ctx, d, from); err != nil {
		return "", err
	}
	if !d.result.Exact {
		if err := s.keepTar(ctx, d, from); err != nil {
			return "", err
		}
	}
	return d.result.DiffID, s.publish(d, from.diffID == "")
}

// claim returns a nil done once the layer is there, else it is the caller's to make, who calls done when it is there or
// could not be made.
func (s *Store) claim(ctx context.Context, diffID string) (done func(), err error) {
	for {
		s.mu.Lock()
		if s.layers[diffID] != nil {
			s.mu.Unlock()
			return nil, nil
		}
		other := s.busy[diffID]
		if other == nil {
			mine := make(chan struct{})
			s.busy[diffID] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.busy, diffID)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Store) newDraft() (*draft, error) {
	dir, err := os.MkdirTemp(filepath.Join(s.dir, tmpDir), "layer-")
	crash.Point("begin a layer")
	if err != nil {
		return nil, keepError("layer", err)
	}
	err = os.Mkdir(filepath.Join(dir, filesDir), 0o755)
	crash.Point("make a layer's directory")
	if err != nil {
		return nil, keepError("layer", errors.Join(err, s.drop(tmpDir, filepath.Base(dir))))
	}
	return &draft{dir: dir}, nil
}

// fill unpacks a stream into a draft and checks that it was the right one.
func (s *Store) fill(ctx context.Context, d *draft, from *stream) error {
	into, err := os.OpenFile(filepath.Join(d.dir, filesDir), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer into.Close()
	exact, err := os.OpenFile(filepath.Join(d.dir, exactFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer exact.Close()
	come, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := from.check(come)
	if err != nil {
		return err
	}
	defer in.Close()
	gate := &gate{r: in}
	d.result, err = archive.Unpack(ctx, s.o.Spawn, into, exact, gate)
	crash.Point("unpack a layer")
	if err != nil && noMatterWhatCame(err) {
		cancel() // the reader may still wait for more
	}
	gate.shut()
	if err == nil {
		err = in.finish()
	} else {
		err = in.blame(err)
	}
	if err == nil && from.diffID != "" && d.result.DiffID != from.diffID {
		err = bad(errDigest, fmt.Sprintf("the layer %s unpacks to %s", from.diffID, d.result.DiffID))
	}
	return err
}

// keepTar keeps a layer's tar beside its files. Few need it: those that hold the same path twice.
func (s *Store) keepTar(ctx context.Context, d *draft, from *stream) error {
	in, err := from.check(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	plain, err := decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	out, err := os.OpenFile(filepath.Join(d.dir, tarFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(plain, d.result.Size+1))
	if e := out.Close(); err == nil {
		err = e
	}
	crash.Point("keep a layer's tar")
	if err != nil {
		return in.blame(err)
	}
	if err := in.finish(); err != nil {
		return err
	}
	if n != d.result.Size || digestOf(hex.EncodeToString(sum.Sum(nil))) != d.result.DiffID {
		return bad(errDigest, "the layer came differently the second time")
	}
	err = os.Remove(filepath.Join(d.dir, exactFile))
	crash.Point("drop a layer's notes")
	return err
}

// publish gives a draft its name, and holds it if hold says so. If another one has come before, this one goes.
func (s *Store) publish(d *draft, hold bool) error {
	r := layerRecord{DiffID: d.result.DiffID, Size: d.result.Size, Disk: d.result.Size, Files: d.result.Files, Exact: d.result.Exact,
		Opaque: d.result.Opaque, Notes: d.result.Notes, Boot: s.boot}
	for _, name := range []string{exactFile, tarFile} {
		if info, err := os.Stat(filepath.Join(d.dir, name)); err == nil {
			r.Disk += info.Size()
		}
	}
	text, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(d.dir, recordFile), text, 0o600)
	crash.Point("write a layer's record")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.layers[r.DiffID] != nil {
		err = s.drop(tmpDir, filepath.Base(d.dir))
	} else {
		err = os.Rename(d.dir, s.layerDir(r.DiffID))
		crash.Point("publish a layer")
	}
	if err != nil {
		return err
	}
	if hold {
		s.holds[r.DiffID]++
	}
	if s.layers[r.DiffID] == nil {
		s.layers[r.DiffID] = s.layer(&r)
		s.fresh[r.DiffID] = true
		s.nudge()
	}
	return nil
}

// checked is a stream that is being read, with what will tell whether it was the right one.
type checked struct {
	io.ReadCloser
	from *stream
	sum  hash.Hash
	n    int64
	err  error // of the source, which explains what the reader of this stream says
}

func (from *stream) check(ctx context.Context) (*checked, error) {
	from.came = true
	in, err := from.open(ctx)
	if err != nil {
		return nil, err
	}
	return &checked{ReadCloser: in, from: from, sum: sha256.New()}, nil
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	if c.from.digest != "" {
		c.sum.Write(p[:n])
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// finish reads what is left, which a decompressor does not look at, and compares.
func (c *checked) finish() error {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	if c.from.size >= 0 && c.n != c.from.size {
		return bad(errLength, fmt.Sprintf("%d bytes instead of %d", c.n, c.from.size))
	}
	if c.from.digest != "" && digestOf(hex.EncodeToString(c.sum.Sum(nil))) != c.from.digest {
		return bad(errDigest, c.from.digest)
	}
	return nil
}

// blame returns why a stream could not be unpacked: rather than that the archive makes no sense, that it did not come, or is
// another one.
func (c *checked) blame(err error) error {
	if noMatterWhatCame(err) {
		return err
	}
	if c.err != nil {
		return c.err
	}
	if e := c.finish(); e != nil {
		return e
	}
	return err
}

// noMatterWhatCame reports whether an unpacker's error has nothing to do with the stream.
func noMatterWhatCame(err error) bool {
	switch engine.Errno(err) {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS:
		return true
	}
	return errors.Is(err, context.Canceled)
}

// gate is a reader that can be taken away from whoever still reads it.
type gate struct {
	mu   sync.Mutex
	r    io.Reader // guarded by mu
	gone bool      // guarded by mu
}

func (g *gate) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return 0, os.ErrClosed
	}
	return g.r.Read(p)
}

// shut returns once nobody reads, and nobody will.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
}
