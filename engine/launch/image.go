package launch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Image is a program in memory, ready to run once.
type Image struct {
	region []byte
	mem    []byte // the part of it that the program takes
	head   *header
	calls  []call
	fds    []int
}

// Failure is why a child did not execute its program.
type Failure struct {
	Step   int // index into the plan
	Errno  syscall.Errno
	Status syscall.WaitStatus // of the hook that the step ran, if it did
}

func (f *Failure) Error() string { return fmt.Sprintf("step %d: %v", f.Step+1, f.Errno) }

// Unwrap gives errors.As the errno.
func (f *Failure) Unwrap() error { return f.Errno }

// Load reads the program in a descriptor and resolves its pointers and descriptors. Everything that could lead outside of it
// is checked here, once, so that the child need not. All descriptors stay the caller's.
func Load(program int, fds []int) (*Image, error) {
	var info unix.Stat_t
	if err := unix.Fstat(program, &info); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	size := info.Size
	if size < int64(unsafe.Sizeof(header{})) || size > 1<<28 {
		return nil, fmt.Errorf("a program of %d bytes: %w", size, syscall.EINVAL)
	}
	mem, err := region(int(size))
	if err != nil {
		return nil, err
	}
	img := &Image{region: mem, mem: mem[:size], head: (*header)(unsafe.Pointer(&mem[0])), fds: fds}
	n, err := unix.Pread(program, img.mem, 0)
	switch {
	case err != nil:
		err = os.NewSyscallError("pread", err)
	case n < len(img.mem):
		err = fmt.Errorf("a program of %d bytes, of which %d could be read: %w", size, n, syscall.EIO)
	default:
		err = img.resolve()
	}
	if err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

// Close gives the memory back. No child may run in it.
func (img *Image) Close() error { return giveRegion(img.region) }

// resolve turns offsets and indices into addresses and descriptors.
func (img *Image) resolve() error {
	h := img.head
	bad := func(what string) error { return fmt.Errorf("a program with bad %s: %w", what, syscall.EINVAL) }
	switch {
	case h.magic != magic:
		return bad("magic number: keeper and server are of different versions")
	case h.calls > maxCalls || h.fds > maxFDs || int(h.fds) != len(img.fds) || h.into >= int32(h.fds) || h.exec >= h.calls || h.staged > copied:
		return bad("counts")
	}
	callsAt := unsafe.Sizeof(*h)
	relocsAt := callsAt + uintptr(h.calls)*unsafe.Sizeof(call{})
	dataAt := relocsAt + uintptr(h.relocs+h.relocs%2)*4
	if dataAt+uintptr(h.data) != uintptr(len(img.mem)) {
		return bad("size")
	}
	data := img.mem[dataAt:]
	base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(img.mem)))) + uint64(dataAt)
	for i := range h.relocs {
		at := *(*uint32)(unsafe.Pointer(&img.mem[relocsAt+uintptr(i)*4]))
		if at%8 != 0 || uint64(at)+8 > uint64(len(data)) {
			return bad("relocation")
		}
		*(*uint64)(unsafe.Pointer(&data[at])) += base
	}
	img.calls = unsafe.Slice((*call)(unsafe.Pointer(&img.mem[callsAt])), h.calls)
	for i := range img.calls {
		if err := img.calls[i].resolve(base, uint64(h.data), img.fds); err != nil {
			return bad(err.Error())
		}
	}
	return nil
}

func (c *call) resolve(base, data uint64, fds []int) error {
	if c.store > registers || int(c.nrules) > len(c.rules) {
		return fmt.Errorf("call")
	}
	for k := range c.args {
		v := &c.args[k]
		switch c.kinds[k] {
		case number:
			continue
		case dataOffset:
			if *v >= data {
				return fmt.Errorf("address")
			}
			*v += base
		case descriptor:
			if *v >= uint64(len(fds)) {
				return fmt.Errorf("descriptor")
			}
			*v = uint64(fds[*v])
		case register:
			if *v >= registers {
				return fmt.Errorf("register")
			}
			continue
		default:
			return fmt.Errorf("argument")
		}
		c.kinds[k] = number
	}
	return nil
}

// Child is a launched program.
type Child struct {
	PID   int
	PidFD int // owned by the caller; -1 if there is none
}

// Launch makes the child and waits until it has executed its program, or has died on the way: then the error is a
// [*Failure]. A child that has not got there within the limit is killed, and the failure says ETIMEDOUT. The child is the
// caller's to wait for unless there was none, which a pid of zero in the result says.
func (img *Image) Launch(limit time.Duration) (Child, error) {
	var ending sync.Mutex
	var over, late bool // guarded by ending: the launch is, and it was killed for that
	timer := time.AfterFunc(limit, func() {
		ending.Lock()
		defer ending.Unlock()
		if !over {
			late = true
			unix.PidfdSendSignal(int(atomic.LoadInt32(&img.head.pidfd)), unix.SIGKILL, nil, 0)
		}
	})
	img.head.pidfd = -1
	errno := img.fork()
	timer.Stop()
	ending.Lock() // from here on the descriptor may be closed, and its number be another's
	over = true
	ending.Unlock()
	child := Child{PID: img.PID(), PidFD: int(atomic.LoadInt32(&img.head.pidfd))}
	switch {
	case errno != 0:
		return Child{PidFD: -1}, &Failure{Step: 0, Errno: errno}
	case img.head.errno != 0:
		return child, &Failure{Step: img.step(), Errno: syscall.Errno(img.head.errno), Status: syscall.WaitStatus(img.head.status)}
	case img.head.at >= img.head.exec:
		return child, nil
	case late:
		return child, &Failure{Step: img.step(), Errno: syscall.ETIMEDOUT}
	}
	return child, &Failure{Step: img.step(), Errno: syscall.ECHILD} // killed on the way
}

// left is how a child says that all went well which was not to execute anything.
const left = syscall.ECANCELED

// Perform runs a program that ends without executing anything, and has waited for its child when it returns. The error is as
// of [Image.Launch].
func (img *Image) Perform(limit time.Duration) error {
	child, err := img.Launch(limit)
	if child.PidFD >= 0 {
		unix.Close(child.PidFD)
	}
	if child.PID != 0 { // a parent that waits for all its children may be faster
		retry(func() error { _, err := unix.Wait4(child.PID, nil, 0, nil); return err })
	}
	if f, ok := errors.AsType[*Failure](err); ok && f.Errno == left {
		return nil
	}
	return err
}

// PID is the pid of the child once there is one, at any time and from any goroutine, and 0 before. The kernel sets it before
// the child takes its first step, so whoever waits for a pid that nobody knows finds it here.
func (img *Image) PID() int { return int(atomic.LoadInt32(&img.head.pid)) }

// step is the step of the plan that the child was at.
func (img *Image) step() int { return int(img.calls[min(int(img.head.at), len(img.calls)-1)].step) }
