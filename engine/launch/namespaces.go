package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// namespacesLimit bounds the making of namespaces, which takes half a millisecond, and more while the kernel tears down many.
const namespacesLimit = 10 * time.Second

// Kinds are the namespaces that [Namespaces] can make, by their names in /proc/PID/ns and in this order.
var Kinds = []struct {
	Name string
	Flag uint64 // CLONE_NEW*
}{{"user", unix.CLONE_NEWUSER}, {"net", unix.CLONE_NEWNET}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}}

// Namespaces makes the first n of [Kinds]: a user namespace with these mappings, in the format of /proc/PID/uid_map, and
// others that it owns, the network with lo up. A process can map ids for another one only, so a child lives in them until
// they are mapped and opened; it shares this process's memory and is none that anybody else sees. The files are
// close-on-exec. Errors: EPERM and EINVAL (the mappings), ENOSPC (the limit on namespaces), ENOMEM.
func Namespaces(n int, uidMap, gidMap string) (made []*os.File, err error) {
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	goOn, goOnEnd, err := os.Pipe()
	if err != nil {
		readyEnd.Close()
		return nil, err
	}
	defer goOn.Close()
	img, err := dweller(n, readyEnd, goOn)
	if err != nil {
		return nil, errors.Join(err, readyEnd.Close(), goOnEnd.Close())
	}
	ended := make(chan error, 1)
	go func() {
		err := img.Perform(namespacesLimit)
		readyEnd.Close() // nobody holds the other copy any more: a reader that still waits is told
		ended <- err
	}()
	if _, err = io.ReadFull(ready, make([]byte, 1)); err == nil {
		made, err = adopt(n, img.PID(), uidMap, gidMap)
	}
	goOnEnd.Write(make([]byte, 1)) // closing it is not enough: other children, on their way to a program, have copies
	goOnEnd.Close()
	if died := <-ended; died != nil {
		err = fmt.Errorf("make namespaces: %w", died)
	}
	img.Close()
	return made, err
}

// ifreq is struct ifreq, netdevice(7), as far as flags need it.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// raiseLo brings lo up in the child's network namespace.
func raiseLo(p *Program) {
	up := ifreq{flags: unix.IFF_UP}
	copy(up.name[:], "lo")
	socket := p.result(p.call(unix.SYS_SOCKET, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0)))
	p.call(unix.SYS_IOCTL, socket, num(unix.SIOCSIFFLAGS), structure(p, &up))
}

// network enters or makes the network namespace.
func (a *assembler) network(s plan.Network) {
	if !s.Here {
		a.call(unix.SYS_SETNS, a.file(a.files.Net), num(unix.CLONE_NEWNET))
		return
	}
	a.call(unix.SYS_UNSHARE, num(unix.CLONE_NEWNET))
	raiseLo(&a.Program)
}

// dweller is the program of that child: it brings up lo, says so, and stays until it is told that it may go, or its parent was
// killed.
func dweller(n int, ready, goOn *os.File) (*Image, error) {
	p := Program{into: -1}
	for _, k := range Kinds[:n] {
		p.cloneFlags |= k.Flag
	}
	if p.cloneFlags&unix.CLONE_NEWNET != 0 { // else lo is the host's, over which the child has no rights
		raiseLo(&p)
	}
	// It has copies of all that its parent has open: its own writing end, which would keep it waiting, that of others like it, which
	// would wait for each other, and locks.
	p.call(unix.SYS_DUP3, p.file(goOn), num(0), num(0))
	p.call(unix.SYS_DUP3, p.file(ready), num(1), num(0))
	p.call(unix.SYS_CLOSE_RANGE, num(2), num(uint32(1<<32-1)), num(0))
	byte1 := p.bytes(make([]byte, 1))
	p.call(unix.SYS_WRITE, num(1), byte1, num(1))
	p.call(unix.SYS_READ, num(0), byte1, num(1))
	p.leave()
	text, err := p.Encode()
	if err != nil {
		return nil, err
	}
	defer text.Close()
	var fds []int
	for _, f := range p.Files() {
		fds = append(fds, int(f.Fd()))
	}
	return Load(int(text.Fd()), fds)
}

// adopt maps the ids of a process's user namespace and opens its namespaces.
func adopt(n, pid int, uidMap, gidMap string) (made []*os.File, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, m := range []struct{ file, text string }{{"uid_map", uidMap}, {"gid_map", gidMap}} {
		if err := os.WriteFile(dir+m.file, []byte(m.text), 0); err != nil {
			return nil, err
		}
	}
	for _, k := range Kinds[:n] {
		f, err := os.Open(dir + "ns/" + k.Name)
		if err != nil {
			for _, f := range made {
				f.Close()
			}
			return nil, err
		}
		made = append(made, f)
	}
	return made, nil
}
