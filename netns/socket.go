package netns

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is a connection to the kernel's rtnetlink in the namespace in which it was made. It belongs to one goroutine at a time.
//
// The library's own socket does not send several requests at once, costs an epoll registration, and takes no batch. Its messages are
// used here as they are. A request is worked off within sendto, so the answer is there when that returns, and nothing waits in Go.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	seq  uint32
	buf  []byte
}

// receiveMax holds what the kernel puts into one part of a long answer.
const receiveMax = 32 << 10

// answer is what the kernel said to one request: messages of a dump, or an error.
type answer struct {
	messages []syscall.NetlinkMessage
	err      error
}

// dial makes a socket in the namespace of this thread.
func dial() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, receiveMax)}
	// Strictly checked, a dump takes a filter; the kernel's sentence comes with an error; the request does not come back.
	for _, option := range []int{unix.NETLINK_GET_STRICT_CHK, unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1); err != nil {
			return nil, errors.Join(fmt.Errorf("rtnetlink: %w", err), s.file.Close())
		}
	}
	// An answer that never comes is a kernel's bug, and must not hang the server.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return nil, errors.Join(fmt.Errorf("rtnetlink: %w", err), s.file.Close())
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func (s *socket) close() error {
	return s.file.Close()
}

// do sends requests in one go. The kernel works off all of them, whatever becomes of one; the first error is returned. To delete what
// is not there is no error: it is as it should be.
func (s *socket) do(requests ...*nl.NetlinkRequest) error {
	answers, err := s.ask(requests...)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.err != nil && !(gone(a.err) && deletes(requests[i])) {
			return a.err
		}
	}
	return nil
}

func deletes(r *nl.NetlinkRequest) bool {
	return r.Type == unix.RTM_DELLINK || r.Type == unix.RTM_DELADDR || r.Type == unix.RTM_DELROUTE
}

// gone says whether an error means that what was to be deleted is not there.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
}

// dump asks for a list.
func (s *socket) dump(request *nl.NetlinkRequest) ([]syscall.NetlinkMessage, error) {
	request.Flags = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	// One that was interrupted by a change has gaps. Changes end.
	for range 10 {
		answers, err := s.ask(request)
		if err != nil {
			return nil, err
		}
		if !errors.Is(answers[0].err, errInterrupted) {
			return answers[0].messages, answers[0].err
		}
	}
	return nil, errInterrupted
}

var errInterrupted = fmt.Errorf("a list changed while it was read: %w", unix.EAGAIN)

// ask sends requests in one go and returns an answer for each. All must want an acknowledgement, or there is one, for a dump.
func (s *socket) ask(requests ...*nl.NetlinkRequest) ([]answer, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	first := s.seq + 1
	var batch []byte
	for _, r := range requests {
		s.seq++
		r.Seq = s.seq
		batch = append(batch, r.Serialize()...) // its attributes are padded, so the next header is aligned
	}
	answers := make([]answer, len(requests))
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		if failed = unix.Sendto(int(fd), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); failed != nil {
			return
		}
		for left := len(answers); left > 0 && failed == nil; {
			var messages []syscall.NetlinkMessage
			if messages, failed = s.receive(int(fd)); failed != nil {
				return
			}
			for _, m := range messages {
				// Others are the rest of an earlier request that failed half-way.
				if i := m.Header.Seq - first; i < uint32(len(answers)) && answers[i].take(m) {
					left--
				}
			}
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	return answers, nil
}

// receive reads messages, and owns what it returns.
func (s *socket) receive(fd int) ([]syscall.NetlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(fd, s.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return syscall.ParseNetlinkMessage(append([]byte(nil), s.buf[:n]...))
	}
}

// take adds a message to an answer and says whether it was the last.
func (a *answer) take(m syscall.NetlinkMessage) bool {
	if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 && a.err == nil {
		a.err = errInterrupted
	}
	switch m.Header.Type {
	case unix.NLMSG_DONE, unix.NLMSG_ERROR:
		if err := failure(m); err != nil {
			a.err = err
		}
		return true
	}
	a.messages = append(a.messages, m)
	return false
}

// failure returns the error in an acknowledgement, with the kernel's sentence.
func failure(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	code := int32(nl.NativeEndian().Uint32(m.Data))
	if code == 0 {
		return nil
	}
	errno := syscall.Errno(-code)
	rest := m.Data[4:]
	if m.Header.Type == unix.NLMSG_ERROR { // with NETLINK_CAP_ACK only the header of the request follows
		rest = rest[min(len(rest), unix.SizeofNlMsghdr):]
	}
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno
	}
	for _, a := range split(rest) {
		if a.kind == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", errno, unix.ByteSliceToString(a.value))
		}
	}
	return errno
}

// request makes a request that is acknowledged.
func request(kind, flags int, parts ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	for _, p := range parts {
		r.AddData(p)
	}
	return r
}

// attribute is a part of a message.
type attribute struct {
	kind  uint16
	value []byte
}

// attributes takes apart what follows a header of the given length.
func attributes(m syscall.NetlinkMessage, header int) ([]attribute, error) {
	if len(m.Data) < header {
		return nil, fmt.Errorf("rtnetlink: a message of %d bytes: %w", len(m.Data), unix.EBADMSG)
	}
	return split(m.Data[header:]), nil
}

// split takes attributes apart, as far as they are whole. The library's panics when the last one is not padded.
func split(b []byte) (out []attribute) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(nl.NativeEndian().Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		out = append(out, attribute{nl.NativeEndian().Uint16(b[2:]) &^ unix.NLA_F_NESTED, b[unix.SizeofRtAttr:size]})
		b = b[min(len(b), (size+3)&^3):]
	}
	return out
}
