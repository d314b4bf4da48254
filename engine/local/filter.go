package local

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/engine/seccomp"
)

// filter compiles the filter of system calls that a configuration asks for; nil is none.
func filter(c *engine.Config) (*plan.Filter, error) {
	var f *seccomp.Filter
	var err error
	text := "the default profile"
	switch word := c.Seccomp(); {
	case word == engine.SeccompUnconfined:
		return nil, nil
	case word == engine.SeccompDefault:
		f, err = seccomp.For(boundingSet(c))
	default:
		text = "as configured"
		f, err = seccomp.Compile(c.Spec.Linux.Seccomp)
	}
	if err != nil {
		return nil, err
	}
	size := int(unsafe.Sizeof(unix.SockFilter{}))
	code := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f.Program))), len(f.Program)*size)
	return &plan.Filter{Code: code, Flags: uint32(f.Flags), Text: text}, nil
}
