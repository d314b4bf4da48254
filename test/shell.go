package test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Shell is one running shell that is fed command after command and remembers what a person's would: variables, the
// working directory, background jobs. It is not safe for concurrent use.
//
// The shell reads its commands from a FIFO given as its script, so that its standard input is not the commands: a
// program that reads there finds the end at once instead of eating the next command.
type Shell struct {
	cmd    *exec.Cmd
	script *os.File
	fifo   string
	mark   string // ends each command's output; random, so that no output contains it

	mu     sync.Mutex
	output bytes.Buffer  // what has arrived and no command has claimed
	grown  chan struct{} // poked, never blocked on, when output grows or ends
	ended  bool
}

// ErrTimeout is the error of a command that had not ended in time. Its shell and all it started have been killed.
var ErrTimeout = errors.New("the command did not end in time")

// NewShell starts argv, a shell, in dir with env added to a small fixed environment. The FIFO is made in scratch.
func NewShell(dir, scratch string, env []string, argv ...string) (*Shell, error) {
	s := &Shell{
		fifo:  filepath.Join(scratch, "script"),
		mark:  "\x1e" + rand.Text() + " ",
		grown: make(chan struct{}, 1),
	}
	if err := syscall.Mkfifo(s.fifo, 0o600); err != nil {
		return nil, fmt.Errorf("mkfifo %s: %w", s.fifo, err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(argv[0], append(argv[1:len(argv):len(argv)], s.fifo)...)
	s.cmd.Dir = dir
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + scratch, "LC_ALL=C", "TERM=dumb"}, env...)
	s.cmd.Stdout, s.cmd.Stderr = in, in
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = s.cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	go s.collect(out)
	// O_RDWR does not wait for the shell to open its end.
	s.script, err = os.OpenFile(s.fifo, os.O_RDWR, 0)
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// collect gathers the output until every process that could write any is gone.
func (s *Shell) collect(out *os.File) {
	defer out.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		s.mu.Lock()
		s.output.Write(buf[:n])
		s.ended = err != nil
		s.mu.Unlock()
		select {
		case s.grown <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Run has the shell execute command and returns what it printed and its exit status. An error means that the shell is
// gone: the command ended it, or did not end itself.
func (s *Shell) Run(command string, timeout time.Duration) (output string, status int, err error) {
	// The status of the command stays in $? for the next one.
	line := fmt.Sprintf("%s\n__s=$?; printf '%s%%s\\n' $__s; (exit $__s)\n", command, s.mark)
	if _, err := io.WriteString(s.script, line); err != nil {
		return "", 0, fmt.Errorf("feeding the shell: %w", err)
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		out, status, done, err := s.claim()
		if done {
			return out, status, err
		}
		select {
		case <-s.grown:
		case <-deadline.C:
			s.kill()
			return s.rest(), 0, fmt.Errorf("%w (%v)", ErrTimeout, timeout)
		}
	}
}

// claim takes the output up to the mark, and the status after it, when both are there.
func (s *Shell) claim() (out string, status int, done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, after, found := bytes.Cut(s.output.Bytes(), []byte(s.mark))
	digits, _, whole := bytes.Cut(after, []byte("\n"))
	if !found || !whole {
		if s.ended {
			return s.output.String(), 0, true, errors.New("the command ended the shell")
		}
		return "", 0, false, nil
	}
	out = string(before)
	status, err = strconv.Atoi(string(digits))
	s.output.Next(len(before) + len(s.mark) + len(digits) + 1)
	return out, status, true, err
}

func (s *Shell) rest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

// kill ends everything in the shell's session that did not leave its process group.
func (s *Shell) kill() { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) }

// reluctance is how long a killed shell may take to go. One that waits for a FUSE server that does not answer cannot be
// killed: it goes when the mount does, and must not keep anybody from taking the mount down.
const reluctance = 2 * time.Second

// Close ends the shell and what it left in the background.
func (s *Shell) Close() {
	s.kill()
	gone := make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(reluctance):
	}
	if s.script != nil {
		s.script.Close()
	}
	os.Remove(s.fifo)
}
