package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stateVersion is the version of the text below. It changes when a program that knows the old one would get it wrong; what is added
// and may be missing changes nothing.
const stateVersion = 1

// stateReads are the versions that this program takes over from.
var stateReads = []int{stateVersion}

// state is what a keeper hands over to the program that it executes: JSON in a memfd. Files are numbers of descriptors.
type state struct {
	Version  int              `json:"version"`
	Last     Request          `json:"last"`
	Listener int              `json:"listener"`
	Asker    int              `json:"asker"` // who has asked for it, and waits for the answer
	Claims   int              `json:"claims"`
	Inotify  int              `json:"inotify"` // of consoles; -1 without
	Children []savedChild     `json:"children"`
	Exits    []message        `json:"exits"` // also in the journal, if that could be written
	Pins     map[string][]int `json:"pins"`
	Inputs   map[string][]int `json:"inputs"`
	Sockets  map[string][]int `json:"sockets,omitempty"`
	Waits    [][]int          `json:"waits,omitempty"`
}

type savedChild struct {
	ID       string         `json:"id"`
	PID      int            `json:"pid"`
	PidFD    int            `json:"pidfd"`
	Started  int64          `json:"started"`
	Mark     string         `json:"mark"`
	Adopted  bool           `json:"adopted,omitempty"`
	Terminal *savedTerminal `json:"terminal,omitempty"`
}

type savedTerminal struct {
	Master  int           `json:"master"`
	Log     int           `json:"log"`
	Typed   []byte        `json:"typed,omitempty"`
	Console *savedConsole `json:"console,omitempty"`
}

type savedConsole struct {
	Master  int `json:"master"`
	Slave   int `json:"slave"`
	Number  int `json:"number"`
	Watch   int `json:"watch"`
	Open    int `json:"open"`
	Came    int `json:"came"`
	Refused int `json:"refused"`
}

// saver numbers files, and remembers the numbers and the first error.
type saver struct {
	fds []int
	err error
}

// number is that of a file's descriptor. Unlike [os.File.Fd] it leaves the file in the runtime's poller.
func (s *saver) number(f syscall.Conn) int {
	number := -1
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { number = int(fd) })
	}
	if err != nil {
		s.err = errors.Join(s.err, fmt.Errorf("hand over a descriptor: %w", err))
	}
	s.fds = append(s.fds, number)
	return number
}

func (s *saver) numbers(files []*os.File) (out []int) {
	for _, f := range files {
		out = append(out, s.number(f))
	}
	return out
}

// save returns what is to be handed over, with or without the sockets that containers listen on. k.mu and that of the readers of consoles are held, and nothing is copied.
func (k *Keeper) save(l *net.UnixListener, asker *net.UnixConn, sockets bool) (*state, []int, error) {
	var n saver
	s := &state{Version: stateVersion, Last: k.last, Listener: n.number(l), Asker: n.number(asker), Claims: n.number(k.claims),
		Inotify: consoleReaders.fd, Pins: map[string][]int{}, Inputs: map[string][]int{}}
	if s.Inotify >= 0 {
		n.fds = append(n.fds, s.Inotify)
	}
	for c := range k.living {
		m := message{ID: c.id}
		one := savedChild{ID: m.id(), PID: c.pid, PidFD: n.number(c.pidfd), Started: c.started.UnixNano(), Mark: c.mark, Adopted: c.adopted}
		if c.terminal != nil {
			one.Terminal = c.terminal.save(&n)
		}
		s.Children = append(s.Children, one)
	}
	for _, m := range k.exits {
		s.Exits = append(s.Exits, m)
	}
	for id, files := range k.pins {
		m := message{ID: id}
		s.Pins[m.id()] = n.numbers(files)
	}
	for id, files := range k.inputs {
		m := message{ID: id}
		s.Inputs[m.id()] = n.numbers(files)
	}
	if sockets { // else they are closed with this program
		s.Sockets = map[string][]int{}
		for id, files := range k.sockets {
			m := message{ID: id}
			s.Sockets[m.id()] = n.numbers(files)
		}
	}
	for _, files := range k.waits {
		s.Waits = append(s.Waits, n.numbers(files))
	}
	return s, n.fds, n.err
}

func (t *terminal) save(n *saver) *savedTerminal {
	s := &savedTerminal{Master: n.number(t.master), Log: n.number(t.log), Typed: t.typed}
	if c := t.console; c != nil {
		s.Console = &savedConsole{Master: n.number(c.master), Slave: n.number(c.slave), Number: c.number, Refused: c.refused,
			Watch: c.reader.watch, Open: c.reader.open, Came: c.reader.came}
	}
	return s
}

