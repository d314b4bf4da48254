package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Options are what a mount needs to know besides the engine.
type Options struct {
	Version string       // the text of the version file
	Logger  *slog.Logger // nil for slog's default
	Source  string       // what mount(8) shows as the mount's source; "ctrfs" when empty
	Replace bool         // what is mounted on the directory now, whose server is dead
	Heirs   *Heirs       // who answer those who wait since that one, or one before; nil without
}

// Server is a mounted tree.
type Server struct {
	fuse  *fuse.Server
	tree  *tree
	conn  *os.File // the connection, to be handed over
	heirs *Heirs   // on those before; nil without
	dir   string
	dev   uint64
}

const (
	// maxRead bounds a READ, in bytes. Each blocked reader of a stream holds a buffer of this size, so it is small: a
	// long text or log takes more requests, at some ten microseconds each.
	maxRead = 16 << 10

	mountFlags      = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	unmountNoFollow = 8 // UMOUNT_NOFOLLOW, umount2(2)
)

// Mount mounts the tree of e on dir and serves it; it returns when the mount answers. Errors: ENOENT, ENOTDIR (dir), ENOENT,
// ENODEV (no FUSE in this kernel), EPERM.
func Mount(dir string, e engine.Engine, o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, mountError(dir, err, "")
	}
	if o.Source == "" {
		o.Source = "ctrfs"
	}
	fd, err := connect(dir, o)
	if err != nil {
		return nil, err
	}
	s, err := serve(fd, e, o)
	if err != nil {
		syscall.Unmount(dir, syscall.MNT_DETACH) // the connection is closed: nothing is in use
		return nil, mountError(dir, err, "")
	}
	s.dir = dir
	if s.dev, err = device(dir); err != nil {
		return nil, errors.Join(mountError(dir, err, ""), s.Unmount())
	}
	if s.heirs = o.Heirs; s.heirs != nil {
		s.heirs.answer(e)
	}
	return s, nil
}

// mountError names what could not be mounted, and keeps the errno for a program's exit status.
func mountError(what string, err error, cure string) error {
	return &engine.Error{Op: "mount", File: what, Errno: engine.Errno(err), Err: err, Cure: cure}
}

// serve starts answering on a mounted connection, which it owns from here on.
func serve(fd int, e engine.Engine, o Options) (*Server, error) {
	t := &tree{engine: e, version: o.Version, log: o.Logger, started: time.Now(), root: rootScope, container: containerScope, exec: execScope, image: imageScope, network: networkScope}
	logger := slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn)
	raw := fs.NewNodeFS(&dir{node{tree: t}, t.root}, &fs.Options{
		NullPermissions: true, // chmod 0 means 0
		RootStableAttr:  &fs.StableAttr{Ino: rootIno},
		Logger:          logger,
	})
	// READDIRPLUS would make the text of every file for a plain ls, only to have it asked for again by ls -l.
	server, err := fuse.NewServer(wire{raw}, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		Name: "ctrfs", FsName: "ctrfs",
		MaxWrite:           maxValue,
		ExtraCapabilities:  fuse.CAP_ATOMIC_O_TRUNC,
		DisableReadDirPlus: true,
		DisableXAttrs:      true,
		DisableSplice:      true,
		Logger:             logger,
	})
	if err != nil {
		return nil, err
	}
	another, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		go server.Serve() // which closes it
		return nil, os.NewSyscallError("fcntl", errno)
	}
	s := &Server{fuse: server, tree: t, conn: os.NewFile(another, "/dev/fuse")}
	go func() {
		defer s.conn.Close()
		server.Serve()
	}()
	return s, nil
}

// wire stands between the kernel and go-fuse to pass on what go-fuse leaves out: whether a READ is for read(2), or fills a
// page for sendfile(2), splice(2) or mmap(2), and what the kernel calls the open file. The kernel names the lock owner in the
// former only (fs/fuse/file.c, fuse_send_read). A READ for a page comes from nobody, and each from the group that has the number
// of the file: whose it is does not matter to any READ.
type wire struct{ fuse.RawFileSystem }

func (w wire) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.ReadFlags&fuse.READ_LOCKOWNER == 0 {
		in.Uid = nobody
	}
	in.Gid = uint32(in.Fh) // which go-fuse makes of 32 bits
	return w.RawFileSystem.Read(cancel, in, buf)
}

// nobody is (uid_t)-1, which no process has.
const nobody = math.MaxUint32

// device reads the device number of what is mounted on dir, from proc_pid_mountinfo(5). To ask the mount itself would be the end of a
// server that is killed meanwhile: a thread that waits for an answer cannot die, and the connection stays open as long as it lives.
func device(dir string) (uint64, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0, err
	}
	dev, err := uint64(0), error(syscall.ENOENT)
	for line := range strings.Lines(string(table)) {
		var major, minor uint64
		fields := strings.Fields(line)
		if len(fields) < 5 || unescaped.Replace(fields[4]) != dir {
			continue
		}
		if _, e := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); e == nil {
			dev, err = minor&0xff|major<<8|(minor&^0xff)<<12, nil // makedev(3); the last line is about what lies on top
		}
	}
	return dev, err
}

// unescaped undoes what the kernel does to the names in that file.
var unescaped = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// Wait returns when the tree has been unmounted, by whomever; a copy in another mount namespace is a mount, too.
func (s *Server) Wait() { s.fuse.Wait() }

// Unmount unmounts the tree. It does not wait for copies in other mount namespaces; they end with this process. Errors:
// EBUSY while a file is open or a directory is anybody's working directory.
func (s *Server) Unmount() error {
	if err := syscall.Unmount(s.dir, unmountNoFollow); err != nil {
		return &engine.Error{Op: "umount", File: s.dir, Errno: engine.Errno(err), Err: err,
			Cure: "close its files and leave its directories; fuser -vm names who uses it"}
	}
	return nil
}

// Device is the st_dev of the mount, by which an engine refuses paths that lead into it.
func (s *Server) Device() uint64 { return s.dev }
