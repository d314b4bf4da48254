package seccomp

import "golang.org/x/sys/unix"

// assembler writes a program from its end to its beginning. Jumps of classic BPF go forward only, so everything that an
// instruction can jump to exists already when it is written, and its distance is known: nothing is patched afterwards.
type assembler struct {
	code    []unix.SockFilter // the last instruction first
	returns map[uint32]label  // the nearest return of each action
}

// label is a place in the program: how many instructions there are from it to the end. There is no place 0.
type label int

// target is where control goes: to a place, or if that is 0, out of the program with an action. Equal targets do the same.
type target struct {
	place  label
	action uint32
}

const (
	// reach is how far a conditional jump goes, less one for the instruction that its other branch may still need.
	reach = 255 - 1
	// maxInstructions is the kernel's BPF_MAXINSNS.
	maxInstructions = 4096
)

// emit adds an instruction before all others. A program that is too long already grows no further; it will be refused.
func (a *assembler) emit(op uint16, jt, jf label, k uint32) label {
	if len(a.code) <= maxInstructions {
		a.code = append(a.code, unix.SockFilter{Code: op, Jt: uint8(jt), Jf: uint8(jf), K: k})
	}
	return label(len(a.code))
}

// distance is what an instruction emitted now has to skip to be at l.
func (a *assembler) distance(l label) label { return label(len(a.code)) - l }

// near returns a place with the effect of t within the reach of a conditional jump. Returns are repeated where the last one
// is too far, everything else is reached through an unconditional jump, which has 32 bits for the distance.
func (a *assembler) near(t target) label {
	l := t.place
	if l == 0 {
		l = a.returns[t.action]
	}
	switch {
	case l != 0 && a.distance(l) <= reach:
		return l
	case t.place != 0:
		return a.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(a.distance(l)))
	}
	l = a.emit(unix.BPF_RET|unix.BPF_K, 0, 0, t.action)
	a.returns[t.action] = l
	return l
}

// branch compares the accumulator with k.
func (a *assembler) branch(comparison uint16, k uint32, yes, no target) target {
	if yes == no {
		return yes
	}
	y := a.near(yes)
	n := a.near(no)
	return target{place: a.emit(unix.BPF_JMP|unix.BPF_K|comparison, a.distance(y), a.distance(n), k)}
}

// load puts a word of struct seccomp_data, or the bits of it in mask, into the accumulator.
func (a *assembler) load(offset, mask uint32, next target) target {
	if l := a.near(next); a.distance(l) != 0 { // it goes on with the instruction behind it, not with a target
		a.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(a.distance(l)))
	}
	if mask != ^uint32(0) {
		a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, mask)
	}
	return target{place: a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset)}
}
