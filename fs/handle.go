package fs

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// handle is an open file: the text that its reader is shown, and the text that its writer has written so far.
type handle struct {
	file   *file
	opener engine.Caller // immutable
	sight  *sight        // immutable; what the opener can see of containers, where that matters
	add    bool          // opened with O_APPEND
	log    engine.Log    // of a log
	feed   *feed         // of a stream that goes on

	mu      sync.Mutex
	shown   string // the text of the last reading, which began at offset 0
	read    bool   // there was one
	written string // the text of the writes so far that continue each other
	noted   bool   // in the ledger of those who wait, as number
	number  uint64 // what the kernel calls it
	cut     error  // why the end of written has not been applied: it is only the front of something

	sink   io.WriteCloser // of what goes on until the file is closed; nil before the first write
	passed int64          // how many bytes it has been given
}

// Read shows the text from off. READs that fill pages come in any order, and together are one reading.
func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	switch r := h.file.row; {
	case h.log != nil:
		return h.readLog(dest, off, forPage(ctx))
	case h.feed != nil && forPage(ctx):
		return nil, syscall.EINVAL
	case h.feed != nil:
		return h.feed.read(ctx, dest, off)
	case r.wait != nil && forPage(ctx):
		return nil, syscall.EINVAL
	case r.wait != nil && off == 0:
		return h.readStream(ctx, dest)
	case !r.readable():
		return fuse.ReadResultData(nil), 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file.row.read != nil && (!h.read || off == 0 && !forPage(ctx)) {
		text, err := h.file.text(!h.read, h.sight)
		if err != nil {
			return nil, h.file.refuse(err)
		}
		h.shown, h.read = text, true
	}
	return section(h.shown, dest, off), 0
}

// section copies the part of text that a READ asks for.
func section(text string, dest []byte, off int64) fuse.ReadResult {
	if off >= int64(len(text)) {
		return fuse.ReadResultData(nil)
	}
	return fuse.ReadResultData(dest[:copy(dest, text[off:])])
}

// forPage reports whether a READ fills a page, see [wire]. A stream refuses that, which makes sendfile(2) fail and busybox
// turn to read(2): a page stays locked while it is read, whoever else wants it cannot be interrupted, and what the size
// then says too much would be NULs.
func forPage(ctx context.Context) bool { return caller(ctx).UID == nobody }

// handleOf is what the kernel calls the open file of a READ, see [wire].
func handleOf(ctx context.Context) uint64 { return uint64(caller(ctx).GID) }

// readStream blocks until there is a text, or until a signal reaches the reader. No lock is held meanwhile.
func (h *handle) readStream(ctx context.Context, dest []byte) (fuse.ReadResult, syscall.Errno) {
	number := handleOf(ctx)
	h.mu.Lock()
	h.noted, h.number = true, number
	h.mu.Unlock()
	h.file.tree.waits.set(number, entry{id: h.file.id})
	text, err := h.file.row.wait.until(ctx, h.file.source())
	if ctx.Err() != nil {
		return nil, syscall.EINTR // a signal is no failure, and leaves no sentence
	}
	if err != nil {
		return nil, h.file.refuse(err)
	}
	text = asLine(text)
	h.file.tree.waits.set(number, entry{h.file.id, text})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown = text
	return section(text, dest, 0), 0
}

// asLine ends a text with a newline, unless there is none.
func asLine(text string) string {
	if text == "" {
		return ""
	}
	return text + "\n"
}

