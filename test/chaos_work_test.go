package test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// chaosWorker does one plan's operations on a tree whose server dies now and then.
type chaosWorker struct {
	*Instance
	number  int
	busybox string // a root
	slots   [chaosSlots]chaosSlot
	deaths  *keeperDeaths
	root    *os.Root // of the mount; nil when that has died
	broken  int      // how many system calls a dying mount has refused
	cut     bool     // that has happened to the last one
	ops     int      // done
}

// dead are the errors of a mount whose server has died, or is dying: EIO is what the kernel makes of a request that the server was
// killed in the middle of reading, or answering. One that the server itself gives is in its log.
var dead = []syscall.Errno{syscall.ENOTCONN, syscall.ECONNABORTED, syscall.EIO}

// through does something with the mount, and does it again when the mount dies. If it was cut off, it may have happened all the same:
// then the errors in done say so.
func (w *chaosWorker) through(do func(*os.Root) error, done ...syscall.Errno) error {
	again := false
	defer func() { w.cut = again }()
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		err := w.reach()
		if err == nil {
			err = do(w.root)
		}
		errno, _ := errors.AsType[syscall.Errno](err)
		switch {
		case err == nil, again && slices.Contains(done, errno):
			return nil
		case time.Now().After(end) || w.root != nil && !slices.Contains(dead, errno):
			return err
		}
		if w.root != nil {
			again = true
			w.broken++
			w.leave()
		}
	}
}

// fuseMagic is what statfs(2) calls a FUSE mount.
const fuseMagic = 0x65735546

// reach opens the mount, unless it is open. While there is none, its directory is one of the host's, in which nothing is to be made.
func (w *chaosWorker) reach() error {
	if w.root != nil {
		return nil
	}
	root, err := os.OpenRoot(w.Dir)
	if err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err == nil {
		var st syscall.Statfs_t
		err = syscall.Fstatfs(int(dir.Fd()), &st)
		dir.Close()
		if err == nil && st.Type != fuseMagic {
			err = fmt.Errorf("%s is not mounted: %w", w.Dir, syscall.ENOTCONN)
		}
	}
	if err != nil {
		root.Close()
		return err
	}
	w.root = root
	return nil
}

// leave closes the mount.
func (w *chaosWorker) leave() {
	if w.root != nil {
		w.root.Close()
		w.root = nil
	}
}

// write writes a file.
func (w *chaosWorker) write(path, value string, done ...syscall.Errno) error {
	return w.through(func(r *os.Root) error { return put(r, path, value) }, done...)
}

// put writes a file that is there.
func put(r *os.Root, path, value string) error {
	f, err := r.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value + "\n")
	return err
}

// read returns the text of a file without its last newline.
func (w *chaosWorker) read(path string) (text string, err error) {
	err = w.through(func(r *os.Root) error {
		f, err := r.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		text = strings.TrimSuffix(string(b), "\n")
		return err
	})
	return text, err
}

// expect reads a file that must have that text.
func (w *chaosWorker) expect(path, wanted string) error {
	got, err := w.read(path)
	if err == nil && got != wanted {
		err = fmt.Errorf("%s is %q, and must be %q", path, got, wanted)
	}
	return err
}

// until waits for a file to have a text that is as it should be.
func (w *chaosWorker) until(path string, good func(string) bool) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		got, err := w.read(path)
		if err != nil || good(got) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s stays %q", path, got)
		}
	}
}

// status returns a line of a container's status.
func (w *chaosWorker) status(name, key string) (string, error) {
	text, err := w.read(name + "/status")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), key+" "); ok {
			return value, err
		}
	}
	return "", err
}

// name is what the container in a slot is called at the moment.
func (w *chaosWorker) name(slot int) string {
	return fmt.Sprintf("w%d-%d-%d", w.number, slot, w.slots[slot].renamed)
}

// chaosDoes has what each operation does.
var chaosDoes = map[string]func(w *chaosWorker, s *chaosSlot, name string, op chaosOp) error{
	"create": (*chaosWorker).create, "configure": (*chaosWorker).configure, "start": (*chaosWorker).start, "stop": (*chaosWorker).stop,
	"kill": (*chaosWorker).kill, "exec": (*chaosWorker).exec, "look": (*chaosWorker).look, "freeze": (*chaosWorker).freeze,
	"rename": (*chaosWorker).rename, "inner": (*chaosWorker).inner, "remove": (*chaosWorker).remove,
}

