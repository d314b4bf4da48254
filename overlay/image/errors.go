package image

import (
	"context"
	"errors"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// What an image is refused for, before it is known which operation it is for.
var (
	errDigest  = errors.New("what came is not what its digest says")
	errLength  = errors.New("what came has not the length that was promised")
	errNoImage = errors.New("it does not hold a container image")
)

func keepError(name string, err error) error {
	return &engine.Error{Op: "keep", File: name, Errno: engine.Errno(err), Err: err}
}

// bad is the error of content that is not as it should be.
func bad(err error, why string) error {
	return &engine.Error{Op: "check", File: "image", Errno: syscall.EBADMSG, Why: why, Err: err}
}

// refused is the error of content that is fine but not for this host, or not an image.
func refused(errno syscall.Errno, why, cure string) error {
	return &engine.Error{Op: "check", File: "image", Errno: errno, Why: why, Cure: cure}
}

// task names the operation that a user began, for its errors.
type task struct{ op, file, value string }

// fail makes the error that the user sees of what went wrong inside. An error that was made for people keeps its words and
// its errno.
func (t task) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return &engine.Error{Op: t.op, File: t.file, Value: t.value, Errno: syscall.EINTR, Why: "interrupted", Cure: "try again: layers that were complete are kept for a moment"}
	}
	e := &engine.Error{Op: t.op, File: t.file, Value: t.value, Errno: engine.Errno(err), Err: err}
	if inner, ok := errors.AsType[*engine.Error](err); ok {
		e.Errno, e.Why, e.Cure, e.Err = inner.Errno, inner.Why, inner.Cure, inner.Err
		if e.Why == "" && e.Err == nil {
			e.Why = inner.Errno.Error()
		}
	}
	if e.Cure == "" {
		switch e.Errno {
		case syscall.ENOSPC, syscall.EDQUOT:
			e.Cure = "make room, or remove images that are not needed"
		case syscall.EBADMSG:
			e.Cure = "get it again from where it came from"
		}
	}
	return e
}
