package fs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Heritage is what a server leaves behind that has given way to another one while somebody was reading wait files: its connection
// to the kernel, which would otherwise end with it and fail all of them, and who they are.
type Heritage struct {
	Connection *os.File
	Ledger     *os.File
}

// Heirs answer on the connections that servers before have left behind: who was blocked in wait gets the answer when it comes, and
// everything else is refused with what the kernel itself says when a server is dead. A connection ends when the last of
// those files is closed.
//
// The kernel has given requests to a server that is no more. It is asked to send them again (FUSE_NOTIFY_RESEND, Linux 6.9), so that
// none is lost, whatever that server was doing when it was killed; and so each new server can take over from the one before. Nothing
// of the old process has to live on for it: to have that stand still and forward the answers was considered, but an engine that
// must not act any more, in a process that nobody counts, is more to go wrong than these few requests.
type Heirs struct {
	log   *slog.Logger
	heirs []*heir
	ready chan struct{} // closed when waits is there

	waits map[string]until // what they wait for, by id; found when the tree is mounted, which is after all began to wait
}

// until waits for what a wait file tells.
type until func(context.Context) (string, error)

// heir is one connection.
type heir struct {
	*Heirs
	conn *os.File
	open *ledger

	mu      sync.Mutex
	waiting map[uint64]context.CancelFunc // by the number of the request; guarded by mu
}

// Inherit takes over what servers have left behind, and the files. From here on requests are refused; who waits is answered once
// a tree is mounted with the heirs, see [Options].
func Inherit(all []Heritage, log *slog.Logger) *Heirs {
	heirs := &Heirs{log: log, ready: make(chan struct{})}
	for _, one := range all {
		l, err := readLedger(one.Ledger)
		one.Ledger.Close()
		h := &heir{Heirs: heirs, conn: one.Connection, open: l, waiting: map[uint64]context.CancelFunc{}}
		if err == nil && !l.empty() {
			err = h.resend()
		}
		if err != nil {
			log.Error("who waits since another server gets no answer", "err", err)
		}
		if err != nil || l.empty() {
			h.conn.Close()
			continue
		}
		heirs.heirs = append(heirs.heirs, h)
		go h.serve()
	}
	return heirs
}

// resends reports whether the kernel sends requests again. Without, a request that the server has just read when it is killed would
// never be answered.
func (s *Server) resends() bool {
	return s.fuse.KernelSettings().Flags64()&fuse.CAP_HAS_RESEND != 0
}

// HandOver returns what another server needs to answer those who wait here, in files that are made by newFile. They belong to the
// server, which goes on as before, and are right until it is killed.
func (s *Server) HandOver(newFile func() (*os.File, error)) (all []Heritage, err error) {
	hand := func(conn *os.File, l *ledger) error {
		if l.empty() {
			return nil
		}
		f, err := newFile()
		if err != nil {
			return err
		}
		l.handOver(f)
		all = append(all, Heritage{conn, f})
		return nil
	}
	if s.resends() {
		err = hand(s.conn, &s.tree.waits)
	}
	if s.heirs == nil {
		return all, err
	}
	for _, h := range s.heirs.heirs {
		err = errors.Join(err, hand(h.conn, h.open))
	}
	return all, err
}

// answer has those who wait be answered.
func (h *Heirs) answer(e engine.Engine) {
	if len(h.heirs) > 0 {
		h.waits = map[string]until{}
		for _, heir := range h.heirs {
			heir.open.name(h.waits)
		}
		h.find(e, nil)
		for _, i := range e.Images() {
			h.found(i.View().Serial, settled, source{image: i})
		}
	}
	close(h.ready)
}

// found takes what a wait file tells, if its owner has been named.
func (h *Heirs) found(id string, w *waiting, s source) {
	if _, wanted := h.waits[id]; wanted {
		h.waits[id] = w.of(s)
	}
}

// find finds the programs below a container.
func (h *Heirs) find(e engine.Engine, in engine.Container) {
	for _, c := range e.Children(in) {
		h.found(c.View().ID, exited, source{p: c})
		for _, x := range c.Execs() {
			h.found(x.View().ID, exited, source{p: x})
		}
		h.find(e, c)
	}
}

// What a request is about: enum fuse_opcode of linux/fuse.h.
const (
	opForget      = 2
	opRead        = 15
	opRelease     = 18
	opInterrupt   = 36
	opBatchForget = 42
)

// resent marks the number of a request that was sent before: FUSE_UNIQUE_RESEND.
const resent = 1 << 63

// request is what is needed of one: its number and, as far as it has them, a file, a place in it, and whether that is for read(2).
type request struct {
	op     uint32
	unique uint64
	handle uint64
	off    uint64
	size   int
	page   bool   // see [wire]
	other  uint64 // the request that is to be interrupted
}