// do does an operation.
func (w *chaosWorker) do(op chaosOp) error {
	w.ops++
	s := &w.slots[op.slot]
	name := w.name(op.slot)
	err := w.attempt(s, op)
	if err == nil {
		return nil
	}
	kind := ""
	if s.kind != nil {
		kind = s.kind.name
	}
	why, _ := w.read(name + "/error")
	status, _ := w.read(name + "/status")
	return fmt.Errorf("worker %d, operation %d, %s of %s (%s) with %d: %w; error: %s; status:\n%s", w.number, w.ops, op.verb, name, kind, op.code, err, why, status)
}

// mkdir makes a directory.
func (w *chaosWorker) mkdir(name string) error {
	return w.through(func(r *os.Root) error { return r.Mkdir(name, 0o755) }, syscall.EEXIST)
}

// rmdir removes one.
func (w *chaosWorker) rmdir(name string) error {
	return w.through(func(r *os.Root) error { return r.Remove(name) }, syscall.ENOENT)
}

func (w *chaosWorker) create(s *chaosSlot, name string, op chaosOp) error {
	*s = chaosSlot{kind: &chaosKinds[op.kind], state: idle, code: op.code, renamed: s.renamed}
	err := w.mkdir(name)
	for pair := range slices.Chunk(append([]string{"rootfs", w.busybox, "cmd", fmt.Sprintf(s.kind.cmd, s.code)}, s.kind.settings...), 2) {
		if err == nil {
			err = w.write(name+"/"+pair[0], pair[1])
		}
		if err == nil {
			err = w.expect(name+"/"+pair[0], pair[1])
		}
	}
	return err
}

// configure changes what can be changed in any state, and what only one that does not run takes.
func (w *chaosWorker) configure(s *chaosSlot, name string, op chaosOp) error {
	limit := strconv.Itoa(op.code << 20 * 4)
	err := errors.Join(w.write(name+"/memory.high", limit), w.expect(name+"/memory.high", limit))
	if s.state == runs {
		return err
	}
	env := "CODE=" + strconv.Itoa(op.code)
	s.env = env
	return errors.Join(err, w.write(name+"/env", env), w.expect(name+"/env", env))
}

// begin starts a program. If the mount died meanwhile, the program may have been started: then it runs, or one that exits at once is
// simply started again.
func (w *chaosWorker) begin(name string) error {
	end, cut := time.Now().Add(patience/3), false
	for {
		busy := false
		err := w.through(func(r *os.Root) error {
			err := put(r, name+"/start", "1")
			busy = errors.Is(err, syscall.EBUSY)
			return err
		}, syscall.EBUSY)
		cut = cut || w.cut
		if !busy || !cut {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s stays busy: %w", name, syscall.EBUSY)
		}
		if state, err := w.read(name + "/state"); err != nil || state == "running" {
			return err
		}
	}
}

func (w *chaosWorker) start(s *chaosSlot, name string, op chaosOp) error {
	if len(s.kind.settings) > 0 && s.kind.settings[0] == "stdin.open" {
		if err := w.write(name+"/stdin.open", "1"); err != nil { // its last run was ended so
			return err
		}
	}
	if err := w.begin(name); err != nil {
		return err
	}
	if !s.kind.stays {
		s.state, s.exit = ended, strconv.Itoa(s.code)
		err := w.expect(name+"/wait", s.exit)
		if err == nil && s.kind.retries > 0 {
			var times string
			if times, err = w.status(name, "restarts"); err == nil && times != strconv.Itoa(s.kind.retries) {
				err = fmt.Errorf("it was restarted %s times, and must be %d times", times, s.kind.retries)
			}
		}
		return err
	}
	s.state = runs
	return w.ready(s, name)
}

// ready waits until the program has said that it is.
func (w *chaosWorker) ready(s *chaosSlot, name string) error {
	err := w.until(name+"/log", func(text string) bool { return strings.Contains(text, "up") })
	if err == nil {
		s.pid, err = w.read(name + "/pid")
	}
	if err == nil && s.pid == "" {
		err = errors.New("it has no pid")
	}
	return err
}

func (w *chaosWorker) stop(s *chaosSlot, name string, op chaosOp) error {
	s.state, s.exit = ended, strconv.Itoa(s.code)
	if err := w.write(name+"/"+s.kind.stop[0], s.kind.stop[1], syscall.EBUSY); err != nil {
		return err
	}
	cut := w.cut
	exit, err := w.read(name + "/wait")
	if err == nil && exit == "137" && s.kind.returns && (cut || w.deaths.count() > 0) {
		// The first stop was cut off before it was noted, and a restart followed the exit. The second one came before that program
		// knew what to do with it.
		s.exit = exit
	}
	return errors.Join(err, w.expect(name+"/exit", s.exit))
}

