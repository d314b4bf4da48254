package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay/image"
)

// job is what is being done with an image: a pull, an import, or a commit.
type job struct {
	progress image.Progress
	ctx      context.Context
	cancel   context.CancelCauseFunc
	working  bool          // something is done that ends by itself; guarded by the entry's mu
	done     chan struct{} // closed when it has ended, and the entry says so
}

// Why a job is ended before it has done its work.
var (
	errStopped = cutOff("stopped, as it was asked to")
	errClosing = cutOff("ctrfs ended meanwhile")
)

// cutOff is not EINTR: a shell whose write(2) says that tries again, for ever.
func cutOff(why string) error {
	return &engine.Error{Op: "pull", Errno: syscall.ECANCELED, Why: why, Cure: "write a reference into pull, or an archive into tar, to begin anew"}
}

// begin makes a job the entry's, and the entry busy. Nothing is done yet: see [entry.do].
func (i *entry) begin(state, reference string) (*job, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.job != nil {
		return nil, &engine.Error{Op: "write", File: "images/" + i.rec.Name, Errno: syscall.EBUSY, Why: "it is " + i.rec.State,
			Cure: "wait for it, or stop that: echo > pull"}
	}
	j := &job{done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(context.Background())
	if err := i.amendHeld(func(rec *image.Entry) { rec.State, rec.Reference, rec.Error = state, reference, "" }); err != nil {
		return nil, err
	}
	i.job = j
	return j, nil
}

// do does a job, in the background, and keeps what comes of it. It is false for a job that has been ended before.
func (i *entry) do(j *job, work func(context.Context, *image.Progress) (*image.Held, error)) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.job != j {
		return false
	}
	j.working = true
	go func() {
		held, err := work(j.ctx, &j.progress)
		if cause := context.Cause(j.ctx); err != nil && cause != nil {
			err = cause
		}
		i.finish(held, err)
		if held != nil {
			held.Release()
		}
		i.in.collect()
		close(j.done)
	}()
	return true
}

// finish ends a job. What an entry stood for before, it stands for still when that has failed.
func (i *entry) finish(held *image.Held, failed error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.finishHeld(held, failed)
}

// finishHeld is [entry.finish] for who holds i.mu.
func (i *entry) finishHeld(held *image.Held, failed error) {
	i.job = nil
	err := i.amendHeld(func(rec *image.Entry) {
		if failed != nil {
			rec.State, rec.Error = image.Failed, failed.Error()
			return
		}
		rec.State, rec.ID, rec.Digest = image.Ready, held.ID, held.Digest
		if held.Reference != "" {
			rec.Reference = held.Reference
		}
	})
	if err != nil && failed == nil {
		failed = fmt.Errorf("what became of it could not be kept: %w", err)
	}
	if err != nil { // in memory at least, and so for whoever waits
		i.rec.State = image.Failed
		close(i.moved)
		i.moved = make(chan struct{})
	}
	i.failure = ""
	if failed != nil {
		i.failure = failed.Error()
		i.in.e.log.Info("an image could not be made", "image", i.rec.Name, "err", failed)
	}
	i.touched()
}

// stop ends what is under way, if something is. Where that is an archive whose writer has not come to its end, and may never, it is over
// at once; anything else ends by itself, and closes done.
func (i *entry) stop(why error) (done <-chan struct{}, was bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	j := i.job
	if j == nil {
		return nil, false
	}
	j.cancel(why)
	if !j.working {
		i.finishHeld(nil, why)
		close(j.done)
	}
	return j.done, true
}

// Progress implements [engine.Image].
func (i *entry) Progress() string {
	i.mu.Lock()
	j := i.job
	i.mu.Unlock()
	if j == nil {
		return ""
	}
	return j.progress.Read().String()
}

// Pull implements [engine.Image]. An empty reference stops what is under way.
func (i *entry) Pull(by engine.Caller, ref string) error {
	if err := rootOnly(by, "write", "pull"); err != nil {
		return err
	}
	if ref == "" {
		if _, was := i.stop(errStopped); !was {
			return engine.Invalid("pull", ref, "not a reference, and there is nothing to stop", "write a reference such as debian:12")
		}
		return nil
	}
	if _, err := image.ParseReference(ref); err != nil {
		return err
	}
	j, err := i.begin(image.Pulling, ref)
	if err != nil {
		return err
	}
	i.mu.Lock()
	auth := i.auth
	i.mu.Unlock()
	i.do(j, func(ctx context.Context, p *image.Progress) (*image.Held, error) {
		return i.in.store.Pull(ctx, ref, auth, p)
	})
	return nil
}