// parseRequest reads a request as the kernel sends it.
func parseRequest(b []byte) (r request, err error) {
	var in fuse.InHeader
	if _, err = binary.Decode(b, binary.NativeEndian, &in); err != nil {
		return r, err
	}
	r.op, r.unique = in.Opcode, in.Unique
	switch r.op {
	case opRead:
		var in fuse.ReadIn
		_, err = binary.Decode(b, binary.NativeEndian, &in)
		r.handle, r.off, r.size, r.page = in.Fh, in.Offset, int(in.Size), in.ReadFlags&fuse.READ_LOCKOWNER == 0
	case opRelease:
		var in fuse.ReleaseIn
		_, err = binary.Decode(b, binary.NativeEndian, &in)
		r.handle = in.Fh
	case opInterrupt:
		var in fuse.InterruptIn
		_, err = binary.Decode(b, binary.NativeEndian, &in)
		r.other = in.Unique
	}
	return r, err
}

// section is the part of a text that a READ asks for.
func (r request) section(text string) string {
	if r.off >= uint64(len(text)) {
		return ""
	}
	return text[r.off:min(uint64(len(text)), r.off+uint64(r.size))]
}

// resend has the kernel send again what it has sent to another server.
func (h *heir) resend() error { return h.send(0, -fuse.NOTIFY_RESEND, "") }

// send writes one packet: an answer, or a wish of the server's own, which has no number.
func (h *heir) send(unique uint64, status int32, text string) error {
	head := fuse.OutHeader{Length: uint32(int(unsafe.Sizeof(fuse.OutHeader{})) + len(text)), Status: status, Unique: unique}
	b, err := binary.Append(nil, binary.NativeEndian, &head)
	if err == nil {
		_, err = h.conn.Write(append(b, text...))
	}
	return err
}

// reply answers a request. It may have been killed meanwhile, or the connection has ended; then nobody needs an answer.
func (h *heir) reply(r request, errno syscall.Errno, text string) {
	err := h.send(r.unique, -int32(errno), text)
	if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, os.ErrClosed) {
		h.log.Error("a request of an old connection is not answered", "op", r.op, "err", err)
	}
}

// serve answers requests until the last wait file is closed, or the connection ends.
func (h *heir) serve() {
	defer h.conn.Close()
	defer h.cancelAll()
	buffer := make([]byte, maxValue+pageSize) // the kernel asks for room for the largest request, and touches what it needs
	for {
		n, err := h.conn.Read(buffer)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EAGAIN) {
			continue // it was taken back while it was read
		}
		if err != nil {
			if !errors.Is(err, syscall.ENODEV) {
				h.log.Error("an old connection fails", "err", err)
			}
			return
		}
		r, err := parseRequest(buffer[:n])
		if err != nil {
			h.log.Error("a request of an old connection makes no sense", "bytes", n, "err", err)
			return
		}
		if last := h.handle(r); last {
			return
		}
	}
}

// handle does what one request asks for, or has it done, and says whether it was the last one.
func (h *heir) handle(r request) (last bool) {
	e, known := h.open.get(r.handle)
	switch {
	case r.op == opForget || r.op == opBatchForget: // have no answer
	case r.op == opInterrupt:
		h.interrupt(r.other)
	case r.op == opRelease && known:
		h.reply(r, 0, "")
		return h.open.drop(r.handle)
	case r.op == opRead && known && r.page:
		h.reply(r, syscall.EINVAL, "")
	case r.op == opRead && known && r.off > 0:
		h.reply(r, 0, r.section(e.shown))
	case r.op == opRead && known:
		h.block(r, e)
	case r.unique&resent != 0:
		h.reply(r, syscall.ECONNABORTED, "")
	default:
		h.reply(r, syscall.ENOTCONN, "")
	}
	return false
}

// block answers a READ when what it waits for has ended, or the reader is interrupted.
func (h *heir) block(r request, e entry) {
	ctx, cancel := context.WithCancel(context.Background())
	h.mu.Lock()
	h.waiting[r.unique&^resent] = cancel
	h.mu.Unlock()
	go func() {
		text, err := h.wait(ctx, e.id)
		switch {
		case ctx.Err() != nil:
			h.reply(r, syscall.EINTR, "")
		case err != nil:
			h.reply(r, engine.Errno(err), "")
		default:
			e.shown = text
			h.open.set(r.handle, e)
			h.reply(r, 0, r.section(text))
		}
		h.interrupt(r.unique)
	}()
}

// wait waits for what the wait file tells of whoever has that id.
func (h *heir) wait(ctx context.Context, id string) (string, error) {
	select {
	case <-h.ready:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	wait := h.waits[id]
	if wait == nil {
		return "", fmt.Errorf("nobody has the id %s: %w", id, syscall.ECONNABORTED)
	}
	text, err := wait(ctx)
	return asLine(text), err
}

// interrupt ends the wait of a request, if it still waits.
func (h *heir) interrupt(unique uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cancel, ok := h.waiting[unique&^resent]; ok {
		cancel()
		delete(h.waiting, unique&^resent)
	}
}

// cancelAll ends them all.
func (h *heir) cancelAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cancel := range h.waiting {
		cancel()
	}
}