// readLog reads the log where it lies, whatever the handle was shown before. A page is what lies there by the size, or EINVAL: see
// [forPage].
func (h *handle) readLog(dest []byte, off int64, page bool) (fuse.ReadResult, syscall.Errno) {
	read := h.log.ReadAt
	if page {
		read = h.log.ReadPage
	}
	n, err := read(dest, off)
	if page && errors.Is(err, syscall.EINVAL) {
		return nil, syscall.EINVAL // whoever wanted it turns to read(2): nothing has failed
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, h.file.refuse(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Release ends the handle, after its last operation. What was never completed is told in the error file, since
// close(2) tells nobody.
func (h *handle) Release(context.Context) syscall.Errno {
	if h.cut != nil {
		h.file.refuse(h.cut)
	}
	if h.log != nil {
		h.log.Close() // it was only read
	}
	if h.feed != nil {
		h.feed.events.Close()
	}
	if h.sink != nil {
		if err := h.sink.Close(); err != nil {
			h.file.refuse(err)
		}
	}
	if h.noted {
		h.file.tree.waits.drop(h.number)
	}
	return 0
}

// Write performs one operation, with the opener's rights, as cgroupfs does (kernel/cgroup/cgroup.c, __cgroup_procs_write):
// a program with more rights may be made to write to a descriptor that was opened by somebody with fewer. A refusal has
// changed nothing, and leaves its sentence in the error file.
func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	by := caller(ctx)
	by.UID, by.GID = h.opener.UID, h.opener.GID
	var err error
	if h.file.row.take != nil {
		err = h.pass(by, data, off)
	} else {
		err = h.write(by, string(data), off)
	}
	h.file.tree.writes.Add(1)
	if err != nil {
		return 0, h.file.refuse(err)
	}
	return uint32(len(data)), 0
}

// write gives an action each write as it comes, without a lock, because a start takes milliseconds and a reader of the same
// handle shall not wait for it.
func (h *handle) write(by engine.Caller, data string, off int64) error {
	f := h.file
	if f.row.act != nil {
		if err := checkText(f.row.name, data); err != nil {
			return err
		}
		f.tree.acting.Add(1)
		defer f.tree.acting.Add(-1)
		return f.row.act(by, f.source(), strings.TrimSuffix(data, "\n"))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	text, err := h.extend(data, off)
	if err != nil {
		return err
	}
	err = h.apply(by, text)
	h.cut = nil
	if err != nil && len(data)%pageSize == 0 && h.front(by, text, err) {
		h.cut, err = err, nil
	}
	if err == nil {
		h.written = text
	}
	return err
}

// pass hands on what is written until the file is closed, in order: what takes it cannot go back.
func (h *handle) pass(by engine.Caller, data []byte, off int64) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if off != h.passed {
		return engine.Invalid(h.file.row.name, "", "written at another place than the end of what came before", "write it from the beginning, in order: cat FILE > "+h.file.row.name)
	}
	if h.sink == nil {
		if h.sink, err = h.file.row.take(by, h.file.source()); err != nil {
			return err
		}
	}
	n, err := h.sink.Write(data)
	h.passed += int64(n)
	return err
}

// apply parses a text and has the engine make it the setting's value.
func (h *handle) apply(by engine.Caller, text string) error {
	f := h.file
	if f.row.tune != nil {
		return h.tune(by, text)
	}
	change, err := f.row.change(text, h.add, f.fresh())
	if err != nil {
		return err
	}
	return f.program().Update(by, f.row.name, f.row.live, change)
}

// tune is the same for a setting of a network.
func (h *handle) tune(by engine.Caller, text string) error {
	f := h.file
	if err := checkText(f.row.name, text); err != nil {
		return err
	}
	if f.row.shape == single {
		var err error
		if text, err = parseSingle(f.row.name, text, false); err != nil {
			return err
		}
	} else if h.add {
		now, err := f.row.read(f.source())
		if err != nil {
			return err
		}
		text = now + text
	}
	text = strings.TrimSpace(text)
	return f.network.Update(by, f.row.name, f.row.live, func(c *engine.NetworkConfig) error { return f.row.tune(c, text) })
}

// front reports whether whole blocks were refused only because a buffer cut them off: a document that just ends too early,
// or a list whose last line is not whole; the lines before it are applied. The C library never buffers more than 8 KiB,
// whatever st_blksize says, and sendfile(2) 64, so a long value comes from jq, sed or vim in pieces. The front is kept,
// and the write that completes it is the operation.
func (h *handle) front(by engine.Caller, text string, err error) bool {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	end := strings.LastIndexByte(text, '\n') + 1
	return h.file.row.list != nil && !h.add && 0 < end && end < len(text) && h.apply(by, text[:end]) == nil
}

// pageSize is the unit of a program's buffers, and how much of a WRITE the kernel holds back when a buffer is not aligned.
const pageSize = 4096

// extend joins a write to those before it on this handle: `{ echo A=1; echo B=2; } > env` is two writes and one value.
// A value begins anew at offset 0, and after the final newline of a single value; each write of `>>` stands alone.
func (h *handle) extend(data string, off int64) (string, error) {
	if len(data) > maxValue-pageSize && !strings.HasSuffix(data, "\n") {
		return "", tooBig(h.file.row.name) // the front of something longer, cut by the kernel
	}
	done := h.file.row.shape == single && strings.HasSuffix(h.written, "\n") && h.cut == nil
	if h.add || off == 0 || done {
		return data, nil
	}
	if len(h.written)+len(data) > maxValue {
		return "", tooBig(h.file.row.name)
	}
	return h.written + data, nil
}

// Lseek knows of no holes, and says so with EINVAL as file systems without them do. By the size, which is of another moment
// than the one that fstat(2) told, grep(1) would take a text that has become shorter for one with a hole, and call it binary.
func (h *handle) Lseek(context.Context, uint64, uint32) (uint64, syscall.Errno) {
	return 0, syscall.EINVAL
}
