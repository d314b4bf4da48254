// Package reaper is the program that a container with init has at PID 1: it waits for the container's own program, which is its
// child, and meanwhile reaps orphans and passes signals on.
//
// # Model
//
// It is a hundred and some instructions, the file reaper_*.s of an architecture, which Go's assembler makes part of this binary:
// the bytes that run are what that source says. [Program] puts a header of ELF before a copy of them, [File] that into a sealed
// memfd, from which launch executes it when the child has executed the container's program:
//
//	keeper ── vfork ──► PID 1: namespaces, root … ── vfork ──► program: rights, execve(2)
//	                    rights, execveat(2) of the memfd
//
// There is no file of it anywhere, it has no memory but a page of code and one of stack, and its pages are shared by all containers.
//
// # What it does
//
//	argv[1]            the decimal pid of the program, or 0: [Nobody]
//	every signal       blocked before it was executed, and taken by rt_sigtimedwait(2): the kernel drops what PID 1 of a
//	                   namespace does not handle, but not what it blocks
//	SIGCHLD            wait4(2) for all that have ended
//	any other          kill(2) of the program
//	end of the program its exit status
//
// PID 1 of a namespace cannot die of a signal that it sends to itself. When the program did, it exits with 128 + N, and tells
// which signal that was by its name, proc_pid_comm(5), for those who wait for it: [EndedBy].
//
// # Safety
//
// It has the program's user, capabilities and filter, and no descriptor but 0, 1 and 2, which are /dev/null and the log. It reads
// nothing but its argument. The memfd may be executed and not be read, so the kernel lets nobody in the container trace it or see
// its memory, whatever capabilities they have there (would_dump of fs/exec.c).
package reaper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Name is argv[0], and the name of the process until the program has ended.
const Name = "ctrfs-init"

// Nobody is the pid of the program when there is none: then the reaper waits for orphans alone, until a signal ends it, with 0.
const Nobody = "0"

// code is the program. It is executed in a process of its own, never called.
//
//lint:ignore U1000 the assembler takes its address
func code()

// address is where it lies.
func address() *byte

// end follows the last instruction.
var end = []byte("\x00ctrfs\x00\x00")

// codeMax bounds its size, which a test knows more closely.
const codeMax = 1024

// Layout of the file: the header, two program headers, the code. All of it is mapped at once, on a page of any size that there is.
const (
	headSize    = 64
	programSize = 56
	codeAt      = headSize + 2*programSize
	loadAt      = 0x400000
	pageMax     = 0x10000
)

// machines are e_machine by GOARCH: EM_X86_64, EM_AARCH64.
var machines = map[string]uint16{"amd64": 62, "arm64": 183}

// Program returns the program as an ELF file, elf(5).
func Program() []byte {
	text := unsafe.Slice(address(), codeMax)
	text = text[:bytes.Index(text, end)]
	size := uint64(codeAt + len(text))
	var b []byte
	b = append(b, "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) // 64 bits, little endian, version 1
	b = binary.LittleEndian.AppendUint16(b, 2)                                  // ET_EXEC
	b = binary.LittleEndian.AppendUint16(b, machines[runtime.GOARCH])           // e_machine
	b = binary.LittleEndian.AppendUint32(b, 1)                                  // e_version
	b = appendWords(b, loadAt+codeAt, headSize, 0)                              // e_entry, e_phoff, e_shoff
	b = binary.LittleEndian.AppendUint32(b, 0)                                  // e_flags
	for _, n := range []uint16{headSize, programSize, 2, 0, 0, 0} {             // sizes and numbers of headers
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	const load, stack, r, w, x = 1, 0x6474e551, 4, 2, 1 // PT_LOAD, PT_GNU_STACK, and rights
	b = binary.LittleEndian.AppendUint32(b, load)
	b = binary.LittleEndian.AppendUint32(b, r|x)
	b = appendWords(b, 0, loadAt, loadAt, size, size, pageMax)
	b = binary.LittleEndian.AppendUint32(b, stack)
	b = binary.LittleEndian.AppendUint32(b, r|w)
	b = appendWords(b, 0, 0, 0, 0, 0, 16)
	return append(b, text...)
}

func appendWords(b []byte, words ...uint64) []byte {
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// File puts the program into a memfd that nobody can change, and that may be executed but not be read.
func File() (*os.File, error) {
	// Without MFD_EXEC the kernel (6.3 on) warns, or refuses when vm.memfd_noexec is set; before that it does not know the flag.
	fd, err := unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("put the program for PID 1 into memory: %w; if the sysctl vm.memfd_noexec is 2, set it to 1", err)
	}
	f := os.NewFile(uintptr(fd), Name)
	_, err = f.Write(Program())
	if err == nil {
		err = f.Chmod(0o111)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("put the program for PID 1 into memory: %w", err)
	}
	return f, nil
}

// endedBy begins the name of a process that ends as its program did, by a signal: a character follows, that many after a space.
const endedBy = "ended by"

// EndedBy returns how a process has really ended that has exited with this status under this name.
func EndedBy(status syscall.WaitStatus, name string) syscall.WaitStatus {
	sign, ok := strings.CutPrefix(name, endedBy)
	if !ok || len(sign) != 1 || !status.Exited() || status.ExitStatus() != 128+int(sign[0]-' ') {
		return status
	}
	return syscall.WaitStatus(sign[0] - ' ')
}
