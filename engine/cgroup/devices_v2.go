package cgroup

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// Cgroup v2 has no file for devices. A program in the kernel, attached to the group, is asked for each device that is opened
// or made: bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE. Here is what compiles a list of rules into one, and the five commands
// that it takes. A library that knows all of bpf(2) was measured: a binary larger by 1.8 MB for ten instructions a rule.

// deviceFilter is what a program is called, in bpftool(8) and when it is looked for; 15 characters at most.
const deviceFilter = "ctrfs_devices"

// Instructions of the program: opcode, registers (destination low, source high), jump offset, constant; see
// Documentation/bpf/standardization/instruction-set.rst. The names are those of include/linux/filter.h.
type instruction struct {
	op, regs byte
	off      int16
	imm      int32
}

const (
	opLoad32  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMove    = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
	opMoveReg = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
	opAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShift   = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opIfNot   = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opExit    = unix.BPF_JMP | unix.BPF_EXIT
)

// Registers: the result, the argument, and where the parts of the argument are kept.
const (
	regResult = iota
	regContext
	regKind
	regAccess
	regMajor
	regMinor
	regMissing
)

// compileDevices compiles a list of rules. The argument is struct bpf_cgroup_dev_ctx (include/uapi/linux/bpf.h): access and
// kind in the halves of one word, major, minor. A rule allows what it covers entirely, as v1's do; what none allows is EPERM.
func compileDevices(rules []engine.DeviceRule) []instruction {
	if engine.FormatDeviceList(rules) == engine.AllDevices {
		return answer(1) // the kernel refuses code behind an answer that nothing can miss
	}
	code := []instruction{
		{op: opLoad32, regs: regKind | regContext<<4, off: 0},
		{op: opMoveReg, regs: regAccess | regKind<<4},
		{op: opAnd, regs: regKind, imm: 0xffff},
		{op: opShift, regs: regAccess, imm: 16},
		{op: opLoad32, regs: regMajor | regContext<<4, off: 4},
		{op: opLoad32, regs: regMinor | regContext<<4, off: 8},
	}
	for _, r := range rules {
		code = append(code, compileDevice(r)...)
	}
	return append(code, answer(0)...)
}

// answer ends the program: 1 is yes, 0 is EPERM.
func answer(n int32) []instruction {
	return []instruction{{op: opMove, regs: regResult, imm: n}, {op: opExit}}
}

// The kernel's numbers for kinds and accesses: BPF_DEVCG_DEV_* and BPF_DEVCG_ACC_*.
var (
	deviceKinds    = map[string]int32{"b": 1, "c": 2}
	deviceAccesses = map[rune]int32{'m': 1, 'r': 2, 'w': 4}
)

const allAccesses = 7

// compileDevice compiles one rule: tests that jump behind it, and the answer yes.
func compileDevice(r engine.DeviceRule) []instruction {
	var code []instruction
	if kind, ok := deviceKinds[r.Kind]; ok {
		code = append(code, instruction{op: opIfNot, regs: regKind, imm: kind})
	}
	if r.Major != engine.AnyDevice {
		code = append(code, instruction{op: opIfNot, regs: regMajor, imm: int32(r.Major)})
	}
	if r.Minor != engine.AnyDevice {
		code = append(code, instruction{op: opIfNot, regs: regMinor, imm: int32(r.Minor)})
	}
	missing := int32(allAccesses)
	for _, letter := range r.Access {
		missing &^= deviceAccesses[letter]
	}
	if missing != 0 {
		code = append(code, instruction{op: opMoveReg, regs: regMissing | regAccess<<4},
			instruction{op: opAnd, regs: regMissing, imm: missing}, instruction{op: opIfNot, regs: regMissing, imm: 0})
	}
	code = append(code, answer(1)...)
	for i := range code {
		if code[i].op == opIfNot {
			code[i].off = int16(len(code) - i - 1)
		}
	}
	return code
}

// encode writes instructions as the kernel reads them.
func encode(code []instruction) []byte {
	var out []byte
	for _, i := range code {
		out = append(out, i.op, i.regs)
		out = binary.NativeEndian.AppendUint16(out, uint16(i.off))
		out = binary.NativeEndian.AppendUint32(out, uint32(i.imm))
	}
	return out
}

// Arguments of bpf(2): the first fields of union bpf_attr for each command (include/uapi/linux/bpf.h). Those that stay 0 have no name.
type (
	loadArg struct {
		kind, count   uint32
		code, license uint64
		_             [2]uint32 // log_level, log_size
		_             uint64    // log_buf
		_             [2]uint32 // kern_version, prog_flags
		name          [unix.BPF_OBJ_NAME_LEN]byte
	}
	attachArg struct{ group, program, kind, flags, replace uint32 }
	queryArg  struct {
		group, kind uint32
		_           [2]uint32 // query_flags, attach_flags
		ids         uint64
		count, _    uint32
	}
	idArg struct {
		id uint32
		_  [2]uint32 // next_id, open_flags
	}
	infoArg struct {
		fd, size uint32
		info     uint64
	}
)

