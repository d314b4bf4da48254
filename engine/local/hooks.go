package local

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// Hooks on the host are run by the keeper, one program each; those in the container by the launch itself. The child meets the
// server at a socket: it reports, the server has the hooks of that point run, and answers. A server that dies answers nothing,
// and the child gives up. A poststart hook runs at most once, a poststop hook at least once for an exit: the keeper keeps the
// exit until they have ended.

// meeting is a start with hooks: the server's end of the socket, and what the child's hooks read and write.
type meeting struct {
	c       *container
	view    *engine.View
	socket  *os.File // this end
	files   launch.Hooks
	points  []string   // at which the child reports, in order
	pid     int        // the child's, once it has reported; of serve's goroutine until it has ended
	verdict chan error // of serve, once
}

// meet prepares what the hooks of a start need, and listens to the child. Without hooks the result is nil, and nothing.
func (c *container) meet(v *engine.View, steps []plan.Step) (*meeting, error) {
	m := &meeting{c: c, view: v, verdict: make(chan error, 1), files: launch.Hooks{States: map[string]*os.File{}}}
	outputs := 0
	var err error
	for _, s := range steps {
		switch s := s.(type) {
		case plan.Hooks:
			m.points = append(m.points, s.Point)
		case plan.Hook:
			outputs++
			if m.files.States[s.Point] == nil && err == nil {
				m.files.States[s.Point], err = memory("state")
			}
		}
	}
	if len(m.points) == 0 {
		return nil, nil
	}
	if err == nil {
		m.files.Output, err = output(outputs)
	}
	if err == nil {
		m.files.Discard, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if err == nil {
		err = m.connect()
	}
	if err != nil {
		m.close()
		return nil, err
	}
	go func() { m.verdict <- m.serve() }()
	return m, nil
}

// connect makes the socket. It tells who has written to it: the child knows its own pid only as the container counts.
func (m *meeting) connect() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	m.socket, m.files.Meet = os.NewFile(uintptr(pair[0]), "meeting"), os.NewFile(uintptr(pair[1]), "meeting")
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
}

// end says what went wrong with a hook on the host, once the launch is over.
func (m *meeting) end() error {
	if m == nil {
		return nil
	}
	unix.Shutdown(int(m.socket.Fd()), unix.SHUT_RDWR)
	return <-m.verdict
}

// reached reports whether the child has come to its hooks. The meeting has ended.
func (m *meeting) reached() bool { return m != nil && m.pid != 0 }

func (m *meeting) close() {
	if m == nil {
		return
	}
	closeFiles([]*os.File{m.socket, m.files.Meet, m.files.Output, m.files.Discard})
	for _, f := range m.files.States {
		closeFiles([]*os.File{f})
	}
}

// serve answers the child as long as it reports.
func (m *meeting) serve() error {
	refuse := func(err error) error {
		unix.Shutdown(int(m.socket.Fd()), unix.SHUT_RDWR)
		return err
	}
	for i, point := range m.points {
		pid, err := reported(int(m.socket.Fd()))
		if pid == 0 || err != nil {
			return refuse(err) // it has died: the launch says why
		}
		m.pid = pid
		if i == 0 {
			if err := m.tell(pid); err != nil {
				return refuse(err)
			}
		}
		for _, h := range plan.HooksOf(m.view.Config.Spec.Hooks, point) {
			if err := m.c.runHook(point, h, m.c.stateFor(m.view, point, pid)); err != nil {
				return refuse(err)
			}
		}
		if _, err := m.socket.Write(make([]byte, 1)); err != nil {
			return err
		}
	}
	return nil
}

// tell writes down the states that hooks in the container read. They count processes as it does.
func (m *meeting) tell(pid int) error {
	inside, err := pidInside(pid)
	if err != nil {
		return err
	}
	for point, f := range m.files.States {
		if err := fill(f, m.c.stateFor(m.view, point, inside)); err != nil {
			return err
		}
	}
	return nil
}

// reported waits for a byte of the child's and returns its pid, 0 when it is gone.
func reported(socket int) (int, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, _, _, err := unix.Recvmsg(socket, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if n == 0 || err != nil {
			return 0, os.NewSyscallError("recvmsg", err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) == 0 {
			return 0, fmt.Errorf("a report from nobody: %w", syscall.EBADMSG)
		}
		from, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil {
			return 0, err
		}
		return int(from.Pid), nil
	}
}

// pidInside is the pid of a process in its own pid namespace, proc_pid_status(5).
func pidInside(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			all := strings.Fields(list)
			if len(all) > 0 {
				return strconv.Atoi(all[len(all)-1])
			}
		}
	}
	return pid, nil
}

// hookStatus is the container's status that hooks read, by point: runtime.md of the specification, "State".
var hookStatus = map[string]specs.ContainerState{
	plan.Prestart: specs.StateCreating, plan.CreateRuntime: specs.StateCreating, plan.CreateContainer: specs.StateCreating,
	plan.StartContainer: specs.StateCreated, plan.Poststart: specs.StateRunning, plan.Poststop: specs.StateStopped,
}

