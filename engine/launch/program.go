// Package launch runs a plan in a forked child, without executing anything of its own on the way: no second binary, no
// re-execution of this one, no interpreter, no allocation.
//
// # Model
//
// The server translates the steps of a plan into a [Program]: a list of raw system calls with their arguments, complete
// to the last pointer ([Assemble]). It writes the program into a memfd and sends that to the keeper together with the
// descriptors that the calls use. The keeper reads it into memory, forks, and the child does nothing but run the list
// ([Image.Launch]).
//
// The child is a vfork: it borrows the keeper's memory and one of its threads until it executes its program, so a launch
// costs the same however large the keeper is. The thread gives its scheduler processor away first, so a child that hangs
// (a program on a dead file server) holds up nobody else, and it is killed when its time is over. Sharing memory is safe
// because nobody may trace the child: the keeper's memory is not dumpable, and belongs to the host's user namespace, so that
// no capability in another one counts (ptrace(2), __ptrace_may_access).
//
// A child that enters namespaces which exist already, its user namespace among them, is only a step on the way: it enters
// them and makes another child, with the new namespaces, that is the keeper's too (CLONE_PARENT) and runs the rest:
//
//	keeper ── vfork ──► first child: setns(2) … ── vfork, CLONE_PARENT ──► child: …, execve(2)
//	                    exits when the child has executed
//
// A time namespace is entered only by who has its memory for itself (kernel/time/namespace.c), and a new one only by the
// child of its maker. So where one is, the first child gets a copy of the keeper's, which is as undumpable, and the second a
// copy of that. What the children have to say lies in the program, whose memory is shared in either case.
//
// A program is a small machine, just enough for a launch:
//
//	call      system call number, six arguments, the step of the plan that it belongs to
//	argument  a number, an offset into the program's data, a passed descriptor, or an earlier result
//	rules     which errors do not matter, and how many calls to skip then; any other error ends the child
//
// # Failure
//
// A call that fails leaves the step and the errno in the program and exits. The parent's thread goes on when the child has
// exited or executed its program, whichever comes first.
package launch

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout of an encoded program. Keeper and server may be of different versions for a while after an upgrade, so the magic
// number changes whenever the layout does.
//
//	header | calls | relocations | data
const (
	magic     = 0x35306d7066727463 // "ctrfpm05", little endian
	registers = 64
	maxCalls  = 4096
	maxFDs    = 64
)

// What header.staged says.
const (
	alone  = iota // there is only one child
	shared        // the first one shares the memory of its parent
	copied        // each has a copy, for what the kernel refuses to those who share: a time namespace
)

// header is the fixed beginning of a program.
type header struct {
	magic      uint64
	cloneFlags uint64
	again      uint64 // flags of the second clone, where there is one
	staged     uint64 // how the first of two children is made, or alone
	calls      uint32
	relocs     uint32
	data       uint32
	fds        uint32
	into       int32  // index of the descriptor for CLONE_INTO_CGROUP, or -1
	exec       uint32 // index of the first execve, for telling a child that died before it
	// Written by the kernel for the parent.
	clone  cloneArgs
	second cloneArgs
	hook   cloneArgs
	pidfd  int32
	pid    int32
	first  int32 // pid of the first of two children
	_      int32
	// Written by the child.
	at         uint32 // the call it is at
	errno      uint32 // the error that ended it
	remembered uint32 // an error that counts if nothing better happens
	spawned    uint32 // the call that made the last hook
	watch      pollFD // its pidfd
	status     uint32 // its wait status
	_          uint32
	reg        [registers]uint64
}

// kind says what an argument's value stands for.
type kind uint8

const (
	number     kind = iota // the value itself
	dataOffset             // an address: the value is an offset into data
	descriptor             // a descriptor: the value is an index into those passed along
	register               // the result of an earlier call
)

// call is one system call. Its size is fixed, so that calls form an array in shared memory.
type call struct {
	nr     uint32
	step   uint16
	store  uint8 // register for the result, plus one; 0 discards it
	nrules uint8
	okSkip uint16 // calls to skip after success
	kinds  [6]kind
	rules  [4]rule
	args   [6]uint64
}

// rule says that an error does not end the child.
type rule struct {
	errno    uint16 // 0 matches every error
	skip     uint16 // calls to skip
	remember bool   // keep the error for failNow
}

// Calls that are not the kernel's.
const (
	failNow    = math.MaxUint32 - iota // fails with the remembered error, else with its first argument
	cloneAgain                         // makes the second child, which goes on, and exits
	spawn                              // makes a child for as many calls as the first argument says, and waits for it: see hooks.go
	splitOff                           // makes a child for as many calls as the first argument says, which executes a program: see init.go
	ownPID                             // writes the pid of the child, as it counts itself, where the first argument says: see listen.go
	expect                             // fails with the third argument unless the first is the second
)

// Program is a launch in the making. The zero Program is empty; methods add to it. An argument that cannot be passed (a
// string with a NUL) is remembered and reported by Encode.
type Program struct {
	cloneFlags uint64
	again      uint64
	staged     uint64
	calls      []call
	relocs     []uint32
	data       []byte
	fds        []*os.File
	into       int32
	exec       uint32
	step       uint16
	nextReg    uint8
	strings    map[string]uint64
	err        error
}

