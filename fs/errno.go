package fs

import (
	"errors"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// explained reports whether [engine.Errno] found an errno in an error, rather than taking EIO for want of one.
func explained(err error) bool {
	if _, ok := errors.AsType[*engine.Error](err); ok {
		return true
	}
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}
