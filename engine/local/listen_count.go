package local

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// What goes on on sockets is asked of the kernel: of TCP by sock_diag(7), which filters by the port, of paths by /proc/net/unix, where a
// connection that was accepted has the path of the socket that it came from.

// connection tells one that waits from others.
type connection struct {
	socket int    // which of the container's
	id     uint64 // the kernel's number for it; of datagrams, what the first of them is like
}

// census is what goes on on the sockets of a container.
type census struct {
	open    int                 // connections that a program has
	waiting map[connection]bool // what nobody has taken
}

// count looks at all sockets.
func count(all []engine.Listener, sockets []*os.File) (census, error) {
	c := census{waiting: map[connection]bool{}}
	if len(sockets) != len(all) {
		return c, syscall.EBADF
	}
	var paths string
	for i, l := range all {
		var err error
		switch {
		case !l.Stream():
			if waits(sockets[i]) {
				c.waiting[connection{i, firstLength(sockets[i])}] = true
			}
		case l.Path():
			if paths == "" {
				var text []byte
				text, err = os.ReadFile("/proc/net/unix")
				paths = string(text)
			}
			c.addPath(i, l, paths)
		default:
			err = c.addTCP(i, l)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// firstLength is how long the first datagram is that waits.
func firstLength(socket *os.File) uint64 {
	n, err := unix.IoctlGetInt(int(socket.Fd()), unix.SIOCINQ)
	if err != nil {
		return 0
	}
	return uint64(n)
}

// Columns of /proc/net/unix, unix_seq_show of net/unix/af_unix.c.
const (
	unixPointer = iota
	_
	_
	unixFlags
	_
	_
	unixInode
	unixPath

	unixAccepts = "00010000" // __SO_ACCEPTCON
)

// addPath counts the connections of a path. One that nobody has accepted is nobody's file yet, and has no inode. The pointer tells them
// apart, as long as the kernel shows it.
func (c *census) addPath(i int, l engine.Listener, text string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) <= unixPath || f[unixPath] != l.Address || f[unixFlags] == unixAccepts {
			continue
		}
		if f[unixInode] != "0" {
			c.open++
			continue
		}
		var id uint64
		if _, err := fmt.Sscanf(f[unixPointer], "%x:", &id); err != nil || id == 0 {
			id = uint64(len(c.waiting) + 1)
		}
		c.waiting[connection{i, id}] = true
	}
}

// Of include/uapi/linux/inet_diag.h and sock_diag.h.
const (
	sockDiagByFamily = 20
	diagRequestSize  = 56 // struct inet_diag_req_v2
	diagMessageSize  = 72 // struct inet_diag_msg
	diagPortAt       = 8  // in the request: the source port, which the kernel compares
	diagSourceAt     = 8  // in the message: the source address
	diagCookieAt     = 44
	diagInodeAt      = 68
)

// States of TCP, include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpTimeWait    = 6
	tcpClose       = 7
	tcpCloseWait   = 8
	tcpListen      = 10
	tcpStates      = 0xfff &^ (1<<tcpTimeWait | 1<<tcpClose | 1<<tcpListen)
)

// addTCP counts the connections of a port. One that nobody has accepted has no inode, and one that its program has closed has none either,
// but another state.
func (c *census) addTCP(i int, l engine.Listener) error {
	a, err := l.AddrPort()
	if err != nil {
		return err
	}
	family := byte(unix.AF_INET)
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	return diagnose(family, a.Port(), func(m []byte) {
		if local := diagAddress(family, m); !a.Addr().IsUnspecified() && local != a.Addr().WithZone("") {
			return
		}
		state := m[1]
		switch {
		case binary.NativeEndian.Uint32(m[diagInodeAt:]) != 0:
			c.open++
		case state == tcpEstablished || state == tcpCloseWait:
			c.waiting[connection{i, binary.NativeEndian.Uint64(m[diagCookieAt:])}] = true
		}
	})
}

func diagAddress(family byte, m []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(m[diagSourceAt:]))
	}
	return netip.AddrFrom16([16]byte(m[diagSourceAt:]))
}

// diagnose lists the TCP sockets of a port, but for those that listen and those that are over.
func diagnose(family byte, port uint16, each func(message []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request := make([]byte, unix.NLMSG_HDRLEN+diagRequestSize)
	*(*unix.NlMsghdr)(unsafe.Pointer(&request[0])) = unix.NlMsghdr{Len: uint32(len(request)), Type: sockDiagByFamily,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, Seq: 1}
	body := request[unix.NLMSG_HDRLEN:]
	body[0], body[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], tcpStates)
	binary.BigEndian.PutUint16(body[diagPortAt:], port)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return os.NewSyscallError("netlink", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				return os.NewSyscallError("sock_diag", syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
			case len(m.Data) >= diagMessageSize:
				each(m.Data)
			}
		}
	}
}

// sameWait reports whether nothing has been taken of what waited before.
func sameWait(before, now map[connection]bool) bool {
	for c := range before {
		if !now[c] {
			return false
		}
	}
	return len(before) > 0
}
