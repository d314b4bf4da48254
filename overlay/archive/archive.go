package archive

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Result is what an unpacked layer is.
type Result struct {
	DiffID string   // "sha256:…" of the uncompressed tar
	Size   int64    // bytes of the uncompressed tar
	Files  int      // entries of the archive
	Exact  bool     // [Rebuild] can make the very same tar again
	Opaque bool     // nothing below this layer is to be seen; overlayfs does not look for the mark at the top of a layer
	Notes  []string // what was left out and why (device nodes, …), bounded
}

// Spawn runs ctrfs's own program with args, confined: root is its root directory and all that it sees, as much of it as an idmapped
// clone shows, files are its descriptors 3, 4, … It returns when the program has ended; ctx ends it. The end of what it wrote to
// stderr is in the error.
type Spawn func(ctx context.Context, root *os.File, args []string, files []*os.File) error

// Verb is the hidden verb of the program that [Main] is.
const Verb = "unpack"

// Unpack fills the empty directory into with the layer that stream holds, and writes to exact what [Rebuild] needs. Nothing is
// synced: whoever publishes the layer does that. After an error, into holds a part of it.
//
// Errors: EBADMSG (malformed, cut off, or what no layer may hold; the entry is named), EOPNOTSUPP (compressed in another way),
// E2BIG (beyond all reason), those of stream, of ctx, and of the disk.
func Unpack(ctx context.Context, spawn Spawn, into, exact *os.File, stream io.Reader) (Result, error) {
	return UnpackAtMost(ctx, spawn, into, exact, stream, 0)
}

// UnpackAtMost is Unpack for a layer of at most limit bytes when uncompressed; 0 is no limit. Error: EFBIG.
func UnpackAtMost(ctx context.Context, spawn Spawn, into, exact *os.File, stream io.Reader, limit int64) (Result, error) {
	in, feed, err := os.Pipe()
	if err != nil {
		return Result{}, err
	}
	defer in.Close()
	defer feed.Close()
	answers, answer, err := os.Pipe()
	if err != nil {
		return Result{}, err
	}
	defer answers.Close()
	defer answer.Close()
	// More than the default at once, if this user may have that much.
	if raw, err := feed.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	fed := make(chan error, 1)
	go func() {
		_, err := io.Copy(feed, struct{ io.Reader }{stream})
		if errors.Is(err, syscall.EPIPE) {
			err = nil // it has stopped reading, and says why
		}
		feed.Close()
		fed <- err
	}()
	heard := make(chan heardOf, 1)
	go func() {
		h := listen(into, answers)
		if h.err != nil {
			stop()
		}
		answers.Close() // it is not to wait for somebody who does not listen
		heard <- h
	}()
	ended := spawn(ctx, into, []string{Verb, strconv.FormatInt(limit, 10)}, []*os.File{in, answer, exact})
	answer.Close()
	in.Close()
	h := <-heard
	// A stream that is still being waited for would be waited for without end.
	select {
	case err = <-fed:
	default:
		if ended == nil && h.err == nil && h.refused == nil {
			err = <-fed
		}
	}
	return h.verdict(err, ended, context.Cause(ctx))
}

// heardOf is what the confined program has said.
type heardOf struct {
	result  *Result
	refused error // why it did not do it
	err     error // why it is not listened to any more
}

// verdict makes one of what each has to say. A stream that fails is the reason for what follows from that.
func (h heardOf) verdict(fed, ended, canceled error) (Result, error) {
	for _, err := range []error{fed, h.err, h.refused, canceled, ended} {
		if err != nil {
			return Result{}, err
		}
	}
	if h.result == nil {
		return Result{}, &engine.Error{Op: "unpack", Errno: syscall.EBADMSG, Why: "the confined program ended without a result"}
	}
	return *h.result, nil
}

// Main is the confined program: what [Spawn] runs.
func Main(args []string) error {
	limit := int64(0)
	if len(args) > 0 {
		var err error
		if limit, err = strconv.ParseInt(args[0], 10, 64); err != nil {
			return err
		}
	}
	if err := bounds(); err != nil {
		return os.NewSyscallError("setrlimit", err)
	}
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	files := make([]*os.File, 3)
	for i := range files {
		files[i] = os.NewFile(uintptr(3+i), "file")
	}
	unix.Umask(0)
	return work(root, files[0], files[1], files[2], limit, true)
}

// Unconfined is a [Spawn] that does in this process what the confined program does. It is for tests, and for archives that are
// trusted.
func Unconfined(ctx context.Context, root *os.File, args []string, files []*os.File) error {
	if len(args) != 2 || args[0] != Verb || len(files) != 3 {
		return syscall.EINVAL
	}
	limit, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { files[0].Close() })
	defer stop()
	return work(root, files[0], files[1], files[2], limit, false)
}
