package netns

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Prefix is what the names of all our links on the host begin with.
const Prefix = "ctrfs"

// Host is a network namespace seen from outside of containers: the one in which it was opened. All methods may be called from any
// goroutine and at the same time.
type Host struct {
	ns      *os.File        // immutable
	queries *os.File        // a socket for netdevice(7), which answers without RTNL; immutable
	traffic *netlink.Handle // for what is rare and intricate: queueing, routes. It has a lock of its own; immutable

	life sync.RWMutex // read-locked by whoever goes there, so that Close waits
	mu   sync.Mutex
	idle []*socket // ready ones, in the namespace; guarded by mu
}

// idleMax bounds the sockets that are kept ready; containers that start at the same time take others.
const idleMax = 4

// OpenHost opens the namespace of this thread.
func OpenHost() (*Host, error) {
	ns, err := here()
	if err != nil {
		return nil, err
	}
	h := &Host{ns: ns}
	err = in(ns, func() (err error) {
		if h.queries, err = query(); err != nil {
			return err
		}
		h.traffic, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the host's network: %w", err), h.Close())
	}
	return h, nil
}

// Close gives back the descriptors. Links stay.
func (h *Host) Close() error {
	h.life.Lock()
	defer h.life.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, s := range h.idle {
		errs = append(errs, s.close())
	}
	h.idle = nil
	if h.traffic != nil {
		h.traffic.Close()
	}
	if h.queries != nil {
		errs = append(errs, h.queries.Close())
	}
	return errors.Join(append(errs, h.ns.Close())...)
}

// visit does something in the namespace.
func (h *Host) visit(do func() error) error {
	h.life.RLock()
	defer h.life.RUnlock()
	return in(h.ns, do)
}

// query makes a socket for netdevice(7) in the namespace of this thread.
func query() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("netdevice: %w", err)
	}
	return os.NewFile(uintptr(fd), "netdevice"), nil
}

// with lends a socket in the host's namespace.
func (h *Host) with(do func(*socket) error) error {
	h.mu.Lock()
	var s *socket
	if n := len(h.idle); n > 0 {
		s, h.idle = h.idle[n-1], h.idle[:n-1]
	}
	h.mu.Unlock()
	if s == nil {
		if err := h.visit(func() (err error) { s, err = dial(); return err }); err != nil {
			return err
		}
	}
	err := do(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.idle) < idleMax {
		h.idle = append(h.idle, s)
		return err
	}
	return errors.Join(err, s.close())
}

// do is [socket.do] on the host.
func (h *Host) do(requests ...*nl.NetlinkRequest) error {
	return h.with(func(s *socket) error { return s.do(requests...) })
}

// indexOf returns the index of a link, without RTNL. The socket decides the namespace.
func indexOf(queries *os.File, link string) (index int, err error) {
	err = netdevice(queries, unix.SIOCGIFINDEX, link, func(r *unix.Ifreq) { index = int(int32(r.Uint32())) })
	return index, err
}

// running says whether packets go through a link, without RTNL: IFF_RUNNING comes a moment after both ends are up.
func running(queries *os.File, link string) (yes bool, err error) {
	err = netdevice(queries, unix.SIOCGIFFLAGS, link, func(r *unix.Ifreq) { yes = r.Uint16()&unix.IFF_RUNNING != 0 })
	return yes, err
}

func netdevice(queries *os.File, what uint, link string, read func(*unix.Ifreq)) error {
	r, err := unix.NewIfreq(link)
	if err != nil {
		return fmt.Errorf("link %q: %w", link, err)
	}
	raw, err := queries.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.IoctlIfreq(int(fd), what, r) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("link %s: %w", link, failed)
	}
	read(r)
	return nil
}

// link is what is asked of one of the kernel's links.
type link struct {
	index  int
	name   string
	alias  string
	kind   string // "bridge", "veth"; empty for hardware
	mac    []byte
	mtu    int
	flags  uint32
	master int
	peer   int // IFLA_LINK: of a veth the other end, of a macvlan what it lies on
}

// links lists those of a socket's namespace.
func (s *socket) links() ([]link, error) {
	messages, err := s.dump(request(unix.RTM_GETLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC)))
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make([]link, 0, len(messages))
	for _, m := range messages {
		l, err := parseLink(m)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// link asks for one, by name or, if that is empty, by index. Error: ENODEV.
func (s *socket) link(name string, index int) (link, error) {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	r := request(unix.RTM_GETLINK, 0, header)
	if name != "" {
		r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	answers, err := s.ask(r)
	if err == nil {
		err = answers[0].err
	}
	if err != nil {
		return link{}, err
	}
	if len(answers[0].messages) == 0 {
		return link{}, unix.ENODEV
	}
	return parseLink(answers[0].messages[0])
}

func parseLink(m syscall.NetlinkMessage) (link, error) {
	attributes, err := attributes(m, unix.SizeofIfInfomsg)
	if err != nil {
		return link{}, err
	}
	header := nl.DeserializeIfInfomsg(m.Data)
	l := link{index: int(header.Index), flags: header.Flags}
	for _, a := range attributes {
		switch a.kind {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(a.value)
		case unix.IFLA_IFALIAS:
			l.alias = unix.ByteSliceToString(a.value)
		case unix.IFLA_ADDRESS:
			l.mac = a.value
		case unix.IFLA_MTU:
			l.mtu = number(a.value)
		case unix.IFLA_LINK:
			l.peer = number(a.value)
		case unix.IFLA_MASTER:
			l.master = number(a.value)
		case unix.IFLA_LINKINFO:
			for _, i := range split(a.value) {
				if i.kind == nl.IFLA_INFO_KIND {
					l.kind = unix.ByteSliceToString(i.value)
				}
			}
		}
	}
	return l, nil
}

// number reads a 32-bit attribute.
func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(int32(nl.NativeEndian().Uint32(b)))
}

// Owned lists the links whose alias begins with a text: name to alias. After a crash that is what is left of an instance's networks.
func (h *Host) Owned(aliasPrefix string) (map[string]string, error) {
	out := map[string]string{}
	err := h.with(func(s *socket) error {
		links, err := s.links()
		for _, l := range links {
			if l.alias != "" && strings.HasPrefix(l.alias, aliasPrefix) {
				out[l.name] = l.alias
			}
		}
		return err
	})
	return out, err
}
