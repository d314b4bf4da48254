package engine

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Error is a refused or failed operation in the five parts that a user needs: what was tried, on what, with which value,
// why not, and what to do about it. Its errno is what write(2), mkdir(2) or rmdir(2) returns.
type Error struct {
	Op    string        // what was tried: "write", "start", "mkdir"
	File  string        // on what: "memory.max", a path, a step of the plan
	Value string        // what was written; empty when there was none
	Errno syscall.Errno // why, for programs
	Why   string        // why, for people; the errno's own text when empty
	Cure  string        // what to do about it; may be empty
	Err   error         // the cause, if another error was
}

// quotedMax bounds how much of a refused value an error quotes: enough to recognise it, never a megabyte.
const quotedMax = 80

// Error returns one line without a final newline: `memory.max: "12x" is not a size: write bytes, 256M, 1G or max`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.File != "" {
		b.WriteString(" " + e.File)
	}
	if e.Value != "" {
		fmt.Fprintf(&b, " %s", Quote(e.Value))
	}
	why := e.Why
	if why == "" && e.Err == nil {
		why = e.Errno.Error()
	}
	if why != "" {
		b.WriteString(": " + why)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Cure != "" {
		b.WriteString("; " + e.Cure)
	}
	return strings.ReplaceAll(b.String(), "\n", " ")
}

// Unwrap gives errors.Is and errors.As both the errno and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Errno}
	}
	return []error{e.Errno, e.Err}
}

// Quote renders a value that was refused: quoted, on one line, and cut when it is long.
func Quote(value string) string {
	value = strings.TrimSuffix(value, "\n")
	if len(value) > quotedMax {
		return fmt.Sprintf("%q… (%d bytes)", value[:quotedMax], len(value))
	}
	return fmt.Sprintf("%q", value)
}

// Errno maps an error to what a system call returns: the outermost [*Error]'s errno, else the first errno in the chain,
// else EIO. It is the only such mapping; fs.ToErrno of go-fuse does not unwrap and must not be used.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Errno != 0 {
		return e.Errno
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no
	}
	return syscall.EIO
}

// Invalid is the error of a malformed or out-of-range value. The cure says which values are taken.
func Invalid(file, value, why, cure string) *Error {
	return &Error{Op: "write", File: file, Value: value, Errno: syscall.EINVAL, Why: why, Cure: cure}
}