// SetAuth implements [engine.Image].
func (i *entry) SetAuth(by engine.Caller, text string) error {
	if err := rootOnly(by, "write", "auth"); err != nil {
		return err
	}
	auth, err := image.ParseAuth(text)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.auth = auth
	return nil
}

const noRoom = "see to the disk of the state directory, and write the archive again"

// inbox is an archive on its way in: a file that has no name, and so does not outlive its writer.
type inbox struct {
	i    *entry
	j    *job
	file *os.File
	err  error // why nothing more is taken
}

// Receive implements [engine.Image]. What is read in lies on the disk first: the formats want to be read back and forth, and a writer
// shall not wait for what is made of it.
func (i *entry) Receive(by engine.Caller) (io.WriteCloser, error) {
	if err := rootOnly(by, "write", "tar"); err != nil {
		return nil, err
	}
	j, err := i.begin(image.Unpacking, "")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(i.in.e.store.dir, imagesDir)
	file, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		err = &engine.Error{Op: "write", File: "tar", Errno: engine.Errno(err), Err: err, Cure: noRoom}
		i.stop(err)
		return nil, err
	}
	return &inbox{i: i, j: j, file: file}, nil
}

func (b *inbox) Write(data []byte) (n int, err error) {
	if b.err == nil && b.j.ctx.Err() != nil {
		b.err = context.Cause(b.j.ctx)
	}
	if b.err == nil {
		if n, err = b.file.Write(data); err != nil {
			b.err = &engine.Error{Op: "write", File: "tar", Errno: engine.Errno(err), Err: err, Cure: noRoom}
		}
	}
	return n, b.err
}

// Close has the archive read in, unless that has been stopped.
func (b *inbox) Close() error {
	begun := b.i.do(b.j, func(ctx context.Context, p *image.Progress) (*image.Held, error) {
		defer b.file.Close()
		if b.err != nil {
			return nil, b.err
		}
		return b.i.in.store.Import(ctx, b.file, p)
	})
	if !begun {
		return b.file.Close()
	}
	return nil
}

// Send implements [engine.Image].
func (i *entry) Send() (engine.Log, error) {
	v := i.View()
	if v.Content == nil {
		return nil, &engine.Error{Op: "read", File: "tar", Errno: syscall.ENOENT, Why: "there is nothing in the image", Cure: "write a reference into pull, or an archive into tar, first"}
	}
	held, err := i.in.store.Hold(v.Content.ID)
	if err != nil {
		return nil, err
	}
	size, write, err := i.in.store.Export(v.Content.ID, v.Name)
	if err != nil {
		held.Release()
		return nil, err
	}
	return &outbox{size: size, write: write, release: held.Release}, nil
}

// outbox is an archive on its way out. It is made as it is read, from the beginning; who seeks has to wait for what lies before.
type outbox struct {
	size    int64
	write   func(context.Context, io.Writer) error
	release func()

	mu   sync.Mutex
	pipe *io.PipeReader // guarded by mu; nil before the first reading
	stop func()         // guarded by mu; ends who writes into it
	pos  int64          // guarded by mu
}

// ReadAt implements [io.ReaderAt].
func (o *outbox) ReadAt(b []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if off >= o.size {
		return 0, io.EOF
	}
	if o.pipe == nil || off < o.pos {
		o.begin()
	}
	if off > o.pos {
		n, err := io.CopyN(io.Discard, o.pipe, off-o.pos)
		if o.pos += n; err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(o.pipe, b[:min(int64(len(b)), o.size-off)])
	o.pos += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// begin begins to make the archive, anew. o.mu is held.
func (o *outbox) begin() {
	o.end()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(o.write(ctx, w))
	}()
	o.pipe, o.pos = r, 0
	o.stop = func() {
		cancel()
		r.Close()
		<-done
	}
}

// end ends who makes it. o.mu is held.
func (o *outbox) end() {
	if o.stop != nil {
		o.stop()
		o.stop = nil
	}
}

// ReadPage implements [engine.Log]: pages come in any order.
func (o *outbox) ReadPage([]byte, int64) (int, error) { return 0, syscall.EINVAL }

// Size implements [engine.Log].
func (o *outbox) Size() (int64, error) { return o.size, nil }

// Close implements [engine.Log].
func (o *outbox) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end()
	o.release()
	return nil
}