// programInfo is struct bpf_prog_info as far as the name.
type programInfo struct {
	_    [64]byte
	name [unix.BPF_OBJ_NAME_LEN]byte
}

// bpf makes one call of bpf(2).
func bpf[T any](command uintptr, arg *T) (int, error) {
	return retry(func() (int, error) {
		n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(arg)), unsafe.Sizeof(*arg))
		if errno != 0 {
			return -1, errno
		}
		return int(n), nil
	})
}

// loadDevices gives the kernel the program for a list of rules. The caller closes it.
func loadDevices(rules []engine.DeviceRule) (int, error) { return loadNamed(deviceFilter, rules) }

func loadNamed(name string, rules []engine.DeviceRule) (int, error) {
	code := encode(compileDevices(rules))
	license := []byte("MIT\x00")
	// The kernel reads both through numbers, which keep nothing alive and are not changed when something moves.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	arg := loadArg{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	copy(arg.name[:], name)
	for {
		// The verifier gives up when a signal is pending, such as those by which Go preempts its threads.
		if fd, err := bpf(unix.BPF_PROG_LOAD, &arg); err != unix.EAGAIN {
			return fd, err
		}
	}
}

// filters keeps the program that was used last: almost all containers have the same devices. It is safe for concurrent use.
type filters struct {
	mu   sync.Mutex
	list string // guarded by mu, as is program
	// program is never closed but by its successor or by close, and used under mu only.
	program int
}

// attach makes list the one that is asked for the group at rel, in place of its predecessor, if any, at once.
// fresh says that there is none.
func (f *filters) attach(d dir, rel, list string, fresh bool) error {
	fd, err := d.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.program == 0 || f.list != list {
		program, err := loadDevices(engine.ParseDeviceList(list))
		if err != nil {
			return d.fail("load a device filter for", rel, list, err)
		}
		f.close()
		f.list, f.program = list, program
	}
	arg := attachArg{group: uint32(fd), program: uint32(f.program), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	old := -1
	if !fresh {
		if old, err = attached(fd); err != nil {
			return d.fail("look for device filters of", rel, "", err)
		}
	}
	if old >= 0 {
		defer unix.Close(old)
		arg.flags |= unix.BPF_F_REPLACE
		arg.replace = uint32(old)
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, &arg); err != nil {
		return d.fail("attach a device filter to", rel, list, err)
	}
	return nil
}

// detach lets the group at rel have what the groups above it have.
func (f *filters) detach(d dir, rel string) error {
	fd, err := d.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	old, err := attached(fd)
	if err == nil && old >= 0 {
		_, err = bpf(unix.BPF_PROG_DETACH, &attachArg{group: uint32(fd), program: uint32(old), kind: unix.BPF_CGROUP_DEVICE})
		_ = unix.Close(old)
	}
	if err != nil {
		return d.fail("detach the device filter of", rel, "", err)
	}
	return nil
}

// hold attaches a program that allows everything, for as long as the directory at rel exists. Without any, the kernel switches the
// hook off by patching its own text, and each lonely start and exit would have that done, with an interrupt for every processor.
func (f *filters) hold(d dir, rel string) error { return f.attach(d, rel, engine.AllDevices, false) }

// close gives the program back; groups keep theirs.
func (f *filters) close() {
	if f.program != 0 {
		_ = unix.Close(f.program)
	}
	f.program = 0
}

// attachedMax bounds how many programs of a group are looked at; the kernel allows 64.
const attachedMax = 64

// attached opens the program of ours that is attached to a group; -1 when there is none. Programs of others stay: all must
// allow what is to be allowed.
func attached(group int) (int, error) {
	var ids [attachedMax]uint32
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	query := queryArg{group: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: attachedMax}
	if _, err := bpf(unix.BPF_PROG_QUERY, &query); err != nil {
		return -1, err
	}
	for _, id := range ids[:query.count] {
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, &idArg{id: id})
		if errors.Is(err, unix.ENOENT) {
			continue // detached meanwhile
		}
		if err != nil {
			return -1, err
		}
		if programName(fd) == deviceFilter {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, nil
}

func programName(fd int) string {
	var info programInfo
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&info)
	arg := infoArg{fd: uint32(fd), size: uint32(unsafe.Sizeof(info)), info: uint64(uintptr(unsafe.Pointer(&info)))}
	if _, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, &arg); err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.name[:])
}

// filterLack says why this kernel cannot have device filters; empty when it can. It is asked once. Tests of other machines replace it.
var filterLack = sync.OnceValue(func() string {
	fd, err := loadDevices(nil)
	if err != nil {
		return "the kernel takes no device filter: bpf(2): " + err.Error()
	}
	_ = unix.Close(fd)
	return ""
})