// write puts it into a memfd.
func (s *state) write() (*os.File, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	if err = json.NewEncoder(f).Encode(s); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write down what is to be handed over: %w", err)
	}
	return f, nil
}

// Resume is [New] for a program that a keeper has executed. text is what that one has written down, and the listener is what
// [Keeper.Serve] is to be called with. A server is on its way when it returns; whoever has asked is told what becomes of it.
func Resume(log *slog.Logger, dir string, text *os.File, spawn func(*os.File, Request) (int, error)) (*Keeper, *net.UnixListener, error) {
	var s state
	err := json.NewDecoder(text).Decode(&s)
	if err == nil && !slices.Contains(stateReads, s.Version) {
		err = fmt.Errorf("version %d: %w", s.Version, syscall.EOPNOTSUPP)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("what the keeper has handed over cannot be read: %w", err)
	}
	socket := takeOver(s.Listener, "control")
	defer socket.Close()
	listener, err := net.FileListener(socket)
	if err != nil {
		return nil, nil, err
	}
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, nil, fmt.Errorf("the control socket is none: %w", syscall.ENOTSOCK)
	}
	l.SetUnlinkOnClose(false)
	k, err := newKeeper(log, dir, takeOver(s.Claims, "claims"), spawn, s.restore)
	if err != nil {
		return nil, nil, err
	}
	log.Info("took over", "containers", len(s.Children))
	asker := takeOver(s.Asker, "asker")
	request := s.Last
	request.Again = true
	k.attend(request.Service)
	go k.restart(request, func(err error) {
		reply(asker, err)
		asker.Close()
	})
	return k, l, nil
}

// takeOver makes a file of a descriptor that was handed over.
func takeOver(fd int, name string) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

func takeAll(fds []int, name string) (files []*os.File) {
	for _, fd := range fds {
		files = append(files, takeOver(fd, name))
	}
	return files
}

// restore takes what was handed over, and leaves of the runs in the journal those that were not.
func (s *state) restore(k *Keeper, runs []run) []run {
	k.last, k.restarting, k.awaited = s.Last, true, false // before the first exit can be noticed: this keeper is not idle
	for _, m := range s.Exits {
		k.exits[exitKey{m.ID, m.Started}] = m
	}
	for id, fds := range s.Pins {
		k.pins[idBytes(id)] = takeAll(fds, "namespace")
	}
	for id, fds := range s.Inputs {
		k.inputs[idBytes(id)] = takeAll(fds, "stdin")
	}
	for id, fds := range s.Sockets {
		k.sockets[idBytes(id)] = takeAll(fds, "socket")
	}
	for _, fds := range s.Waits {
		k.waits = append(k.waits, takeAll(fds, "waits"))
	}
	if s.Inotify >= 0 {
		syscall.CloseOnExec(s.Inotify)
		consoleReaders.mu.Lock()
		consoleReaders.fd = s.Inotify
		consoleReaders.mu.Unlock()
	}
	for _, one := range s.Children {
		c := &child{id: idBytes(one.ID), pid: one.PID, pidfd: takeOver(one.PidFD, "pidfd"), started: time.Unix(0, one.Started), mark: one.Mark,
			adopted: one.Adopted, executed: true, reaped: make(chan struct{})}
		if one.Terminal != nil {
			c.terminal = one.Terminal.restore(k, one.ID)
		}
		runs = slices.DeleteFunc(runs, func(r run) bool { return r.id == c.id && r.started == one.Started })
		if !c.adopted {
			k.children[c.pid] = c
			continue
		}
		if err := k.takeIn(c); err != nil {
			k.log.Error("a program that was adopted is not watched any more", "id", one.ID, "pid", c.pid, "err", err)
		}
	}
	return runs
}

func (s *savedTerminal) restore(k *Keeper, id string) *terminal {
	var c *console
	if s.Console != nil {
		c = &console{master: takeOver(s.Console.Master, "console"), slave: takeOver(s.Console.Slave, "console"), number: s.Console.Number,
			refused: s.Console.Refused, reader: &reader{watch: s.Console.Watch, open: s.Console.Open, came: s.Console.Came}}
		consoleReaders.mu.Lock()
		consoleReaders.count[c.reader.watch] = c.reader
		consoleReaders.mu.Unlock()
	}
	return k.newTerminal(id, takeOver(s.Master, "terminal"), takeOver(s.Log, "log"), c, s.Typed)
}
