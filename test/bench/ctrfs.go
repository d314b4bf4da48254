package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// throughMount does the job as a program would: eight system calls for its files, and two for its directory. Its second
// row is the write to start alone.
func throughMount(dir, root string) *contestant {
	jobs := 0
	return &contestant{
		rows: []*row{{name: "ctrfs"}, {name: "ctrfs, the write to start alone", parts: true}},
		run: func() ([]time.Duration, error) {
			jobs++
			c := filepath.Join(dir, fmt.Sprintf("bench%d", jobs))
			begin := time.Now()
			if err := os.Mkdir(c, 0o755); err != nil {
				return nil, err
			}
			if err := put(c+"/cmd", "/bin/true\n"); err != nil {
				return nil, reason(c, err)
			}
			if err := put(c+"/rootfs", root+"\n"); err != nil {
				return nil, reason(c, err)
			}
			launch := time.Now()
			if err := put(c+"/start", "1\n"); err != nil {
				return nil, reason(c, err)
			}
			launched := time.Since(launch)
			exit, err := os.ReadFile(c + "/wait")
			if err != nil || string(exit) != "0\n" {
				return nil, reason(c, fmt.Errorf("wait reads as %q, %v", exit, err))
			}
			if err := os.Remove(c); err != nil {
				return nil, err
			}
			return []time.Duration{time.Since(begin), launched}, nil
		},
	}
}

// put writes a value with one system call on a file opened as a shell opens it for >. It does without os.OpenFile, which
// registers every file with the poller first.
func put(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
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

// timed runs one command, which must succeed.
func timed(cmd *exec.Cmd) ([]time.Duration, error) {
	var out limited
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	took := time.Since(begin)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out.text))
	}
	return []time.Duration{took}, nil
}

// limited keeps the first line or two that a command says: enough to tell what is wrong with it.
type limited struct{ text []byte }

func (l *limited) Write(p []byte) (int, error) {
	const most = 300
	l.text = append(l.text, p[:min(len(p), most-len(l.text))]...)
	return len(p), nil
}
