package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// listenBacklog is how many connections wait that nobody has accepted; net.core.somaxconn bounds it.
const listenBacklog = 4096

// sockFile is the file of a socket, as it was when it was bound. Whoever puts another one there keeps it.
type sockFile struct {
	Path string `json:"path"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Born int64  `json:"born,omitempty"` // in nanoseconds, where the file system tells: numbers of files are used again
}

// remove removes the file, unless it is another one by now.
func (f sockFile) remove() error {
	is, err := lookAtSocket(unix.AT_FDCWD, f.Path)
	if err == nil && is != f {
		return nil
	}
	if err == nil {
		err = unix.Unlink(f.Path)
		crash.Point("remove the file of a socket")
	}
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ENOTSOCK {
		return nil
	}
	return os.NewSyscallError("unlink "+f.Path, err)
}

// openSockets opens all of them, or none.
func (e *Engine) openSockets(all []engine.Listener) (sockets []*os.File, files []sockFile, err error) {
	for _, l := range all {
		var s *os.File
		var f sockFile
		if s, f, err = e.openSocket(l); err != nil {
			closeFiles(sockets)
			return nil, nil, errors.Join(err, removeSockFiles(files))
		}
		sockets = append(sockets, s)
		if l.Path() {
			files = append(files, f)
		}
	}
	return sockets, files, nil
}

func removeSockFiles(files []sockFile) (err error) {
	for _, f := range files {
		err = errors.Join(err, f.remove())
	}
	return err
}

// openSocket opens one, in the network namespace of this process, and begins to listen.
func (e *Engine) openSocket(l engine.Listener) (s *os.File, file sockFile, err error) {
	domain, to, err := e.socketAddress(l)
	if err != nil {
		return nil, file, refusedSocket(l, err)
	}
	kind := unix.SOCK_STREAM
	if !l.Stream() {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, file, refusedSocket(l, err)
	}
	s = os.NewFile(uintptr(fd), l.Kind+" "+l.Address)
	if l.Kind == engine.ListenTCP { // what the last one has left behind in TIME_WAIT is in nobody's way
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil && domain == unix.AF_INET6 { // as the address says, whatever net.ipv6.bindv6only says
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, to)
		crash.Point("bind a socket")
	}
	if err == nil && l.Path() {
		file, err = sockFileOf(l)
	}
	if err == nil && l.Stream() {
		err = unix.Listen(fd, listenBacklog)
	}
	if err != nil {
		s.Close()
		if file.Path != "" {
			err = errors.Join(err, file.remove())
		}
		return nil, file, refusedSocket(l, err)
	}
	return s, file, nil
}

// socketAddress is where it is bound.
func (e *Engine) socketAddress(l engine.Listener) (domain int, to unix.Sockaddr, err error) {
	if l.Path() {
		// Not below the mount, where this process would wait for itself, and not on a file server that does not answer.
		if err := e.roots.Check(path.Dir(l.Address)); err != nil {
			errno := engine.Errno(err)
			return 0, nil, &engine.Error{Op: "start", File: "net.listen", Value: l.String(), Errno: errno, Err: err, Cure: socketCures[errno]}
		}
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: l.Address}, nil
	}
	a, err := l.AddrPort()
	if err != nil {
		return 0, nil, syscall.EINVAL
	}
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
	}
	zone, err := zoneOf(a.Addr())
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zone}, err
}

// zoneOf is the number of the interface that an address belongs to.
func zoneOf(a netip.Addr) (uint32, error) {
	if a.Zone() == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(a.Zone(), 10, 32); err == nil {
		return uint32(n), nil
	}
	dev, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0, syscall.ENODEV
	}
	return uint32(dev.Index), nil
}

// sockFileOf gives the file of a socket that was just bound its mode. It is found by a descriptor, for who may write to its directory
// may put a link in its place.
func sockFileOf(l engine.Listener) (sockFile, error) {
	fd, err := unix.Open(l.Address, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return sockFile{}, err
	}
	defer unix.Close(fd)
	f, err := lookAtSocket(fd, "")
	if err == unix.ENOTSOCK {
		err = unix.EADDRINUSE // it is not what was bound
	}
	if err != nil {
		return sockFile{}, err
	}
	f.Path = l.Address
	if err := unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), l.FileMode(), 0); err != nil {
		return f, err
	}
	crash.Point("give the file of a socket its mode")
	return f, nil
}

// lookAtSocket looks at the file of a socket of this user's. Errors: ENOTSOCK when it is something else.
func lookAtSocket(dir int, name string) (sockFile, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Uid != uint32(os.Geteuid())) {
		err = unix.ENOTSOCK
	}
	if err != nil {
		return sockFile{}, err
	}
	f := sockFile{Path: name, Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		f.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return f, nil
}

// bury removes the files of sockets that a server has bound and did not live to note: those to which nobody listens.
func bury(all []engine.Listener) (err error) {
	for _, l := range all {
		if !l.Path() {
			continue
		}
		f, bad := lookAtSocket(unix.AT_FDCWD, l.Address)
		if bad != nil || !dead(l) {
			continue
		}
		err = errors.Join(err, f.remove())
	}
	return err
}

// dead reports whether nobody has the socket of a path open.
func dead(l engine.Listener) bool {
	kind := unix.SOCK_STREAM
	if !l.Stream() {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: l.Address}) == unix.ECONNREFUSED
}

// socketCures says what to do about an address that cannot be had.
var socketCures = map[syscall.Errno]string{
	syscall.EADDRINUSE:    "end what listens there, remove the file if nobody does, or write another address",
	syscall.EADDRNOTAVAIL: "write an address that this machine has, or 0.0.0.0 or [::] for all",
	syscall.ENOENT:        "make its directory first",
	syscall.EACCES:        "write a port above 1023, or ask root to start it",
	syscall.ENODEV:        "name an interface that this machine has",
	syscall.EAFNOSUPPORT:  "this kernel runs without such addresses",
}

func refusedSocket(l engine.Listener, err error) error {
	if refused, ok := errors.AsType[*engine.Error](err); ok {
		return refused
	}
	errno := engine.Errno(err)
	return &engine.Error{Op: "start", File: "net.listen", Value: l.String(), Errno: errno, Err: err, Cure: socketCures[errno]}
}