// Arguments of calls.
type arg struct {
	kind  kind
	value uint64
}

func num[T ~int | ~int32 | ~uint32 | ~uint64 | ~uintptr](v T) arg { return arg{number, uint64(v)} }

// path returns the address of a NUL-terminated string.
func (p *Program) path(s string) arg {
	if strings.IndexByte(s, 0) >= 0 && p.err == nil {
		p.err = fmt.Errorf("%q holds a NUL byte: %w", s, syscall.EINVAL)
	}
	if at, ok := p.strings[s]; ok {
		return arg{dataOffset, at}
	}
	if p.strings == nil {
		p.strings = map[string]uint64{}
	}
	at := p.bytes(append([]byte(s), 0))
	p.strings[s] = at.value
	return at
}

// bytes returns the address of a copy of b, aligned to eight bytes.
func (p *Program) bytes(b []byte) arg {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	at := len(p.data)
	p.data = append(p.data, b...)
	return arg{dataOffset, uint64(at)}
}

// structure returns the address of a copy of *v, which holds no pointers.
func structure[T any](p *Program, v *T) arg {
	return p.bytes(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)))
}

// vector returns the address of a NULL-terminated array of strings, as execve(2) takes it.
func (p *Program) vector(items []string) arg {
	words := make([]uint64, len(items)+1)
	for i, s := range items {
		words[i] = p.path(s).value
	}
	at := p.bytes(unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8))
	for i := range items {
		p.relocs = append(p.relocs, uint32(at.value)+uint32(i)*8)
	}
	return at
}

// file passes a descriptor along.
func (p *Program) file(f *os.File) arg {
	for i, have := range p.fds {
		if have == f {
			return arg{descriptor, uint64(i)}
		}
	}
	p.fds = append(p.fds, f)
	return arg{descriptor, uint64(len(p.fds) - 1)}
}

// call adds a system call and returns it for refinement; the pointer is valid until the next one is added.
func (p *Program) call(nr uintptr, args ...arg) *call {
	c := call{nr: uint32(nr), step: p.step}
	for i, a := range args {
		c.kinds[i], c.args[i] = a.kind, a.value
	}
	p.calls = append(p.calls, c)
	return &p.calls[len(p.calls)-1]
}

// free returns a register that nothing else uses.
func (p *Program) free() arg {
	if p.nextReg == registers {
		if p.err == nil {
			p.err = fmt.Errorf("a step with more than %d results: %w", registers, syscall.E2BIG)
		}
		p.nextReg--
	}
	p.nextReg++
	return arg{register, uint64(p.nextReg - 1)}
}

// result stores what the call returns in a free register, for later calls.
func (p *Program) result(c *call) arg { return c.into(p.free()) }

// into stores what the call returns in a register.
func (c *call) into(r arg) arg {
	c.store = uint8(r.value) + 1
	return r
}

// on lets errno pass, skipping so many calls.
func (c *call) on(errno syscall.Errno, skip int) *call {
	c.rules[c.nrules] = rule{errno: uint16(errno), skip: uint16(skip)}
	c.nrules++
	return c
}

// leave ends a program that executes nothing.
func (p *Program) leave() {
	p.exec = uint32(len(p.calls))
	p.call(failNow, num(int(left)))
}

// orElse keeps the error for failNow and goes on.
func (c *call) orElse(errno syscall.Errno) *call {
	c.on(errno, 0)
	c.rules[c.nrules-1].remember = true
	return c
}

// Files returns the descriptors that the program uses, in the order in which they must be passed to [Load].
func (p *Program) Files() []*os.File { return p.fds }

// Encode writes the program into a new memfd.
func (p *Program) Encode() (*os.File, error) {
	switch {
	case p.err != nil:
		return nil, p.err
	case len(p.calls) > maxCalls || len(p.fds) > maxFDs || len(p.data) > math.MaxInt32:
		return nil, fmt.Errorf("a launch of %d calls, %d descriptors and %d bytes: %w", len(p.calls), len(p.fds), len(p.data), syscall.E2BIG)
	}
	h := header{magic: magic, cloneFlags: p.cloneFlags, again: p.again, staged: p.staged, calls: uint32(len(p.calls)), relocs: uint32(len(p.relocs)),
		data: uint32(len(p.data)), fds: uint32(len(p.fds)), into: p.into, exec: p.exec}
	relocs := p.relocs
	if len(relocs)%2 != 0 {
		relocs = append(slices.Clone(relocs), 0) // keeps data aligned; it is beyond h.relocs
	}
	var image []byte
	image = append(image, unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))...)
	image = append(image, rawBytes(p.calls)...)
	image = append(image, rawBytes(relocs)...)
	image = append(image, p.data...)
	fd, err := unix.MemfdCreate("ctrfs-launch", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "launch")
	if _, err := f.Write(image); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func rawBytes[T any](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}