// stateFor is what a hook reads. The bundle is the container's directory in the mount, which has its config.json.
func (c *container) stateFor(v *engine.View, point string, pid int) []byte {
	text, err := json.Marshal(specs.State{Version: specs.Version, ID: v.ID, Status: hookStatus[point], Pid: pid,
		Bundle: filepath.Join(c.e.mountDir, v.Path), Annotations: v.Config.Spec.Annotations})
	if err != nil {
		c.e.log.Error("the state for a hook", "err", err) // it consists of strings and a number
	}
	return text
}

// runHook runs one hook on the host, with its environment and nothing else, as root in the directory /.
func (c *container) runHook(point string, h specs.Hook, state []byte) error {
	step := plan.NewHook(point, h)
	refuse := func(errno syscall.Errno, why string) error { return hookError(c.View().Path, step, errno, why) }
	in, err := memory("state")
	if err == nil {
		defer in.Close()
		err = fill(in, state)
	}
	var out, discard *os.File
	if err == nil {
		out, err = output(1)
	}
	if err == nil {
		defer out.Close()
		discard, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if err != nil {
		return refuse(engine.Errno(err), err.Error())
	}
	defer discard.Close()
	program, err := launch.Assemble(plan.OnHost(h, c.e.facts.noFile), launch.Files{Hooks: launch.Hooks{States: map[string]*os.File{"": in}, Discard: discard, Output: out}})
	if err != nil {
		return refuse(engine.Errno(err), err.Error())
	}
	status, err := c.e.keeper.Run(program, step.Timeout)
	if err != nil {
		return refuse(engine.Errno(err), hookEnd(step, engine.Errno(err), 0, firstLine(out, 0)))
	}
	if status != 0 {
		return refuse(syscall.ECANCELED, hookEnd(step, syscall.ECANCELED, status, firstLine(out, 0)))
	}
	return nil
}

// runLate runs the hooks of a point that nothing depends on any more: an error is no more than a line in the log.
func (c *container) runLate(v *engine.View, point string, pid int) {
	for _, h := range plan.HooksOf(v.Config.Spec.Hooks, point) {
		if err := c.runHook(point, h, c.stateFor(v, point, pid)); err != nil {
			c.e.log.Warn("a hook failed", "container", c.id, "err", err)
		}
	}
}

// endHooks ends what hooks of a failed start have left in the container's group: with a pid namespace of the host's they do not
// end with the child. Nothing else is in the group, unless a container below this one runs.
func (s *starting) endHooks() {
	for _, m := range s.c.family()[1:] {
		if m.View().State.Alive() {
			return
		}
	}
	left := func() bool {
		pids, err := s.group.Procs()
		return err == nil && len(pids) > 0
	}
	if !left() {
		return
	}
	if err := s.group.Kill(); err != nil {
		s.c.e.log.Warn("what hooks have left is not ended", "container", s.c.id, "err", err)
	}
	for range hookPatience {
		if !left() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// hookPatience is how many milliseconds what was killed has to be gone.
const hookPatience = 1000

func hookError(file string, step plan.Hook, errno syscall.Errno, why string) error {
	return &engine.Error{Op: "start", File: file, Errno: errno, Why: fmt.Sprintf("%s hook %s: %s", step.Point, step.Path, why)}
}

// hookEnd says how a hook ended that did not end well.
func hookEnd(step plan.Hook, errno syscall.Errno, status syscall.WaitStatus, line string) string {
	why := errno.Error() // it was not executed
	switch {
	case errno == syscall.ETIMEDOUT:
		why = fmt.Sprintf("killed after %s", step.Timeout)
	case errno == syscall.ECANCELED && status.Signaled():
		why = "killed by " + engine.SignalName(status.Signal())
	case errno == syscall.ECANCELED:
		why = fmt.Sprintf("exit status %d", status.ExitStatus())
	}
	if line != "" {
		why += ": " + engine.Quote(line)
	}
	return why
}

// firstLine is the first line of what the hook with that index has written.
func firstLine(f *os.File, index int) string {
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, int64(index)*launch.HookOutput)
	line, _, _ := bytes.Cut(b[:n], []byte{0}) // nothing was written from here on
	line, _, _ = bytes.Cut(bytes.TrimLeft(line, "\n"), []byte{'\n'})
	return string(line)
}

// memory makes a file in memory that can be sealed.
func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("ctrfs-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func seal(f *os.File, seals int) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	return os.NewSyscallError("fcntl", err)
}

// fill writes a file once and for all: several hooks may read it, and none changes what the next one reads.
func fill(f *os.File, text []byte) error {
	if _, err := f.WriteAt(text, 0); err != nil {
		return err
	}
	return seal(f, unix.F_SEAL_WRITE)
}

// output makes the file for what hooks write. It cannot grow: a hook is not to fill the memory of this machine.
func output(hooks int) (*os.File, error) {
	f, err := memory("output")
	if err != nil {
		return nil, err
	}
	if err = f.Truncate(int64(hooks) * launch.HookOutput); err == nil {
		err = seal(f, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
