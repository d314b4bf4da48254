package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// throughMount does the job as a program in C would: fourteen system calls, of which each of the four files takes an open, a
// read or write and a close. Its second row is the write to start alone. Settings are more files to write, and what they hold.
func throughMount(name, dir, root string, settings ...[2]string) *contestant {
	jobs := 0
	return &contestant{
		rows: []*row{{name: name}, {name: name + ": the write to start alone", parts: true}},
		run: func() ([]time.Duration, error) {
			jobs++
			c := filepath.Join(dir, fmt.Sprintf("bench%d-%d", len(settings), jobs))
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin := time.Now()
			if err := raw("mkdir", unix.SYS_MKDIRAT, c, 0o755); err != nil {
				return nil, err
			}
			if err := put(c+"/cmd", "/bin/true\n"); err != nil {
				return nil, reason(c, err)
			}
			if err := put(c+"/rootfs", root+"\n"); err != nil {
				return nil, reason(c, err)
			}
			for _, s := range settings {
				if err := put(c+"/"+s[0], s[1]+"\n"); err != nil {
					return nil, reason(c, err)
				}
			}
			launch := time.Now()
			if err := put(c+"/start", "1\n"); err != nil {
				return nil, reason(c, err)
			}
			launched := time.Since(launch)
			exit, err := get(c + "/wait")
			if err != nil || exit != "0\n" {
				return nil, reason(c, fmt.Errorf("wait reads as %q, %v", exit, err))
			}
			if err := raw("rmdir", unix.SYS_UNLINKAT, c, unix.AT_REMOVEDIR); err != nil {
				return nil, err
			}
			return []time.Duration{time.Since(begin), launched}, nil
		},
	}
}

// raw makes a system call on a path without telling Go's scheduler, which would otherwise give this thread's processor away
// in each call and wake two more threads to get it back: time of this program's, not of what it measures.
func raw(op string, call uintptr, path string, arg uintptr) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(call, atCWD, uintptr(unsafe.Pointer(p)), arg); errno != 0 {
		return &os.PathError{Op: op, Path: path, Err: errno}
	}
	return nil
}

const atCWD = unix.AT_FDCWD & (1<<64 - 1)

// put writes a value with one system call on a file opened as a shell opens it for >.
func put(path, value string) error {
	_, err := transfer(path, unix.O_WRONLY|unix.O_TRUNC, unix.SYS_WRITE, []byte(value))
	return err
}

// get reads a short file.
func get(path string) (string, error) {
	var text [64]byte
	n, err := transfer(path, unix.O_RDONLY, unix.SYS_READ, text[:])
	return string(text[:n]), err
}

// transfer opens a file, makes one call with a buffer on it and closes it.
func transfer(path string, flags, call uintptr, buffer []byte) (int, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, atCWD, uintptr(unsafe.Pointer(p)), flags|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, &os.PathError{Op: "open", Path: path, Err: errno}
	}
	n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)))
	for errno == unix.EINTR {
		n, _, errno = unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)))
	}
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if errno != 0 {
		return 0, &os.PathError{Op: "read or write", Path: path, Err: errno}
	}
	return int(n), nil
}

// reason adds the container's own sentence to an error, and removes the container.
func reason(c string, err error) error {
	text, _ := os.ReadFile(c + "/error")
	os.Remove(c)
	return fmt.Errorf("%w; error: %s", err, text)
}

// throughDash does it as a person would.
func throughDash(dir, root string) *contestant {
	const script = `mkdir bench && echo /bin/true > bench/cmd && echo "$0" > bench/rootfs && echo 1 > bench/start &&
		cat bench/wait && rmdir bench`
	return &contestant{
		rows: []*row{{name: "ctrfs, by a dash script"}},
		run: func() ([]time.Duration, error) {
			cmd := exec.Command("dash", "-c", script, root)
			cmd.Dir = dir
			return timed(cmd)
		},
	}
}

// timed runs one command, which must succeed. What it says goes to a file: a pipe would cost it a goroutine. What it could read
// is that file too, and not /dev/null: crun and runc give their standard input to the container's root, as its owner.
func timed(cmd *exec.Cmd) ([]time.Duration, error) {
	out, err := memfd()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = out, out, out
	begin := time.Now()
	err = cmd.Run()
	took := time.Since(begin)
	if err != nil {
		text := make([]byte, 300) // enough to tell what is wrong with it
		n, _ := out.ReadAt(text, 0)
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(text[:n]))
	}
	return []time.Duration{took}, nil
}

func memfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}
