package overlay

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDs says whose ids the files of a root have in the container. Files keep on disk what the container sees: its root's
// are 0, whichever range of the host's ids it has. The mounts translate (MOUNT_ATTR_IDMAP, mount_setattr(2)).
type IDs struct {
	// Userns is the user namespace whose mapping is used. It must stay open until the call that it is given to returns.
	Userns *os.File
	// UID and GID are the ids of its root on the host, as which overlayfs makes what it makes on its own account: in a
	// layer that is idmapped, the host's root has no id.
	UID, GID uint32
}

// as calls do on a thread that has the file system ids of ids' root and all rights still, which a change of fsuid takes
// away (capabilities(7)). The process is not dumpable afterwards, as after every change of ids; the server never is.
func (ids *IDs) as(do func() (*os.File, error)) (*os.File, error) {
	if ids == nil {
		return do()
	}
	runtime.LockOSThread()
	var before threadIDs
	if err := before.get(); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	during := before
	during.uid, during.gid = int(ids.UID), int(ids.GID)
	f, err := (*os.File)(nil), during.set()
	if err == nil {
		f, err = do()
	}
	if lost := before.set(); lost != nil {
		// Locked still, the thread serves nobody but this goroutine, and ends with it.
		if f != nil {
			f.Close()
		}
		return nil, lost
	}
	runtime.UnlockOSThread()
	return f, err
}

// threadIDs are what the calling thread reaches files with.
type threadIDs struct {
	uid, gid int
	caps     [2]unix.CapUserData
}

// noID changes nothing: setfsuid(2) and setfsgid(2) then only answer.
const noID = -1

func (t *threadIDs) get() error {
	t.uid, _ = unix.SetfsuidRetUid(noID)
	t.gid, _ = unix.SetfsgidRetGid(noID)
	return unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &t.caps[0])
}

func (t *threadIDs) set() error {
	unix.SetfsgidRetGid(t.gid) // neither says whether it failed
	unix.SetfsuidRetUid(t.uid)
	caps := t.caps
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	var now threadIDs
	if err := now.get(); err != nil {
		return err
	}
	if now != *t {
		return fmt.Errorf("setfsuid to %d:%d: %w", t.uid, t.gid, syscall.EPERM)
	}
	return nil
}

// unmappable is the error of a mount that cannot be idmapped.
type unmappable struct {
	kind, path string // of its file system, and where it is mounted or entered; empty when not known
	err        error
}

func (e *unmappable) Error() string {
	kind := "the file system"
	if e.kind != "" {
		kind = e.kind
	}
	why := "cannot show its files with the ids of a user namespace"
	if errors.Is(e.err, syscall.EPERM) {
		why = "shows its files with other ids already, or with those of a namespace that maps nothing"
	}
	return fmt.Sprintf("%s at %s %s", kind, e.path, why)
}

func (e *unmappable) Unwrap() []error { return []error{syscall.EOPNOTSUPP, e.err} }

// at completes the error for a mount that is entered at the path where, by dir.
func (e *unmappable) at(dir *os.File, where string) error {
	return &unmappable{kind: kindOf(dir), path: where, err: e.err}
}

// locate completes an error of clone(dir, …) if it is an [*unmappable].
func locate(err error, dir *os.File) error {
	var problem *unmappable
	if !errors.As(err, &problem) || problem.path != "" {
		return err
	}
	where, _ := os.Readlink(fdPath(dir))
	return problem.at(dir, where)
}

// mountLine is a line of proc_pid_mountinfo(5).
type mountLine struct {
	id    uint64
	dev   uint64 // st_dev
	path  string // where it is mounted
	below string // the same, relative to where was asked for; begins with "/"
	kind  string // its file system's type
}

// unescape undoes what the kernel does to white space in a path.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// parseMountLine parses a line. What it cannot read is left empty.
func parseMountLine(line string) mountLine {
	before, after, _ := strings.Cut(line, " - ")
	fields, kind := append(strings.Fields(before), "", "", "", "", ""), append(strings.Fields(after), "")
	id, _ := strconv.ParseUint(fields[0], 10, 64)
	major, minor, _ := strings.Cut(fields[2], ":")
	a, _ := strconv.ParseUint(major, 10, 32)
	b, _ := strconv.ParseUint(minor, 10, 32)
	return mountLine{id: id, dev: unix.Mkdev(uint32(a), uint32(b)), path: unescape.Replace(fields[4]), kind: kind[0]}
}

// eachMount calls do for every mount of this process, a mount before those on it.
func eachMount(do func(mountLine) error) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if err := do(parseMountLine(line)); err != nil {
			return err
		}
	}
	return nil
}

// mountsBelow calls do for each mount at a path below where.
func mountsBelow(where string, do func(mountLine) error) error {
	return eachMount(func(m mountLine) error {
		if m.path == where || !under(m.path, where) {
			return nil
		}
		m.below = path.Clean("/" + strings.TrimPrefix(m.path, where))
		return do(m)
	})
}

// under reports whether a clean absolute path is dir or below it.
func under(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// kindOf returns the type of the file system that f is on; empty when that cannot be known.
func kindOf(f *os.File) (kind string) {
	var st unix.Statx_t
	if unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st) != nil {
		return ""
	}
	eachMount(func(m mountLine) error {
		if m.id == st.Mnt_id {
			kind = m.kind
		}
		return nil
	})
	return kind
}

// withoutUserns is what to write where nothing can be idmapped.
const withoutUserns = "echo 'user host' > namespaces"