func (w *chaosWorker) kill(s *chaosSlot, name string, op chaosOp) error {
	said, err := w.read(name + "/log")
	if err != nil {
		return err
	}
	if err := w.write(name+"/kill", "KILL", syscall.EBUSY); err != nil {
		return err
	}
	if s.kind.returns {
		before := s.pid
		if err := w.until(name+"/pid", func(pid string) bool { return pid != "" && pid != before }); err != nil {
			return err
		}
		// What a program before it has said is in the log, too. Until it is ready it does not hear what it is told.
		times, err := w.status(name, "restarts")
		n, _ := strconv.Atoi(times)
		if w.deaths.count() > 0 { // and some may have ended before they could say it
			n = strings.Count(said, "up")
		}
		if err == nil {
			err = w.until(name+"/log", func(text string) bool { return strings.Count(text, "up") > n })
		}
		return errors.Join(err, w.ready(s, name))
	}
	s.state, s.exit = ended, "137"
	return w.expect(name+"/wait", s.exit)
}

// look finds the container as it must be.
func (w *chaosWorker) look(s *chaosSlot, name string, op chaosOp) error {
	err := w.expect(name+"/cmd", fmt.Sprintf(s.kind.cmd, s.code))
	if s.env != "" {
		err = errors.Join(err, w.expect(name+"/env", s.env))
	}
	switch s.state {
	case idle:
		return errors.Join(err, w.expect(name+"/state", "created"), w.expect(name+"/exit", ""))
	case ended:
		return errors.Join(err, w.expect(name+"/state", "exited"), w.expect(name+"/exit", s.exit))
	}
	return errors.Join(err, w.expect(name+"/state", "running"), w.expect(name+"/pid", s.pid))
}

func (w *chaosWorker) freeze(s *chaosSlot, name string, op chaosOp) error {
	return errors.Join(w.write(name+"/cgroup.freeze", "1"), w.expect(name+"/state", "paused"),
		w.write(name+"/cgroup.freeze", "0"), w.expect(name+"/state", "running"), w.expect(name+"/pid", s.pid))
}

// program makes a program that exits at once, an exec or a container, waits for it, and removes it.
func (w *chaosWorker) program(name string, settings []string, code int) error {
	err := w.mkdir(name)
	for pair := range slices.Chunk(append(settings, "cmd", fmt.Sprintf("sh -c 'exit %d'", code)), 2) {
		if err == nil {
			err = w.write(name+"/"+pair[0], pair[1])
		}
	}
	if err == nil {
		err = w.begin(name)
	}
	if err == nil {
		err = w.expect(name+"/wait", strconv.Itoa(code))
	}
	if err == nil {
		err = w.rmdir(name)
	}
	return err
}

func (w *chaosWorker) exec(s *chaosSlot, name string, op chaosOp) error {
	return w.program(name+"/exec/x", nil, op.code)
}

func (w *chaosWorker) inner(s *chaosSlot, name string, op chaosOp) error {
	return w.program(name+"/in", []string{"rootfs", w.busybox}, op.code)
}

func (w *chaosWorker) rename(s *chaosSlot, name string, op chaosOp) error {
	s.renamed++
	next := w.name(op.slot)
	return w.through(func(r *os.Root) error { return r.Rename(name, next) }, syscall.ENOENT)
}

func (w *chaosWorker) remove(s *chaosSlot, name string, op chaosOp) error {
	*s = chaosSlot{renamed: s.renamed}
	return w.rmdir(name)
}

// account looks at everything that there must be at the end, and returns the names.
func (w *chaosWorker) account() (names []string, err error) {
	for i := range w.slots {
		s := &w.slots[i]
		if s.state == absent {
			continue
		}
		names = append(names, w.name(i))
		if e := w.recall(s, w.name(i), false); e != nil {
			err = errors.Join(err, fmt.Errorf("worker %d, at the end: %w", w.number, e))
		}
		if e := w.look(s, w.name(i), chaosOp{}); e != nil {
			err = errors.Join(err, fmt.Errorf("worker %d, at the end: %s (%s): %w", w.number, w.name(i), s.kind.name, e))
		}
	}
	return names, err
}

// clear removes everything.
func (w *chaosWorker) clear() (err error) {
	for i := range w.slots {
		if s := &w.slots[i]; s.state != absent {
			if s.state == runs {
				err = errors.Join(err, w.stop(s, w.name(i), chaosOp{}))
			}
			err = errors.Join(err, w.remove(s, w.name(i), chaosOp{}))
		}
	}
	w.leave()
	return err
}
