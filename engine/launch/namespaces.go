package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespacesLimit bounds the making of namespaces, which takes half a millisecond, and more while the kernel tears down many.
const namespacesLimit = 10 * time.Second

// Namespaces makes a user namespace with these mappings, in the format of /proc/PID/uid_map, and a network namespace that it
// owns, with lo up. A process can map ids for another one only, so a child lives in them until they are mapped and opened;
// it shares this process's memory and is none that anybody else sees. Both files are close-on-exec. Errors: EPERM and EINVAL
// (the mappings), ENOSPC (the limit on namespaces), ENOMEM.
func Namespaces(uidMap, gidMap string) (user, net *os.File, err error) {
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer ready.Close()
	goOn, goOnEnd, err := os.Pipe()
	if err != nil {
		readyEnd.Close()
		return nil, nil, err
	}
	defer goOn.Close()
	img, err := dweller(readyEnd, goOn)
	if err != nil {
		return nil, nil, errors.Join(err, readyEnd.Close(), goOnEnd.Close())
	}
	ended := make(chan error, 1)
	go func() {
		child, err := img.Launch(namespacesLimit)
		if child.PidFD >= 0 {
			unix.Close(child.PidFD)
		}
		readyEnd.Close() // nobody holds the other copy any more: a reader that still waits is told
		ended <- err
	}()
	if _, err = io.ReadFull(ready, make([]byte, 1)); err == nil {
		user, net, err = adopt(img.PID(), uidMap, gidMap)
	}
	goOnEnd.Write(make([]byte, 1)) // closing it would not do: the child has a copy of both ends
	goOnEnd.Close()
	died := <-ended
	retry(func() error { _, err := unix.Wait4(img.PID(), nil, 0, nil); return err }) // unless somebody was faster
	if f, ok := errors.AsType[*Failure](died); !ok || f.Errno != left {
		err = fmt.Errorf("make namespaces: %w", died)
	}
	img.Close()
	return user, net, err
}

// left is how the child says that all went well: it was not to execute anything.
const left = syscall.ECANCELED

// ifreq is struct ifreq, netdevice(7), as far as flags need it.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// dweller is the program of that child: it brings up lo, says so, and stays until it is told that it may go.
func dweller(ready, goOn *os.File) (*Image, error) {
	p := Program{cloneFlags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, into: -1}
	up := ifreq{flags: unix.IFF_UP}
	copy(up.name[:], "lo")
	socket := p.result(p.call(unix.SYS_SOCKET, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0)))
	p.call(unix.SYS_IOCTL, socket, num(unix.SIOCSIFFLAGS), structure(&p, &up))
	byte1 := p.bytes(make([]byte, 1))
	p.call(unix.SYS_WRITE, p.file(ready), byte1, num(1))
	p.call(unix.SYS_READ, p.file(goOn), byte1, num(1))
	p.exec = uint32(len(p.calls))
	p.call(failNow, num(int(left)))
	text, err := p.Encode()
	if err != nil {
		return nil, err
	}
	defer text.Close()
	var fds []int
	for _, f := range p.Files() {
		fds = append(fds, int(f.Fd()))
	}
	return Map(int(text.Fd()), fds)
}

// adopt maps the ids of a process's user namespace and opens that and the network namespace.
func adopt(pid int, uidMap, gidMap string) (user, net *os.File, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, m := range []struct{ file, text string }{{"uid_map", uidMap}, {"gid_map", gidMap}} {
		if err := os.WriteFile(dir+m.file, []byte(m.text), 0); err != nil {
			return nil, nil, err
		}
	}
	if user, err = os.Open(dir + "ns/user"); err != nil {
		return nil, nil, err
	}
	if net, err = os.Open(dir + "ns/net"); err != nil {
		user.Close()
		return nil, nil, err
	}
	return user, net, nil
}
